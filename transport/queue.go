package transport

import (
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// queued is a message that waits in a lane.
type queued struct {
	message *pb.Message
	size    int // encoded bytes, unsplit
	// With a link: when it was queued, and how much longer it travels.
	at     time.Time
	jitter time.Duration
}

// messageSize is the encoded size of a message in one frame.
func messageSize(m *pb.Message) int {
	return frameSize(&Frame{Message: m, Entries: m.Entries})
}

// maxQueued bounds the messages in a queue, however small they are.
const maxQueued = 1 << 16

// queue is where messages wait for a lane's goroutine. Many push, one takes: all
// that waits at once, so that what piled up while it was busy is one batch.
type queue struct {
	maxBytes int64
	wake     chan struct{} // capacity 1

	bytes atomic.Int64 // of all that was pushed and not yet released

	mu       sync.Mutex
	waiting  []queued
	spare    []queued
	closed   bool // drops what is pushed
	overflow bool // since the last time the queue was empty
}

func newQueue(maxBytes int64) *queue {
	return &queue{maxBytes: maxBytes, wake: make(chan struct{}, 1)}
}

// push never blocks. A message that finds the queue full or closed is not
// taken, for the reason returned; overflowed is true for the first of a series
// that finds it full. One message of any size fits an empty queue.
func (q *queue) push(m queued) (dropped dropReason, overflowed bool) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return droppedUnconnected, false
	}
	bytes := q.bytes.Load()
	if len(q.waiting) >= maxQueued || bytes > 0 && bytes+int64(m.size) > q.maxBytes {
		first := !q.overflow
		q.overflow = true
		q.mu.Unlock()
		return droppedQueueFull, first
	}
	q.bytes.Add(int64(m.size))
	q.waiting = append(q.waiting, m)
	first := len(q.waiting) == 1
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return notDropped, false
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns all that waits, valid until the next take. Its bytes stay counted
// until release.
func (q *queue) take() []queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.waiting
	clear(q.spare)
	q.waiting, q.spare = q.spare[:0], batch
	if cap(q.waiting) > 4096 {
		q.waiting = nil // a burst's
	}
	q.overflow = false
	return batch
}

// putBack makes messages that were taken wait again, before all others.
func (q *queue) putBack(messages []queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(append([]queued(nil), messages...), q.waiting...)
	q.signal()
}

// release says that so many bytes were sent or given up.
func (q *queue) release(bytes int) { q.bytes.Add(-int64(bytes)) }

// open lets messages in or keeps them out; then what waits is dropped. It
// returns how many were.
func (q *queue) open(in bool) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = !in
	if in {
		return 0
	}
	dropped = len(q.waiting)
	for i := range q.waiting {
		q.release(q.waiting[i].size)
	}
	q.waiting = nil
	return dropped
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) == 0
}
