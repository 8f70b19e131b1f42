package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"raftlab/bench"
	"raftlab/bench/cluster"
	"raftlab/bench/target"
	"raftlab/kv/node"
)

// echoServerCommands serve what ceilings are measured with, as children of a run:
// they behave as `raftkv serve --exit-with-stdin` does.
func echoServerCommands() []*cobra.Command {
	echo := &echoServer{cfg: node.DefaultConfig()}
	wire := echo.command(bench.EchoCommand, "Serve a bare gRPC echo, or the leader of a relay")
	wire.Flags().IntVar(&echo.valueSize, "value-size", 0, "bytes of the value that gets find")
	wire.Flags().StringSliceVar(&echo.followers, "followers", nil, "addresses to relay puts to")
	follower := &echoServer{cfg: node.DefaultConfig(), follow: true}
	return []*cobra.Command{wire, follower.command(bench.FollowerCommand, "Serve a follower of a relay")}
}

// echoServer is one such child.
type echoServer struct {
	cfg       node.Config
	valueSize int
	followers []string
	follow    bool // be a follower
}

func (s *echoServer) command(name, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	for _, k := range node.Knobs(&s.cfg) {
		if !k.Identity {
			cmd.Flags().Var(k, k.Name, k.Usage)
		}
	}
	return cmd
}

func (s *echoServer) run(cmd *cobra.Command) error {
	defer s.cfg.SetProcess()()
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, cmd.InOrStdin()) // whatever ends it, ends the server
		cancel()
	}()
	ready := cluster.Ready{Event: "ready", Addr: lis.Addr().String(), PID: os.Getpid()}
	if err := json.NewEncoder(cmd.OutOrStdout()).Encode(ready); err != nil {
		return err
	}
	switch {
	case s.follow:
		return target.ServeFollower(ctx, lis, s.cfg)
	case len(s.followers) > 0:
		return target.ServeRelay(ctx, lis, s.cfg, s.valueSize, s.followers, nil)
	}
	return target.ServeWire(ctx, lis, s.cfg, s.valueSize)
}
