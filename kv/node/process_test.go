package node

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestSetProcess(t *testing.T) {
	read := func() (gc int, limit int64, procs int) {
		gc = debug.SetGCPercent(100)
		debug.SetGCPercent(gc)
		return gc, debug.SetMemoryLimit(-1), runtime.GOMAXPROCS(0)
	}
	gc, limit, procs := read()
	c := DefaultConfig()
	c.GOGC, c.GOMEMLIMIT, c.GOMAXPROCS = gc+50, 3<<30, procs+1
	restore := c.SetProcess()
	if g, l, p := read(); g != gc+50 || l != 3<<30 || p != procs+1 {
		t.Errorf("set: %d, %d, %d", g, l, p)
	}
	restore()
	if g, l, p := read(); g != gc || l != limit || p != procs {
		t.Errorf("put back: %d, %d, %d; there was %d, %d, %d", g, l, p, gc, limit, procs)
	}
	// Zero leaves what the environment says.
	c.GOMEMLIMIT, c.GOMAXPROCS = 0, 0
	restore = c.SetProcess()
	if _, l, p := read(); l != limit || p != procs {
		t.Errorf("zero set: %d, %d", l, p)
	}
	restore()
}
