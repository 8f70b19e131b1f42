package target

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/bench/load"
	"raftlab/kv"
	"raftlab/kv/client"
	"raftlab/kv/node"
	"raftlab/kv/replica"
)

// direct proposes on the leader in this process, and reads there or on all nodes.
type direct struct {
	nodes []*node.Node
	read  client.Read
	turns atomic.Uint32 // of nodes that are read on
}

// Open implements load.Target.
func (t *direct) Open(context.Context, int) (load.Session, error) {
	return &directSession{target: t}, nil
}

// Close implements Target.
func (t *direct) Close() error { return nil }

// leader is the node that leads as far as it knows itself, else nil.
func (t *direct) leader() *node.Node {
	for _, n := range t.nodes {
		if n.Replica().Leader() == n.ID() {
			return n
		}
	}
	return nil
}

// reader is the node that answers gets, given the one that leads.
func (t *direct) reader(leader *node.Node) *node.Node {
	if !t.read.Spread() {
		return leader
	}
	return t.nodes[int(t.turns.Add(1))%len(t.nodes)]
}

// await asks for the barrier that gets need, if any.
func (t *direct) await(n *node.Node, w replica.ReadWaiter) {
	var now bool
	var err error
	switch t.read {
	case client.ReadStale:
		now = true
	case client.ReadLease:
		now, err = n.Replica().ReadUnderLease(w)
	case client.ReadLinearizable, client.ReadFollower:
		err = n.Replica().Read(w)
	}
	if now || err != nil {
		w.Ready(err)
	}
}

type directSession struct {
	target *direct
	round  *round
}

// round is one message under way. The replica calls Done and Ready, so a
// round that was abandoned is never used again.
type round struct {
	waiting   atomic.Int32 // answers to come, and 1 while the round is started
	done      chan struct{}
	proposals []replica.Proposal
	puts      []error
	revisions []uint64
	readable  error
}

// Done implements replica.Waiter; the tag is the operation's place.
func (r *round) Done(tag int, result kv.Result, err error) {
	r.puts[tag], r.revisions[tag] = err, result.ModRevision
	r.finish()
}

// Ready implements replica.ReadWaiter.
func (r *round) Ready(err error) {
	r.readable = err
	r.finish()
}

func (r *round) finish() {
	if r.waiting.Add(-1) == 0 {
		r.done <- struct{}{}
	}
}

// Do implements load.Session. All puts are proposed at once, all gets share one
// barrier, as the node's Stream service does it.
func (s *directSession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	n := s.target.leader()
	if n == nil {
		return status.Error(codes.Unavailable, "no leader in this process")
	}
	if s.round == nil || len(s.round.puts) < len(ops) {
		s.round = &round{done: make(chan struct{}, 1), puts: make([]error, len(ops)), revisions: make([]uint64, len(ops))}
	}
	r := s.round
	r.proposals, r.readable = r.proposals[:0], nil
	for i := range ops {
		if op := &ops[i]; op.Kind == load.Put {
			r.proposals = append(r.proposals, replica.Proposal{
				Command: kv.Command{Kind: kv.KindPut, Key: op.Key, Value: op.Value}, Waiter: r, Tag: i,
			})
		}
	}
	reads := len(r.proposals) < len(ops)
	r.waiting.Store(1)
	if len(r.proposals) > 0 {
		r.waiting.Add(int32(len(r.proposals)))
		if err := n.Replica().Propose(r.proposals); err != nil { // none was admitted
			return translate(err)
		}
	}
	reader := n
	if reads {
		reader = s.target.reader(n)
		r.waiting.Add(1)
		s.target.await(reader, r)
	}
	r.finish()
	select {
	case <-r.done:
	case <-ctx.Done():
		s.round = nil
		return ctx.Err()
	}
	for i := range ops {
		if ops[i].Kind == load.Put {
			results[i] = load.Result{ModRevision: r.revisions[i], Err: translate(r.puts[i])}
			continue
		}
		if r.readable != nil {
			results[i] = load.Result{Err: translate(r.readable)}
			continue
		}
		item, _, found := reader.Store().Get(ops[i].Key)
		results[i] = load.Result{ModRevision: item.ModRevision, Found: found, Value: item.Value}
	}
	return nil
}

// Close implements load.Session.
func (s *directSession) Close() error { return nil }

// translate gives an error of the replica the code that a node's client would
// see.
func translate(err error) error {
	code := codes.Unknown
	switch {
	case err == nil:
		return nil
	case errors.Is(err, replica.ErrNotLeader):
		code = codes.FailedPrecondition
	case errors.Is(err, replica.ErrOverloaded):
		code = codes.ResourceExhausted
	case errors.Is(err, replica.ErrTooLarge):
		code = codes.InvalidArgument
	case errors.Is(err, replica.ErrUnknownOutcome), errors.Is(err, replica.ErrStopped), errors.Is(err, replica.ErrNoLeader):
		code = codes.Unavailable
	}
	return status.Error(code, fmt.Sprintf("direct: %v", err))
}
