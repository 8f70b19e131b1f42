package replica

import (
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// inbox is how other goroutines reach the one that owns the core. What piles up
// while that one is busy is its next batch.
type inbox struct {
	mu     sync.Mutex
	fresh  batch
	spare  batch
	closed bool
	wake   chan struct{}
}

// batch is what came in since the last one was taken.
type batch struct {
	messages  []*raftpb.Message
	received  time.Duration // when the first of messages with entries came, from Core.began; 0 while stages are off
	proposals []Proposal
	since     time.Time // when the first of proposals came
	reads     []ReadWaiter
	leased    []ReadWaiter // under the lease
	applied   []*ApplyTask
	written   []*raftpb.Message // by the journal
	calls     []func(*Core)
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// put adds to the next batch; false when the inbox is closed.
func (in *inbox) put(add func(*batch)) bool {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return false
	}
	add(&in.fresh)
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return true
}

// propose adds commands to the next batch; false when the inbox is closed.
func (in *inbox) propose(ps []Proposal) bool {
	return in.put(func(b *batch) {
		if len(b.proposals) == 0 {
			b.since = time.Now()
		}
		b.proposals = append(b.proposals, ps...)
	})
}

// close refuses what comes from now on.
func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
}

// take returns what came in. The batch is valid until the next take.
func (in *inbox) take() *batch {
	in.spare.reset()
	in.mu.Lock()
	in.fresh, in.spare = in.spare, in.fresh
	in.mu.Unlock()
	return &in.spare
}

// reset empties a batch for reuse, without holding on to what it held.
func (b *batch) reset() {
	clear(b.messages)
	clear(b.proposals)
	clear(b.reads)
	clear(b.leased)
	clear(b.applied)
	clear(b.written)
	clear(b.calls)
	b.received = 0
	b.messages, b.proposals, b.reads = b.messages[:0], b.proposals[:0], b.reads[:0]
	b.leased, b.applied = b.leased[:0], b.applied[:0]
	b.written, b.calls = b.written[:0], b.calls[:0]
}

// workQueue hands work to a goroutine, in order.
type workQueue[T any] struct {
	mu     sync.Mutex
	fresh  []T
	spare  []T
	closed bool
	wake   chan struct{}
}

func newWorkQueue[T any]() *workQueue[T] { return &workQueue[T]{wake: make(chan struct{}, 1)} }

func (q *workQueue[T]) put(work ...T) {
	q.mu.Lock()
	q.fresh = append(q.fresh, work...)
	q.mu.Unlock()
	q.signal()
}

func (q *workQueue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *workQueue[T]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for work; false when the queue is closed and empty. The slice is
// valid until the next take.
func (q *workQueue[T]) take() ([]T, bool) {
	for {
		q.mu.Lock()
		if len(q.fresh) > 0 {
			clear(q.spare)
			q.fresh, q.spare = q.spare[:0], q.fresh
			q.mu.Unlock()
			return q.spare, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil, false
		}
		<-q.wake
	}
}
