package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/pkg/profile"
	"github.com/spf13/cobra"

	"raftlab/kv/node"
)

// serveOptions are the flags of serve that are no setting of the node.
type serveOptions struct {
	config     node.Config
	profile    string
	profileDir string
	withStdin  bool
}

func serveCommand(opts *globalOptions) *cobra.Command {
	so := &serveOptions{config: node.DefaultConfig()}
	cmd := &cobra.Command{
		Use:   "serve --id N",
		Short: "Run one node until it is interrupted",
		Long: `Run one node until SIGINT or SIGTERM, then stop gracefully: leadership is handed
over and what is under way is answered, for at most --timeout.

When the node is ready, one line of JSON on stdout says where: its id, addr,
peer_addr, debug_addr (empty when off), pid and version. Logs go to stderr.

A new node waits to be made a cluster of one (raftkv cluster init) or to be
added to one (raftkv cluster add-learner).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd, opts, so)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false // as Config groups them
	for _, k := range node.Knobs(&so.config) {
		usage := k.Usage
		if k.Source != "" {
			usage += " [" + k.Source + "]"
		}
		flags.Var(k, k.Name, usage)
	}
	flags.StringVar(&so.profile, "profile", "", "profile the whole life of the process; `MODE` is one of "+strings.Join(profileNames(), ", "))
	flags.StringVar(&so.profileDir, "profile-dir", ".", "`DIR` to write the profile to")
	flags.BoolVar(&so.withStdin, "exit-with-stdin", false, "stop when stdin ends, so that the node goes with the program that started it")
	return cmd
}

// readyLine is what programs that start a node read from its stdout.
type readyLine struct {
	Event     string `json:"event"` // ready
	ID        uint64 `json:"id"`
	Addr      string `json:"addr"`
	PeerAddr  string `json:"peer_addr"`
	DebugAddr string `json:"debug_addr"`
	PID       int    `json:"pid"`
	Version   string `json:"version"`
}

func serve(cmd *cobra.Command, opts *globalOptions, so *serveOptions) error {
	stopProfile, err := so.startProfile()
	if err != nil {
		return err
	}
	defer stopProfile()
	defer so.config.SetProcess()()

	version := currentVersion().String()
	n, err := node.New(node.Options{
		Config: so.config, Logger: opts.logger(cmd.ErrOrStderr()), Version: version,
	})
	if err != nil {
		if _, bad := errors.AsType[*node.FieldError](err); bad {
			return &exitError{code: exitUsage, err: err}
		}
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if so.withStdin {
		go func() {
			_, _ = io.Copy(io.Discard, cmd.InOrStdin()) // whatever ends it, ends the node
			cancel()
		}()
	}
	if err := n.Start(); err != nil {
		return errors.Join(err, stop(n, opts))
	}
	ready := readyLine{
		Event: "ready", ID: n.ID(), Addr: n.Addr(), PeerAddr: n.PeerAddr(), DebugAddr: n.DebugAddr(),
		PID: os.Getpid(), Version: version,
	}
	if err := json.NewEncoder(cmd.OutOrStdout()).Encode(ready); err != nil {
		return errors.Join(fmt.Errorf("ready line: %w", err), stop(n, opts))
	}
	select {
	case <-ctx.Done():
		return stop(n, opts)
	case <-n.Done():
		return n.Err()
	}
}

func stop(n *node.Node, opts *globalOptions) error {
	ctx, cancel := context.WithTimeout(context.Background(), opts.timeout)
	defer cancel()
	return n.Stop(ctx)
}

var profiles = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "mem": profile.MemProfile, "mutex": profile.MutexProfile,
	"block": profile.BlockProfile, "trace": profile.TraceProfile,
}

func profileNames() []string { return []string{"cpu", "mem", "mutex", "block", "trace"} }

// startProfile begins what --profile asks for. A process has one CPU profile and
// one trace at a time: the debug port would fail to capture a window of its own.
func (so *serveOptions) startProfile() (stop func(), err error) {
	if so.profile == "" {
		return func() {}, nil
	}
	mode := profiles[so.profile]
	switch {
	case mode == nil:
		return nil, usageErrorf("profile %q is not one of %s", so.profile, strings.Join(profileNames(), ", "))
	case so.config.DebugAddr != "" && slices.Contains([]string{"cpu", "trace"}, so.profile):
		return nil, usageErrorf("profile %s cannot be combined with debug-addr %s, which captures the same for a window of time",
			so.profile, so.config.DebugAddr)
	}
	// The profile package ends the process when it can't write.
	if err := checkWritable(so.profileDir); err != nil {
		return nil, fmt.Errorf("profile-dir: %w", err)
	}
	return profile.Start(mode, profile.ProfilePath(so.profileDir), profile.NoShutdownHook, profile.Quiet).Stop, nil
}

func checkWritable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".profile-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
