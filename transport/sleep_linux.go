package transport

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper waits to well within a millisecond. Go's timers wake an idle process
// through epoll_wait, which counts whole milliseconds: a wait of 1.3 ms takes
// up to 2.1. A timer that is itself a file wakes the poller when it is due.
// It belongs to one goroutine.
type sleeper struct {
	file *os.File // nil when the kernel gave none: then by Go's timers
	fd   int
}

func newSleeper() *sleeper {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return &sleeper{}
	}
	return &sleeper{file: os.NewFile(uintptr(fd), "timer"), fd: fd}
}

func (s *sleeper) close() {
	if s.file != nil {
		s.file.Close() //nolint:errcheck,gosec // a timer has nothing to lose
	}
}

// sleep waits for d, or until the context ends.
func (s *sleeper) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	if s.file == nil {
		return sleepByTimer(ctx, d)
	}
	when := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(s.fd, 0, &when, nil); err != nil {
		return sleepByTimer(ctx, d)
	}
	stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck,gosec // wakes the read
	defer stop()
	var fired [8]byte
	if _, err := s.file.Read(fired[:]); err != nil && ctx.Err() == nil {
		return sleepByTimer(ctx, d)
	}
	return ctx.Err()
}
