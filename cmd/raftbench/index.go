package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"raftlab/bench"
	"raftlab/bench/report"
)

func indexCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "index [RUN...]",
		Short: "Write one page that leads to the reports of several runs",
		Long: "Write " + filepath.Join(runsRoot, "index.html") + ", which says the answers of several runs and leads to their\n" +
			"reports. Without a name: the newest run of each experiment.",
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := indexed(args)
			if err != nil {
				return err
			}
			var runs []*report.Data
			for _, dir := range dirs {
				data, err := report.Load(dir)
				if err != nil {
					return fmt.Errorf("run %s cannot be read: %w", dir, err)
				}
				runs = append(runs, data)
			}
			path := filepath.Join(runsRoot, "index.html")
			f, err := os.Create(path) //nolint:gosec // a fixed name in the folder of runs
			if err != nil {
				return err
			}
			if err := report.Index(f, runsRoot, runs); err != nil {
				_ = f.Close()
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
			for _, dir := range dirs {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), "report:", filepath.Join(dir, report.HTMLFile))
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), "index: ", path)
			return nil
		},
	}
}

// indexed finds the runs by name, or else the newest of each experiment.
func indexed(names []string) ([]string, error) {
	var dirs []string
	for _, name := range names {
		dir, err := bench.FindRun(runsRoot, name)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	if len(names) > 0 {
		return dirs, nil
	}
	all, err := bench.Runs(runsRoot)
	if err != nil {
		return nil, err
	}
	newest := make(map[string]int) // experiment to place in dirs
	for _, dir := range all {
		run, err := bench.ReadRun(dir)
		if err != nil {
			return nil, err
		}
		if i, ok := newest[run.Experiment.Name]; ok {
			dirs[i] = dir
			continue
		}
		newest[run.Experiment.Name] = len(dirs)
		dirs = append(dirs, dir)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("there are no runs in %s", runsRoot)
	}
	return dirs, nil
}
