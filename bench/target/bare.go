package target

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"raftlab/bench/load"
	"raftlab/kv/client"
)

// bare drives the raft library in a loop, without goroutines, queues or transport
// around it: what raft and the store cost, and nothing else. Of the sessions that
// wait, one turns the loop for all; then the next that waits does. So as many
// operations share a proposal as sessions wait, as in a node.
type bare struct {
	stale bool
	group *bareGroup // turned by the session that leads

	mu      sync.Mutex
	waiting []*bareMessage
	spare   []*bareMessage // the array that waiting has next
	leading bool
}

// bareMessage is a message under way.
type bareMessage struct {
	ops     []load.Op
	results []load.Result
	err     error
	turn    chan bool // capacity 1: true to lead, false when it is answered
}

func newBare(o Options) (*bare, error) {
	if o.read != client.ReadLinearizable && o.read != client.ReadStale {
		return nil, fmt.Errorf("target bare has reads linearizable and stale, not %s", o.read)
	}
	group, err := newBareGroup(o.Node.Effective(), max(o.Nodes, 1))
	if err != nil {
		return nil, fmt.Errorf("target bare: %w", err)
	}
	return &bare{stale: o.read == client.ReadStale, group: group}, nil
}

// Open implements load.Target.
func (t *bare) Open(context.Context, int) (load.Session, error) {
	return &bareSession{target: t, message: bareMessage{turn: make(chan bool, 1)}}, nil
}

// Close implements Target.
func (t *bare) Close() error { return nil }

// lead answers all that wait, m among them, and lets the next one lead.
func (t *bare) lead(m *bareMessage) {
	t.mu.Lock()
	messages := t.waiting
	t.waiting = t.spare[:0]
	t.mu.Unlock()
	err := t.group.do(messages, t.stale)
	for _, other := range messages {
		other.err = err
		if other != m {
			other.turn <- false
		}
	}
	clear(messages)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spare = messages
	if t.leading = len(t.waiting) > 0; t.leading {
		t.waiting[0].turn <- true
	}
}

type bareSession struct {
	target  *bare
	message bareMessage
}

// Do implements load.Session. It waits for no network or disk, so ctx is looked
// at before only.
func (s *bareSession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t, m := s.target, &s.message
	m.ops, m.results = ops, results
	t.mu.Lock()
	t.waiting = append(t.waiting, m)
	lead := !t.leading
	t.leading = true
	t.mu.Unlock()
	if !lead {
		lead = <-m.turn
	}
	if lead {
		t.lead(m)
	}
	m.ops, m.results = nil, nil
	return m.err
}

// Close implements load.Session.
func (s *bareSession) Close() error { return nil }

var errBareStuck = errors.New("raft took no proposal or confirmed no read")
