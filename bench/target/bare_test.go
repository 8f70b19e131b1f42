package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"raftlab/bench/load"
	"raftlab/kv/node"
	"raftlab/kv/replica"
)

// A whole load, and what it leaves: all nodes hold the same, and what was
// acknowledged is there.
func TestBare(t *testing.T) {
	for _, tt := range []struct {
		nodes, ops int
		read       string
		change     func(*node.Config)
	}{
		{1, 1, "linearizable", func(*node.Config) {}},
		{3, 1, "linearizable", func(*node.Config) {}},
		{3, 8, "stale", func(c *node.Config) { c.Packing = replica.PackEntry }},
		// Small enough for every bound to be met.
		{5, 8, "linearizable", func(c *node.Config) { c.BatchCount, c.BatchSize, c.AppendSize, c.LogEntries = 3, 300, 200, 10 }},
	} {
		t.Run(fmt.Sprintf("nodes=%d/ops=%d", tt.nodes, tt.ops), func(t *testing.T) {
			cfg := node.DefaultConfig()
			tt.change(&cfg)
			made, err := New(Bare, Options{Node: cfg, Nodes: tt.nodes, OpsPerMessage: tt.ops, Read: tt.read})
			if err != nil {
				t.Fatal(err)
			}
			c := load.Config{
				Clients: 8, OpsPerMessage: tt.ops, ReadRatio: 0.5, Keys: 50, KeySize: load.FixedSize(8), KeyDistribution: load.Uniform,
				ValueSize: load.FixedSize(64), Seed: 1, Duration: 200 * time.Millisecond,
			}
			if err := load.Preload(t.Context(), c, made); err != nil {
				t.Fatal(err)
			}
			var rec *load.Recording
			// A busy machine may do nothing for a whole short window.
			for _, c.Duration = range []time.Duration{200 * time.Millisecond, 5 * time.Second} {
				if rec, err = load.Run(t.Context(), c, made, nil); err != nil {
					t.Fatal(err)
				}
				if rec.Operations > 0 {
					break
				}
			}
			if rec.Operations == 0 || rec.Errors != 0 || rec.Missing != 0 {
				t.Errorf("%d operations, %d errors, %d missing", rec.Operations, rec.Errors, rec.Missing)
			}
			group := made.(*bare).group
			if len(group.nodes) != tt.nodes {
				t.Errorf("%d nodes", len(group.nodes))
			}
			want := group.nodes[0].store.View().Hash()
			for i, n := range group.nodes {
				if v := n.store.View(); v.Hash() != want || v.Len() != c.Keys {
					t.Errorf("node %d holds %d keys, and not the same as node 1", i+1, v.Len())
				}
				for key, revision := range rec.Acked {
					if item, _, _ := n.store.Get(c.AppendKey(nil, key)); item.ModRevision < revision {
						t.Errorf("node %d, key %d: revision %d, acknowledged was %d", i+1, key, item.ModRevision, revision)
					}
				}
				if first, err := n.log.FirstIndex(); err != nil || cfg.LogEntries == 10 && n.store.State().Index-first > 15 {
					t.Errorf("node %d keeps %d entries, %v", i+1, n.store.State().Index-first+1, err)
				}
			}
		})
	}
}

// Sessions that wait for each other all get their turn, and each its own results.
func TestBareTakesTurns(t *testing.T) {
	made, err := New(Bare, Options{Nodes: 3})
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	for i := range 16 {
		sessions.Go(func() {
			s, err := made.Open(t.Context(), i)
			if err != nil {
				t.Error(err)
				return
			}
			key := fmt.Appendf(nil, "k%d", i)
			for range 200 {
				var put, get [1]load.Result
				err := errors.Join(s.Do(t.Context(), []load.Op{{Kind: load.Put, Key: key, Value: key}}, put[:]),
					s.Do(t.Context(), []load.Op{{Kind: load.Get, Key: key}}, get[:]))
				if err != nil || put[0].ModRevision == 0 || get[0].ModRevision != put[0].ModRevision || !get[0].Found || !bytes.Equal(get[0].Value, key) {
					t.Errorf("%v: put %+v, get %+v", err, put[0], get[0])
					return
				}
			}
		})
	}
	sessions.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := made.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Do(ctx, []load.Op{{Kind: load.Get, Key: []byte("k")}}, make([]load.Result, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := New(Bare, Options{Nodes: 3, Read: "lease"}); err == nil {
		t.Error("a lease needs a clock, and there is none")
	}
}
