package load

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fineTimer waits to within a tenth of a millisecond. Go's timers wake an idle
// process through epoll_wait, which counts whole milliseconds: a client due in
// 0.1 ms would be sent 1 ms late, as much as many an operation takes. A timer that
// is itself a file wakes the poller when it is due.
type fineTimer struct {
	file    *os.File
	fd      int
	unwatch func() bool
}

// newFineTimer makes a timer whose waits end with ctx; nil when the kernel has
// none to give.
func newFineTimer(ctx context.Context) *fineTimer {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil
	}
	t := &fineTimer{file: os.NewFile(uintptr(fd), "timer"), fd: fd}
	t.unwatch = context.AfterFunc(ctx, func() {
		t.file.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck,gosec // wakes the read; fails only when closed
	})
	return t
}

// wait returns nil after d, or an error when the context ended.
func (t *fineTimer) wait(d time.Duration) error {
	when := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(t.fd, 0, &when, nil); err != nil {
		return err
	}
	var fired [8]byte
	_, err := t.file.Read(fired[:])
	return err
}

func (t *fineTimer) stop() {
	t.unwatch()
	t.file.Close() //nolint:errcheck,gosec // a timer has nothing to lose
}
