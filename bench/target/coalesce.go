package target

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"raftlab/bench/load"
	"raftlab/kv/client"
)

// coalesce drives a cluster by calls of one operation that kv/client gathers into
// messages. Each connection has a coalescer of its own, as the clients of one
// process share it; the sessions share those in turn.
type coalesce struct {
	client  *client.Client
	options Options
	next    atomic.Uint64

	mu         sync.Mutex
	coalescers []*client.Coalescer // as many as connections, once the first session is opened
}

// Open implements load.Target.
func (t *coalesce) Open(ctx context.Context, _ int) (load.Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.coalescers) < t.options.Conns {
		c, err := t.client.NewCoalescer(ctx, t.options.read)
		if err != nil {
			return nil, fmt.Errorf("target coalesce: %w", err)
		}
		t.coalescers = append(t.coalescers, c)
	}
	return &coalesceSession{t.coalescers[(t.next.Add(1)-1)%uint64(len(t.coalescers))]}, nil
}

// Close implements Target.
func (t *coalesce) Close() error {
	var errs []error
	for _, c := range t.coalescers {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, t.client.Close())...)
}

type coalesceSession struct{ coalescer *client.Coalescer }

// Do implements load.Session.
func (s *coalesceSession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	for i := range ops {
		op, r := &ops[i], &results[i]
		if op.Kind == load.Get {
			answer, err := s.coalescer.Get(ctx, op.Key)
			*r = load.Result{ModRevision: answer.GetModRevision(), Found: answer.GetFound(), Value: answer.GetValue(), Err: err}
			continue
		}
		answer, err := s.coalescer.Put(ctx, op.Key, op.Value)
		*r = load.Result{ModRevision: answer.GetModRevision(), Err: err}
	}
	return nil
}

// Close implements load.Session.
func (s *coalesceSession) Close() error { return nil }
