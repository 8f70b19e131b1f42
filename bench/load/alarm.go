package load

import (
	"context"
	"time"
)

// alarm waits for points in time, for one goroutine. The zero value waits by
// Go's timers.
type alarm struct {
	timer *time.Timer
	fine  *fineTimer // nil without one
}

// wait returns true at the given offset from base, or false when ctx ends.
func (a *alarm) wait(ctx context.Context, base time.Time, offset time.Duration) bool {
	d := offset - time.Since(base)
	if d <= 0 {
		return ctx.Err() == nil
	}
	if a.fine != nil {
		if err := a.fine.wait(d); err == nil || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		// The kernel's timer failed: go on with Go's.
		d = offset - time.Since(base)
	}
	if a.timer == nil {
		a.timer = time.NewTimer(d)
	} else {
		a.timer.Reset(d)
	}
	select {
	case <-a.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.fine != nil {
		a.fine.stop()
	}
}
