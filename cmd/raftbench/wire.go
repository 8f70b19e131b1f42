package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"raftlab/bench/cluster"
	"raftlab/bench/target"
	"raftlab/kv/node"
)

// wireServerCommand serves the echo that ceilings are measured with, as a child
// of a run: it behaves as `raftkv serve --exit-with-stdin` does.
func wireServerCommand() *cobra.Command {
	cfg := node.DefaultConfig()
	var valueSize int
	cmd := &cobra.Command{
		Use: "wire-server", Short: "Serve a bare gRPC echo", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveWire(cmd, cfg, valueSize)
		},
	}
	for _, k := range node.Knobs(&cfg) {
		if !k.Identity {
			cmd.Flags().Var(k, k.Name, k.Usage)
		}
	}
	cmd.Flags().IntVar(&valueSize, "value-size", 0, "bytes of the value that gets find")
	return cmd
}

func serveWire(cmd *cobra.Command, cfg node.Config, valueSize int) error {
	defer debug.SetGCPercent(debug.SetGCPercent(cfg.GOGC))
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
	return target.ServeWire(ctx, lis, cfg, valueSize)
}
