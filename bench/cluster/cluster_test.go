package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func shapes() map[string]cluster.Config {
	return map[string]cluster.Config{
		"in-process":              {Topology: cluster.InProcess},
		"in-process-grpc":         {Topology: cluster.InProcessGRPC},
		"in-process-grpc-bufconn": {Topology: cluster.InProcessGRPC, Listener: cluster.ListenBufconn},
		"processes":               {Topology: cluster.Processes, ServerBin: serverBin},
	}
}

// calm is a cluster in which nobody is elected but at the start, though processes
// get no CPU for seconds. The zero value is that of node.DefaultConfig.
func calm(cfg cluster.Config) cluster.Config {
	if cfg.Node == (node.Config{}) {
		cfg.Node = node.DefaultConfig()
	}
	cfg.Node.Tick = 500 * time.Millisecond
	return cfg
}

func start(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// write puts a key and says at which revision. It tries again while the outcome is
// unknown: who led may lead no more, or not know yet that it leads nobody.
func write(ctx context.Context, c *cluster.Cluster, key, value string) (uint64, error) {
	for {
		cl, err := c.Client()
		if err != nil {
			return 0, err
		}
		resp, err := cl.Put(ctx, []byte(key), []byte(value))
		if client.Applied(err) != kvv1.Applied_APPLIED_UNKNOWN || ctx.Err() != nil {
			return resp.GetModRevision(), errors.Join(err, cl.Close())
		}
		if err := cl.Close(); err != nil {
			return 0, err
		}
	}
}

func TestShapes(t *testing.T) {
	for name, cfg := range shapes() {
		t.Run(name, func(t *testing.T) {
			c := start(t, cfg)
			ctx := t.Context()
			if n := len(c.Nodes()); n != 3 {
				t.Fatalf("%d nodes, want 3", n)
			}
			if _, err := write(ctx, c, "k", "v"); err != nil {
				t.Fatal(err)
			}
			cl, err := c.Client()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := cl.Close(); err != nil {
					t.Error(err)
				}
			}()
			// Linearizable by default.
			got, err := cl.Get(ctx, []byte("k"), client.ReadLinearizable)
			if err != nil || string(got.GetValue()) != "v" {
				t.Fatalf("read %q, %v", got.GetValue(), err)
			}
			leader, err := c.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if (leader.PID != 0) != (cfg.Topology == cluster.Processes) || (leader.Local() == nil) != (leader.PID != 0) {
				t.Errorf("node has pid %d and local %v", leader.PID, leader.Local())
			}
		})
	}
}

// The cluster outlives one node, and takes a new one in under a new id.
func TestKillLeader(t *testing.T) {
	for name, cfg := range shapes() {
		t.Run(name, func(t *testing.T) {
			c := start(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			first, err := write(ctx, c, "k", "1")
			if err != nil {
				t.Fatal(err)
			}
			old, err := c.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := old.Kill(); err != nil {
				t.Fatal(err)
			}
			<-old.Done()
			if n := len(c.Nodes()); n != 2 {
				t.Fatalf("%d nodes after the kill, want 2", n)
			}
			next, err := c.Leader(ctx)
			if err != nil || next.ID == old.ID {
				t.Fatalf("leader %v, %v", next, err)
			}
			second, err := write(ctx, c, "k", "2")
			if err != nil || second <= first {
				t.Fatalf("revision %d after %d, %v", second, first, err)
			}
			added, err := c.AddNode(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if added.ID != 4 || c.Node(4) != added || len(c.Nodes()) != 3 {
				t.Errorf("added node %d; %d nodes", added.ID, len(c.Nodes()))
			}
		})
	}
}

func TestStopInOrder(t *testing.T) {
	for name, cfg := range shapes() {
		t.Run(name, func(t *testing.T) {
			c := start(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			leader, err := c.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := leader.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := write(ctx, c, "k", "v"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPause(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Pause(); err != nil {
		t.Fatal(err)
	}
	// A write that the leader took in just before it stopped has no answer until
	// its connection is given up; then its outcome is unknown.
	if _, err := write(ctx, c, "k", "v"); err != nil {
		t.Errorf("two of three did not go on: %v", err)
	}
	if err := leader.Resume(); err != nil {
		t.Fatal(err)
	}
	local := start(t, cluster.Config{Nodes: 1})
	if err := local.Nodes()[0].Pause(); !errors.Is(err, cluster.ErrUnsupported) {
		t.Errorf("pausing a node in process: %v", err)
	}
}

func TestExternal(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.InProcessGRPC})
	external := start(t, cluster.Config{Topology: cluster.External, Endpoints: c.Endpoints()[1:2]})
	if _, err := write(t.Context(), external, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if n := len(external.Nodes()); n != 3 {
		t.Errorf("%d nodes, want 3", n)
	}
	if err := external.Nodes()[0].Kill(); !errors.Is(err, cluster.ErrUnsupported) {
		t.Errorf("killing an external node: %v", err)
	}
	if err := external.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := write(t.Context(), c, "k", "v"); err != nil {
		t.Errorf("closing the external view stopped the cluster: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  cluster.Config
		want string
	}{
		"topology":  {cluster.Config{Topology: "moon"}, `topology "moon" is not one of`},
		"listener":  {cluster.Config{Listener: "pigeon"}, `listener "pigeon" is not one of`},
		"endpoints": {cluster.Config{Topology: cluster.External}, "topology external needs endpoints"},
		"nobody":    {cluster.Config{Topology: cluster.External, Endpoints: []string{"127.0.0.1:1"}}, "endpoint 127.0.0.1:1"},
		"no server": {cluster.Config{Topology: cluster.Processes, ServerBin: "/nonexistent/raftkv"}, "server-bin"},
		"no raftkv": {cluster.Config{Topology: cluster.Processes, ServerBin: "/bin/false"}, "ended before it was ready"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := cluster.Start(ctx, c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// parent is what the child of TestDiesWithParent does: it starts a cluster of
// processes, prints their ids, and waits to be killed.
func parent() int {
	c, err := cluster.Start(context.Background(), cluster.Config{
		Topology: cluster.Processes, ServerBin: os.Getenv("RAFTLAB_TEST_PARENT"),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, n := range c.Nodes() {
		fmt.Println(n.PID)
	}
	fmt.Println("ready")
	select {}
}

// Nothing is left behind even when the parent is killed.
func TestDiesWithParent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "RAFTLAB_TEST_PARENT="+serverBin)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "ready" {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if len(pids) != 3 {
		t.Fatalf("%d processes, want 3", len(pids))
	}
	deadline := time.Now().Add(time.Minute)
	for _, pid := range pids {
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d outlived its parent", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// alive tells whether a process runs; one that ended and waits to be reaped by
// whoever inherited it does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
