package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// cutter dials like a network whose connections break when told.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

// cut breaks the connection that was made last: during a transfer it is the
// snapshot's, which is dialled after the lanes are up.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[len(c.conns)-1].Close() //nolint:errcheck // that is what it is for
}

const resumeSize, resumeWindow, resumeChunk = 512 << 10, 32 << 10, 4096

func resumeConfig(c *cutter) Config {
	return Config{ChunkSize: resumeChunk, SnapshotWindow: resumeWindow, SnapshotKeep: time.Minute, Dial: c.dial}
}

// sendUntilTaken sends like raft does: again after each failure.
func sendUntilTaken(t *testing.T, a *testServer, m func() *pb.Message) (failures int) {
	t.Helper()
	for {
		n := len(a.reports)
		a.transport.Send([]*pb.Message{m()})
		a.await(t, "report", func() bool { return len(a.reports) == n+1 })
		if a.reports[n] {
			return failures
		}
		if failures++; failures > 20 {
			t.Fatalf("failed %d times: %s", failures, a.stat().Problem)
		}
	}
}

// A transfer whose connection is cut goes on where it stopped: nothing that the
// receiver has is taken in again, and no more is sent again than was under way.
func TestSnapshotResumes(t *testing.T) {
	for name, test := range map[string]struct {
		cuts    []func(step string, n int) bool
		accepts int
		resumed uint64
	}{
		"whole":            {nil, 1, 0},
		"before the first": {[]func(string, int) bool{func(step string, _ int) bool { return step == "accept" }}, 2, 0},
		"after the first":  {[]func(string, int) bool{func(step string, n int) bool { return step == "write" && n > 0 }}, 1, 1},
		"in the middle":    {[]func(string, int) bool{func(step string, n int) bool { return step == "write" && n > resumeSize/2 }}, 1, 1},
		"three times": {[]func(string, int) bool{
			func(step string, n int) bool { return step == "write" && n > resumeSize/4 },
			func(step string, n int) bool { return step == "write" && n > resumeSize/2 },
			func(step string, n int) bool { return step == "write" && n > resumeSize/4*3 },
		}, 1, 3},
		"before the last": {[]func(string, int) bool{func(step string, n int) bool { return step == "read" && n > resumeSize-resumeChunk }}, 1, 1},
		"with the last":   {[]func(string, int) bool{func(step string, n int) bool { return step == "write" && n == resumeSize }}, 2, 0},
		"before done":     {[]func(string, int) bool{func(step string, _ int) bool { return step == "commit" }}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var c cutter
			a, b := pair(t, resumeConfig(&c))
			a.snapshot = randomBytes(resumeSize, 1)
			var mu sync.Mutex
			cuts := test.cuts
			at := func(step string, n int) {
				mu.Lock()
				defer mu.Unlock()
				if len(cuts) > 0 && cuts[0](step, n) {
					cuts = cuts[1:]
					c.cut()
				}
			}
			a.onRead = func(offset int) { at("read", offset) }
			b.onTaken = func(step string, n int) {
				if step == "commit" {
					b.change(func() { b.needless = true }) // until then the node lacks it
				}
				at(step, n)
			}
			failures := sendUntilTaken(t, a, snap)
			if failures < len(test.cuts) {
				t.Errorf("%d failures, %d cuts", failures, len(test.cuts))
			}
			if !bytes.Equal(b.committed, a.snapshot) || b.commits != 1 || b.accepts != test.accepts {
				t.Errorf("%d bytes arrived, %d commits, begun %d times, want %d", len(b.committed), b.commits, b.accepts, test.accepts)
			}
			s, r := a.stat(), b.stat()
			// A failure besides the cuts, of the connection that was just broken,
			// comes before anything is sent.
			if s.SnapshotsResumed != test.resumed || r.SnapshotsReceivedResumed < test.resumed {
				t.Errorf("resumed %d times, by the receiver's count %d; want %d", s.SnapshotsResumed, r.SnapshotsReceivedResumed, test.resumed)
			}
			if test.resumed > 0 && (s.SnapshotBytesResumed == 0 || r.SnapshotBytesReceivedResumed < s.SnapshotBytesResumed) {
				t.Errorf("%d bytes not sent again, by the receiver's count %d", s.SnapshotBytesResumed, r.SnapshotBytesReceivedResumed)
			}
			if r.SnapshotBytesReceived != resumeSize || r.SnapshotsReceived != 1 {
				t.Errorf("received %d bytes of %d snapshots", r.SnapshotBytesReceived, r.SnapshotsReceived)
			}
			if again := s.SnapshotBytesSent - resumeSize; s.SnapshotBytesSent < resumeSize || again > uint64(len(test.cuts))*resumeWindow {
				t.Errorf("%d bytes sent of %d with %d cuts and a window of %d", s.SnapshotBytesSent, resumeSize, len(test.cuts), resumeWindow)
			}
		})
	}
}

// What another node sends of the same point goes on, too; another point begins
// anew and drops what there was; so does what was kept for too long.
func TestSnapshotResumesFromAnother(t *testing.T) {
	later := func(m *pb.SnapshotMetadata) { m.Index = new(m.GetIndex() + 1) }
	for name, test := range map[string]struct {
		keep    time.Duration
		change  func(*pb.SnapshotMetadata)
		resumed uint64
	}{
		"same point":  {time.Minute, func(*pb.SnapshotMetadata) {}, 1},
		"other point": {time.Minute, later, 0},
		"not kept":    {0, func(*pb.SnapshotMetadata) {}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var c cutter
			cfg := resumeConfig(&c)
			cfg.SnapshotKeep = test.keep
			a, b := pair(t, cfg)
			other := startServer(t, 3, cfg)
			b.change(func() { b.members[3] = other.peer() })
			b.transport.SetPeers([]Peer{a.peer(), other.peer()})
			other.change(func() { other.members[2] = b.peer() })
			other.transport.SetPeers([]Peer{b.peer()})
			other.await(t, "connection", func() bool { return other.stat().Connected })
			a.snapshot = randomBytes(resumeSize, 1)
			other.snapshot = a.snapshot
			broken := false
			b.onTaken = func(_ string, n int) {
				if !broken && n > resumeSize/2 {
					broken = true
					c.cut()
				}
			}
			a.transport.Send([]*pb.Message{snap()})
			a.await(t, "report", func() bool { return len(a.reports) == 1 })
			// The receiver hears of the cut by itself.
			b.await(t, "the end of the stream", func() bool { return len(b.transport.(*server).activeSnapshots()) == 0 })
			sendUntilTaken(t, other, func() *pb.Message {
				m := snapshotMessage(test.change)
				m.From = new(uint64(3))
				return m
			})
			if !bytes.Equal(b.taken.Bytes(), a.snapshot) || b.commits != 1 {
				t.Errorf("%d bytes arrived, %d commits", b.taken.Len(), b.commits)
			}
			if s := other.stat(); s.SnapshotsResumed != test.resumed || s.SnapshotBytesSent+s.SnapshotBytesResumed != resumeSize {
				t.Errorf("resumed %d times, %d bytes sent, %d not sent again", s.SnapshotsResumed, s.SnapshotBytesSent, s.SnapshotBytesResumed)
			}
			if want := 1 - int(test.resumed); b.aborts != want || b.accepts != 1+want {
				t.Errorf("begun %d times, %d dropped", b.accepts, b.aborts)
			}
			if held := b.transport.(*server).inbound.held.Load(); held != 0 {
				t.Errorf("%d bytes counted as held", held)
			}
		})
	}
}

// rawSnapshot opens a stream that offers the snapshot, and returns it with the
// receiver's first answer.
func rawSnapshot(t *testing.T, c transportv1.RaftTransportClient, epoch uint64) (transportv1.RaftTransport_SnapshotClient, *transportv1.SnapshotAck, error) {
	t.Helper()
	message, err := proto.Marshal(snap())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&transportv1.SnapshotFrame{Offer: &transportv1.SnapshotOffer{
		ClusterId: 77, From: 1, To: 2, ToIncarnation: 1002, Epoch: epoch, Message: message, Index: 9, Term: 2,
	}}); err != nil {
		t.Fatal(err)
	}
	ack, err := stream.Recv()
	return stream, ack, err
}

func sendRaw(t *testing.T, stream transportv1.RaftTransport_SnapshotClient, offset uint64, data string, crc uint32, last bool) {
	t.Helper()
	if err := stream.Send(&transportv1.SnapshotFrame{Offset: offset, Data: []byte(data), Crc32C: crc, Last: last}); err != nil {
		t.Fatal(err)
	}
}

// A sender that begins anew ends its stream before, which may hang on a dead
// connection; an older one does not.
func TestSnapshotSupersedes(t *testing.T) {
	b := startServer(t, 2, Config{SnapshotKeep: time.Minute})
	c := raw(t, b)
	hello(t, c, 5)
	hello(t, c, 6)
	first, ack, err := rawSnapshot(t, c, 5)
	if err != nil || ack.GetOffset() != 0 {
		t.Fatal(ack, err)
	}
	sendRaw(t, first, 0, "good ", checksum([]byte("good ")), false)
	if ack, err := first.Recv(); err != nil || ack.GetOffset() != 5 {
		t.Fatal(ack, err)
	}
	second, ack, err := rawSnapshot(t, c, 6)
	if err != nil || ack.GetOffset() != 5 {
		t.Fatal(ack, err)
	}
	if _, err := first.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the first stream ends with %v", err)
	}
	if _, _, err := rawSnapshot(t, c, 5); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("an older one: %v", err)
	}
	sendRaw(t, second, 5, "things", checksum([]byte("things")), true)
	for ack, err = second.Recv(); err == nil && !ack.GetDone(); ack, err = second.Recv() {
	}
	if err != nil || b.taken.String() != "good things" || b.commits != 1 || b.accepts != 1 {
		t.Errorf("%q, %d commits, begun %d times, %v", b.taken.String(), b.commits, b.accepts, err)
	}
}

// What fails verification is dropped, and the next transfer begins anew; so does
// one above the cap on what is held.
func TestSnapshotDropsWhatIsWrong(t *testing.T) {
	b := startServer(t, 2, Config{SnapshotKeep: time.Minute, SnapshotLimit: 8})
	c := raw(t, b)
	hello(t, c, 5)
	good := checksum([]byte("good "))
	for i, test := range []struct {
		data string
		crc  uint32
		code codes.Code
	}{
		{"thing", 1, codes.DataLoss},
		{"", checksum(nil), codes.InvalidArgument},
		{"thing", checksum([]byte("thing")), codes.ResourceExhausted},
	} {
		stream, ack, err := rawSnapshot(t, c, 5)
		if err != nil || ack.GetOffset() != 0 {
			t.Fatal(ack, err)
		}
		sendRaw(t, stream, 0, "good ", good, false)
		sendRaw(t, stream, 5, test.data, test.crc, false)
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != test.code {
			t.Errorf("%v, want %v", err, test.code)
		}
		b.await(t, "abort", func() bool { return b.aborts == i+1 })
	}
	if held := b.transport.(*server).inbound.held.Load(); held != 0 {
		t.Errorf("%d bytes counted as held", held)
	}
}

// What broke off is kept for so long after it last grew, while it is of use.
func TestSnapshotIsKeptForSoLong(t *testing.T) {
	n := newFakeNode(2)
	all := inboundSnapshots{keep: time.Minute, limit: 100, active: make(map[uint64]*arrival)}
	point, now := snapshotPoint{9, 2}, time.Unix(1700000000, 0)
	begin := func(bytes string) *inbound {
		t.Helper()
		w, err := n.AcceptSnapshot(nil)
		if err != nil {
			t.Fatal(err)
		}
		in := &inbound{all: &all, point: point, writer: w, moved: now}
		if err := in.write([]byte(bytes), now); err != nil {
			t.Fatal(err)
		}
		return in
	}
	aborted := func(what string, want int) {
		t.Helper()
		if n.aborts != want {
			t.Errorf("%s: %d aborts, want %d", what, n.aborts, want)
		}
	}
	in := begin("data")
	all.park(in, now)
	all.expire(now.Add(time.Minute - 1))
	aborted("before its time", 0)
	if all.resume(point, now.Add(time.Minute-1)) != in {
		t.Error("not resumed")
	}
	all.park(in, now.Add(time.Minute-1)) // it did not grow
	all.expire(now.Add(time.Minute))
	aborted("after its time", 1)
	if all.resume(point, now) != nil {
		t.Error("resumed after its time")
	}
	all.park(begin("data"), now)
	if all.resume(snapshotPoint{9, 3}, now) != nil {
		t.Error("another term was resumed")
	}
	aborted("another point", 2)
	all.park(begin(""), now)
	aborted("nothing came", 3)
	all.park(begin("data"), now)
	n.needless = true
	all.expire(now)
	aborted("of no use", 4)
	n.needless = false
	all.park(begin("data"), now)
	all.close()
	aborted("closed", 5)
	all.park(begin("data"), now)
	aborted("after close", 6)
	if held := all.held.Load(); held != 0 {
		t.Errorf("%d bytes counted as held", held)
	}
}

// All peers together get no more than the rate. A slow machine only makes it
// longer.
func TestSnapshotRate(t *testing.T) {
	const size, rate = 256 << 10, 1 << 20
	a, b := pair(t, Config{ChunkSize: 32 << 10, SnapshotRate: rate})
	a.snapshot = randomBytes(size, 1)
	began := time.Now()
	if failures := sendUntilTaken(t, a, snap); failures > 0 {
		t.Fatalf("%d failures", failures)
	}
	// The bucket is full at the beginning.
	if took, least := time.Since(began), time.Second*(size-32<<10)/rate; took < least {
		t.Errorf("%d bytes took %v, at %d bytes a second at least %v", size, took, rate, least)
	}
	if !bytes.Equal(b.taken.Bytes(), a.snapshot) {
		t.Errorf("%d bytes arrived", b.taken.Len())
	}
	// Chunks of a slow one pass well within the time that shows progress.
	if _, chunk := newThrottle(Config{ChunkSize: 1 << 20, SnapshotRate: 1024, SnapshotTimeout: 10 * time.Second}); chunk != 320 {
		t.Errorf("chunks of %d bytes at 1 KiB/s", chunk)
	}
}

// A node that leads again gives up what it began when it led before, whose
// MsgSnap raft would ignore, and goes on with it in its new term.
func TestSnapshotOfALaterTerm(t *testing.T) {
	var c cutter
	cfg := resumeConfig(&c)
	a, b := pair(t, cfg)
	a.snapshot = randomBytes(resumeSize, 1)
	ofTerm := func(term uint64) *pb.Message {
		m := snap()
		m.Term = new(term)
		return m
	}
	// The receiver is busy with the middle until the second has begun.
	half, second := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.onTaken = func(step string, n int) {
		if step == "write" && n > resumeSize/2 {
			once.Do(func() { close(half); <-second })
		}
	}
	a.transport.Send([]*pb.Message{ofTerm(3)})
	<-half
	a.transport.Send([]*pb.Message{ofTerm(3)})
	a.await(t, "refusal", func() bool { return len(a.reports) == 1 && !a.reports[0] })
	a.transport.Send([]*pb.Message{ofTerm(4)})
	close(second)
	a.await(t, "report", func() bool { return len(a.reports) == 2 })
	if !a.reports[1] {
		// The receiver had not heard of the end of the first.
		sendUntilTaken(t, a, func() *pb.Message { return ofTerm(4) })
	}
	if !bytes.Equal(b.committed, a.snapshot) || b.accepts != 1 || b.commitTerm != 4 {
		t.Errorf("%d bytes arrived, begun %d times, of term %d", len(b.committed), b.accepts, b.commitTerm)
	}
	if s := a.stat(); s.SnapshotsSent != 1 || s.SnapshotsResumed != 1 || s.SnapshotBytesSent > resumeSize+resumeWindow {
		t.Errorf("%d sent, %d resumed, %d bytes", s.SnapshotsSent, s.SnapshotsResumed, s.SnapshotBytesSent)
	}
}

// When the receiver comes as far by another way, the rest is not sent.
func TestSnapshotThatIsNotNeededAnyMore(t *testing.T) {
	var c cutter
	a, b := pair(t, resumeConfig(&c))
	a.snapshot = randomBytes(resumeSize, 1)
	b.onTaken = func(_ string, n int) {
		if n > resumeSize/2 {
			b.change(func() { b.needless = true })
		}
	}
	if failures := sendUntilTaken(t, a, snap); failures > 0 {
		t.Errorf("%d failures", failures)
	}
	if n := a.stat().SnapshotBytesSent; n > resumeSize/2+2*resumeWindow || b.commits != 0 || b.aborts != 1 {
		t.Errorf("%d bytes sent, %d commits, %d aborts", n, b.commits, b.aborts)
	}
	if held := b.transport.(*server).inbound.held.Load(); held != 0 {
		t.Errorf("%d bytes counted as held", held)
	}
}

// No more than the window is ever under way, whatever the receiver does.
func TestSnapshotWindow(t *testing.T) {
	var c cutter
	a, b := pair(t, resumeConfig(&c))
	a.snapshot = randomBytes(resumeSize, 1)
	var most int64 // by what is counted, which is after it was sent
	b.onTaken = func(_ string, n int) { most = max(most, int64(a.stat().SnapshotBytesSent)-int64(n)) }
	sendUntilTaken(t, a, snap)
	if most > resumeWindow || most == 0 {
		t.Errorf("%d bytes were under way, in a window of %d", most, resumeWindow)
	}
}

// A sender that says nothing for too long is given up, and can go on.
func TestSnapshotTimeout(t *testing.T) {
	b := startServer(t, 2, Config{SnapshotKeep: time.Minute, SnapshotTimeout: 50 * time.Millisecond})
	c := raw(t, b)
	hello(t, c, 5)
	for taken := 0; taken == 0; { // the first chunk may be too late, too
		stream, _, err := rawSnapshot(t, c, 5)
		if err == nil {
			err = stream.Send(&transportv1.SnapshotFrame{Data: []byte("good "), Crc32C: checksum([]byte("good "))})
		}
		for err == nil || errors.Is(err, io.EOF) {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.DeadlineExceeded || status.Convert(err).Message() != "no snapshot chunk for 50ms" {
			t.Fatalf("got %v", err)
		}
		b.change(func() { taken = b.taken.Len() })
	}
	if _, ack, err := rawSnapshot(t, c, 5); err != nil || ack.GetOffset() != 5 {
		t.Errorf("%v, %v", ack, err)
	}
}

// A receiver that says nothing for too long is given up, too.
func TestSnapshotNoProgress(t *testing.T) {
	var c cutter
	cfg := resumeConfig(&c)
	a, b := pair(t, cfg)
	a.transport.(*server).cfg.SnapshotTimeout = 50 * time.Millisecond // not the receiver's
	a.snapshot = randomBytes(resumeSize, 1)
	going := make(chan struct{})
	b.onTaken = func(_ string, n int) {
		if n > resumeSize/2 {
			<-going
		}
	}
	defer close(going)
	a.transport.Send([]*pb.Message{snap()})
	a.await(t, "report", func() bool { return len(a.reports) == 1 })
	if a.reports[0] || a.stat().Problem != "snapshot: no progress for 50ms" {
		t.Errorf("reported %v, problem %q", a.reports[0], a.stat().Problem)
	}
}
