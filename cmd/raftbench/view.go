package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"raftlab/bench/report"
)

const (
	// viewHeader is how long a browser may take to send a request's head.
	viewHeader = 10 * time.Second
	// viewStop is how long files under way may take when the server ends.
	viewStop = 2 * time.Second
)

func viewCommand() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use: "view", Short: "Show the runs in a browser, with their reports and files", Args: cobra.NoArgs,
		Long: "Serve the runs in " + runsRoot + " on a loopback address until Ctrl-C: a list with their answers, each report and each file.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkLoopback(addr); err != nil {
				return err
			}
			var lc net.ListenConfig
			lis, err := lc.Listen(cmd.Context(), "tcp", addr)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "runs in %s: http://%s/\n", runsRoot, lis.Addr())
			return serveView(cmd.Context(), lis)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:0", "loopback `HOST:PORT` to serve on; port 0 is any that is free")
	return cmd
}

// checkLoopback refuses what others than this machine could reach.
func checkLoopback(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return usageErrorf("addr %q is not host:port", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return usageErrorf("addr %q has a port outside 0 to 65535", addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usageErrorf("addr %q must be a loopback address, such as 127.0.0.1:0", addr)
	}
	return nil
}

// serveView serves until ctx ends, which is how it is meant to end.
func serveView(ctx context.Context, lis net.Listener) error {
	server := &http.Server{Handler: report.View(runsRoot), ReadHeaderTimeout: viewHeader}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), viewStop)
	defer cancel()
	err := server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
