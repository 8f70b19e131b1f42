package node

import (
	"runtime"
	"runtime/debug"
)

// SetProcess sets what the config says of the whole process: the garbage
// collector's percentage and limit, and the threads that run Go code. The function
// that it returns puts back what there was. Neither may run beside another.
func (c *Config) SetProcess() (restore func()) {
	gc := debug.SetGCPercent(c.GOGC)
	limit, procs := debug.SetMemoryLimit(-1), runtime.GOMAXPROCS(0) // asks only
	if c.GOMEMLIMIT > 0 {
		debug.SetMemoryLimit(int64(c.GOMEMLIMIT))
	}
	if c.GOMAXPROCS > 0 {
		runtime.GOMAXPROCS(c.GOMAXPROCS)
	}
	return func() {
		debug.SetGCPercent(gc)
		debug.SetMemoryLimit(limit)
		if c.GOMAXPROCS > 0 {
			runtime.GOMAXPROCS(procs)
		}
	}
}
