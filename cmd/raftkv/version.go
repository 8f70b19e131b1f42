package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set by -ldflags -X, since -buildvcs may be off where the Makefile runs.
var (
	commit string // full hash
	dirty  string // true or false
)

// buildVersion says what this program was built from.
type buildVersion struct {
	Commit string `json:"commit"` // unknown when nothing was stamped
	Dirty  string `json:"dirty"`  // true, false or unknown
	Go     string `json:"go"`
}

// String is how a node reports its version: the commit, marked when the tree
// had changes.
func (v buildVersion) String() string {
	if v.Dirty == "true" {
		return v.Commit + "-dirty"
	}
	return v.Commit
}

func currentVersion() buildVersion {
	info, _ := debug.ReadBuildInfo()
	return resolveVersion(commit, dirty, info)
}

// resolveVersion prefers what the linker stamped to what the toolchain knows.
func resolveVersion(commit, dirty string, info *debug.BuildInfo) buildVersion {
	v := buildVersion{Commit: commit, Dirty: dirty, Go: runtime.Version()}
	if v.Commit == "" && info != nil {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Dirty = s.Value
			}
		}
	}
	if v.Commit == "" {
		v.Commit = "unknown"
	}
	if v.Dirty == "" {
		v.Dirty = "unknown"
	}
	return v
}

func versionCommand(opts *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell the commit this program was built from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := currentVersion()
			if opts.json() {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "raftkv commit %s dirty %s %s\n", v.Commit, v.Dirty, v.Go)
			return err
		},
	}
}
