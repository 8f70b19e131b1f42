package main

import (
	"io"

	"github.com/spf13/cobra"

	"raftlab/bench"
	"raftlab/bench/report"
)

// formats write the reports of one or more runs.
var formats = map[string]func(io.Writer, []*report.Data) error{
	"text": each((*report.Data).Text, "\n"),
	"md":   each((*report.Data).Markdown, "\n---\n\n"),
	"csv":  report.CSV,
	"go":   each((*report.Data).Go, "\n"),
	"html": func(w io.Writer, runs []*report.Data) error {
		if len(runs) == 1 {
			return runs[0].HTML(w)
		}
		return report.Index(w, ".", runs)
	},
}

// each writes the runs' reports one after the other.
func each(write func(*report.Data, io.Writer) error, between string) func(io.Writer, []*report.Data) error {
	return func(w io.Writer, runs []*report.Data) error {
		for i, d := range runs {
			if i > 0 {
				if _, err := io.WriteString(w, between); err != nil {
					return err
				}
			}
			if err := write(d, w); err != nil {
				return err
			}
		}
		return nil
	}
}

func reportCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "report RUN|latest...",
		Short: "Write the reports of runs to standard output",
		Long: "Write the reports of runs to standard output. RUN is a run folder, or the name or id of one in " + runsRoot + ".\n\n" +
			"Of several runs, text and md are one after the other, csv is one table, and html is a page with the answers that\nleads to each run's own report, relative to here.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := formats[format]
			if !ok {
				return usageErrorf("format %q is not one of text, md, html, csv, go", format)
			}
			var runs []*report.Data
			for _, name := range args {
				dir, err := bench.FindRun(runsRoot, name)
				if err != nil {
					return err
				}
				data, err := report.Load(dir)
				if err != nil {
					return err
				}
				runs = append(runs, data)
			}
			return write(cmd.OutOrStdout(), runs)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text, md, html, csv, or go, the settings of the best variants as Go code")
	return cmd
}
