package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"raftlab/bench"
)

func cleanCommand() *cobra.Command {
	var keep int
	var dryRun bool
	cmd := &cobra.Command{
		Use: "clean --keep N", Short: "Remove old runs", Args: cobra.NoArgs,
		Long: "Remove all run folders in " + runsRoot + " but the newest N. What has no " + bench.RunFile + ", " + runsRoot + "/" + bench.ReferenceRuns +
			",\nlinks, and a run that is under way stay, and do not count.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !cmd.Flags().Changed("keep"):
				return usageErrorf("how many runs are to stay? clean --keep N")
			case keep < 0:
				return usageErrorf("keep %d must not be negative", keep)
			}
			return clean(cmd, keep, dryRun)
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 0, "how many of the newest runs stay")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	return cmd
}

func clean(cmd *cobra.Command, keep int, dryRun bool) error {
	folders, err := bench.RunFolders(runsRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	stdout := cmd.OutOrStdout()
	remove, verb := bench.RemoveRun, "removed"
	if dryRun {
		remove = func(f *bench.RunFolder) (int64, error) { return bench.FolderSize(f.Dir) }
		verb = "would remove"
	}
	var runs int
	var total int64
	var errs []error
	for _, f := range bench.Surplus(folders, keep, time.Now()) {
		if err := cmd.Context().Err(); err != nil {
			errs = append(errs, err)
			break
		}
		size, err := remove(&f)
		if err != nil {
			errs = append(errs, fmt.Errorf("run %s stays: %w", f.Dir, err))
			continue
		}
		runs, total = runs+1, total+size
		_, _ = fmt.Fprintf(stdout, "%s %s (%d bytes)\n", verb, f.Dir, size)
	}
	_, _ = fmt.Fprintf(stdout, "%s %d of %d runs, %d bytes (%s)\n", verb, runs, len(folders), total, megabytes(total))
	return errors.Join(errs...)
}

// megabytes shows a size on disk.
func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }
