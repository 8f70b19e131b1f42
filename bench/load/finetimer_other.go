//go:build !linux

package load

import (
	"context"
	"time"
)

// fineTimer is for Linux; elsewhere Go's timers do.
type fineTimer struct{}

func newFineTimer(context.Context) *fineTimer { return nil }

func (*fineTimer) wait(time.Duration) error { return nil }
func (*fineTimer) stop()                    {}
