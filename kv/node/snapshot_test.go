package node

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// breaking dials like a network that breaks some connections: each one to an
// address, once so many bytes were written to it, until none is left to break.
type breaking struct {
	mu     sync.Mutex
	to     string
	after  []int
	broken int
}

func (b *breaking) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &breakingConn{Conn: conn, of: b, address: address}, nil
}

func (b *breaking) connections(to string, after ...int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to, b.after = to, after
}

func (b *breaking) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

type breakingConn struct {
	net.Conn
	of      *breaking
	address string
	written int
	broken  bool
}

func (c *breakingConn) Write(p []byte) (int, error) {
	c.of.mu.Lock()
	c.written += len(p)
	breaks := !c.broken && c.address == c.of.to && len(c.of.after) > 0 && c.written > c.of.after[0]
	if breaks {
		c.of.after = c.of.after[1:]
		c.of.broken++
		c.broken = true
	}
	c.of.mu.Unlock()
	if breaks {
		_ = c.Close() // that is what it is for
	}
	return c.Conn.Write(p)
}

const (
	snapshotValues    = 64
	snapshotValueSize = 64 * kib
)

// fill makes the node's store as large as is worth a snapshot, and drops the log.
func (m *member) fill(ctx context.Context, t *testing.T) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{9})
	for i := range snapshotValues {
		value := make([]byte, snapshotValueSize)
		_, _ = random.Read(value) // never fails
		if _, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "large%d", i), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *member) compact(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := m.cluster.Snapshot(ctx, &clusterv1.SnapshotRequest{}); err != nil {
		t.Fatal(err)
	}
}

func (m *member) putSmall(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if _, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "small%d", i), Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *member) state(ctx context.Context, t *testing.T) *clusterv1.StatusResponse {
	t.Helper()
	s, err := m.cluster.Status(ctx, &clusterv1.StatusRequest{WithStateHash: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sameState(ctx context.Context, t *testing.T, a, b *member) bool {
	t.Helper()
	x, y := a.state(ctx, t), b.state(ctx, t)
	return x.GetAppliedIndex() == y.GetAppliedIndex() && bytes.Equal(x.GetStateHash(), y.GetStateHash()) && x.GetKeys() >= snapshotValues
}

func snapshotOptions(o *Options) {
	o.Config.ChunkSize, o.Config.SnapshotWindow, o.Config.LogEntries = 16*kib, 64*kib, 100
}

// A node that joins is sent the store; the connection breaks twice meanwhile, and
// writes go on. What it has is not sent again, and one snapshot is all it takes.
func TestSnapshotResumes(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	var network breaking
	leader := startCluster(t, 1, func(o *Options) {
		snapshotOptions(o)
		o.PeerDial = network.dial
	})[0]
	leader.fill(ctx, t)
	leader.compact(ctx, t)
	joined := start(t, 2, snapshotOptions)
	const third = snapshotValues * snapshotValueSize / 3
	network.connections(joined.PeerAddr(), third, third)
	if _, err := leader.cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: 2, Address: joined.Addr()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a broken connection", func() bool { return network.count() > 0 })
	leader.putSmall(ctx, t, 150) // more than the log keeps for nobody
	eventually(t, "equal state", func() bool { return sameState(ctx, t, leader, joined) })

	if network.count() != 2 {
		t.Fatalf("%d connections broken", network.count())
	}
	out, in := leader.peer(t, 2), joined.peer(t, 1)
	if out.GetSnapshotsResumed() != 2 || in.GetSnapshotsReceivedResumed() != 2 || out.GetSnapshotsSent() != 1 || in.GetSnapshotsReceived() != 1 {
		t.Errorf("resumed %d and %d times, %d sent, %d received", out.GetSnapshotsResumed(), in.GetSnapshotsReceivedResumed(),
			out.GetSnapshotsSent(), in.GetSnapshotsReceived())
	}
	if out.GetSnapshotBytesResumed() != in.GetSnapshotBytesReceivedResumed() || out.GetSnapshotBytesResumed() < third {
		t.Errorf("%d bytes not sent again, by the receiver's count %d", out.GetSnapshotBytesResumed(), in.GetSnapshotBytesReceivedResumed())
	}
	size, sent := in.GetSnapshotBytesReceived(), out.GetSnapshotBytesSent()
	if size < snapshotValues*snapshotValueSize || sent < size || sent > size+2*64*kib {
		t.Errorf("%d bytes of a snapshot of %d bytes sent, in a window of %d", sent, size, 64*kib)
	}
	if c := joined.state(ctx, t).GetCounters(); c["snapshots_installed"] != 1 {
		t.Errorf("%d snapshots installed", c["snapshots_installed"])
	}
	// One on demand, before the node was added, and one for it.
	if c := leader.state(ctx, t).GetCounters(); c["snapshots_taken"] != 2 {
		t.Errorf("%d snapshots taken", c["snapshots_taken"])
	}
}

// Leadership moves while a snapshot is on its way. The new leader sends its own,
// at the same time; the old leader's is of no more use, and ends.
func TestSnapshotAcrossLeaderChange(t *testing.T) {
	ctx := within(t, 3*time.Minute)
	members := startCluster(t, 2, func(o *Options) {
		snapshotOptions(o)
		if o.Config.ID == 1 {
			o.Config.SnapshotRate = 512 * kib // 4 MiB: 8 seconds
		}
	})
	old, next := members[0], members[1]
	old.fill(ctx, t)
	eventually(t, "equal state", func() bool { return sameState(ctx, t, old, next) })
	old.compact(ctx, t)
	next.compact(ctx, t)
	joined := start(t, 3, snapshotOptions)
	if _, err := old.cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: 3, Address: joined.Addr()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a snapshot on its way", func() bool { return old.peer(t, 3).GetSnapshotBytesSent() > 64*kib })
	if _, err := old.cluster.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{To: 2}); err != nil {
		t.Fatal(err)
	}
	next.putSmall(ctx, t, 20)
	eventually(t, "equal state", func() bool { return sameState(ctx, t, next, joined) && sameState(ctx, t, old, joined) })
	if in := joined.peer(t, 2); in.GetSnapshotsReceived() != 1 {
		t.Errorf("%d snapshots from the new leader", in.GetSnapshotsReceived())
	}
	if n := joined.peer(t, 1).GetSnapshotBytesReceived(); n == 0 {
		t.Error("nothing came from the old leader")
	}
	eventually(t, "the end of the old leader's snapshot", func() bool { return old.peer(t, 3).GetSnapshotsSent() == 1 })
	if in := joined.peer(t, 1); in.GetSnapshotsReceived() != 0 || in.GetSnapshotBytesReceived() >= snapshotValues*snapshotValueSize {
		t.Errorf("%d bytes, %d whole snapshots from the old leader", in.GetSnapshotBytesReceived(), in.GetSnapshotsReceived())
	}
	next.putSmall(ctx, t, 20)
	eventually(t, "equal state", func() bool { return sameState(ctx, t, next, joined) })
	if c := joined.state(ctx, t).GetCounters(); c["snapshots_installed"] != 1 {
		t.Errorf("%d snapshots installed", c["snapshots_installed"])
	}
}
