package transport

import (
	"context"
	"sync"
	"time"
)

// link is a slow network to one peer. It is shared by all lanes and snapshots:
// one line that carries one frame at a time at rate bytes a second, and then
// takes delay. A frame arrives when its last byte does, so a large one is later
// than the first of many small ones, and meanwhile the next is on its way.
//
//	sent    frame 1 [====]           [====] is size / rate
//	        frame 2      [====]
//	arrive               |<- delay ->|    frame 1 is handed to gRPC here
//
// A frame gets onto the line when it is free, or will be within linkAhead:
// lanes take turns frame by frame, and a heartbeat waits for the frames that
// are on the line, not for a whole queue. What is not modelled: gRPC's and
// TCP's own acknowledgements and window updates come back at once. The
// acknowledgement of a unary RPC is delayed.
//
// A nil link is a fast one.
type link struct {
	delay time.Duration
	rate  int64

	mu   sync.Mutex
	free time.Time // when the line has carried all it was given
}

// linkAhead is how far in advance frames get onto the line, which saves wake-ups.
const linkAhead = 2 * time.Millisecond

func newLink(delay time.Duration, rate int64) *link {
	if delay <= 0 && rate <= 0 {
		return nil
	}
	return &link{delay: delay, rate: rate}
}

// put puts a frame of that size, which has been waiting since ready, onto the
// line, if it is free soon enough, and returns when the frame arrives. Otherwise
// wait is how long to wait before trying again. A frame that finds the line
// free later than it was, because its goroutine woke late, is carried as if it
// had been in time.
func (l *link) put(ready, now time.Time, bytes int) (arrives time.Time, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Before the subtraction: from the zero time it would overflow.
	if l.free.Before(ready) {
		l.free = ready
	}
	if wait = l.free.Sub(now) - linkAhead; wait > 0 {
		return time.Time{}, wait
	}
	if l.rate > 0 {
		l.free = l.free.Add(time.Duration(float64(bytes) / float64(l.rate) * float64(time.Second)))
	}
	return l.free.Add(l.delay), 0
}

// admit blocks until a frame is on the line, and returns when it arrives.
func (l *link) admit(ctx context.Context, s *sleeper, ready time.Time, bytes int) (time.Time, error) {
	for {
		arrives, wait := l.put(ready, time.Now(), bytes)
		if wait <= 0 {
			return arrives, nil
		}
		if err := s.sleep(ctx, wait); err != nil {
			return time.Time{}, err
		}
	}
}

// carry blocks until a frame has arrived at the far end.
func (l *link) carry(ctx context.Context, s *sleeper, ready time.Time, bytes int) error {
	arrives, err := l.admit(ctx, s, ready, bytes)
	if err != nil {
		return err
	}
	return s.sleep(ctx, time.Until(arrives))
}

// delayed is something on its way over a link.
type delayed[T any] struct {
	at   time.Time
	item T
}

// delayLine holds what is on its way in one lane, in order, and delivers each
// when it arrives. One goroutine puts, one runs.
type delayLine[T any] struct {
	wake chan struct{}
	mu   sync.Mutex
	line []delayed[T]
}

func newDelayLine[T any]() *delayLine[T] {
	return &delayLine[T]{wake: make(chan struct{}, 1)}
}

func (d *delayLine[T]) put(at time.Time, item T) {
	d.mu.Lock()
	d.line = append(d.line, delayed[T]{at, item})
	first := len(d.line) == 1
	d.mu.Unlock()
	if first {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// abandon calls drop for all that is still on its way. Nothing else may use the
// line any more.
func (d *delayLine[T]) abandon(drop func(*T)) {
	for i := range d.line {
		drop(&d.line[i].item)
	}
	d.line = nil
}

// run delivers until the context ends or deliver fails.
func (d *delayLine[T]) run(ctx context.Context, deliver func(*T) error) error {
	s := newSleeper()
	defer s.close()
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
			err := s.sleep(ctx, time.Until(batch[i].at))
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
