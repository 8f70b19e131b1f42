package node

import (
	"context"
	"sync"

	"raftlab/kv"
	"raftlab/kv/replica"
)

// consensus is what the services need of a replica.
type consensus interface {
	Propose([]replica.Proposal) error
	Read(replica.ReadWaiter) error
	ReadUnderLease(replica.ReadWaiter) (now bool, err error)
}

// call waits for one command or one read. Calls are pooled: at a hundred
// thousand a second the channel is most of what an RPC would allocate here.
type call struct {
	done     chan struct{} // capacity 1: the replica never blocks on it
	result   kv.Result
	err      error
	proposal [1]replica.Proposal
}

var calls = newCallPool()

func newCallPool() *sync.Pool {
	return &sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}
}

// Done implements replica.Waiter.
func (c *call) Done(_ int, result kv.Result, err error) {
	c.result, c.err = result, err
	c.done <- struct{}{}
}

// Ready implements replica.ReadWaiter.
func (c *call) Ready(err error) {
	c.err = err
	c.done <- struct{}{}
}

// release gives back a call that nobody will finish any more.
func (c *call) release() {
	c.result, c.err = kv.Result{}, nil
	c.proposal[0] = replica.Proposal{}
	calls.Put(c)
}

// propose has one command applied. An *interruptedError means that the caller's
// context ended first.
func propose(ctx context.Context, r consensus, cmd kv.Command) (kv.Result, error) {
	if err := ctx.Err(); err != nil {
		return kv.Result{}, err
	}
	c := calls.Get().(*call)
	c.proposal[0] = replica.Proposal{Command: cmd, Waiter: c}
	if err := r.Propose(c.proposal[:]); err != nil {
		c.release()
		return kv.Result{}, err
	}
	select {
	case <-c.done:
		result, err := c.result, c.err
		c.release()
		return result, err
	case <-ctx.Done():
		// The replica still holds the call: it is left to the collector.
		return kv.Result{}, &interruptedError{cause: ctx.Err(), note: noteWrite}
	}
}

// barrier returns once the store shows every write acknowledged before now; with
// lease, on the leader only, and at once while it has its lease.
func barrier(ctx context.Context, r consensus, lease bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := calls.Get().(*call)
	now, err := ask(r, c, lease)
	if now || err != nil {
		c.release()
		return err
	}
	select {
	case <-c.done:
		err := c.err
		c.release()
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask asks for a barrier; with now true there is nothing to wait for, and the
// waiter does not hear.
func ask(r consensus, w replica.ReadWaiter, lease bool) (now bool, err error) {
	if lease {
		return r.ReadUnderLease(w)
	}
	return false, r.Read(w)
}
