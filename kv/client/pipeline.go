package client

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Pipeline sends messages of independent operations over one Stream, many of
// them under way at a time. When the stream breaks, or the node at its other
// end does not lead, later messages open another. Do may be called from any
// goroutine; each Pipeline has a stream of its own.
type Pipeline struct {
	client    *Client
	to        destination
	life      context.Context // ends with Close
	cancel    context.CancelFunc
	numbers   atomic.Uint64
	exchanges sync.Pool // *exchange

	current atomic.Pointer[stream]
	opening chan struct{} // capacity 1: a lock that a context can leave
}

// NewPipeline opens a pipeline to the leader; ctx bounds the opening only. It
// ends with Close or with the client.
func (c *Client) NewPipeline(ctx context.Context) (*Pipeline, error) {
	return c.newPipeline(ctx, destination{})
}

// NewReadPipeline is NewPipeline for gets as how says. Where that is spread, each
// pipeline goes to the next node, and to another when that one fails; writes are
// refused there but by the leader. The gets' own consistency is what counts.
func (c *Client) NewReadPipeline(ctx context.Context, how Read) (*Pipeline, error) {
	return c.newPipeline(ctx, destination{spread: how.Spread()})
}

func (c *Client) newPipeline(ctx context.Context, to destination) (*Pipeline, error) {
	p := &Pipeline{client: c, to: to, opening: make(chan struct{}, 1)}
	p.exchanges.New = func() any { return &exchange{done: make(chan struct{}, 1)} }
	p.life, p.cancel = context.WithCancel(c.ctx)
	var wait patience
	for {
		_, followed, e := p.open(ctx)
		if e == nil {
			return p, nil
		}
		if !e.retryable() || !wait.wait(ctx, c, followed) {
			p.cancel()
			return nil, e
		}
	}
}

// Close ends the stream. The outcome of writes that are not answered is
// unknown. Close is an io.Closer and always returns nil.
func (p *Pipeline) Close() error {
	p.cancel()
	return nil
}

// Do sends operations in one message and waits for all their answers, which
// come back in the order of the operations. Operations are independent: each
// Result has its own error, if any (see ResultError). Do sets their ids; they
// and their bytes may be used again once it returns. At most 65,536 operations.
//
// Operations that surely were not applied because the node does not lead, was
// overloaded or could not be reached are sent again, unless a write of the same
// message took effect or may have: writes of one message never change places.
//
// Do itself returns an *Error only when no operation was answered; Applied tells
// whether writes may have been applied. When some were answered before the
// stream broke or ctx ended, the others' results carry that error.
func (p *Pipeline) Do(ctx context.Context, operations []*kvv1.Operation) ([]*kvv1.Result, error) {
	if len(operations) == 0 {
		return nil, nil
	}
	results, followed, e := p.exchange(ctx, operations)
	if e == nil && !anyFailed(results) {
		return results, nil
	}
	return p.again(ctx, operations, results, followed, e)
}

// again is the slow path of a Do whose first exchange failed in part or whole.
func (p *Pipeline) again(ctx context.Context, operations []*kvv1.Operation, results []*kvv1.Result, followed bool, e *Error) ([]*kvv1.Result, error) {
	all := make([]*kvv1.Result, len(operations))
	errs := make([]*Error, len(operations))
	places := make([]int, len(operations)) // of what was sent last
	for i := range places {
		places[i] = i
	}
	var wait patience
	for {
		for i, at := range places {
			all[at] = nil
			if results != nil {
				all[at] = results[i]
			}
			errs[at] = verdict(operations[at], all[at], e)
		}
		next := repeatable(operations, errs)
		if len(next) == 0 || p.life.Err() != nil || !wait.wait(ctx, p.client, followed) {
			break
		}
		places = next
		part := make([]*kvv1.Operation, len(places))
		for i, at := range places {
			part[i] = operations[at]
		}
		results, followed, e = p.exchange(ctx, part)
	}
	answers := 0
	for i, r := range all {
		if r == nil {
			all[i] = errs[i].result(operations[i])
		} else {
			answers++
		}
	}
	if answers > 0 {
		return all, nil
	}
	for i, op := range operations {
		if isWrite(op) {
			return nil, errs[i]
		}
	}
	return nil, errs[0]
}

// verdict is what became of one operation: nil when it was answered well. e
// explains operations without a result.
func verdict(op *kvv1.Operation, r *kvv1.Result, e *Error) *Error {
	switch {
	case r == nil && isWrite(op):
		return e
	case r == nil:
		of := *e
		of.Applied = no
		return &of
	case r.GetError() != nil:
		return operationError(op.GetKind(), r.GetError())
	}
	return nil
}

// repeatable picks the operations to send again. When a write took effect, or
// may have, no write is: it would come after one that stood behind it.
func repeatable(operations []*kvv1.Operation, errs []*Error) (places []int) {
	written := false
	for i, e := range errs {
		written = written || isWrite(operations[i]) && (e == nil || e.Applied == unknown)
	}
	for i, e := range errs {
		if e != nil && e.retryable() && (!written || !isWrite(operations[i])) {
			places = append(places, i)
		}
	}
	return places
}

func isWrite(op *kvv1.Operation) bool {
	return op.GetKind() != kvv1.OperationKind_OPERATION_KIND_GET
}

func anyFailed(results []*kvv1.Result) bool {
	for _, r := range results {
		if r.Error != nil {
			return true
		}
	}
	return false
}

// exchange sends one message and waits for its answers. With an error, results
// may hold some: those of operations without one are nil. followed tells that
// a leader was named and the next exchange goes to it.
func (p *Pipeline) exchange(ctx context.Context, operations []*kvv1.Operation) (results []*kvv1.Result, followed bool, e *Error) {
	if len(operations) > operationsMax {
		return nil, false, notSent("Stream", codes.InvalidArgument, "%d operations in a message exceed the maximum %d", len(operations), operationsMax)
	}
	x := p.exchanges.Get().(*exchange)
	x.number, x.count, x.left = p.numbers.Add(1), len(operations), len(operations)
	x.stage, x.results, x.err = queued, nil, nil
	for i, op := range operations {
		op.Id = x.number<<placeBits | uint64(i)
	}
	x.request.Operations = operations
	size := proto.Size(&x.request)
	if size > p.client.cfg.MaxRequest {
		return nil, false, p.client.tooLarge("Stream", size)
	}
	data, err := encode(&x.request, size)
	x.request.Operations = nil
	if err != nil {
		return nil, false, notSent("Stream", codes.Internal, "%v", err)
	}
	x.data = data
	s, followed, e := p.submit(ctx, x)
	if e != nil {
		data.Free()
		return nil, followed, e
	}
	select {
	case <-x.done:
	case <-ctx.Done():
		before := s.abandon(x)
		if before != answered {
			return x.results, false, p.client.newError("Stream", write, ctx.Err(), before == sent)
		}
		<-x.done
	}
	if x.err != nil {
		return x.results, false, x.err
	}
	results = x.results
	p.exchanges.Put(x)
	for i, r := range results {
		if r.Error == nil {
			continue
		}
		if e := operationError(operations[i].GetKind(), r.Error); e.NotLeader || e.Code == codes.Unavailable {
			s.retire()
			p.current.CompareAndSwap(s, nil)
			return results, p.client.turn(s.node, p.to, e), nil
		}
	}
	return results, false, nil
}

// submit queues x on the stream of the day.
func (p *Pipeline) submit(ctx context.Context, x *exchange) (s *stream, followed bool, e *Error) {
	for {
		s := p.current.Load()
		if s == nil {
			if s, followed, e = p.open(ctx); e != nil {
				return nil, followed, e
			}
		}
		if s.submit(x) {
			return s, false, nil
		}
		p.current.CompareAndSwap(s, nil)
	}
}

// open makes sure that there is a stream, to the node believed to lead.
func (p *Pipeline) open(ctx context.Context) (s *stream, followed bool, e *Error) {
	select {
	case p.opening <- struct{}{}:
		defer func() { <-p.opening }()
	case <-ctx.Done():
		return nil, false, p.client.newError("Stream", write, ctx.Err(), false)
	}
	if s := p.current.Load(); s != nil {
		return s, false, nil
	}
	if p.life.Err() != nil {
		return nil, false, notSent("Stream", codes.Canceled, "the pipeline is closed")
	}
	n := p.client.pick(p.to)
	s, e = p.client.openStream(ctx, p.life, n, p.to)
	if e != nil {
		return nil, e.retryable() && p.client.turn(n, p.to, e), e
	}
	p.current.Store(s)
	return s, false, nil
}
