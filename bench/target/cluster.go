package target

import (
	"context"
	"errors"
	"slices"
	"sync"

	"raftlab/bench/load"
	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// cluster drives a cluster through kv/client: unary or pipeline.
type cluster struct {
	client  *client.Client
	stream  bool
	options Options
	find    sync.Once
}

// Open implements load.Target.
func (t *cluster) Open(ctx context.Context, _ int) (load.Session, error) {
	// A load without writes finds the leader by asking. Where that fails, calls
	// find out by themselves.
	t.find.Do(func() { _ = t.client.Refresh(ctx) })
	how := t.options.read
	if !t.stream {
		return &unarySession{client: t.client, read: how}, nil
	}
	p, err := t.client.NewPipeline(ctx)
	if err != nil {
		return nil, err
	}
	s := &pipelineSession{writes: pipelineHalf{pipeline: p, request: newRequest(t.options)}}
	if how.Spread() {
		if p, err = t.client.NewReadPipeline(ctx, how); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.reads = &pipelineHalf{pipeline: p, request: newRequest(t.options)}
	}
	return s, nil
}

// Close implements Target.
func (t *cluster) Close() error { return t.client.Close() }

// unarySession makes one RPC an operation.
type unarySession struct {
	client *client.Client
	read   client.Read
}

// Do implements load.Session.
func (s *unarySession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	for i := range ops {
		op, r := &ops[i], &results[i]
		if op.Kind == load.Get {
			resp, err := s.client.Get(ctx, op.Key, s.read)
			*r = load.Result{ModRevision: resp.GetModRevision(), Found: resp.GetFound(), Value: resp.GetValue(), Err: err}
			continue
		}
		resp, err := s.client.Put(ctx, op.Key, op.Value)
		*r = load.Result{ModRevision: resp.GetModRevision(), Err: err}
	}
	return nil
}

// Close implements load.Session.
func (s *unarySession) Close() error { return nil }

// pipelineSession has a Stream of its own, and where gets are answered by any
// node, another for them.
type pipelineSession struct {
	writes pipelineHalf
	reads  *pipelineHalf // nil: gets go with the writes
}

type pipelineHalf struct {
	pipeline *client.Pipeline
	request  request
	// Of a message that is shared out between the halves.
	ops     []load.Op
	places  []int
	results []load.Result
}

// Do implements load.Session.
func (s *pipelineSession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	if s.reads == nil {
		return s.writes.do(ctx, ops, results)
	}
	s.writes.clear()
	s.reads.clear()
	for i := range ops {
		half := &s.writes
		if ops[i].Kind == load.Get {
			half = s.reads
		}
		half.ops, half.places = append(half.ops, ops[i]), append(half.places, i)
	}
	switch {
	case len(s.writes.ops) == 0:
		return s.reads.do(ctx, ops, results)
	case len(s.reads.ops) == 0:
		return s.writes.do(ctx, ops, results)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.reads.share(ctx, results)
	}()
	s.writes.share(ctx, results)
	<-done
	return nil
}

func (h *pipelineHalf) clear() { h.ops, h.places = h.ops[:0], h.places[:0] }

// share does this half's operations, whose results go to their places; an error
// of all becomes that of each.
func (h *pipelineHalf) share(ctx context.Context, results []load.Result) {
	h.results = slices.Grow(h.results[:0], len(h.ops))[:len(h.ops)]
	err := h.do(ctx, h.ops, h.results)
	for i, at := range h.places {
		results[at] = h.results[i]
		if err != nil {
			results[at] = load.Result{Err: err}
		}
	}
}

func (h *pipelineHalf) do(ctx context.Context, ops []load.Op, results []load.Result) error {
	answers, err := h.pipeline.Do(ctx, h.request.fill(ops))
	if err != nil {
		return err
	}
	if len(answers) != len(ops) {
		return errAnswers
	}
	for i, a := range answers {
		results[i] = load.Result{ModRevision: a.GetModRevision(), Found: a.GetFound(), Value: a.GetValue(), Err: client.ResultError(a)}
	}
	return nil
}

// Close implements load.Session.
func (s *pipelineSession) Close() error {
	err := s.writes.pipeline.Close()
	if s.reads != nil {
		err = errors.Join(err, s.reads.pipeline.Close())
	}
	return err
}

var errAnswers = errors.New("another number of answers than of operations")

// request holds the messages of a session's operations; they are used again for
// each of its requests.
type request struct {
	slab []kvv1.Operation
	list []*kvv1.Operation
}

func newRequest(o Options) request {
	r := request{slab: make([]kvv1.Operation, o.OpsPerMessage), list: make([]*kvv1.Operation, o.OpsPerMessage)}
	for i := range r.slab {
		r.list[i] = &r.slab[i]
		r.slab[i].Consistency = o.read.Consistency()
	}
	return r
}

// fill points the messages at operations. Ids are places in the request.
func (r *request) fill(ops []load.Op) []*kvv1.Operation {
	for i := range ops {
		m := r.list[i]
		m.Id, m.Kind, m.Key, m.Value = uint64(i), kvv1.OperationKind_OPERATION_KIND_PUT, ops[i].Key, ops[i].Value
		if ops[i].Kind == load.Get {
			m.Kind = kvv1.OperationKind_OPERATION_KIND_GET
		}
	}
	return r.list[:len(ops)]
}
