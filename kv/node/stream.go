package node

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"raftlab/kv"
	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// streamInFlight bounds the requests of one stream that wait for their answer.
// At the bound the stream is not read, and HTTP/2 holds the client back.
const streamInFlight = 256

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
}

// Exchanges keep their slices from one use to the next.
var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// Done implements replica.Waiter; the tag is the operation's place.
func (x *exchange) Done(tag int, result kv.Result, err error) {
	if err != nil {
		x.results[tag].Error = x.errors.operation(err)
	} else {
		fillResult(&x.results[tag], &result)
	}
	x.close()
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

// release gives the exchange back once its response was encoded. What it kept
// alive of the store, it lets go.
func (x *exchange) release() {
	for i := range x.results {
		x.results[i].Reset()
	}
	clear(x.proposals)
	x.request, x.finished = nil, nil
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
		slots    = make(chan struct{}, streamInFlight) // one held by each exchange
		ended    = make(chan error, 1)                 // why receiving ended
	)
	go s.receive(stream, finished, slots, ended)

	var end error // set once nothing more comes in
	stopping := s.life.Done()
	for end == nil || len(slots) > 0 {
		select {
		case x := <-finished:
			x.read(s.store)
			s.errors.limitValues(x.response.Results, s.answer)
			if err := stream.Send(&x.response); err != nil {
				return err
			}
			x.release()
			<-slots
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

// receive starts an exchange for each request until the client has no more.
func (s *kvService) receive(
	stream grpc.BidiStreamingServer[kvv1.StreamRequest, kvv1.StreamResponse],
	finished chan<- *exchange, slots chan<- struct{}, ended chan<- error,
) {
	for {
		req, err := stream.Recv()
		if err == nil {
			err = checkOperations(len(req.GetOperations()))
		}
		if err != nil {
			ended <- err
			return
		}
		select {
		case slots <- struct{}{}:
		case <-stream.Context().Done():
			return
		}
		x := exchanges.Get().(*exchange)
		x.errors, x.finished = s.errors, finished
		x.reset(req)
		x.start(s.replica)
	}
}
