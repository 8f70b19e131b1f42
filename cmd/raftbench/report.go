package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"raftlab/bench"
	"raftlab/bench/report"
)

func reportCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "report RUN|latest",
		Short: "Write a run's report to standard output",
		Long:  "Write a run's report to standard output. RUN is a run folder, or the name or id of one in " + runsRoot + ".",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			formats := map[string]func(*report.Data, io.Writer) error{
				"text": (*report.Data).Text, "md": (*report.Data).Markdown,
				"html": (*report.Data).HTML, "csv": (*report.Data).CSV,
			}
			write, ok := formats[format]
			if !ok {
				return usageErrorf("format %q is not one of text, md, html, csv", format)
			}
			dir, err := bench.FindRun(runsRoot, args[0])
			if err != nil {
				return err
			}
			data, err := report.Load(dir)
			if err != nil {
				return fmt.Errorf("run %s cannot be read: %w", dir, err)
			}
			return write(data, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "text, md, html or csv")
	return cmd
}
