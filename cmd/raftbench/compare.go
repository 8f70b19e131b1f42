package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"raftlab/bench"
	"raftlab/bench/report"
)

func compareCommand() *cobra.Command {
	var (
		o       bench.CompareOptions
		most    string
		output  string
		compare = &cobra.Command{
			Use:   "compare RUN_A RUN_B | RUN",
			Short: "Compare two runs, or in one run the values of an axis",
			Long: `Compare two runs, variant by variant of the same name, or in one run the
values of an axis with the first, paired by block. Two builds are best compared
in one run: raftbench run NAME --vary server-bin=A,B.

Exit codes: 0 no regression; 3 a regression beyond --max-regression, or any
violation in B (acknowledged writes lost, a history that is not linearizable);
4 neither shown nor ruled out; 2 nothing to compare.`,
			Args: cobra.RangeArgs(1, 2),
		}
	)
	flags := compare.Flags()
	flags.StringVar(&most, "max-regression", "5%", "the loss that is let pass, such as 5% or 0.05")
	flags.StringSliceVar(&o.Metrics, "metric", nil, "what to compare: "+strings.Join(bench.Metrics, ", ")+" (default: what the run is decided by)")
	flags.StringVar(&o.Axis, "by", "", "within one run, the axis to compare (default: server-bin, or the only one)")
	outputFlag(compare, &output)
	compare.RunE = func(cmd *cobra.Command, args []string) error {
		for _, m := range o.Metrics {
			if !slices.Contains(bench.Metrics, m) {
				return usageErrorf("metric %q is not one of %s", m, strings.Join(bench.Metrics, ", "))
			}
		}
		var err error
		if o.MaxRegression, err = parseShare("max-regression", most); err != nil {
			return err
		}
		if len(args) == 2 && o.Axis != "" {
			return usageErrorf("--by is for one run; two runs are compared by variants of the same name")
		}
		c, err := compared(args, o)
		if err != nil {
			return err
		}
		if output == "json" {
			err = json.NewEncoder(cmd.OutOrStdout()).Encode(c)
		} else {
			err = report.CompareText(cmd.OutOrStdout(), c)
		}
		if err != nil {
			return err
		}
		return gateError(c)
	}
	return compare
}

// compared reads the runs and compares them.
func compared(names []string, o bench.CompareOptions) (*bench.Comparison, error) {
	var runs []*bench.Run
	for _, name := range names {
		dir, err := bench.FindRun(runsRoot, name)
		if err != nil {
			return nil, err
		}
		run, err := bench.ReadRun(dir)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	if len(runs) == 1 {
		return bench.CompareAxis(runs[0], o)
	}
	return bench.CompareRuns(runs[0], runs[1], o)
}

// gateError is the exit code of a comparison.
func gateError(c *bench.Comparison) error {
	if n := len(c.Violations); n > 0 {
		return &exitError{exitMissed, fmt.Errorf("a regression: %d violations, the first: %s", n, c.Violations[0])}
	}
	most := strconv.FormatFloat(100*c.MaxRegression, 'g', 3, 64)
	switch c.Gate {
	case bench.GateRegression:
		return &exitError{exitMissed, fmt.Errorf("a regression beyond %s %%", most)}
	case bench.GateInconclusive:
		return &exitError{exitInconclusive, fmt.Errorf("inconclusive: a loss of more than %s %% is neither shown nor ruled out", most)}
	case bench.GatePassed:
	}
	return nil
}

// parseShare reads 5% or 0.05.
func parseShare(name, value string) (float64, error) {
	number, percent := strings.CutSuffix(value, "%")
	x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		x /= 100
	}
	if err != nil || !(x >= 0 && x < 1) {
		return 0, usageErrorf("%s %q is not a share from 0 to below 1, such as 5%% or 0.05", name, value)
	}
	return x, nil
}
