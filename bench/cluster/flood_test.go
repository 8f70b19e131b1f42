package cluster_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// duration is how long a test does what it does: short as a test, longer where
// an environment variable says so, as `make soak` does.
func duration(t *testing.T, variable string, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("%s %q is not a duration such as 60s", variable, text)
	}
	return d
}

// heap is what a node's memory holds after a garbage collection.
func heap(ctx context.Context, t *testing.T, n *cluster.Node) uint64 {
	t.Helper()
	conn, err := grpc.NewClient(n.DebugAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	u, err := labv1.NewLabClient(conn).Usage(ctx, &labv1.UsageRequest{CollectGarbage: true})
	if err != nil {
		t.Fatal(err)
	}
	return u.GetHeapLiveBytes()
}

// One follower is stopped while the cluster is flooded with writes of 64 KiB:
// the others serve on, within what they may hold, and the follower catches up.
func TestStoppedFollowerCostsNoMemory(t *testing.T) {
	const value, keys = 64 << 10, 200
	cfg := calm(cluster.Config{Topology: cluster.Processes, ServerBin: serverBin})
	n := &cfg.Node
	n.LogSize, n.PeerQueue, n.AdmissionBytes, n.Uncommitted = 4<<20, 4<<20, 4<<20, 4<<20
	n.AdmissionOps, n.SnapshotLimit = 1000, 64<<20
	c := start(t, cfg)
	pause := duration(t, "RAFTLAB_PAUSE", 3*time.Second)
	ctx := within(t, pause+2*time.Minute)
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	follower := c.Node(leader.ID%3 + 1)
	st, err := c.Status(ctx, leader)
	if err != nil {
		t.Fatal(err)
	}
	// The store twice over, as a snapshot's view may hold on to what was
	// overwritten, and what a Go process has besides.
	limit := uint64(2*keys*value + 64<<20)
	for what, bytes := range st.GetLimits().GetMemoryCapsBytes() {
		if what != "reassembly" { // a leader is sent no entries
			limit += bytes
		}
	}

	cl, err := client.New(client.Config{Endpoints: c.Endpoints(), RetryTime: -1, Conns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	if err := follower.Pause(); err != nil {
		t.Fatal(err)
	}
	resumed := false
	t.Cleanup(func() {
		if !resumed {
			_ = follower.Resume()
		}
	})
	load, stop := context.WithCancel(ctx)
	defer stop()
	var written, refused atomic.Int64
	var clients sync.WaitGroup
	data := make([]byte, value)
	for w := range 128 {
		clients.Go(func() {
			for i := w; load.Err() == nil; i++ {
				switch _, err := cl.Put(load, fmt.Append(nil, i%keys), data); {
				case err == nil:
					written.Add(1)
				case status.Code(err) == codes.ResourceExhausted:
					if client.Applied(err) != kvv1.Applied_APPLIED_NO {
						t.Errorf("refused, and yet: %v", err)
					}
					refused.Add(1)
				case load.Err() != nil: // the end
				default:
					t.Errorf("a put while a follower is stopped: %v", err)
					return
				}
			}
		})
	}
	highest := uint64(0)
	for began := time.Now(); time.Since(began) < pause || written.Load() == 0 || refused.Load() == 0; {
		if ctx.Err() != nil {
			t.Fatalf("%d puts were done, %d refused: this was no flood", written.Load(), refused.Load())
		}
		highest = max(highest, heap(ctx, t, leader))
		_ = sleep(ctx, 200*time.Millisecond)
	}
	stop()
	clients.Wait()
	if err := follower.Resume(); err != nil {
		t.Fatal(err)
	}
	resumed = true
	if highest > limit {
		t.Errorf("the leader held %d MiB, at most %d are allowed", highest>>20, limit>>20)
	}
	t.Logf("%v: %d puts of 64 KiB done, %d refused; the leader held at most %d MiB, %d are allowed",
		pause, written.Load(), refused.Load(), highest>>20, limit>>20)
	sameState(ctx, t, c)
}

// What moves in bulk delays no election: large values are replicated without
// another, and heartbeats on a lane of their own arrive in time.
func TestBulkDisturbsNoElection(t *testing.T) {
	bytes := int64(64 << 20)
	// As a test it must not depend on a machine that stalls for a while.
	tick := 500 * time.Millisecond
	text := os.Getenv("RAFTLAB_BULK")
	soak := text != ""
	if soak {
		tick = node.DefaultConfig().Tick
		n, err := node.ParseSize(text)
		if err != nil {
			t.Fatalf("RAFTLAB_BULK: %v", err)
		}
		bytes = int64(n)
	}
	const value = 8 << 20
	for _, lanes := range []string{"split", "shared"} {
		t.Run("lanes="+lanes, func(t *testing.T) {
			cfg := node.DefaultConfig()
			cfg.Lanes, cfg.Tick = lanes, tick
			c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin, Node: cfg})
			ctx := within(t, 5*time.Minute)
			leader, err := c.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			before, err := c.Status(ctx, leader)
			if err != nil {
				t.Fatal(err)
			}
			earlier := heartbeats(ctx, t, leader)
			cl := newClient(t, c)
			began := time.Now()
			var writers sync.WaitGroup
			for w := range 4 {
				writers.Go(func() {
					for i := range bytes / value / 4 {
						if _, err := cl.Put(ctx, fmt.Appendf(nil, "%d-%d", w, i%2), make([]byte, value)); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			writers.Wait()
			took := time.Since(began)
			for _, n := range c.Nodes() {
				st, err := c.Status(ctx, n)
				if err != nil {
					t.Fatal(err)
				}
				if lanes == "split" && st.GetTerm() != before.GetTerm() {
					t.Errorf("node %d is in term %d, was in %d: there was an election", n.ID, st.GetTerm(), before.GetTerm())
				}
			}
			trips := heartbeats(ctx, t, leader)
			for bound, n := range earlier {
				trips[bound] -= n
			}
			count, p50, p99 := percentiles(trips)
			t.Logf("%d MiB of %d MiB values in %v; heartbeats there and back: p50 %v, p99 %v of %d",
				bytes>>20, value>>20, took.Round(time.Millisecond), p50, p99, count)
			// Without a soak's time there are too few of them.
			interval := cfg.Tick * time.Duration(cfg.HeartbeatTicks)
			if lanes == "split" && soak && (count == 0 || p99 >= interval) {
				t.Errorf("a heartbeat takes %v (p99 of %d), there is one every %v", p99, count, interval)
			}
			sameState(ctx, t, c)
		})
	}
}

// heartbeats are how many of the leader took at most so long, there and back,
// since it began.
func heartbeats(ctx context.Context, t *testing.T, n *cluster.Node) map[time.Duration]uint64 {
	t.Helper()
	conn, err := grpc.NewClient(n.DebugAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := labv1.NewLabClient(conn).Stages(ctx, &labv1.StagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stages, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	trips := map[time.Duration]uint64{}
	for _, h := range stages.GetHistograms() {
		if h.GetName() != "heartbeat_round_trip_nanos" {
			continue
		}
		for _, b := range h.GetBuckets() {
			trips[time.Duration(b.GetUpperBound())] += b.GetCount()
		}
	}
	return trips
}

// percentiles are those of a histogram by upper bounds.
func percentiles(trips map[time.Duration]uint64) (count uint64, p50, p99 time.Duration) {
	for _, n := range trips {
		count += n
	}
	seen := uint64(0)
	for _, bound := range slices.Sorted(maps.Keys(trips)) {
		if seen += trips[bound]; p50 == 0 && 2*seen >= count {
			p50 = bound
		}
		if p99 == 0 && 100*seen >= 99*count {
			p99 = bound
		}
	}
	return count, p50, p99
}

// A follower that can't be sent an entry is shown as such, by name, and follows
// once it is started again with what can carry it.
func TestFollowerThatCannotFollowHeals(t *testing.T) {
	for _, chunking := range []string{"none", "raft"} {
		t.Run("chunking="+chunking, func(t *testing.T) {
			cfg := durable("never", 64<<20)
			cfg.Chunking = chunking
			if chunking == "raft" {
				cfg.ChunkSize = 64 << 10
			}
			c := start(t, calm(cluster.Config{Topology: cluster.Processes, ServerBin: serverBin, Node: cfg}))
			ctx := within(t, 3*time.Minute)
			leader, err := c.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			cl := newClient(t, c)
			id := leader.ID%3 + 1
			if err := c.Node(id).Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := cl.Put(ctx, []byte("large"), make([]byte, 2<<20)); err != nil {
				t.Fatal(err)
			}
			small := calm(cluster.Config{Node: cfg}).Node
			small.MaxMessage = 1 << 20
			if chunking == "none" {
				small.ChunkSize = 0
			}
			if _, err := c.RestartWith(ctx, id, small); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "report of the follower that cannot follow", func() bool {
				st, err := c.Status(ctx, leader)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range st.GetTransport() {
					if p.GetId() == id && strings.HasPrefix(p.GetProblem(), "cannot follow: message ") {
						return true
					}
				}
				return false
			})
			if err := c.Node(id).Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Restart(ctx, id); err != nil {
				t.Fatal(err)
			}
			sameState(ctx, t, c)
		})
	}
}
