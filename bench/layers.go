package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/pprof/profile"

	"raftlab/bench/stats"
)

// Layer is a part of the program that CPU time is told apart by.
type Layer string

// The layers; LayerCaller alone is none.
const (
	LayerGRPC      Layer = "gRPC"
	LayerProtobuf  Layer = "protobuf"
	LayerTransport Layer = "transport"
	LayerRaft      Layer = "raft"
	LayerStorage   Layer = "storage"
	LayerKV        Layer = "kv"
	LayerLoad      Layer = "load"
	LayerRuntime   Layer = "runtime"
	LayerSyscalls  Layer = "syscalls"
	LayerOther     Layer = "other"
	// LayerCaller is what works for whoever calls it.
	LayerCaller Layer = ""
)

// LayerInfo says what a layer holds.
type LayerInfo struct {
	Layer    Layer
	Sentence string
}

var layers = []LayerInfo{
	{LayerGRPC, "gRPC and HTTP/2: framing, flow control, dispatch"},
	{LayerProtobuf, "packing and unpacking messages"},
	{LayerTransport, "raftlab's transport between nodes: lanes, chunks, its own codecs, reassembly"},
	{LayerRaft, "the raft library and the loop that drives it (kv/replica): batching, proposing, stepping"},
	{LayerStorage, "the log on disk or in memory, apart from what the kernel does"},
	{LayerKV, "the state machine and the services in front of it"},
	{LayerLoad, "the load generator with its client"},
	{LayerRuntime, "the Go runtime: allocation, garbage collection, scheduling, channels, locks that wait"},
	{LayerSyscalls, "the kernel, whoever called it: network, files, fsync, and the scheduler's sleeping and waking"},
	{LayerOther, "none of these, above all the taking of profiles"},
}

// Layers lists the layers in the order in which they are shown.
func Layers() []LayerInfo { return slices.Clone(layers) }

// frameRules give functions to layers by how their names begin; of several rules
// the longest holds. What no rule names works for its caller, as the rest of the
// standard library and other modules do: a compressor's time is gRPC's when gRPC
// compresses, and the transport's when that does.
//
// The runtime is a layer of its own, because what it costs is decided by how much
// a program allocates and how often its goroutines wait, wherever that is. But
// moving, comparing and hashing bytes, maps and the clock are what the caller
// wanted done: they are the caller's. The kernel is one as well, the scheduler's
// calls included.
var frameRules = []struct {
	prefix string
	layer  Layer
}{
	{"google.golang.org/grpc.", LayerGRPC},
	{"google.golang.org/grpc/", LayerGRPC},
	{"golang.org/x/net/http2.", LayerGRPC},
	{"golang.org/x/net/http2/", LayerGRPC},
	{"google.golang.org/grpc/encoding/proto.", LayerProtobuf},
	{"google.golang.org/protobuf/", LayerProtobuf},
	{"raftlab/transport.", LayerTransport},
	{"go.etcd.io/raft/", LayerRaft},
	{"raftlab/kv/replica.", LayerRaft},
	{"raftlab/kv/storage.", LayerStorage},
	{"raftlab/kv.", LayerKV},
	{"raftlab/kv/node.", LayerKV},
	{"raftlab/kv/client.", LayerLoad},
	{"raftlab/bench", LayerLoad},
	{"raftlab/cmd/raftbench.", LayerLoad},

	{"runtime.", LayerRuntime},
	{"runtime/", LayerRuntime},
	{"internal/runtime/", LayerRuntime},
	{"gogo", LayerRuntime}, // a switch between goroutines
	{"runtime.goexit", LayerCaller},
	{"runtime.main", LayerCaller},
	{"runtime.memmove", LayerCaller},
	{"runtime.memclr", LayerCaller},
	{"runtime.memequal", LayerCaller},
	{"runtime.memhash", LayerCaller},
	{"runtime.duff", LayerCaller},
	{"runtime.typedmem", LayerCaller},
	{"runtime.typedslicecopy", LayerCaller},
	{"runtime.cmpstring", LayerCaller},
	{"runtime.str", LayerCaller}, // strequal, strhash
	{"runtime.efaceeq", LayerCaller},
	{"runtime.ifaceeq", LayerCaller},
	{"runtime.nilinter", LayerCaller},
	{"runtime.inter", LayerCaller}, // interequal, interhash
	{"runtime.map", LayerCaller},   // mapaccess1, mapassign, ...
	{"internal/runtime/maps.", LayerCaller},
	{"runtime.nanotime", LayerCaller},
	{"runtime.walltime", LayerCaller},

	{"internal/runtime/syscall", LayerSyscalls},
	{"syscall.Syscall", LayerSyscalls},
	{"syscall.RawSyscall", LayerSyscalls},
	{"syscall.rawSyscall", LayerSyscalls},
	{"syscall.rawVforkSyscall", LayerSyscalls},
	{"runtime.futex", LayerSyscalls},
	{"runtime.usleep", LayerSyscalls},
	{"runtime.osyield", LayerSyscalls},
	{"runtime.write1", LayerSyscalls},
	{"runtime.madvise", LayerSyscalls},
	{"runtime.tgkill", LayerSyscalls},

	// Taking profiles, and the debug port.
	{"runtime/pprof.", LayerOther},
	{"runtime/pprof.Do", LayerCaller},
	{"runtime.blockevent", LayerOther},
	{"runtime.saveblockevent", LayerOther},
	{"runtime.mutexevent", LayerOther},
	{"runtime.sigprof", LayerOther},
	{"net/http.", LayerOther},
	{"net/http/", LayerOther},
}

// LayerOf is the layer of a function by its name in a profile, such as
// raftlab/kv.(*Store).Apply, or LayerCaller.
func LayerOf(function string) Layer {
	found, length := LayerCaller, 0
	for _, r := range frameRules {
		if len(r.prefix) > length && strings.HasPrefix(function, r.prefix) {
			found, length = r.layer, len(r.prefix)
		}
	}
	return found
}

// Stack is one stack of a CPU profile with what was sampled of it.
type Stack struct {
	// Process is the profile's, or the node that the sample is labelled with where
	// several share a process.
	Process string
	// Functions begin with the outermost; inlined ones are there too.
	Functions []string
	Samples   int64
	Nanos     float64 // of CPU time that the samples stand for
}

// Layer is where the stack's time counts: at the innermost function that is not
// its caller's. But what is called in order to take a profile is no work of the
// runtime, which only a profile block does.
func (s *Stack) Layer() Layer {
	for _, f := range s.Functions {
		if LayerOf(f) == LayerOther {
			return LayerOther
		}
	}
	for _, f := range slices.Backward(s.Functions) {
		if l := LayerOf(f); l != LayerCaller {
			return l
		}
	}
	return LayerOther
}

// Stacks reads the CPU profile of a process that used cpuS seconds of CPU time, as
// the system counted it in the window. That is shared out among the samples:
// Linux fires a profiler's timers at its ticks, which come late and are then
// lost, so that samples times their period are 20 to 30 % too little at 250 Hz.
// With a cpuS of 0, which is not known, they stand for their period.
func Stacks(process string, p *profile.Profile, cpuS float64) ([]Stack, error) {
	count := slices.IndexFunc(p.SampleType, func(t *profile.ValueType) bool { return t.Type == "samples" && t.Unit == "count" })
	if count < 0 || p.PeriodType == nil || p.PeriodType.Type != "cpu" || p.PeriodType.Unit != "nanoseconds" {
		return nil, errors.New("not a CPU profile: it has no samples/count, or no period in nanoseconds of the CPU")
	}
	var samples int64
	for _, s := range p.Sample {
		samples += s.Value[count]
	}
	each := float64(p.Period)
	if cpuS > 0 && samples > 0 {
		each = cpuS * 1e9 / float64(samples)
	}
	var stacks []Stack
	for _, s := range p.Sample {
		stack := Stack{Process: labelledProcess(process, s), Samples: s.Value[count], Nanos: float64(s.Value[count]) * each}
		for _, l := range slices.Backward(s.Location) {
			for _, line := range slices.Backward(l.Line) {
				if line.Function != nil {
					stack.Functions = append(stack.Functions, line.Function.Name)
				}
			}
		}
		stacks = append(stacks, stack)
	}
	return stacks, nil
}

// labelledProcess names a sample's process: kv/node labels the goroutines of each
// node by its number, the lab its own by processGenerator. What the runtime does
// for all has no label and stays the process's.
func labelledProcess(process string, s *profile.Sample) string {
	label := s.Label["node"]
	if process != processShared || len(label) == 0 {
		return process
	}
	if label[0] == processGenerator {
		return processGenerator
	}
	return "node" + label[0]
}

// LayerCPU is the CPU time of a process in one layer.
type LayerCPU struct {
	Layer Layer `json:"layer"`
	// UsPerOp is in microseconds an operation of the trial. Its interval is what
	// sampling alone leaves open, N being the samples: trials were not repeated.
	UsPerOp Estimate `json:"us_per_op"`
}

// CPUByLayer is where the CPU time of a trial's processes went: by process, the
// layers that were seen in the order of Layers. Operations is at least 1.
func CPUByLayer(stacks []Stack, operations uint64) map[string][]LayerCPU {
	type sum struct {
		samples int64
		nanos   float64
	}
	sums := map[string]map[Layer]sum{}
	for i := range stacks {
		s := &stacks[i]
		if sums[s.Process] == nil {
			sums[s.Process] = map[Layer]sum{}
		}
		at := sums[s.Process][s.Layer()]
		sums[s.Process][s.Layer()] = sum{at.samples + s.Samples, at.nanos + s.Nanos}
	}
	out := map[string][]LayerCPU{}
	for process, byLayer := range sums {
		for _, l := range layers {
			s := byLayer[l.Layer]
			if s.samples == 0 {
				continue
			}
			e := stats.Sampled(s.samples, confidence)
			us := s.nanos / 1e3 / float64(operations) / e.Center
			out[process] = append(out[process], LayerCPU{l.Layer, Estimate{
				Center: e.Center * us, Lo: e.Lo * us, Hi: e.Hi * us, Confidence: e.Confidence, N: e.N,
			}})
		}
	}
	return out
}

// layers tells the CPU profiles of a trial's window apart.
func (c *capture) layers(t *Trial) (map[string][]LayerCPU, error) {
	if t.Operations == 0 {
		return nil, nil
	}
	var all []Stack
	for process, data := range c.cpu {
		if len(data) == 0 {
			continue // its error has been told
		}
		p, err := profile.ParseData(data)
		if err != nil {
			return nil, fmt.Errorf("cpu profile of %s: %w", process, err)
		}
		stacks, err := Stacks(process, p, t.Processes[process].CPUS)
		if err != nil {
			return nil, fmt.Errorf("cpu profile of %s: %w", process, err)
		}
		all = append(all, stacks...)
	}
	return CPUByLayer(all, t.Operations), nil
}
