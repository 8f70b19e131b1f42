package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

func snap() *pb.Message { return snapshotMessage(func(*pb.SnapshotMetadata) {}) }

func TestSnapshot(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		cfg.MaxMessage, cfg.ChunkSize = 4096, 4096
		a, b := pair(t, cfg)
		chunk := SnapshotChunk(4096)
		for i, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 16 * 4096, 3 << 20} {
			a.snapshot = randomBytes(size, uint64(i))
			before := a.stat()
			a.transport.Send([]*pb.Message{snap()})
			a.await(t, "report", func() bool { return len(a.reports) == i+1 })
			if !a.reports[i] || !bytes.Equal(b.taken.Bytes(), a.snapshot) || b.commits != i+1 || b.aborts != 0 {
				t.Fatalf("%d bytes: reported %v, %d arrived, %d commits", size, a.reports[i], b.taken.Len(), b.commits)
			}
			s, want := a.stat(), max(1, (size+chunk-1)/chunk)
			if n := s.SnapshotChunksSent - before.SnapshotChunksSent; n != uint64(want) {
				t.Errorf("%d bytes in %d chunks, want %d", size, n, want)
			}
			if n := s.SnapshotBytesSent - before.SnapshotBytesSent; n != uint64(size) || s.SnapshotsSent != uint64(i)+1 {
				t.Errorf("%d bytes: counted %d, %d snapshots", size, n, s.SnapshotsSent)
			}
		}
		if _, largest := b.wire.get(); largest > 4096 {
			t.Errorf("a message of %d bytes arrived", largest)
		}
		if s, r := a.stat(), b.stat(); s.SnapshotChunksSent != r.SnapshotChunksReceived || s.Problem != "" {
			t.Errorf("%d chunks sent, %d received; problem %q", s.SnapshotChunksSent, r.SnapshotChunksReceived, s.Problem)
		}
	})
}

func TestSnapshotFailures(t *testing.T) {
	a, b := pair(t, Config{})
	a.openErr = errors.New("gone")
	a.transport.Send([]*pb.Message{snap()})
	a.await(t, "report", func() bool { return len(a.reports) == 1 && a.stat().Problem == "snapshot: open: gone" })
	a.openErr, a.snapshot = nil, []byte("bad things")
	a.transport.Send([]*pb.Message{snap()})
	a.await(t, "report", func() bool { return len(a.reports) == 2 })
	a.snapshot = []byte("good things")
	lacking := snapshotMessage(func(m *pb.SnapshotMetadata) { m.ConfState.Voters = []uint64{1, 3} })
	a.transport.Send([]*pb.Message{lacking})
	a.await(t, "report", func() bool { return len(a.reports) == 3 })
	if b.commits != 1 {
		t.Errorf("%d commits, want the failed one only", b.commits)
	}
	a.transport.Send([]*pb.Message{snap()})
	a.await(t, "report", func() bool { return len(a.reports) == 4 })
	if want := []bool{false, false, false, true}; !equal(a.reports, want) {
		t.Errorf("reports %v, want %v", a.reports, want)
	}
	b.stop(t)
	a.transport.Send([]*pb.Message{snap()})
	a.await(t, "report", func() bool { return len(a.reports) == 5 && !a.reports[4] })
	stranger := snap()
	stranger.To = new(uint64(9))
	a.transport.Send([]*pb.Message{stranger})
	a.await(t, "report", func() bool { return len(a.reports) == 6 && !a.reports[5] })
}

// What a peer refuses is tried less and less often, not with every heartbeat; once
// it was taken, or the connection broke, at once again.
func TestRefusedSnapshotIsNotSentAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listeners := map[string]*bufconn.Listener{}
		cfg := Config{SnapshotLimit: 1000, Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return listeners[address].DialContext(ctx)
		}}
		start := func(id uint64) *testServer {
			l := bufconn.Listen(1 << 16)
			s := startServerOn(t, newFakeNode(id), cfg, l)
			s.address = fmt.Sprintf("node%d:1", id)
			listeners[s.address] = l
			return s
		}
		a, b := start(1), start(2)
		connect(t, a, b)
		attempt := func(index uint64, size int) (ok bool, took time.Duration) {
			t.Helper()
			a.snapshot = randomBytes(size, 1)
			n, began := len(a.reports), time.Now()
			a.transport.Send([]*pb.Message{snapshotMessage(func(m *pb.SnapshotMetadata) { m.Index = &index })})
			a.await(t, "report", func() bool { return len(a.reports) == n+1 })
			return a.reports[n], time.Since(began)
		}
		const heartbeats, polls = 100 * time.Millisecond, 10 * time.Millisecond
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(heartbeats) {
			if ok, _ := attempt(9, 2000); ok {
				t.Fatal("a snapshot above the limit was taken")
			}
		}
		if n := len(a.reports); n < 10 || n > 15 || b.accepts != 1 {
			t.Errorf("offered %d times in a minute, and taken in %d times up to the limit", n, b.accepts)
		}
		if ok, took := attempt(10, 1000); !ok || took > polls {
			t.Errorf("one within the limit: taken %v, in %v", ok, took)
		}
		if ok, took := attempt(11, 2000); ok || took < refusalPause || took > refusalPause+polls {
			t.Errorf("refused anew: taken %v, reported after %v", ok, took)
		}
		b.stop(t)
		if ok, took := attempt(12, 2000); ok || took > polls {
			t.Errorf("a broken connection: taken %v, reported after %v", ok, took)
		}
	})
}

func equal(a, b []bool) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestHostileSnapshots(t *testing.T) {
	b := startServer(t, 2, Config{})
	c := raw(t, b)
	hello(t, c, 5)
	message, err := proto.Marshal(snap())
	if err != nil {
		t.Fatal(err)
	}
	vote, err := proto.Marshal(&pb.Message{Type: pb.MsgVote.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(1))})
	if err != nil {
		t.Fatal(err)
	}
	offer := func(change func(*transportv1.SnapshotOffer)) *transportv1.SnapshotFrame {
		o := &transportv1.SnapshotOffer{ClusterId: 77, From: 1, To: 2, ToIncarnation: 1002, Epoch: 5, Message: message, Index: 9, Term: 2}
		change(o)
		return &transportv1.SnapshotFrame{Offer: o}
	}
	good := func(*transportv1.SnapshotOffer) {}
	data := []byte("data")
	chunk := func(offset uint64, crc uint32) *transportv1.SnapshotFrame {
		return &transportv1.SnapshotFrame{Offset: offset, Data: data, Crc32C: crc}
	}
	for name, test := range map[string]struct {
		frames []*transportv1.SnapshotFrame
		code   codes.Code
	}{
		"no offer":            {[]*transportv1.SnapshotFrame{chunk(0, checksum(data))}, codes.InvalidArgument},
		"no Hello":            {[]*transportv1.SnapshotFrame{offer(func(o *transportv1.SnapshotOffer) { o.Epoch = 6 })}, codes.PermissionDenied},
		"another cluster":     {[]*transportv1.SnapshotFrame{offer(func(o *transportv1.SnapshotOffer) { o.ClusterId = 78 })}, codes.FailedPrecondition},
		"another incarnation": {[]*transportv1.SnapshotFrame{offer(func(o *transportv1.SnapshotOffer) { o.ToIncarnation = 7 })}, codes.FailedPrecondition},
		"junk":                {[]*transportv1.SnapshotFrame{offer(func(o *transportv1.SnapshotOffer) { o.Message = []byte{0xff} })}, codes.InvalidArgument},
		"a vote":              {[]*transportv1.SnapshotFrame{offer(func(o *transportv1.SnapshotOffer) { o.Message = vote })}, codes.InvalidArgument},
		"checksum":            {[]*transportv1.SnapshotFrame{offer(good), chunk(0, 1)}, codes.DataLoss},
		"gap":                 {[]*transportv1.SnapshotFrame{offer(good), chunk(4, checksum(data))}, codes.InvalidArgument},
		"two offers":          {[]*transportv1.SnapshotFrame{offer(good), offer(good)}, codes.InvalidArgument},
		"no end":              {[]*transportv1.SnapshotFrame{offer(good), chunk(0, checksum(data))}, codes.InvalidArgument},
	} {
		stream, err := c.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range test.frames {
			if err := stream.Send(f); err != nil {
				break
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != test.code {
			t.Errorf("%s: %v, want %v", name, err, test.code)
		}
	}
	if b.commits != 0 || b.aborts != 4 {
		t.Errorf("%d commits, %d aborts", b.commits, b.aborts)
	}
	for deadline := time.Now().Add(30 * time.Second); len(b.transport.(*server).activeSnapshots()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d snapshots active", len(b.transport.(*server).activeSnapshots()))
		}
	}
}

func (s *server) activeSnapshots() (ids []uint64) {
	s.inbound.mu.Lock()
	defer s.inbound.mu.Unlock()
	for id := range s.inbound.active {
		ids = append(ids, id)
	}
	return ids
}

// Every MsgSnap is reported, one for a peer that is being sent another included:
// raft waits for the report of each.
func TestSnapshotBesideAnother(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		a, b := pair(t, cfg)
		begun, on := make(chan struct{}), make(chan struct{})
		goOn := sync.OnceFunc(func() { close(on) })
		defer goOn()
		a.snapshot = []byte("good things")
		a.onRead = func(offset int) {
			if offset == 0 {
				close(begun)
				<-on
			}
		}
		a.transport.Send([]*pb.Message{snap()})
		<-begun
		a.transport.Send([]*pb.Message{snap(), snap()})
		a.await(t, "reports of those that were not begun", func() bool { return equal(a.reports, []bool{false, false}) })
		goOn()
		a.await(t, "report of the first", func() bool { return equal(a.reports, []bool{false, false, true}) })
		if b.commits != 1 {
			t.Errorf("%d commits", b.commits)
		}
	})
}
