package cluster_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	"raftlab/kv/node"
)

func durable(sync string, saveAfter node.Size) node.Config {
	cfg := node.DefaultConfig()
	cfg.Storage, cfg.Sync, cfg.SaveAfter = node.StorageWAL, sync, saveAfter
	return cfg
}

// How often TestNothingDurableIsLost kills all nodes; RAFTLAB_KILLS sets another
// number, as `make soak` does.
const defaultKills = 3

func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("RAFTLAB_KILLS")
	if text == "" {
		return defaultKills
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("RAFTLAB_KILLS %q is not a number from 1", text)
	}
	return n
}

// All three processes are killed under load, again and again. What was
// acknowledged is there each time they are back, and a key never has a value
// older than the last one acknowledged.
func TestNothingDurableIsLost(t *testing.T) {
	// Snapshots are saved, and the journal cut, all the time.
	c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin, Node: durable("always", 64<<10)})
	ctx := within(t, 10*time.Minute)
	cl, err := client.New(client.Config{Endpoints: c.Endpoints(), RetryTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	const writers = 8
	var acknowledged, attempted [writers]int
	var written atomic.Int64
	for round := range kills(t) {
		before := acknowledged
		load, stop := context.WithCancel(ctx)
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for load.Err() == nil {
					attempted[w]++
					_, err := cl.Put(load, fmt.Append(nil, w), fmt.Append(nil, attempted[w]))
					if err == nil {
						acknowledged[w] = attempted[w]
						written.Add(1)
					} else if load.Err() == nil {
						_ = sleep(load, 5*time.Millisecond) // nobody leads
					}
				}
			})
		}
		enough := written.Load() + 100
		waitFor(t, "100 writes", func() bool { return written.Load() >= enough })
		_ = sleep(ctx, 200*time.Millisecond)
		nodes := c.Nodes()
		var killing sync.WaitGroup
		for _, n := range nodes {
			killing.Go(func() {
				if err := n.Kill(); err != nil {
					t.Error(err)
				}
			})
		}
		killing.Wait()
		stop()
		writing.Wait()
		for _, n := range nodes {
			if _, err := c.Restart(ctx, n.ID); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		check := newClient(t, c)
		for w := range writers {
			got, err := check.Get(ctx, fmt.Append(nil, w), client.ReadLinearizable)
			for err != nil && ctx.Err() == nil { // no leader yet
				got, err = check.Get(ctx, fmt.Append(nil, w), client.ReadLinearizable)
			}
			value, _ := strconv.Atoi(string(got.GetValue()))
			if err != nil || value < acknowledged[w] || value > attempted[w] {
				t.Fatalf("round %d, writer %d: %d is there, %d was acknowledged, %d attempted, %v", round, w, value, acknowledged[w], attempted[w], err)
			}
			acknowledged[w] = value
			if round > 0 && acknowledged[w] == before[w] {
				t.Logf("round %d: writer %d got nothing acknowledged", round, w)
			}
		}
	}
	t.Logf("%d writes in %d rounds, none lost", written.Load(), kills(t))
	sameState(ctx, t, c)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// A node whose folder is gone is one whose memory is gone.
func TestLostFolderIsRefused(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin, Node: durable("batched", 64<<20)})
	ctx := within(t, time.Minute)
	n := c.Node(3)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.DataDir(3)); err != nil {
		t.Fatal(err)
	}
	again, err := c.Restart(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-again.Done():
	case <-ctx.Done():
		t.Fatal("node 3 came back without its memory and runs")
	}
	if _, err := c.Leader(ctx); err != nil {
		t.Error(err)
	}
}

// A durable node comes back by a snapshot of another's when the log it lacks is
// gone, and nothing of its own folder stands in the way.
func TestDurableNodeCatchesUpBySnapshot(t *testing.T) {
	cfg := durable("never", 4<<10)
	cfg.LogEntries = 20
	c := start(t, calm(cluster.Config{Topology: cluster.InProcessGRPC, Node: cfg}))
	ctx := within(t, time.Minute)
	cl := newClient(t, c)
	put := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := cl.Put(ctx, fmt.Appendf(nil, "%d", i), make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0, 100)
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	id := leader.ID%3 + 1
	if err := c.Node(id).Kill(); err != nil {
		t.Fatal(err)
	}
	put(100, 400)
	n, err := c.Restart(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a snapshot installed", func() bool {
		st, err := c.Status(ctx, n)
		return err == nil && st.GetCounters()["snapshots_installed"] > 0
	})
	sameState(ctx, t, c)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Restart(ctx, id); err != nil {
		t.Fatal(err)
	}
	put(400, 420)
	sameState(ctx, t, c)
}
