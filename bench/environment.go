package bench

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
)

// Unavailable is what a figure reads that this machine does not give.
const Unavailable = "unavailable"

// Build says what a program was built from. Where nothing was stamped, Commit
// and Dirty are "unknown".
type Build struct {
	Commit string `json:"commit"`
	Dirty  string `json:"dirty"`
	Go     string `json:"go"`
}

// Stamped returns this program's build: what the linker stamped, else what the
// toolchain knows.
func Stamped(commit, dirty string) Build {
	b := Build{Commit: commit, Dirty: dirty, Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok && b.Commit == "" {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				b.Dirty = s.Value
			}
		}
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	}
	if b.Dirty == "" {
		b.Dirty = "unknown"
	}
	return b
}

// Matches tells whether two programs come from the same commit; unknown equals
// unknown only.
func (b Build) Matches(other Build) bool {
	return b.Commit == other.Commit && b.Dirty == other.Dirty
}

// String is the build on one line.
func (b Build) String() string {
	if b.Dirty == "true" {
		return b.Commit + "-dirty " + b.Go
	}
	return b.Commit + " " + b.Go
}

// observe records where this is running.
func observe(build Build) Environment {
	e := Environment{
		Commit: build.Commit, Dirty: build.Dirty, Go: runtime.Version(),
		OS: runtime.GOOS, Arch: runtime.GOARCH,
		CPU: Unavailable, Kernel: Unavailable, Governor: Unavailable, Load1: Unavailable,
		Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), Race: raceEnabled,
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		e.Kernel = strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); err == nil {
		e.Governor = strings.TrimSpace(string(text))
	}
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return e
	}
	if cpus, err := proc.CPUInfo(); err == nil && len(cpus) > 0 && cpus[0].ModelName != "" {
		e.CPU = cpus[0].ModelName
	}
	if memory, err := proc.Meminfo(); err == nil && memory.MemTotalBytes != nil {
		e.MemoryB = *memory.MemTotalBytes
	}
	if load, err := proc.LoadAvg(); err == nil {
		e.Load1 = strconv.FormatFloat(load.Load1, 'f', 2, 64)
	}
	return e
}

// machineTime is how much of the machine's CPU time went where, in seconds.
type machineTime struct {
	// Since boot: all, what the hypervisor took, and what programs used. Interrupts
	// are not of programs: nobody can say whose they were.
	total, steal, programs float64
	// own is what this process used and its children that have ended.
	own float64
	ok  bool
}

func readMachineTime() machineTime {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return machineTime{}
	}
	stat, err := proc.Stat()
	if err != nil {
		return machineTime{}
	}
	var self, children syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &self) != nil || syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children) != nil {
		return machineTime{}
	}
	own := self.Utime.Nano() + self.Stime.Nano() + children.Utime.Nano() + children.Stime.Nano()
	c := stat.CPUTotal
	return machineTime{
		total: c.User + c.Nice + c.System + c.Idle + c.Iowait + c.IRQ + c.SoftIRQ + c.Steal,
		steal: c.Steal, programs: c.User + c.Nice + c.System, own: float64(own) / 1e9, ok: true,
	}
}

// shortPath tells a file by its way from here where it lies below, so that a
// record reads the same on every machine.
func shortPath(path string) string {
	here, err := os.Getwd()
	if err != nil || !filepath.IsAbs(path) {
		return path
	}
	short, err := filepath.Rel(here, path)
	if err != nil || !filepath.IsLocal(short) {
		return path
	}
	return short
}
