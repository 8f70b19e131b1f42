package cluster

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shortSlice is the least that Linux takes.
const shortSlice = 100 * time.Microsecond

// ShortSlices has the threads of this process, and those that they will start, run
// in shorter slices, which lets them begin sooner after they wake and leaves their
// share of the CPU as it is (sched_setattr, Linux 6.12 or later). A generator
// beside nodes that keep all cores busy sends in time, then. StartProcess keeps its
// children out of it.
func ShortSlices() error {
	for range 2 { // a thread may be started by one whose turn is yet to come
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if _, err := setSlice(id, shortSlice); err != nil && !errors.Is(err, syscall.ESRCH) { // it may have ended
				return err
			}
		}
	}
	return nil
}

// usualSlice calls f, which starts a process, on a thread with the kernel's usual
// slices, for these are inherited.
func usualSlice(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := setSlice(0, 0)
	if err == nil {
		defer setSlice(0, before) //nolint:errcheck // it could be set before
	}
	return f()
}

// setSlice sets the slice of a thread, 0 for the calling one, and returns what it
// was. A slice of 0 is the kernel's choice. Policies that are not the normal one
// have no slices to set.
func setSlice(thread int, slice time.Duration) (before time.Duration, err error) {
	attr, err := unix.SchedGetAttr(thread, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return 0, err
	}
	before = time.Duration(attr.Runtime)
	attr.Runtime = uint64(slice)
	return before, unix.SchedSetAttr(thread, attr, 0)
}
