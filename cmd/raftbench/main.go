// Command raftbench is the lab: it measures raftlab clusters and reports what it
// found.
//
//	raftbench run                  # the experiment quick
//	raftbench run chunk-size --set value-size=64KiB
//	raftbench report latest
//
// Exit codes: 0 done; 1 failed; 2 usage or experiment; 3 a regression, or an
// objective missed; 4 inconclusive; 5 invalid trials with --strict; 130 interrupted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"raftlab/bench"
	"raftlab/bench/cluster"
)

// Exit codes, which others script against.
const (
	exitDone         = 0
	exitFailed       = 1
	exitUsage        = 2
	exitMissed       = 3 // a regression, or an objective
	exitInconclusive = 4
	exitInvalid      = 5
	exitInterrupted  = 130
)

// Set by -ldflags -X, since -buildvcs may be off where the Makefile runs.
var (
	commit string // full hash
	dirty  string // true or false
)

// exitError ends the program with a code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it. It ends early when
// ctx does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		_, _ = fmt.Fprintln(stderr, "raftbench: interrupted")
		return code
	}
	_, _ = fmt.Fprintln(stderr, "raftbench:", strings.ReplaceAll(err.Error(), "\n", "; "))
	return code
}

// exitCode tells what kind of failure an error is.
func exitCode(ctx context.Context, err error) int {
	var exit *exitError
	var usage *bench.UsageError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage), errors.Is(err, cluster.ErrNoServer):
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "raftbench",
		Short:         "Measure raftlab clusters: from a question to a report",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(runCommand(), listCommand(), showCommand(), reportCommand(), compareCommand(), indexCommand(), versionCommand())
	root.AddCommand(viewCommand(), cleanCommand())
	root.AddCommand(echoServerCommands()...)
	settle(root)
	return root
}

// settle makes whatever is wrong with how a command was typed a usage error.
func settle(root *cobra.Command) {
	root.SetFlagErrorFunc(badFlag)
	root.SuggestionsMinimumDistance = 2
	root.Args = cobra.ArbitraryArgs
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usageErrorf("unknown command %q (did you mean %s?)", args[0], strings.Join(near, ", "))
			}
			return usageErrorf("unknown command %q; raftbench --help lists them", args[0])
		}
		cmd.SetOut(cmd.ErrOrStderr())
		return errors.Join(usageErrorf("which command? run, list, show, report, compare, view, clean or version"), cmd.Help())
	}
	for _, sub := range root.Commands() {
		if args := sub.Args; args != nil {
			sub.Args = func(cmd *cobra.Command, list []string) error {
				if err := args(cmd, list); err != nil {
					return usageErrorf("%w; usage: %s", err, cmd.UseLine())
				}
				return nil
			}
		}
	}
}

// badFlag words what is wrong with a flag without the parser's own terms.
func badFlag(cmd *cobra.Command, err error) error {
	value, bad := errors.AsType[*pflag.InvalidValueError](err)
	if !bad {
		return usageErrorf("%w; see %s --help", err, cmd.CommandPath())
	}
	problem := "is not a whole number"
	switch value.GetFlag().Value.Type() {
	case "bool":
		problem = "is not true or false"
	case "duration":
		problem = "is not a duration such as 500ms or 2s"
	case "uint64":
		problem = fmt.Sprintf("is not a whole number from 0 to %d", uint64(math.MaxUint64))
	case "stringSlice":
		problem = "is not a comma-separated list"
	}
	return usageErrorf("%s %q %s", value.GetFlag().Name, value.GetValue(), problem)
}

func versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Tell the commit this program was built from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			build := bench.Stamped(commit, dirty)
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(build)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "raftbench commit %s dirty %s %s\n", build.Commit, build.Dirty, build.Go)
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// outputFlag adds -o and refuses what it cannot be.
func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`FORMAT` of the answer: text or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *output != "text" && *output != "json" {
			return usageErrorf("output %q is not one of text, json", *output)
		}
		return nil
	}
}
