package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
)

func newClient(t *testing.T, c *cluster.Cluster) *client.Client {
	t.Helper()
	cl, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// The sequence of the example that raftlab began from, in every shape: init,
// two learners, all voters (Start does these), a write, a read on each node, and
// what each node says about itself.
func TestSequence(t *testing.T) {
	for name, cfg := range shapes() {
		t.Run(name, func(t *testing.T) {
			c := start(t, calm(cfg))
			ctx := within(t, time.Minute)
			cl := newClient(t, c)
			wrote, err := cl.Put(ctx, []byte("foo"), []byte("bar"))
			if err != nil || wrote.GetVersion() != 1 || wrote.GetRevision() != 2 {
				t.Fatalf("put: %v, %v", wrote, err)
			}
			leaders := 0
			for _, n := range c.Nodes() {
				if cfg.Listener != cluster.ListenBufconn { // whose addresses mean nothing outside
					// Asked by itself, a node answers the read from its own store.
					one := start(t, cluster.Config{Topology: cluster.External, Endpoints: []string{n.Addr}})
					got, err := newClient(t, one).Get(ctx, []byte("foo"), client.ReadLinearizable)
					if err != nil || string(got.GetValue()) != "bar" || got.GetModRevision() != wrote.GetModRevision() {
						t.Errorf("node %d reads %v, %v", n.ID, got, err)
					}
				}
				s, err := c.Status(ctx, n)
				if err != nil {
					t.Fatal(err)
				}
				if s.GetRole() == clusterv1.Role_ROLE_LEADER {
					leaders++
					if len(s.GetProgress()) != 3 && len(s.GetProgress()) != 2 {
						t.Errorf("the leader tells the progress of %d nodes", len(s.GetProgress()))
					}
				}
				m := s.GetMembership()
				if s.GetNodeId() != n.ID || s.GetTerm() == 0 || s.GetCommitIndex() == 0 || s.GetLogLastIndex() == 0 ||
					len(m.GetVoters()) != 3 || len(m.GetLearners()) != 0 || len(m.GetNodes()) != 3 || m.GetClusterId() == 0 {
					t.Errorf("node %d says %v", n.ID, s)
				}
			}
			if leaders != 1 {
				t.Errorf("%d leaders", leaders)
			}
		})
	}
}

// The leader is killed by SIGKILL under load. A new one takes over, writes go
// on, and every write that was acknowledged is there.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin})
	ctx := within(t, 3*time.Minute)
	old, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c)
	type ack struct{ key, value string }
	var (
		mu     sync.Mutex
		acks   []ack
		killed bool
		after  int
	)
	done := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return after >= 200
	}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; !done(); i++ {
				a := ack{fmt.Sprintf("w%d-%d", w, i), strconv.Itoa(rand.Int())}
				_, err := cl.Put(ctx, []byte(a.key), []byte(a.value))
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					continue // unknown, or refused while there is no leader
				}
				mu.Lock()
				acks = append(acks, a)
				if killed {
					after++
				}
				mu.Unlock()
			}
		})
	}
	waitFor(t, "200 writes", func() bool { mu.Lock(); defer mu.Unlock(); return len(acks) >= 200 })
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	mu.Lock()
	killed = true
	mu.Unlock()
	writers.Wait()
	if !done() {
		t.Fatalf("only %d writes were acknowledged after the leader was killed", after)
	}
	for _, a := range acks {
		got, err := cl.Get(ctx, []byte(a.key), client.ReadLinearizable)
		if err != nil || string(got.GetValue()) != a.value {
			t.Fatalf("%s was acknowledged as %s and is %q, %v", a.key, a.value, got.GetValue(), err)
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within two minutes", what)
		}
	}
}

// A node whose memory is gone comes back under its id: it is refused, and ends
// with what to do. Under a new id it joins.
func TestForgottenNodeIsRefused(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin})
	ctx := within(t, time.Minute)
	if _, err := write(ctx, c, "k", "1"); err != nil {
		t.Fatal(err)
	}
	victim, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	<-victim.Done()
	again := exec.CommandContext(ctx, serverBin, "serve", "--id", strconv.FormatUint(victim.ID, 10),
		"--addr", victim.Addr, "--peer-addr", victim.PeerAddr)
	var stderr bytes.Buffer
	again.Stderr = &stderr
	err = again.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !bytes.Contains(stderr.Bytes(), []byte("add it again under a new id")) {
		t.Fatalf("the node that came back ended with %v and said:\n%s", err, stderr.String())
	}
	if _, err := write(ctx, c, "k", "2"); err != nil {
		t.Fatalf("the cluster did not go on: %v", err)
	}
	cl := newClient(t, c)
	if _, err := cl.RemoveNode(ctx, victim.ID); err != nil {
		t.Fatal(err)
	}
	added, err := c.AddNode(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cl.Get(ctx, []byte("k"), client.ReadLinearizable); err != nil || string(got.GetValue()) != "2" {
		t.Errorf("k is %q, %v", got.GetValue(), err)
	}
	if s, err := c.Status(ctx, added); err != nil || s.GetLeaderId() == 0 {
		t.Errorf("node %d says %v, %v", added.ID, s, err)
	}
}

// A node that joins when the log is compacted gets the store in chunks, while
// writes go on: 64 times what fits one message, and in the end the same state.
func TestSnapshotInChunks(t *testing.T) {
	cfg := calm(cluster.Config{Topology: cluster.InProcessGRPC})
	cfg.Node.MaxMessage, cfg.Node.LogEntries, cfg.Node.LogSize = 64<<10, 100, 64<<10
	c := start(t, cfg)
	ctx := within(t, 2*time.Minute)
	cl := newClient(t, c)
	const values, size = 128, 32 << 10 // 4 MiB
	random := rand.NewChaCha8([32]byte{7})
	put := func(i int) {
		value := make([]byte, size)
		_, _ = random.Read(value)
		if _, err := cl.Put(ctx, fmt.Appendf(nil, "k%d", i), value); err != nil {
			t.Error(err)
		}
	}
	for i := range values {
		put(i)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Status(ctx, leader); err != nil || s.GetLogFirstIndex() <= 10 {
		t.Fatalf("the log begins at index %d, %v: it was not compacted", s.GetLogFirstIndex(), err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				put(i % values)
			}
		}
	}()
	added, err := c.AddNode(ctx)
	close(stop)
	<-stopped
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Status(ctx, leader)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.GetTransport() {
		if p.GetId() != added.ID {
			continue
		}
		if p.GetSnapshotsSent() == 0 || p.GetSnapshotBytesSent() < values*size {
			t.Errorf("%d snapshots of %d bytes sent", p.GetSnapshotsSent(), p.GetSnapshotBytesSent())
		}
		// No chunk is larger than a message may be, and none but the last of a
		// snapshot is smaller than a message less its framing.
		least, most := p.GetSnapshotBytesSent()/(64<<10), p.GetSnapshotBytesSent()/(64<<10-512)+p.GetSnapshotsSent()
		if n := p.GetSnapshotChunksSent(); n < least || n > most {
			t.Errorf("%d bytes went in %d chunks, want %d to %d", p.GetSnapshotBytesSent(), n, least, most)
		}
	}
	waitFor(t, "equal state", func() bool {
		want, err := cl.Status(ctx, leader.Addr, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cl.Status(ctx, added.Addr, true)
		if err != nil {
			t.Fatal(err)
		}
		return want.GetAppliedIndex() == got.GetAppliedIndex() && bytes.Equal(want.GetStateHash(), got.GetStateHash()) && want.GetKeys() == values
	})
	if s, err := c.Status(ctx, added); err != nil || s.GetCounters()["snapshots_installed"] == 0 {
		t.Errorf("the node that joined installed no snapshot: %v, %v", s.GetCounters(), err)
	}
}
