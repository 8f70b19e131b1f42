package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	"raftlab/transport"
)

// quick elects within tenths of a second.
func quick(cfg cluster.Config) cluster.Config {
	cfg.Node = node.DefaultConfig()
	cfg.Node.Tick = 20 * time.Millisecond
	return cfg
}

// sameState waits until all nodes have applied the same, and compares it.
func sameState(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	admin, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := admin.Close(); err != nil {
			t.Error(err)
		}
	}()
	for {
		indices, hashes, said := map[uint64]bool{}, map[string]bool{}, ""
		for _, n := range c.Nodes() {
			st, err := admin.Status(ctx, n.Addr, true)
			if err != nil {
				t.Fatalf("node %d: %v", n.ID, err)
			}
			indices[st.GetAppliedIndex()], hashes[string(st.GetStateHash())] = true, true
			said += fmt.Sprintf(" node %d: index %d, hash %x;", n.ID, st.GetAppliedIndex(), st.GetStateHash()[:4])
		}
		switch {
		case len(indices) == 1 && len(hashes) == 1:
			return
		case len(indices) == 1:
			t.Fatalf("the nodes differ:%s", said)
		case ctx.Err() != nil:
			t.Fatalf("the nodes do not catch up:%s", said)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leaderBut waits for a leader other than one.
func leaderBut(ctx context.Context, t *testing.T, c *cluster.Cluster, but uint64) *cluster.Node {
	t.Helper()
	for {
		for _, n := range c.Nodes() {
			st, err := c.Status(ctx, n)
			if err == nil && n.ID != but && st.GetLeaderId() == n.ID {
				return n
			}
		}
		if ctx.Err() != nil {
			t.Fatalf("no leader but node %d", but)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A leader that is cut off, one way or both, is replaced; the others serve on;
// once healed, all have the same.
func TestPartition(t *testing.T) {
	cut := transport.Faults{Partition: true}
	ways := []struct {
		name string
		do   func(ctx context.Context, c *cluster.Cluster, leader *cluster.Node) error
	}{
		{"from the leader", func(ctx context.Context, c *cluster.Cluster, leader *cluster.Node) error {
			return c.SetFaults(ctx, leader, nil, cut)
		}},
		{"to the leader", func(ctx context.Context, c *cluster.Cluster, leader *cluster.Node) error {
			var errs []error
			for _, n := range c.Nodes() {
				if n.ID != leader.ID {
					errs = append(errs, c.SetFaults(ctx, n, []uint64{leader.ID}, cut))
				}
			}
			return errors.Join(errs...)
		}},
		{"both ways", func(ctx context.Context, c *cluster.Cluster, leader *cluster.Node) error {
			return c.Isolate(ctx, leader)
		}},
	}
	for name, cfg := range shapes() {
		t.Run(name, func(t *testing.T) {
			c := start(t, quick(cfg))
			ctx := within(t, 3*time.Minute)
			for i, way := range ways {
				old, err := c.Leader(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := way.do(ctx, c, old); err != nil {
					t.Fatalf("%s: %v", way.name, err)
				}
				next := leaderBut(ctx, t, c, old.ID)
				for k := range 3 {
					if _, err := write(ctx, c, fmt.Sprintf("%d/%d", i, k), way.name); err != nil {
						t.Errorf("%s: the majority under node %d does not serve: %v", way.name, next.ID, err)
					}
				}
				if err := c.Heal(ctx); err != nil {
					t.Fatal(err)
				}
				if _, err := write(ctx, c, fmt.Sprint(i), "healed"); err != nil {
					t.Errorf("%s: healed: %v", way.name, err)
				}
				sameState(ctx, t, c)
			}
		})
	}
}

// Messages that are lost, doubled, late and out of order cost time, never a
// write: what was acknowledged is there, and the nodes have the same.
func TestLossyNetwork(t *testing.T) {
	faults := transport.Faults{
		Delay: 2 * time.Millisecond, Jitter: 2 * time.Millisecond, Drop: 0.1, Duplicate: 0.2, Reorder: 0.2, Seed: 11,
	}
	all := map[string]cluster.Config{}
	for name, cfg := range shapes() {
		all[name] = quick(cfg)
	}
	unary := quick(cluster.Config{Topology: cluster.InProcessGRPC})
	unary.Node.Transport, unary.Node.Tick = transport.KindUnary, 50*time.Millisecond
	all["unary"] = unary
	for _, topology := range []string{cluster.InProcess, cluster.Processes} {
		set := quick(cluster.Config{Topology: topology, ServerBin: serverBin})
		set.Node.LinkDelay, set.Node.LinkJitter, set.Node.LinkSeed = faults.Delay, faults.Jitter, faults.Seed
		set.Node.LinkDrop, set.Node.LinkDuplicate, set.Node.LinkReorder = node.Probability(faults.Drop), node.Probability(faults.Duplicate), node.Probability(faults.Reorder)
		all[topology+" from the start"] = set
	}
	for name, cfg := range all {
		t.Run(name, func(t *testing.T) {
			c := start(t, cfg)
			ctx := within(t, 3*time.Minute)
			faults, writes := faults, 100
			if cfg.Node.Transport == transport.KindUnary {
				// Each message takes a round trip before the next one goes: more
				// would be about a queue that never empties.
				faults.Delay, faults.Jitter, writes = 500*time.Microsecond, 500*time.Microsecond, 30
			}
			if cfg.Node.Faults() != faults {
				for _, n := range c.Nodes() {
					if err := c.SetFaults(ctx, n, nil, faults); err != nil {
						t.Fatal(err)
					}
				}
			}
			acknowledged := writeMuch(ctx, t, c, writes)
			sawFaults(ctx, t, c, faults)
			// What comes now is not slow any more, however slow the machine is.
			ctx = within(t, time.Minute)
			if err := c.Heal(ctx); err != nil {
				t.Fatal(err)
			}
			for key, value := range acknowledged {
				checkKey(ctx, t, c, key, value)
			}
			sameState(ctx, t, c)
		})
	}
}

// sawFaults wants every fault chosen to have happened, and to every node, if not yet
// then to a heartbeat.
func sawFaults(ctx context.Context, t *testing.T, c *cluster.Cluster, want transport.Faults) {
	t.Helper()
	for _, n := range c.Nodes() {
		waitFor(t, fmt.Sprintf("message that node %d lost, one that it doubled and one out of order", n.ID), func() bool {
			r, err := c.Links(ctx, n)
			if err != nil {
				t.Fatal(err)
			}
			var lost, duplicated, reordered uint64
			for _, l := range r.GetLinks() {
				if f, err := node.FaultsOf(l.GetFaults()); err != nil || f != want {
					t.Fatalf("from node %d to %d: %+v, %v", n.ID, l.GetPeerId(), f, err)
				}
				lost, duplicated, reordered = lost+l.GetMessagesLost(), duplicated+l.GetMessagesDuplicated(), reordered+l.GetMessagesReordered()
			}
			return lost > 0 && duplicated > 0 && reordered > 0
		})
	}
}

// writeMuch writes so many versions of 4 keys each and returns the newest of each
// that was acknowledged, and checks that reads on the way never go back.
func writeMuch(ctx context.Context, t *testing.T, c *cluster.Cluster, versions int) map[string]int {
	t.Helper()
	var mu sync.Mutex
	newest := map[string]int{}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			cl, err := c.Client()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = cl.Close() }()
			key := fmt.Sprint("w", w)
			for i := 1; i <= versions; i++ {
				_, err := cl.Put(ctx, []byte(key), fmt.Append(nil, i))
				if err != nil {
					if client.Applied(err) == kvv1.Applied_APPLIED_UNKNOWN {
						continue // it may come yet, before the next of this writer
					}
					t.Errorf("%s: %v", key, err)
					return
				}
				mu.Lock()
				newest[key] = i
				mu.Unlock()
				if i%8 > 0 {
					continue
				}
				got, err := cl.Get(ctx, []byte(key), client.ReadLinearizable)
				if err != nil || string(got.GetValue()) != fmt.Sprint(i) {
					t.Errorf("%s: wrote %d, then read %q, %v", key, i, got.GetValue(), err)
				}
			}
		})
	}
	wg.Wait()
	if len(newest) != 4 {
		t.Fatalf("acknowledged are %v", newest)
	}
	return newest
}

// checkKey reads a key whose writer had that version acknowledged last.
func checkKey(ctx context.Context, t *testing.T, c *cluster.Cluster, key string, least int) {
	t.Helper()
	cl, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	got, err := cl.Get(ctx, []byte(key), client.ReadLinearizable)
	value := 0
	if err == nil {
		_, err = fmt.Sscan(string(got.GetValue()), &value)
	}
	if err != nil || value < least {
		t.Errorf("%s is %q, %v; %d was acknowledged", key, got.GetValue(), err, least)
	}
}

func TestFaultsRefused(t *testing.T) {
	for name, cfg := range shapes() {
		t.Run(name, func(t *testing.T) {
			c := start(t, cfg)
			n := c.Nodes()[0]
			for _, test := range []struct {
				peers []uint64
				f     transport.Faults
				want  string
			}{
				{nil, transport.Faults{Drop: 2}, "drop 2 is not a probability from 0 to 1"},
				{[]uint64{9}, transport.Faults{}, "node 9 is not a peer; the peers are [2 3]"},
			} {
				if err := c.SetFaults(t.Context(), n, test.peers, test.f); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%+v: %v, want %q", test.f, err, test.want)
				}
			}
		})
	}
	c := start(t, cluster.Config{})
	external := start(t, cluster.Config{Topology: cluster.External, Endpoints: c.Endpoints()})
	if err := external.Isolate(t.Context(), external.Nodes()[0]); !errors.Is(err, cluster.ErrUnsupported) {
		t.Errorf("faults of an external node: %v", err)
	}
	if _, err := external.Links(t.Context(), external.Nodes()[0]); !errors.Is(err, cluster.ErrUnsupported) {
		t.Errorf("links of an external node: %v", err)
	}
}
