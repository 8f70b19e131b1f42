package transport

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Back-off between attempts to reach a peer.
const (
	minBackoff = 20 * time.Millisecond
	maxBackoff = time.Second
	// A connection that lived that long was a good one.
	goodConnection = time.Second
)

// carrier hands frames to a peer over one connection: a stream or unary RPCs.
// Its methods are called by one goroutine, but for done and acknowledged.
type carrier interface {
	// send blocks until gRPC has taken the frame (stream) or the peer has
	// acknowledged it (unary).
	send(f *Frame) error
	// done is closed when the carrier is broken; err then says why.
	done() <-chan struct{}
	err() error
	// acknowledged is the newest sequence that the peer is known to have.
	acknowledged() uint64
	close()
}

// lane carries one kind of messages to one peer, in order: one queue, one
// goroutine, one connection.
type lane struct {
	peer  *peer
	name  string
	queue *queue
	conn  *connection

	up      atomic.Bool
	wanted  atomic.Bool // connect although nothing waits
	problem atomic.Pointer[laneProblem]

	// Owned by the goroutine.
	limits   Limits
	epoch    uint64
	sequence uint64
	fragment uint64
	frames   []Frame
	sleeper  *sleeper
	sizer    *sizer // chunk-size auto, in the lane of appends; has its own lock
	// Strategy reactive: messages the peer is not known to have, to be sent
	// again when it refuses one, and the sequence of the last frame of each.
	sent []unacknowledged
}

// laneProblem says why a lane is not connected. refused means that the peer is
// there and does not want this node.
type laneProblem struct {
	text    string
	refused bool
}

type unacknowledged struct {
	queued
	last uint64
}

// run keeps the lane going until the peer is closed.
func (l *lane) run(ctx context.Context) {
	defer l.conn.close()
	defer l.queue.open(false)
	l.sleeper = newSleeper()
	defer l.sleeper.close()
	backoff := minBackoff
	for attempt := 0; ctx.Err() == nil; attempt++ {
		// The first connection is made at once, so that the peer's limit is known
		// before it is needed; later ones when there is something to send.
		if attempt > 0 && !l.wait(ctx) {
			return
		}
		began := time.Now()
		err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil { // the peer refused a message, and will not do so again
			continue
		}
		l.fail(err)
		if time.Since(began) > goodConnection {
			backoff = minBackoff
		}
		if l.sleeper.sleep(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, maxBackoff)
		l.queue.open(true)
	}
}

// wait blocks until there is something to send, or another lane has reached the
// peer again.
func (l *lane) wait(ctx context.Context) bool {
	for l.queue.empty() && !l.wanted.Swap(false) {
		select {
		case <-l.queue.wake:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// connect says Hello and sends until the connection breaks. It returns nil when
// the peer refused a message for its size and the strategy learned from it.
func (l *lane) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.epoch = l.peer.server.epoch.Add(1)
	limit, err := l.conn.hello(ctx, l.epoch)
	if err != nil {
		return err
	}
	limit = FrameLimit(l.peer.server.cfg.Compression, limit)
	if old := l.limits.Receive; old != 0 && old != limit && l == l.peer.lanes[len(l.peer.lanes)-1] {
		l.peer.learned.Store(0) // the peer was started anew, with another limit
	}
	l.limits.Receive = limit
	if l.sizer != nil {
		l.sizer.lost()
	}
	l.sequence, l.fragment = 0, 0
	c, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	l.problem.Store(nil)
	l.up.Store(true)
	defer l.up.Store(false)
	l.peer.count.unreachable.Store(false)
	for _, other := range l.peer.lanes {
		if other != l && !other.up.Load() {
			other.wanted.Store(true)
			other.queue.signal()
		}
	}
	return l.refused(c, l.pump(ctx, c))
}

func (l *lane) open(ctx context.Context) (carrier, error) {
	if l.peer.server.cfg.Kind == KindUnary {
		return openUnary(ctx, l), nil
	}
	return openStream(ctx, l)
}

// fail drops what waits, reports the peer and shows why. The queue stays closed
// until the next attempt.
func (l *lane) fail(err error) {
	p := l.peer
	code, text := status.Code(err), status.Convert(err).Message()
	problem := &laneProblem{text: text, refused: code != codes.Unavailable && code != codes.DeadlineExceeded}
	if old := l.problem.Swap(problem); old == nil || old.text != text {
		p.server.log.LogAttrs(context.Background(), slog.LevelWarn, "connection to peer failed",
			slog.Uint64("peer", p.ID), slog.String("address", p.Address), slog.String("lane", l.name), slog.String("error", text))
	}
	for i := range l.sent {
		l.sent[i] = unacknowledged{}
	}
	l.sent = l.sent[:0]
	p.count.drop(droppedUnconnected, uint64(l.queue.open(false)))
	p.unreachable()
}

// pump sends what the queue gets, over a link while there is one.
func (l *lane) pump(ctx context.Context, c carrier) error {
	ctx, cancel := context.WithCancelCause(ctx)
	out := &outlet{lane: l, carrier: c, ctx: ctx, cancel: cancel}
	defer out.close()
	for {
		batch := l.queue.take()
		if len(batch) == 0 {
			select {
			case <-l.queue.wake:
				continue
			case <-c.done():
				return c.err()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		for i := range batch {
			if err := l.send(out, batch[i]); err != nil {
				l.giveUp(batch, i)
				if cause := context.Cause(ctx); cause != nil {
					err = cause
				}
				return err
			}
		}
	}
}

// giveUp deals with what send did not get to: batch[failed] was begun.
func (l *lane) giveUp(batch []queued, failed int) {
	if l.peer.server.chunker.Name() == ChunkReactive {
		l.queue.putBack(batch[failed+1:]) // dropped by fail unless it was a refusal
		return
	}
	for _, q := range batch[failed+1:] {
		l.queue.release(q.size)
	}
	l.peer.count.drop(droppedBroken, uint64(len(batch)-failed))
}

// inFlight is a frame on the link. release is not 0 in the last one of a
// message.
type inFlight struct {
	frame   Frame
	release int
}

// outlet gives the frames of one connection to its carrier: directly, or by a
// delay line as long as there is a link, and then until what is on it has
// arrived. So the carrier has one caller at a time, and frames stay in order.
type outlet struct {
	lane    *lane
	carrier carrier
	ctx     context.Context //nolint:containedctx // the pump's
	cancel  context.CancelCauseFunc
	line    *delayLine[inFlight] // made by the first frame that needs it
	ended   chan struct{}        // closed when the line's goroutine has ended
}

// forward gives on a frame of message q. released means that the queue's bytes
// are released once the frame has arrived, if it is the last of its message.
func (o *outlet) forward(q queued, f *Frame, last bool) (released bool, err error) {
	p, s := o.lane.peer, o.lane.sleeper
	linked := p.path.link.Load() != nil
	switch {
	case !linked && (o.line == nil || o.line.idle()):
		return false, o.carrier.send(f)
	case p.server.cfg.Kind == KindUnary:
		// The next RPC begins when this one's answer has come back.
		k, err := p.path.carry(o.ctx, s, queued{jitter: q.jitter}, p.onWire(f.Size()))
		if err == nil {
			err = o.carrier.send(f)
		}
		if err == nil && k != nil {
			err = k.sleep(o.ctx, s, time.Now().Add(k.Delay))
		}
		return false, err
	}
	k, at, err := p.path.admit(o.ctx, s, q, p.onWire(f.Size()))
	if err != nil {
		return false, err
	}
	if o.line == nil {
		o.start()
	}
	sent := inFlight{frame: *f}
	if last {
		sent.release = q.size
	}
	o.line.put(k, at, sent)
	return last, nil
}

func (o *outlet) start() {
	o.line, o.ended = newDelayLine[inFlight](), make(chan struct{})
	go func() {
		defer close(o.ended)
		s := newSleeper()
		defer s.close()
		o.cancel(o.line.run(o.ctx, s, o.deliver))
	}()
}

func (o *outlet) deliver(f *inFlight) error {
	err := o.carrier.send(&f.frame)
	o.lane.queue.release(f.release)
	f.release = 0
	return err
}

// close gives up what is on its way, before another pump may release anything.
func (o *outlet) close() {
	o.cancel(nil)
	if o.line != nil {
		<-o.ended
		o.line.abandon(func(f *inFlight) { o.lane.queue.release(f.release) })
	}
}

// send plans a message and sends its frames. The error is the carrier's: a
// message that can't be sent to this peer is shown, dropped, and no error.
func (l *lane) send(out *outlet, q queued) error {
	p := l.peer
	released := false
	defer func() {
		if !released {
			l.queue.release(q.size)
		}
	}()
	frames, err := p.server.chunker.Plan(l.frames[:0], q.message, l.limitsNow())
	l.frames = frames
	if err != nil {
		p.cannotFollow(err)
	} else if len(q.message.Entries) > 0 {
		p.follow.Store(nil)
	}
	if len(frames) == 0 {
		return nil
	}
	if len(frames) > 1 {
		l.logSplit(q, frames)
	}
	if entries := q.message.Entries; l.sizer != nil && err == nil && len(entries) > 0 {
		l.sizer.append(entries[len(entries)-1].GetIndex(), q.size, time.Now())
	}
	l.stamp(frames)
	l.retain(out.carrier, q)
	p.count.messagesSent.Add(1)
	for i := range frames {
		p.count.sent(&frames[i])
		if p.server.cfg.Compression == CompressionNone {
			p.count.wireBytesSent.Add(uint64(frames[i].Size() + grpcHeader)) // else wireCounter counts
		}
		if released, err = out.forward(q, &frames[i], i == len(frames)-1); err != nil {
			return err
		}
	}
	if cap(l.frames) > 1024 {
		l.frames = nil // a large entry's
	} else {
		clear(l.frames)
	}
	return nil
}

// limitsNow are the limits for the next message.
func (l *lane) limitsNow() Limits {
	limits := l.limits
	limits.Learned = FrameLimit(l.peer.server.cfg.Compression, int(l.peer.learned.Load()))
	if l.sizer != nil {
		limits.Chunk = l.sizer.size(limits.Receive)
	}
	return limits
}

// stamp says who sends the frames.
func (l *lane) stamp(frames []Frame) {
	for i := range frames {
		l.sequence++
		f := &frames[i]
		f.Sequence, f.Epoch, f.From, f.To = l.sequence, l.epoch, l.peer.server.self, l.peer.ID
		if f.Fragment.Total > 0 {
			if f.Fragment.Offset == 0 {
				l.fragment++
			}
			f.Fragment.Message = l.fragment
		}
	}
}

func (l *lane) logSplit(q queued, frames []Frame) {
	p := l.peer
	p.count.messagesSplit.Add(1)
	if !p.server.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	limits := l.limitsNow()
	target, _ := limits.bounds()
	if limits.Learned > 0 {
		target = limits.Learned
	}
	p.server.log.LogAttrs(context.Background(), slog.LevelDebug, "split message",
		slog.Uint64("peer", p.ID), slog.Int("entries", len(q.message.Entries)), slog.Int("bytes", q.size),
		slog.Int("limit", target), slog.Int("frames", len(frames)))
}

// retain keeps a message, under strategy reactive, until the peer has it.
func (l *lane) retain(c carrier, q queued) {
	if l.peer.server.chunker.Name() != ChunkReactive {
		return
	}
	have, known := 0, c.acknowledged()
	for have < len(l.sent) && l.sent[have].last <= known {
		l.sent[have] = unacknowledged{}
		have++
	}
	l.sent = append(l.sent[have:], unacknowledged{queued: q, last: l.sequence})
}

// refused looks whether err is the peer's gRPC limit. With strategy reactive it
// learns the limit and queues again what the peer does not have; then it
// returns nil.
func (l *lane) refused(c carrier, err error) error {
	if status.Code(err) != codes.ResourceExhausted {
		return err
	}
	p := l.peer
	told, ok := parseRefusal(err)
	if ok {
		p.count.refusals.Add(1)
	}
	if p.server.chunker.Name() != ChunkReactive || len(l.sent) == 0 {
		return err
	}
	known, again, largest := c.acknowledged(), []queued(nil), 0
	for _, m := range l.sent {
		if m.last > known {
			again = append(again, m.queued)
			largest = max(largest, m.size)
		}
	}
	if !ok { // the limit is not told: half of what did not pass
		p.count.refusals.Add(1)
		told = refusal{size: largest, limit: max(MinLimit, largest/2)}
	}
	if learned := int(p.learned.Load()); learned > 0 && told.limit >= learned {
		return err // it refuses what it said it takes
	}
	p.learned.Store(int64(told.limit))
	p.server.log.LogAttrs(context.Background(), slog.LevelInfo, "peer refused a message for its size, learned its limit",
		slog.Uint64("peer", p.ID), slog.Int("bytes", told.size), slog.Int("limit", told.limit))
	for _, m := range again {
		l.queue.bytes.Add(int64(m.size)) // was released when it was sent
	}
	p.count.messagesResent.Add(uint64(len(again)))
	l.queue.putBack(again)
	l.sent = l.sent[:0]
	return nil
}

// laneOf says which lane a message belongs to: appends are bulk, everything
// else is what elections and acknowledgements depend on.
func laneOf(m *pb.Message) int {
	if m.GetType() == pb.MsgApp {
		return laneLog
	}
	return laneControl
}
