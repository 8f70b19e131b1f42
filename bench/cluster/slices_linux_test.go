package cluster_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"raftlab/bench/cluster"
)

// All threads of this process get short slices, those that are started later too,
// and the processes that it starts do not.
func TestShortSlices(t *testing.T) {
	usual := slice(t, 0)
	if !setSlices(t, 2*usual) || slice(t, 0) != 2*usual {
		t.Skip("skipped: this kernel sets no slices")
	}
	setSlices(t, usual)
	t.Cleanup(func() { setSlices(t, usual) })
	if err := cluster.ShortSlices(); err != nil {
		t.Fatal(err)
	}
	const short = 100 * time.Microsecond
	var locked, looked sync.WaitGroup
	locked.Add(20)
	for range 20 { // each has a thread of its own
		looked.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			locked.Done()
			locked.Wait()
			if s := slice(t, 0); s != short {
				t.Errorf("a thread with slices of %v", s)
			}
		})
	}
	looked.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{Topology: cluster.Processes, Nodes: 1, ServerBin: serverBin})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if s := slice(t, c.Node(1).PID); s != usual {
		t.Errorf("a node has slices of %v, usual are %v", s, usual)
	}
	for _, thread := range threads(t) {
		if s := slice(t, thread); s != short && s != 0 {
			t.Errorf("after starting a node, thread %d has slices of %v", thread, s)
		}
	}
}

// slice is that of a thread, 0 if it ended.
func slice(t *testing.T, thread int) time.Duration {
	attr, err := unix.SchedGetAttr(thread, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0
	}
	if err != nil {
		t.Errorf("slice of thread %d: %v", thread, err)
		return 0
	}
	return time.Duration(attr.Runtime)
}

func setSlices(t *testing.T, s time.Duration) bool {
	for range 2 {
		for _, thread := range threads(t) {
			err := unix.SchedSetAttr(thread, &unix.SchedAttr{Policy: unix.SCHED_NORMAL, Runtime: uint64(s)}, 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return false
			}
		}
	}
	return true
}

func threads(t *testing.T) (ids []int) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Error(err)
		}
		ids = append(ids, id)
	}
	return ids
}
