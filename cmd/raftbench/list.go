package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"raftlab/bench"
)

// runsRoot is where run folders land.
const runsRoot = "profiles"

// listedExperiment is a line of list.
type listedExperiment struct {
	Name     string  `json:"name"`
	Question string  `json:"question"`
	Trials   int     `json:"trials"`
	Seconds  float64 `json:"seconds"`
}

func listCommand() *cobra.Command {
	var runs bool
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the experiments, or with --runs the runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runs {
				return listRuns(cmd, output)
			}
			return listExperiments(cmd, output)
		},
	}
	cmd.Flags().BoolVar(&runs, "runs", false, "list the runs in "+runsRoot)
	outputFlag(cmd, &output)
	return cmd
}

func listExperiments(cmd *cobra.Command, output string) error {
	var list []listedExperiment
	for _, name := range bench.Names() {
		e, err := bench.LoadExperiment(name)
		if err != nil {
			return err
		}
		m, err := bench.Expand(e)
		if err != nil {
			return err
		}
		trials, d := bench.Budget(m, e.Measure, true)
		list = append(list, listedExperiment{name, e.Question, trials, d.Seconds()})
	}
	if output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, e := range list {
		_, _ = fmt.Fprintf(w, "%s\t%d trials\t%.0fs\t%s\n", e.Name, e.Trials, e.Seconds, e.Question)
	}
	return w.Flush()
}

func showCommand() *cobra.Command {
	var fields bool
	cmd := &cobra.Command{
		Use: "show NAME|FILE", Short: "Show an experiment's YAML, or with --fields what it may set",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fields {
				return showFields(cmd)
			}
			if len(args) == 0 {
				return usageErrorf("show needs the name of an experiment; raftbench list lists them")
			}
			source, file, err := bench.Source(args[0])
			if err != nil {
				return err
			}
			if _, err := bench.Parse(source, file); err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(source)
			return err
		},
	}
	cmd.Flags().BoolVar(&fields, "fields", false, "list the fields that experiments, --set and --vary know")
	return cmd
}

func showFields(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, k := range bench.Vocabulary() {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.Name, k.Type(), k.String(), k.Usage)
	}
	return w.Flush()
}

// selfBin is this program, which serves ceilings as a child of itself.
func selfBin() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(self)
}
