// Package etcdtest starts an etcd cluster of real processes for tests.
package etcdtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	etcd "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Env names an etcd to use instead of the one that `make etcd` builds.
const Env = "RAFTLAB_ETCD"

const (
	// startTries: a port that was free may be taken before etcd binds it.
	startTries = 3
	startTime  = 30 * time.Second
	statusTime = time.Second
)

// binary is the etcd to start. A test without one is skipped with the reason.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv(Env)
	if path == "" {
		_, here, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(here), "..", "..", "..", ".tools", "bin", "etcd")
	}
	if _, err := os.Stat(path); err != nil { //nolint:gosec // what the one who tests names
		t.Skipf("no etcd to drive: `make etcd` builds it from its pinned module, and %s may name one: %v", Env, err)
	}
	return path
}

// Start starts an etcd of so many members on loopback, with data in a temporary
// folder, and returns their client addresses once each of them serves. It ends
// with the test. Without an etcd the test is skipped.
func Start(t *testing.T, members int) []string {
	t.Helper()
	bin := binary(t)
	var failures []string
	for range startTries {
		endpoints, err := start(t, bin, members)
		if err == nil {
			return endpoints
		}
		failures = append(failures, err.Error())
	}
	t.Fatalf("etcd does not start:\n%s", strings.Join(failures, "\n"))
	return nil
}

func start(t *testing.T, bin string, members int) ([]string, error) {
	t.Helper()
	addrs, err := freeAddresses(t.Context(), 2*members)
	if err != nil {
		return nil, err
	}
	clients, peers := addrs[:members], addrs[members:]
	var cluster []string
	for i, peer := range peers {
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s", i, peer))
	}
	data := t.TempDir()
	life, kill := context.WithCancel(context.WithoutCancel(t.Context()))
	var processes []*exec.Cmd
	end := func() {
		kill()
		for _, p := range processes {
			_ = p.Wait() // killed, which is an error of its own
		}
	}
	for i := range members {
		p := exec.CommandContext(life, bin, //nolint:gosec // what this package was told to start
			"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(data, fmt.Sprint(i)),
			"--listen-client-urls", "http://"+clients[i], "--advertise-client-urls", "http://"+clients[i],
			"--listen-peer-urls", "http://"+peers[i], "--initial-advertise-peer-urls", "http://"+peers[i],
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
			// A member may get no CPU for seconds before another is elected.
			"--heartbeat-interval", "500", "--election-timeout", "5000",
			"--log-level", "error")
		p.SysProcAttr = childAttributes()
		if err := p.Start(); err != nil {
			end()
			return nil, err
		}
		processes = append(processes, p)
	}
	if err := serving(t.Context(), clients); err != nil {
		end()
		return nil, err
	}
	t.Cleanup(end)
	return clients, nil
}

// serving waits until each member knows a leader.
func serving(ctx context.Context, endpoints []string) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	c, err := etcd.New(etcd.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for _, endpoint := range endpoints {
		for {
			attempt, cancel := context.WithTimeout(ctx, statusTime)
			answer, err := c.Status(attempt, endpoint)
			cancel()
			if err == nil && answer.Leader != 0 {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("member at %s does not serve: %w", endpoint, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// freeAddresses finds loopback ports that nobody listens on now.
func freeAddresses(ctx context.Context, n int) ([]string, error) {
	var lc net.ListenConfig
	var addrs []string
	for range n {
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // after all are found, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
