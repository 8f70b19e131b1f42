package transport

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// link is a way to one peer that has faults. It is shared by all lanes and
// snapshots: one line that carries one frame at a time at rate bytes a second,
// and then takes delay. A frame arrives when its last byte does, so a large one
// is later than the first of many small ones, and meanwhile the next is on its
// way.
//
//	sent    frame 1 [====]           [====] is size / rate
//	        frame 2      [====]
//	arrive               |<- delay ->|    frame 1 is handed to gRPC here
//
// A frame gets onto the line when it is free, or will be within linkAhead:
// lanes take turns frame by frame, and a heartbeat waits for the frames that
// are on the line, not for a whole queue. Jitter is on the way, not on the line:
// it changes when a frame arrives, not when the next may start. What is not
// modelled: gRPC's and TCP's own acknowledgements and window updates come back
// at once. The acknowledgement of a unary RPC is delayed.
//
// Faults never change: new ones are a new link, and the old one is replaced.
type link struct {
	Faults
	replaced atomic.Bool

	mu   sync.Mutex
	rng  *rand.Rand
	held int       // messages held back just now
	free time.Time // when the line has carried all it was given
}

const (
	// linkAhead is how far in advance frames get onto the line, which saves
	// wake-ups.
	linkAhead = 2 * time.Millisecond
	// recheck is how often what waits for a link looks whether it was replaced.
	recheck = 20 * time.Millisecond
	// maxHeld bounds the messages that Reorder holds back at a time, which no
	// queue counts yet; the next ones keep their place.
	maxHeld = 1024
)

// newLink returns nil when there are no faults: the way is as good as can be.
func newLink(f Faults, from, to uint64) *link {
	if f.none() {
		return nil
	}
	return &link{Faults: f, rng: f.random(from, to)}
}

// decide draws what happens to the next message.
func (k *link) decide() fate {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.Faults.decide(k.rng)
	for i := range d.copies {
		switch {
		case d.each[i].hold == 0:
		case k.held >= maxHeld:
			d.each[i].hold = 0
		default:
			k.held++
		}
	}
	return d
}

func (k *link) letGo() {
	k.mu.Lock()
	k.held--
	k.mu.Unlock()
}

// put puts a frame of that size, which has been waiting since ready, onto the
// line, if it is free soon enough, and returns when the frame arrives. Otherwise
// wait is how long to wait before trying again. A frame that finds the line
// free later than it was, because its goroutine woke late, is carried as if it
// had been in time.
func (k *link) put(ready, now time.Time, bytes int, jitter time.Duration) (arrives time.Time, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Before the subtraction: from the zero time it would overflow.
	if k.free.Before(ready) {
		k.free = ready
	}
	if wait = k.free.Sub(now) - linkAhead; wait > 0 {
		return time.Time{}, wait
	}
	if k.Rate > 0 {
		k.free = k.free.Add(time.Duration(float64(bytes) / float64(k.Rate) * float64(time.Second)))
	}
	return k.free.Add(k.Delay + jitter), 0
}

// sleep waits until then, but no longer than the link is in force.
func (k *link) sleep(ctx context.Context, s *sleeper, then time.Time) error {
	for {
		d := time.Until(then)
		if d <= 0 || k.replaced.Load() {
			return ctx.Err()
		}
		if err := s.sleep(ctx, min(d, recheck)); err != nil {
			return err
		}
	}
}

// path is the way from a node to one peer: a link, or none while there are no
// faults. All methods may be called from any goroutine.
type path struct {
	from, to uint64
	count    *counters
	link     atomic.Pointer[link]
}

// set replaces the link. What waits for the old one goes on by the new.
func (p *path) set(f Faults) {
	if old := p.link.Swap(newLink(f, p.from, p.to)); old != nil {
		old.replaced.Store(true)
	}
}

// pass calls push for each copy of a message that is not lost, at once or, for
// one that others are to overtake, from a timer while ctx lasts.
func (p *path) pass(ctx context.Context, k *link, m *pb.Message, push func(queued)) {
	d := k.decide()
	switch d.copies {
	case 0:
		p.count.messagesLost.Add(1)
		return
	case 2:
		p.count.messagesDuplicated.Add(1)
	}
	size := messageSize(m)
	for _, c := range d.each[:d.copies] {
		if c.hold == 0 {
			push(queued{message: m, size: size, at: time.Now(), jitter: c.jitter})
			continue
		}
		p.count.messagesReordered.Add(1)
		time.AfterFunc(c.hold, func() {
			k.letGo()
			if ctx.Err() == nil {
				push(queued{message: m, size: size, at: time.Now(), jitter: c.jitter})
			}
		})
	}
}

// admit blocks until a frame is on the line, and returns which link that is of,
// nil for none, and when the frame arrives. q is the message that the frame is
// of.
func (p *path) admit(ctx context.Context, s *sleeper, q queued, bytes int) (*link, time.Time, error) {
	for {
		k, now := p.link.Load(), time.Now()
		if k == nil {
			return nil, now, nil
		}
		ready := q.at
		if ready.IsZero() { // it was queued before there was a link
			ready = now
		}
		arrives, wait := k.put(ready, now, bytes, q.jitter)
		if wait <= 0 {
			return k, arrives, nil
		}
		if err := k.sleep(ctx, s, now.Add(wait)); err != nil {
			return nil, now, err
		}
	}
}

// carry blocks until a frame has arrived at the far end, and returns by which
// link.
func (p *path) carry(ctx context.Context, s *sleeper, q queued, bytes int) (*link, error) {
	k, arrives, err := p.admit(ctx, s, q, bytes)
	if err != nil || k == nil {
		return nil, err
	}
	return k, k.sleep(ctx, s, arrives)
}

// open blocks while there is a partition.
func (p *path) open(ctx context.Context, s *sleeper) error {
	for {
		if k := p.link.Load(); k == nil || !k.Partition {
			return ctx.Err()
		}
		if err := s.sleep(ctx, recheck); err != nil {
			return err
		}
	}
}

// losesSnapshot draws whether a snapshot is lost before it is begun.
func (p *path) losesSnapshot() bool {
	k := p.link.Load()
	if k == nil {
		return false
	}
	k.mu.Lock()
	lost := k.rng.Float64() < k.Drop
	k.mu.Unlock()
	if lost {
		p.count.messagesLost.Add(1)
	}
	return lost
}

// problem says why nothing arrives though the connections are up.
func (p *path) problem() string {
	if k := p.link.Load(); k != nil && k.Partition {
		return "partition: a fault that was set keeps everything from this peer"
	}
	return ""
}

func (p *path) stats() LinkStats {
	s := LinkStats{
		ID: p.to, MessagesLost: p.count.messagesLost.Load(),
		MessagesDuplicated: p.count.messagesDuplicated.Load(), MessagesReordered: p.count.messagesReordered.Load(),
	}
	if k := p.link.Load(); k != nil {
		s.Faults = k.Faults
	}
	return s
}

// delayed is something on its way over a link; nil when there is none.
type delayed[T any] struct {
	link *link
	at   time.Time
	item T
}

// delayLine holds what is on its way in one lane and delivers each when it
// arrives, in the order it was put: what would arrive before the one ahead of it
// waits for that. One goroutine puts, one runs.
type delayLine[T any] struct {
	wake chan struct{}
	left atomic.Int64 // put and not yet delivered

	mu   sync.Mutex
	line []delayed[T]
}

func newDelayLine[T any]() *delayLine[T] {
	return &delayLine[T]{wake: make(chan struct{}, 1)}
}

func (d *delayLine[T]) put(k *link, at time.Time, item T) {
	d.left.Add(1)
	d.mu.Lock()
	d.line = append(d.line, delayed[T]{k, at, item})
	first := len(d.line) == 1
	d.mu.Unlock()
	if first {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// idle tells whether all that was put was delivered.
func (d *delayLine[T]) idle() bool { return d.left.Load() == 0 }

// abandon calls drop for all that is still on its way. Nothing else may use the
// line any more.
func (d *delayLine[T]) abandon(drop func(*T)) {
	for i := range d.line {
		drop(&d.line[i].item)
	}
	d.line = nil
}

// run delivers until the context ends or deliver fails.
func (d *delayLine[T]) run(ctx context.Context, s *sleeper, deliver func(*T) error) error {
	for {
		d.mu.Lock()
		batch := d.line
		d.line = nil
		d.mu.Unlock()
		if len(batch) == 0 {
			select {
			case <-d.wake:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		for i := range batch {
			err := ctx.Err()
			if k := batch[i].link; k != nil {
				err = k.sleep(ctx, s, batch[i].at)
			}
			if err == nil {
				err = deliver(&batch[i].item)
			}
			if err != nil {
				d.mu.Lock()
				d.line = append(batch[i:], d.line...)
				d.mu.Unlock()
				return err
			}
			batch[i] = delayed[T]{}
			d.left.Add(-1)
		}
	}
}

func sleepByTimer(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
