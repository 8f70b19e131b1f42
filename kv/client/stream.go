package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// An operation's id is its message's number and its place in the message, so
// that one lookup serves all answers of a message.
const (
	placeBits     = 16
	operationsMax = 1 << placeBits
)

// exchange is one message and its answers. Its fields are guarded by the
// stream's mutex until done is signalled, but for count, which is fixed.
type exchange struct {
	number  uint64
	count   int
	since   time.Time          // when it was queued, if there is an attempt timeout
	request kvv1.StreamRequest // used to encode only
	data    mem.BufferSlice    // encoded; nil once it was handed to gRPC
	stage   stage
	// results, in the order of the operations. nil until the first answer, and
	// nil in places that have none yet.
	results []*kvv1.Result
	left    int // operations without an answer
	err     *Error
	next    *exchange     // in the outbox
	done    chan struct{} // capacity 1
}

type stage uint8

const (
	queued    stage = iota // nothing of it was sent
	sent                   // perhaps
	answered               // all of it, or the stream broke
	abandoned              // nobody waits any more
)

// stream is one Stream RPC with a sender and a receiver, and with an attempt timeout
// one who watches the time. It never outlives a fault: the pipeline opens another.
type stream struct {
	client *Client
	node   *node
	to     destination
	rpc    grpc.ClientStream
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1: something is queued

	mu      sync.Mutex
	pending map[uint64]*exchange // by number; abandoned ones until their answer comes
	outbox  queue
	broken  bool
	retired bool // takes no more; ends once nothing is pending
}

var streamDescription = grpc.StreamDesc{StreamName: "Stream", ClientStreams: true, ServerStreams: true}

// openStream opens a stream to n. The stream ends with life; ctx, and the attempt
// timeout, bound the opening only. Nothing is sent on failure.
func (c *Client) openStream(ctx, life context.Context, n *node, to destination) (*stream, *Error) {
	limit := c.cfg.AttemptTimeout
	bounded, opened := within(ctx, limit)
	defer opened()
	streamCtx, cancel := context.WithCancel(life)
	stop := context.AfterFunc(bounded, cancel)
	options := append([]grpc.CallOption{grpc.ForceCodecV2(newEncodedCodec())}, c.callOptions...)
	rpc, err := n.conn().NewStream(streamCtx, &streamDescription, kvv1.KV_Stream_FullMethodName, options...)
	if !stop() && err == nil {
		err = bounded.Err()
	}
	if err != nil {
		cancel()
		if bounded.Err() != nil {
			err = bounded.Err()
		}
		e := c.newError("Stream", write, err, false)
		e.late(ctx, n, limit)
		return nil, e
	}
	s := &stream{
		client: c, node: n, to: to, rpc: rpc, ctx: streamCtx, cancel: cancel,
		wake: make(chan struct{}, 1), pending: map[uint64]*exchange{},
	}
	if !c.run(s.receive) || !c.run(s.send) || limit > 0 && !c.run(s.watch) {
		cancel()
		return nil, notSent("Stream", codes.Canceled, "%v", errClosed)
	}
	return s, nil
}

// submit queues an exchange; false when the stream takes no more.
func (s *stream) submit(x *exchange) bool {
	if s.client.cfg.AttemptTimeout > 0 {
		x.since = time.Now()
	}
	s.mu.Lock()
	if s.broken || s.retired {
		s.mu.Unlock()
		return false
	}
	s.pending[x.number] = x
	s.outbox.push(x)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

// abandon stops waiting for x and returns its stage until then. A queued
// exchange is taken back whole; of a sent one the results don't change any
// more, nor do they of an answered one.
func (s *stream) abandon(x *exchange) stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := x.stage
	if before == answered {
		return before
	}
	x.stage = abandoned
	if before == sent {
		return before
	}
	s.outbox.remove(x)
	delete(s.pending, x.number)
	x.data.Free()
	s.endIfDrained()
	return before
}

// send writes what is queued. It may block for as long as the server does not
// read, which is why no caller does this itself.
func (s *stream) send() {
	var data mem.BufferSlice
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		for s.take(&data) {
			if err := s.rpc.SendMsg(&data); err != nil {
				// EOF: the reason is what the receiver gets.
				if !errors.Is(err, io.EOF) {
					s.fail(s.client.newError("Stream", write, err, true))
				}
				return
			}
		}
	}
}

// take moves the next queued message into data. The exchange itself may be
// answered, and used again, before SendMsg returns.
func (s *stream) take(data *mem.BufferSlice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.outbox.pop()
	if x == nil {
		return false
	}
	x.stage = sent
	*data, x.data = x.data, nil
	return true
}

// receive hands out answers until the stream breaks.
func (s *stream) receive() {
	// Only the slice in it is replaced by each message, and belongs to callers.
	var resp kvv1.StreamResponse
	for {
		err := s.rpc.RecvMsg(&resp)
		if err == nil {
			err = s.answer(resp.Results)
		} else if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the server ended the stream")
		}
		if err != nil {
			s.fail(s.client.newError("Stream", write, err, true))
			return
		}
	}
}

// watch gives the stream up when a message waits for its answer for longer than the
// attempt timeout, also one whose caller has left: the node is as silent to others.
func (s *stream) watch() {
	limit := s.client.cfg.AttemptTimeout
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
		left := limit - s.waiting()
		if left <= 0 {
			e := s.client.newError("Stream", write, context.DeadlineExceeded, true)
			e.late(s.ctx, s.node, limit)
			s.fail(e)
			return
		}
		timer.Reset(left)
	}
}

// waiting is how long the oldest message without an answer has been waiting for it.
func (s *stream) waiting() (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.pending {
		longest = max(longest, time.Since(x.since))
	}
	return longest
}

// answer gives results to the exchanges they belong to. What was not asked, or
// answered before, is an error: nothing else on such a stream can be trusted.
func (s *stream) answer(results []*kvv1.Result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(results) > 0 {
		number, n := results[0].GetId()>>placeBits, 1
		for n < len(results) && results[n].GetId()>>placeBits == number {
			n++
		}
		x := s.pending[number]
		if x == nil || x.stage == queued {
			return strayAnswer(results[0])
		}
		if !x.place(results[:n:n]) {
			return strayAnswer(results[0])
		}
		if x.left == 0 {
			delete(s.pending, number)
			if x.stage == sent {
				x.stage = answered
				x.done <- struct{}{}
			}
		}
		results = results[n:]
	}
	s.endIfDrained()
	return nil
}

func strayAnswer(r *kvv1.Result) error {
	return status.Errorf(codes.Internal, "answer %d to no operation under way", r.GetId())
}

// place takes in some answers; false if one of them is not awaited.
func (x *exchange) place(part []*kvv1.Result) bool {
	if x.stage == abandoned {
		// The caller may be reading x.results.
		x.left -= len(part)
		return x.left >= 0
	}
	// As a rule one message answers one message, in order: keep its slice.
	if x.results == nil && len(part) == x.count && inOrder(part) {
		x.results, x.left = part, 0
		return true
	}
	if x.results == nil {
		x.results = make([]*kvv1.Result, x.count)
	}
	for _, r := range part {
		i := int(r.GetId() & (operationsMax - 1))
		if i >= x.count || x.results[i] != nil {
			return false
		}
		x.results[i] = r
		x.left--
	}
	return true
}

// inOrder tells whether results are those of places 0, 1, 2, ...
func inOrder(results []*kvv1.Result) bool {
	base := results[0].GetId()
	if base&(operationsMax-1) != 0 {
		return false
	}
	for i, r := range results {
		if r.GetId() != base+uint64(i) {
			return false
		}
	}
	return true
}

// fail ends the stream: what waits on it hears e, which it may change, and what was
// queued that it was not sent.
func (s *stream) fail(e *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return
	}
	s.broken = true
	s.cancel()
	// Its Outcome can be about one message only; the others may have been applied.
	e.Applied, e.outcomeTold = unknown, false
	unsent := *e
	if unsent.Applied = no; !unsent.retryable() {
		unsent.Code = codes.Unavailable
	}
	if !s.retired {
		s.client.turn(s.node, s.to, e)
	}
	for _, x := range s.pending {
		switch x.stage {
		case queued:
			x.data.Free()
			x.err = &unsent
		case sent:
			x.err = e
		case answered, abandoned:
			continue
		}
		x.stage = answered
		x.done <- struct{}{}
	}
	clear(s.pending)
	s.outbox = queue{}
}

// retire lets the stream finish what it has and takes no more.
func (s *stream) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.endIfDrained()
}

func (s *stream) endIfDrained() {
	if s.retired && len(s.pending) == 0 {
		s.cancel()
	}
}

// queue is a list of exchanges, linked through them so that it allocates
// nothing.
type queue struct {
	first, last *exchange
}

func (q *queue) push(x *exchange) {
	if q.last == nil {
		q.first = x
	} else {
		q.last.next = x
	}
	q.last = x
}

// pop is nil when the queue is empty.
func (q *queue) pop() *exchange {
	x := q.first
	if x != nil {
		q.remove(x)
	}
	return x
}

func (q *queue) remove(x *exchange) {
	var before *exchange
	at := &q.first
	for *at != x {
		before = *at
		at = &before.next
	}
	if *at = x.next; q.last == x {
		q.last = before
	}
	x.next = nil
}
