//go:build !linux

package transport

import (
	"context"
	"time"
)

// sleeper waits by Go's timers. It belongs to one goroutine.
type sleeper struct{}

func newSleeper() *sleeper { return &sleeper{} }

func (*sleeper) close() {}

// sleep waits for d, or until the context ends.
func (*sleeper) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	return sleepByTimer(ctx, d)
}
