package target

import (
	"context"
	"errors"

	"raftlab/bench/load"
	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// cluster drives a cluster through kv/client: unary or pipeline.
type cluster struct {
	client  *client.Client
	stream  bool
	options Options
}

// Open implements load.Target.
func (t *cluster) Open(ctx context.Context, _ int) (load.Session, error) {
	if !t.stream {
		return &unarySession{client: t.client, consistency: consistency(t.options.Stale)}, nil
	}
	p, err := t.client.NewPipeline(ctx)
	if err != nil {
		return nil, err
	}
	return &pipelineSession{pipeline: p, request: newRequest(t.options)}, nil
}

// Close implements Target.
func (t *cluster) Close() error { return t.client.Close() }

func consistency(stale bool) kvv1.Consistency {
	if stale {
		return kvv1.Consistency_CONSISTENCY_STALE
	}
	return kvv1.Consistency_CONSISTENCY_LINEARIZABLE
}

// unarySession makes one RPC an operation.
type unarySession struct {
	client      *client.Client
	consistency kvv1.Consistency
}

// Do implements load.Session.
func (s *unarySession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	for i := range ops {
		op, r := &ops[i], &results[i]
		if op.Kind == load.Get {
			resp, err := s.client.Get(ctx, op.Key, s.consistency)
			*r = load.Result{ModRevision: resp.GetModRevision(), Found: resp.GetFound(), Err: err}
			continue
		}
		resp, err := s.client.Put(ctx, op.Key, op.Value)
		*r = load.Result{ModRevision: resp.GetModRevision(), Err: err}
	}
	return nil
}

// Close implements load.Session.
func (s *unarySession) Close() error { return nil }

// pipelineSession has a Stream of its own.
type pipelineSession struct {
	pipeline *client.Pipeline
	request  request
}

// Do implements load.Session.
func (s *pipelineSession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	answers, err := s.pipeline.Do(ctx, s.request.fill(ops))
	if err != nil {
		return err
	}
	if len(answers) != len(ops) {
		return errAnswers
	}
	for i, a := range answers {
		results[i] = load.Result{ModRevision: a.GetModRevision(), Found: a.GetFound(), Err: client.ResultError(a)}
	}
	return nil
}

// Close implements load.Session.
func (s *pipelineSession) Close() error { return s.pipeline.Close() }

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
		r.slab[i].Consistency = consistency(o.Stale)
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
