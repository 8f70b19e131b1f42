// Command raftkv is one node of a raftlab cluster, and its command line.
//
//	raftkv serve --id 1 --addr 127.0.0.1:21001
//	raftkv cluster init --endpoints 127.0.0.1:21001
//	raftkv put greeting hello
//
// Exit codes: 0 done; 1 refused or failed; 2 usage; 3 compare-and-swap
// mismatch; 4 no such key; 5 outcome unknown.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"raftlab/kv/node"
)

// Exit codes, which others script against.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitMismatch = 3
	exitNoKey    = 4
	exitUnknown  = 5
)

// exitError ends the program with a code. Without an err nothing is printed:
// the command has said all there is to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageErrorf is an exitError for what the user typed.
func usageErrorf(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// globalOptions are the flags that every command has.
type globalOptions struct {
	output    string        // text or json
	timeout   time.Duration // of a client command; of the graceful stop of serve
	endpoints []string      // any nodes of the cluster
	logLevel  string
	logFormat string

	// Of client commands, where they have the flag.
	attemptTimeout time.Duration
	exactlyOnce    bool
}

func (o *globalOptions) json() bool { return o.output == "json" }

// check refuses values that the flag types let through.
func (o *globalOptions) check() error {
	switch {
	case o.output != "text" && o.output != "json":
		return usageErrorf("output %q is not one of text, json", o.output)
	case o.timeout <= 0:
		return usageErrorf("timeout %s must be greater than 0", o.timeout)
	case o.attemptTimeout < 0:
		return usageErrorf("attempt-timeout %s must not be negative", o.attemptTimeout)
	case o.attemptTimeout >= o.timeout:
		return usageErrorf("attempt-timeout %s must be less than timeout %s", o.attemptTimeout, o.timeout)
	case o.logFormat != "text" && o.logFormat != "json":
		return usageErrorf("log-format %q is not one of text, json", o.logFormat)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return usageErrorf("log-level %q is not one of debug, info, warn, error", o.logLevel)
	}
	return nil
}

// logger writes to w as the log flags say.
func (o *globalOptions) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	// check has parsed it before; the zero level is info.
	_ = level.UnmarshalText([]byte(o.logLevel))
	ho := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, ho))
	}
	return slog.New(slog.NewTextHandler(w, ho))
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but for the process around it. It ends early when
// ctx does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return runWithInput(ctx, args, os.Stdin, stdout, stderr)
}

func runWithInput(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	// What a command returns is an exitError (see settle); anything else comes
	// from cobra itself and is about how the command was typed.
	code := exitUsage
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	_, _ = fmt.Fprintln(stderr, "raftkv:", strings.ReplaceAll(err.Error(), "\n", "; "))
	return code
}

func newRoot() *cobra.Command {
	opts := &globalOptions{}
	root := &cobra.Command{
		Use:           "raftkv",
		Short:         "A replicated key-value store: one node, and its command line",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return opts.check()
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(badFlag)
	flags := root.PersistentFlags()
	flags.StringVarP(&opts.output, "output", "o", "text", "`FORMAT` of the answer: text or json")
	flags.DurationVar(&opts.timeout, "timeout", 10*time.Second, "how long the whole command may take, a `DUR`; for serve, how long a graceful stop may")
	flags.StringSliceVar(&opts.endpoints, "endpoints", defaultEndpoints(), "comma-separated client `ADDRS` of any nodes; RAFTKV_ENDPOINTS sets the default")
	flags.StringVar(&opts.logLevel, "log-level", "info", "`LEVEL` of logs: debug, info, warn or error")
	flags.StringVar(&opts.logFormat, "log-format", "text", "`FORMAT` of logs, which go to stderr: text or json")

	root.AddCommand(serveCommand(opts), faultsCommand(opts), versionCommand(opts))
	root.AddCommand(clientCommands(opts)...)
	settle(root)
	return root
}

// settle gives every command the same manners: an error of a command that is
// no exitError ends with exitFailed, and a group without a subcommand, or with
// an unknown one, is a usage error.
func settle(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		settle(sub)
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageErrorf("%w; usage: %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	if runE := cmd.RunE; runE != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := runE(cmd, args)
			if _, settled := errors.AsType[*exitError](err); err == nil || settled {
				return err
			}
			return &exitError{code: exitFailed, err: err}
		}
		return
	}
	if cmd.Run != nil || !cmd.HasSubCommands() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		cmd.SetOut(cmd.ErrOrStderr())
		if err := cmd.Help(); err != nil {
			return err
		}
		return &exitError{code: exitUsage}
	}
}

func unknownCommand(cmd *cobra.Command, word string) error {
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		return usageErrorf("unknown command %q for %q (did you mean %s?)", word, cmd.CommandPath(), strings.Join(near, ", "))
	}
	return usageErrorf("unknown command %q for %q; %s --help lists them", word, cmd.CommandPath(), cmd.CommandPath())
}

// badFlag words what is wrong with a flag without the parser's own terms.
func badFlag(cmd *cobra.Command, err error) error {
	if field, bad := errors.AsType[*node.FieldError](err); bad {
		return &exitError{code: exitUsage, err: field}
	}
	value, bad := errors.AsType[*pflag.InvalidValueError](err)
	if !bad {
		return usageErrorf("%w; see %s --help", err, cmd.CommandPath())
	}
	problem := "is not a whole number of 0 or more"
	switch value.GetFlag().Value.Type() {
	case "bool":
		problem = "is not true or false"
	case "duration":
		problem = "is not a duration such as 500ms or 10s"
	case "uint32":
		problem = fmt.Sprintf("is not a whole number from 0 to %d", uint32(math.MaxUint32))
	case "stringSlice":
		problem = "is not a comma-separated list"
	}
	return usageErrorf("%s %q %s", value.GetFlag().Name, value.GetValue(), problem)
}

func defaultEndpoints() []string {
	if env := os.Getenv("RAFTKV_ENDPOINTS"); env != "" {
		return strings.Split(env, ",")
	}
	return []string{"127.0.0.1:21001"}
}
