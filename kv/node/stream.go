package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"raftlab/kv"
	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// streamInFlight bounds the requests of one stream that wait for their answer, and
// streamShare their bytes: that part of what all streams may hold. At a bound the
// stream is not read, and HTTP/2 holds the client back; one request alone may
// exceed the bytes. What holds requests back is slots, of which a large one takes
// several.
const (
	streamInFlight = 256
	streamShare    = 4
)

// holding counts the bytes that requests on all streams hold, from when they are
// decoded until their answers are sent: whoever sends, and reads no answers, must
// not fill the memory. Beyond the limit requests are refused.
type holding struct {
	limit int64
	bytes atomic.Int64
}

// take is false when there is no room. One request may exceed the limit when
// nothing else is held.
func (h *holding) take(n int64) bool {
	if now := h.bytes.Add(n); now > h.limit && now > n {
		h.bytes.Add(-n)
		return false
	}
	return true
}

// slots is how many a request of that many bytes takes.
func (h *holding) slots(n int64) int {
	return int(min(1+n*streamShare*streamInFlight/max(1, h.limit), streamInFlight))
}

// exchange is one StreamRequest on its way to its StreamResponse. The receiving
// goroutine starts it, the replica's goroutines fill in results, and whoever
// finishes last hands it to the sending goroutine. There is no goroutine for an
// operation or for a request.
type exchange struct {
	errors    translator
	finished  chan<- *exchange // has room for every exchange in flight
	request   *kvv1.StreamRequest
	response  kvv1.StreamResponse // points into results
	results   []kvv1.Result       // one for each operation
	proposals []replica.Proposal
	readable  error        // of the barrier; nil once linearizable reads may go on
	leased    error        // the same for lease reads
	open      atomic.Int32 // what is still to be heard of, plus 1 while starting
	held      *holding
	bytes     atomic.Int64 // of held
	slots     int          // of the stream
}

// Exchanges keep their slices from one use to the next.
var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// Done implements replica.Waiter; the tag is the operation's place.
func (x *exchange) Done(tag int, result kv.Result, err error) {
	if err != nil {
		x.results[tag].Error = x.errors.operation(err)
	} else {
		x.holdValue(&result)
		fillResult(&x.results[tag], &result)
	}
	x.close()
}

// holdValue counts what a swap found, which the store may since have let go: it
// can be much larger than the request. Without room the answer goes without it.
func (x *exchange) holdValue(r *kv.Result) {
	n := int64(len(r.Value))
	switch {
	case n == 0:
	case x.held.take(n):
		x.bytes.Add(n)
	default:
		r.Value, r.ValueOmitted = nil, true
	}
}

// Ready implements replica.ReadWaiter for linearizable reads.
func (x *exchange) Ready(err error) {
	x.readable = err
	x.close()
}

// leasedExchange is an exchange as the waiter of its lease reads.
type leasedExchange exchange

// Ready implements replica.ReadWaiter.
func (x *leasedExchange) Ready(err error) {
	x.leased = err
	(*exchange)(x).close()
}

func (x *exchange) close() {
	if x.open.Add(-1) == 0 {
		x.finished <- x
	}
}

// reset readies the exchange for a request of n operations.
func (x *exchange) reset(req *kvv1.StreamRequest) {
	n := len(req.GetOperations())
	x.request, x.readable, x.leased = req, nil, nil
	x.results = slices.Grow(x.results[:0], n)[:n]
	x.response.Results = slices.Grow(x.response.Results[:0], n)[:n]
	x.proposals = slices.Grow(x.proposals[:0], n)
	for i, op := range req.GetOperations() {
		r := &x.results[i]
		r.Id, r.Kind = op.GetId(), op.GetKind()
		x.response.Results[i] = r
	}
	x.open.Store(1)
}

// enter waits for the exchange's slots; false when the stream ended first.
func (x *exchange) enter(ctx context.Context, slots chan struct{}) bool {
	for n := range x.slots {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			x.slots = n
			return false
		}
	}
	return true
}

// refuse answers all operations with an error, and holds nothing of the request.
func (x *exchange) refuse(err error) {
	refused := x.errors.operation(err)
	for i := range x.results {
		x.results[i].Error = refused
	}
	x.request = nil
}

// release gives the exchange back once its response was encoded. What it kept
// alive of the store, it lets go.
func (x *exchange) release(slots <-chan struct{}) {
	for i := range x.results {
		x.results[i].Reset()
	}
	clear(x.proposals)
	x.held.bytes.Add(-x.bytes.Swap(0))
	for range x.slots {
		<-slots
	}
	x.request, x.finished, x.held = nil, nil, nil
	exchanges.Put(x)
}

// start proposes the writes in order, in one call, and asks for one barrier for
// all linearizable reads, and one for all lease reads.
func (x *exchange) start(r consensus) {
	barriers, leases := false, false
	for i, op := range x.request.GetOperations() {
		cmd, err := command(op)
		switch {
		case err != nil:
			x.results[i].Error = x.errors.operation(err)
		case cmd.Kind != kv.KindGet:
			x.proposals = append(x.proposals, replica.Proposal{Command: cmd, Waiter: x, Tag: i})
		case op.GetConsistency() == kvv1.Consistency_CONSISTENCY_LEASE:
			leases = true
		case op.GetConsistency() != kvv1.Consistency_CONSISTENCY_STALE:
			barriers = true
		}
	}
	if len(x.proposals) > 0 {
		x.propose(r)
	}
	if barriers {
		x.await(r, x, false)
	}
	if leases {
		x.await(r, (*leasedExchange)(x), true)
	}
	x.close()
}

func (x *exchange) await(r consensus, w replica.ReadWaiter, lease bool) {
	x.open.Add(1)
	if now, err := ask(r, w, lease); now || err != nil {
		w.Ready(err)
	}
}

// propose has all writes admitted together. Operations are independent, so
// when one is too large, it alone is refused.
func (x *exchange) propose(r consensus) {
	n := int32(len(x.proposals))
	x.open.Add(n)
	err := r.Propose(x.proposals)
	if err == nil {
		return
	}
	if errors.Is(err, replica.ErrTooLarge) && n > 1 {
		for i := range x.proposals {
			if err := r.Propose(x.proposals[i : i+1]); err != nil {
				x.Done(x.proposals[i].Tag, kv.Result{}, err)
			}
		}
		return
	}
	for i := range x.proposals {
		x.Done(x.proposals[i].Tag, kv.Result{}, err)
	}
}

// read answers the reads, which has to be after the barrier: at the last moment,
// on the sending goroutine, so that the replica's are not held up.
func (x *exchange) read(store *kv.Store) {
	for i, op := range x.request.GetOperations() {
		r := &x.results[i]
		if op.GetKind() != kvv1.OperationKind_OPERATION_KIND_GET || r.Error != nil {
			continue
		}
		if err := x.mayRead(op.GetConsistency()); err != nil {
			r.Error = x.errors.operation(err)
			continue
		}
		item, state, found := store.Get(op.GetKey())
		r.Revision, r.AppliedIndex = state.Revision, state.Index
		r.Found, r.Succeeded = found, true
		if found {
			r.Version, r.CreateRevision, r.ModRevision = item.Version, item.CreateRevision, item.ModRevision
			r.Value = item.Value
		}
	}
}

// mayRead is what the barrier of a consistency said.
func (x *exchange) mayRead(c kvv1.Consistency) error {
	switch c {
	case kvv1.Consistency_CONSISTENCY_STALE:
		return nil
	case kvv1.Consistency_CONSISTENCY_LEASE:
		return x.leased
	case kvv1.Consistency_CONSISTENCY_UNSPECIFIED, kvv1.Consistency_CONSISTENCY_LINEARIZABLE:
	}
	return x.readable
}

// Stream implements KV. This goroutine sends; a second one receives.
func (s *kvService) Stream(stream grpc.BidiStreamingServer[kvv1.StreamRequest, kvv1.StreamResponse]) error {
	var (
		ctx      = stream.Context()
		finished = make(chan *exchange, streamInFlight)
		slots    = make(chan struct{}, streamInFlight)
		ended    = make(chan error, 1) // why receiving ended
		returned = make(chan struct{})
	)
	defer close(returned)
	go func() {
		ended <- s.receive(stream, finished, slots)
		<-returned
		for len(slots) > 0 { // nobody waits for these, but the replica has them
			(<-finished).release(slots)
		}
	}()

	var end error // set once nothing more comes in
	stopping := s.life.Done()
	for end == nil || len(slots) > 0 {
		select {
		case x := <-finished:
			x.read(s.store)
			s.errors.limitValues(x.response.Results, s.answer)
			err := stream.Send(&x.response)
			x.release(slots)
			if err != nil {
				return err
			}
		case end = <-ended:
			ended = nil
		case <-stopping:
			// By now the replica has answered whatever it was given.
			stopping = nil
			if end == nil {
				end = replica.ErrStopped
			}
		case <-ctx.Done():
			return s.errors.status(&interruptedError{cause: ctx.Err(), note: "writes without an answer may have been applied"})
		}
	}
	_, invalid := errors.AsType[*invalidError](end)
	switch {
	case errors.Is(end, io.EOF):
		return nil
	case invalid, errors.Is(end, replica.ErrStopped):
		// All that was taken in has its answer, so this is about the rest.
		return s.errors.status(end)
	}
	// A message that gRPC refused, which ended the stream already: without an
	// Outcome, so what has no answer is unknown to the client.
	return end
}

// receive starts an exchange for each request until the client has no more; nil
// when the stream ended while one was held back.
func (s *kvService) receive(stream grpc.ServerStream, finished chan<- *exchange, slots chan struct{}) error {
	for {
		in := streamRequest{StreamRequest: new(kvv1.StreamRequest)}
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		n := len(in.GetOperations())
		if err := checkOperations(n); err != nil {
			return err
		}
		x := exchanges.Get().(*exchange)
		x.errors, x.finished, x.held = s.errors, finished, &s.streams
		x.reset(in.StreamRequest)
		bytes := int64(in.bytes) + int64(n)*waiterBytes
		admitted := s.streams.take(bytes)
		if admitted {
			x.bytes.Store(bytes)
			x.slots = s.streams.slots(bytes)
		} else {
			// Nothing more is read until this was sent.
			x.refuse(fmt.Errorf("%w: requests on streams hold %d bytes until their answers are read, at most %d",
				replica.ErrOverloaded, s.streams.bytes.Load(), s.streams.limit))
			x.slots = streamInFlight
		}
		switch {
		case !x.enter(stream.Context(), slots):
			x.release(slots)
			return nil
		case admitted:
			x.start(s.replica)
		default:
			x.close()
		}
	}
}
