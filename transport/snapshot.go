package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Everything in a snapshot's frame but the data field: offset, checksum and the
// mark of the last.
const snapshotOverhead = 9 + 5 + 2

// SnapshotChunk is how many bytes of a snapshot one frame of that limit
// carries. A snapshot of n bytes is sent in ceil(n / SnapshotChunk) chunks.
func SnapshotChunk(limit int) int { return max(1, maxField(limit-snapshotOverhead)) }

// newThrottle returns the token bucket of all snapshots sent. The bucket holds
// one chunk, so chunks of a slow one are so small that those of several peers
// pass within the time in which a transfer has to show progress.
func newThrottle(cfg Config) (*rate.Limiter, int) {
	chunk := SnapshotChunk(cfg.ChunkSize)
	if cfg.SnapshotRate <= 0 {
		return nil, chunk
	}
	inTime := float64(cfg.SnapshotRate) * cfg.SnapshotTimeout.Seconds() / 32
	chunk = max(1, int(min(float64(chunk), inTime)))
	return rate.NewLimiter(rate.Limit(cfg.SnapshotRate), chunk), chunk
}

// How long raft is kept from trying again after a peer refused a snapshot, or
// none could be made: raft itself waits for no more than the next heartbeat.
const (
	refusalPause    = 100 * time.Millisecond
	refusalPauseMax = 10 * time.Second
)

// outboundSnapshot is the snapshot on its way to a peer; one at a time.
type outboundSnapshot struct {
	mu      sync.Mutex
	current *sending // nil when there is none

	pause time.Duration // the last; of the goroutine that sends
}

type sending struct {
	term  uint64 // in which this node led
	stop  context.CancelFunc
	ended chan struct{}
}

// begin makes a transfer the current one, unless another of the same term is on
// its way. One of an older term is of no more use, since raft ignores its MsgSnap
// now: it is stopped and returned, to be waited for.
func (o *outboundSnapshot) begin(now *sending) (former *sending, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	former = o.current
	if former != nil && former.term >= now.term {
		return nil, false
	}
	o.current = now
	if former != nil {
		former.stop()
	}
	return former, true
}

// rest waits after a transfer that ended with err, twice as long each time. It
// does not where the connection broke: that is resumed, and the peer may be
// another when it is back. A newer snapshot gives no new hope: most are as large.
func (o *outboundSnapshot) rest(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil || brokeOff(err) {
		o.pause = 0
		return
	}
	o.pause = min(max(refusalPause, 2*o.pause), refusalPauseMax)
	t := time.NewTimer(o.pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// brokeOff tells that a transfer ended because of its connection, not of what it
// brought.
func brokeOff(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Aborted:
		return true
	default:
		return false
	}
}

// end tells whether the transfer was still the current one.
func (o *outboundSnapshot) end(now *sending) bool {
	defer close(now.ended)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current != now {
		return false
	}
	o.current = nil
	return true
}

// startSnapshot sends the snapshot that a MsgSnap describes, unless one is on
// its way. It always ends in a report, which comes late after a refusal; but one
// that this node began when it led before, and that gives way to this, has none of
// its own.
func (p *peer) startSnapshot(m *pb.Message) {
	s := p.server
	if p.path.losesSnapshot() {
		s.handler.ReportSnapshot(p.ID, false)
		return
	}
	ctx, stop := context.WithCancel(p.ctx)
	now := &sending{term: m.GetTerm(), stop: stop, ended: make(chan struct{})}
	former, ok := p.sending.begin(now)
	if ok && !s.enter() {
		p.sending.end(now)
		ok = false
	}
	if !ok {
		stop()
		p.count.drop(droppedBusy, 1)
		s.handler.ReportSnapshot(p.ID, false)
		return
	}
	go func() {
		defer s.running.Done()
		defer stop()
		if former != nil {
			<-former.ended
		}
		began := time.Now()
		bytes, err := p.sendSnapshot(ctx, m)
		switch {
		case ctx.Err() != nil: // nobody wants it any more
		case err != nil:
			text := "snapshot: " + status.Convert(err).Message()
			p.count.problem.Store(&text)
			s.log.Warn("snapshot to peer failed", "peer", p.ID, "error", text)
		default:
			p.count.problem.Store(nil)
			p.count.snapshotsSent.Add(1)
			s.log.Info("sent snapshot", "peer", p.ID, "index", m.GetSnapshot().GetMetadata().GetIndex(),
				"bytes", bytes, "took", time.Since(began))
		}
		p.sending.rest(ctx, err)
		if p.sending.end(now) {
			s.handler.ReportSnapshot(p.ID, err == nil)
		}
	}()
}

// sendSnapshot returns how many bytes were sent.
func (p *peer) sendSnapshot(ctx context.Context, m *pb.Message) (int64, error) {
	s := p.server
	offer, err := proto.Marshal(m)
	if err != nil {
		return 0, fmt.Errorf("encode MsgSnap: %w", err)
	}
	data, err := s.handler.OpenSnapshot(m)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	defer data.Close() //nolint:errcheck // only read
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	epoch := s.epoch.Add(1)
	limit, err := p.snapshot.hello(ctx, epoch)
	if err != nil {
		return 0, err
	}
	conn, err := p.snapshot.client()
	if err != nil {
		return 0, err
	}
	rpc, err := transportv1.NewRaftTransportClient(conn).Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	t := &transfer{peer: p, rpc: rpc, moved: make(chan struct{}, 1), ended: make(chan struct{})}
	defer func() {
		cancel(nil)
		if t.listening {
			<-t.ended
		}
	}()
	patience := s.cfg.SnapshotTimeout
	watchdog := time.AfterFunc(patience, func() {
		cancel(status.Errorf(codes.DeadlineExceeded, "no progress for %v", patience))
	})
	defer watchdog.Stop()
	t.progress = func() { watchdog.Reset(patience) }
	meta := m.GetSnapshot().GetMetadata()
	first := &transportv1.SnapshotFrame{Offer: &transportv1.SnapshotOffer{
		ClusterId: s.handler.Identity().ClusterID, From: s.self, To: p.ID, ToIncarnation: p.Incarnation,
		Epoch: epoch, Message: offer, Index: meta.GetIndex(), Term: meta.GetTerm(), WindowBytes: uint64(s.cfg.SnapshotWindow),
	}}
	if n := proto.Size(first); n > limit {
		return 0, &CannotFollowError{Message: n, Limit: limit}
	}
	sent, err := t.run(ctx, first, data, min(SnapshotChunk(min(s.cfg.ChunkSize, limit)), s.throttledChunk))
	switch cause := context.Cause(ctx); {
	case errors.Is(err, errTaken):
		err = nil
	case err != nil && cause != nil:
		err = cause
	}
	return sent, err
}

// transfer is one snapshot on its way out.
type transfer struct {
	peer     *peer
	rpc      transportv1.RaftTransport_SnapshotClient
	progress func() // called whenever something moved

	listening bool
	acked     atomic.Int64
	moved     chan struct{} // capacity 1: acked has grown
	ended     chan struct{}
	failure   error // once ended; errTaken when the peer has taken it
}

// errTaken ends a transfer: the peer has the snapshot, or what follows on it, and
// that may be before all is sent.
var errTaken = errors.New("taken")

func (t *transfer) run(ctx context.Context, first *transportv1.SnapshotFrame, data io.Reader, chunk int) (int64, error) {
	if err := t.send(ctx, first, nil); err != nil {
		return 0, err
	}
	ack, err := t.rpc.Recv()
	if err != nil {
		return 0, err
	}
	if ack.GetDone() {
		return 0, errTaken
	}
	start, err := t.skip(data, ack.GetOffset())
	if err != nil {
		return 0, err
	}
	t.acked.Store(start)
	t.listening = true
	go t.listen()

	sleeper := newSleeper()
	defer sleeper.close()
	// The last frame is marked, so each chunk is read before the one before it
	// is sent. gRPC has encoded a frame when Send returns.
	now, next := make([]byte, chunk), make([]byte, chunk)
	n, err := readChunk(data, now)
	offset := start
	for {
		if err != nil {
			return offset - start, fmt.Errorf("read: %w", err)
		}
		following, readErr := 0, error(nil)
		if n == chunk {
			following, readErr = readChunk(data, next)
		}
		if readErr != nil {
			return offset - start, fmt.Errorf("read: %w", readErr)
		}
		f := &transportv1.SnapshotFrame{
			Offset: uint64(offset), Data: now[:n], Crc32C: checksum(now[:n]), Last: following == 0,
		}
		if err := t.room(ctx, offset+int64(n)); err != nil {
			return offset - start, err
		}
		if err := t.throttle(ctx, n); err != nil {
			return offset - start, err
		}
		if err := t.send(ctx, f, sleeper); err != nil {
			return offset - start, err
		}
		t.peer.count.snapshotChunksSent.Add(1)
		t.peer.count.snapshotBytesSent.Add(uint64(n))
		offset += int64(n)
		if f.GetLast() {
			break
		}
		now, next, n = next, now, following
	}
	if err := t.rpc.CloseSend(); err != nil {
		return offset - start, err
	}
	<-t.ended
	return offset - start, t.failure
}

// skip leaves out what the peer has of the same snapshot: the bytes are the same
// whoever makes them, so they are made again and thrown away.
func (t *transfer) skip(data io.Reader, offset uint64) (int64, error) {
	if offset == 0 {
		return 0, nil
	}
	if offset > math.MaxInt64 {
		return 0, fmt.Errorf("peer wants to go on at offset %d", offset)
	}
	if n, err := io.CopyN(io.Discard, data, int64(offset)); err != nil {
		return 0, fmt.Errorf("peer wants to go on at offset %d, after %d bytes: %w", offset, n, err)
	}
	t.progress()
	c := t.peer.count
	c.snapshotsResumed.Add(1)
	c.snapshotBytesResumed.Add(offset)
	return int64(offset), nil
}

// throttle waits for the tokens of a chunk.
func (t *transfer) throttle(ctx context.Context, n int) error {
	limiter := t.peer.server.throttle
	if limiter == nil {
		return nil
	}
	if err := limiter.WaitN(ctx, n); err != nil {
		return err
	}
	t.progress()
	return nil
}

// readChunk fills p as far as there is something to read.
func readChunk(r io.Reader, p []byte) (int, error) {
	n, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

func (t *transfer) send(ctx context.Context, f *transportv1.SnapshotFrame, s *sleeper) error {
	p := t.peer
	if p.path.link.Load() != nil {
		if s == nil {
			s = newSleeper()
			defer s.close()
		}
		if err := p.path.open(ctx, s); err != nil {
			return err
		}
		// Pipelined: the line's time is waited for, its delay is one for all, and
		// small against a snapshot.
		k, at, err := p.path.admit(ctx, s, queued{}, p.onWire(proto.Size(f)))
		if err == nil && k != nil && (f.GetOffer() != nil || f.GetLast()) {
			err = k.sleep(ctx, s, at)
		}
		if err != nil {
			return err
		}
	}
	size := uint64(proto.Size(f))
	if err := t.rpc.Send(f); err != nil {
		if !errors.Is(err, io.EOF) {
			return err
		}
		if t.listening {
			<-t.ended
			return t.failure
		}
		_, err = t.rpc.Recv()
		return err
	}
	t.progress()
	p.count.bytesSent.Add(size)
	p.count.largestFrame(size)
	return nil
}

// room waits until no more than the window is unacknowledged.
func (t *transfer) room(ctx context.Context, end int64) error {
	cfg := &t.peer.server.cfg
	for end-t.acked.Load() > max(cfg.SnapshotWindow, 2*int64(cfg.ChunkSize)) {
		select {
		case <-t.moved:
		case <-t.ended:
			return t.failure
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// listen reads acknowledgements until the peer has taken the snapshot.
func (t *transfer) listen() {
	defer close(t.ended)
	for {
		ack, err := t.rpc.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the peer closed the stream before it had taken the snapshot")
			}
			if status.Code(err) == codes.Unavailable {
				t.peer.snapshot.drop()
			}
			t.failure = err
			return
		}
		t.progress()
		if ack.GetDone() {
			t.failure = errTaken
			return
		}
		t.acked.Store(int64(ack.GetOffset()))
		select {
		case t.moved <- struct{}{}:
		default:
		}
	}
}
