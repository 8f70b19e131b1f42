package node

import (
	"runtime"
	"runtime/metrics"
	"syscall"

	"github.com/prometheus/procfs"

	labv1 "raftlab/proto/raftlab/lab/v1"
)

// Usage tells what this process has used so far; collectGarbage runs a garbage
// collection first, so that the live heap is what is in use. Figures that the
// system does not give stay 0.
func Usage(collectGarbage bool) *labv1.UsageResponse {
	if collectGarbage {
		runtime.GC()
	}
	usage := &labv1.UsageResponse{}
	runtimeUsage(usage)

	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err == nil {
		usage.CpuUserNanos, usage.CpuSystemNanos = nanos(ru.Utime), nanos(ru.Stime)
	}
	self, err := procfs.Self()
	if err != nil {
		return usage // no /proc here
	}
	if stat, err := self.Stat(); err == nil {
		usage.RssBytes = uint64(max(0, stat.ResidentMemory()))
	}
	if io, err := self.IO(); err == nil {
		usage.ReadBytes, usage.WrittenBytes = io.ReadBytes, io.WriteBytes
	}
	return usage
}

func nanos(t syscall.Timeval) uint64 {
	return uint64(max(0, t.Nano()))
}

// runtimeUsage fills in what the Go runtime knows.
func runtimeUsage(usage *labv1.UsageResponse) {
	figures := []struct {
		name string
		dst  *uint64
	}{
		{"/gc/heap/live:bytes", &usage.HeapLiveBytes},
		{"/gc/heap/allocs:bytes", &usage.AllocatedBytes},
		{"/gc/heap/allocs:objects", &usage.AllocatedObjects},
		{"/gc/cycles/total:gc-cycles", &usage.GcCycles},
		{"/sched/goroutines:goroutines", &usage.Goroutines},
	}
	samples := make([]metrics.Sample, len(figures))
	for i, f := range figures {
		samples[i].Name = f.name
	}
	metrics.Read(samples)
	for i, f := range figures {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			*f.dst = samples[i].Value.Uint64()
		}
	}
}
