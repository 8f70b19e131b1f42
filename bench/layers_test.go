package bench

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

func TestLayerOf(t *testing.T) {
	for function, want := range map[string]Layer{
		"google.golang.org/grpc.(*Server).processUnaryRPC":             LayerGRPC,
		"google.golang.org/grpc/internal/transport.(*loopyWriter).run": LayerGRPC,
		"golang.org/x/net/http2.(*Framer).WriteData":                   LayerGRPC,
		"google.golang.org/grpc/encoding/proto.(*codecV2).Marshal":     LayerProtobuf,
		"google.golang.org/protobuf/internal/impl.appendBytesNoZero":   LayerProtobuf,
		"raftlab/proto/raftlab/kv/v1._KV_Put_Handler":                  LayerCaller,
		"raftlab/transport.(*lane).run":                                LayerTransport,
		"go.etcd.io/raft/v3.(*raft).Step":                              LayerRaft,
		"raftlab/kv/replica.(*Replica).loop":                           LayerRaft,
		"raftlab/kv/storage.(*journal).write":                          LayerStorage,
		"raftlab/kv.(*Store).Apply":                                    LayerKV,
		"raftlab/kv/node.(*service).Put":                               LayerKV,
		"raftlab/kv/metric.(*Histogram).Record":                        LayerCaller,
		"raftlab/kv/client.(*Client).Put":                              LayerLoad,
		"raftlab/bench/load.(*generator).client":                       LayerLoad,
		"runtime.mallocgc":                                             LayerRuntime,
		"runtime.gcBgMarkWorker":                                       LayerRuntime,
		"runtime.selectgo":                                             LayerRuntime,
		"runtime.memmove":                                              LayerCaller,
		"runtime.mapaccess2_faststr":                                   LayerCaller,
		"internal/runtime/maps.(*Map).getWithKeySmall":                 LayerCaller,
		"runtime.futex":                                                LayerSyscalls,
		"internal/runtime/syscall/linux.Syscall6":                      LayerSyscalls,
		"syscall.RawSyscall6":                                          LayerSyscalls,
		"syscall.Write":                                                LayerCaller,
		"bytes.(*Buffer).Write":                                        LayerCaller,
		"github.com/klauspost/compress/zstd.(*Encoder).Write":          LayerCaller,
		"runtime/pprof.profileWriter":                                  LayerOther,
		"runtime/pprof.Do":                                             LayerCaller,
	} {
		if got := LayerOf(function); got != want {
			t.Errorf("%s is of %q, want %q", function, got, want)
		}
	}
}

// Every layer has a rule that leads to it, or it would be an empty column for ever.
func TestLayersAreReached(t *testing.T) {
	for _, l := range Layers() {
		reached := false
		for _, r := range frameRules {
			reached = reached || r.layer == l.Layer
		}
		if !reached || l.Sentence == "" {
			t.Errorf("layer %s: reached %t, %q", l.Layer, reached, l.Sentence)
		}
	}
}

// profileOf makes a CPU profile by hand: stacks begin with the innermost function,
// as in the format; each was sampled the given number of times, 10 ms apart.
func profileOf(stacks []madeStack) *profile.Profile {
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: int64(10 * time.Millisecond),
	}
	locations := map[string]*profile.Location{}
	for _, s := range stacks {
		sample := &profile.Sample{Value: []int64{s.samples, s.samples * int64(10*time.Millisecond)}}
		if s.node != "" {
			sample.Label = map[string][]string{"node": {s.node}}
		}
		for _, name := range s.functions {
			l := locations[name]
			if l == nil {
				id := uint64(len(locations) + 1)
				f := &profile.Function{ID: id, Name: name}
				p.Function = append(p.Function, f)
				l = &profile.Location{ID: id, Line: []profile.Line{{Function: f}}}
				p.Location = append(p.Location, l)
				locations[name] = l
			}
			sample.Location = append(sample.Location, l)
		}
		p.Sample = append(p.Sample, sample)
	}
	return p
}

type madeStack struct {
	samples   int64
	node      string
	functions []string
}

func TestCPUByLayer(t *testing.T) {
	handler := []string{"raftlab/kv/node.(*service).Put", "google.golang.org/grpc.(*Server).processUnaryRPC", "runtime.goexit"}
	on := func(leaf ...string) []string { return append(leaf, handler...) }
	made := []madeStack{
		{7, "1", on()},                  // kv
		{5, "1", on("runtime.memmove")}, // the caller's: kv
		{4, "1", on("runtime.memclrNoHeapPointers", "runtime.mallocgc", "runtime.newobject")}, // runtime
		{3, "1", on("internal/runtime/syscall/linux.Syscall6", "syscall.write", "os.(*File).Write", "raftlab/kv/storage.(*journal).write")},
		{2, "1", on("hash/crc32.update", "raftlab/kv/storage.(*journal).write")}, // storage
		{6, "2", []string{"compress/flate.(*compressor).deflate", "google.golang.org/grpc/encoding/gzip.(*writer).Write", "raftlab/transport.(*lane).run"}},
		{1, "2", []string{"runtime.findfunc", "runtime.saveblockevent", "runtime.selectgo", "raftlab/transport.(*lane).run"}}, // profiling
		{8, "generator", []string{"raftlab/bench/load.(*generator).client", "runtime/pprof.Do", "runtime.goexit"}},
		{9, "", []string{"runtime.scanobject", "runtime.gcBgMarkWorker"}}, // nobody's alone
		{1, "", []string{"bytes.Clone"}},
	}
	stacks, err := Stacks(processShared, profileOf(made), 0)
	if err != nil {
		t.Fatal(err)
	}
	got := CPUByLayer(stacks, 1000)
	want := map[string]map[Layer]int{
		"node1":          {LayerKV: 12, LayerRuntime: 4, LayerSyscalls: 3, LayerStorage: 2},
		"node2":          {LayerGRPC: 6, LayerOther: 1},
		processGenerator: {LayerLoad: 8},
		processShared:    {LayerRuntime: 9, LayerOther: 1},
	}
	if len(got) != len(want) {
		t.Errorf("processes %v", got)
	}
	for process, layers := range want {
		if len(got[process]) != len(layers) {
			t.Errorf("%s: %+v, want %v", process, got[process], layers)
		}
		for _, l := range got[process] {
			e := l.UsPerOp
			// 10 ms a sample, over 1,000 operations: 10 µs.
			if e.N != layers[l.Layer] || math.Abs(e.Center-10*float64(layers[l.Layer])) > 1e-9 || e.Lo >= e.Center || e.Hi <= e.Center || e.Confidence != confidence {
				t.Errorf("%s %s: %+v, want %d samples", process, l.Layer, e, layers[l.Layer])
			}
		}
		order := func(l Layer) int {
			return slices.IndexFunc(Layers(), func(i LayerInfo) bool { return i.Layer == l })
		}
		if !slices.IsSortedFunc(got[process], func(a, b LayerCPU) int { return order(a.Layer) - order(b.Layer) }) {
			t.Errorf("%s is not in the order of the layers: %+v", process, got[process])
		}
	}
}

// What the system counted is shared out.
func TestStacksShareOutWhatWasUsed(t *testing.T) {
	stacks, err := Stacks("node1", profileOf([]madeStack{{30, "", []string{"raftlab/kv.Apply"}}, {10, "", []string{"runtime.mallocgc"}}}), 0.5)
	if err != nil || len(stacks) != 2 || stacks[0].Nanos != 375e6 || stacks[1].Nanos != 125e6 || stacks[0].Samples != 30 {
		t.Errorf("%+v, %v", stacks, err)
	}
}

// In a process of its own a node's label says nothing that the process does not.
func TestStacksOfOneNode(t *testing.T) {
	stacks, err := Stacks("node3", profileOf([]madeStack{{1, "3", []string{"raftlab/kv.Apply", "runtime.main"}}}), 0)
	if err != nil || stacks[0].Process != "node3" || !slices.Equal(stacks[0].Functions, []string{"runtime.main", "raftlab/kv.Apply"}) {
		t.Errorf("%+v, %v", stacks, err)
	}
	heap := &profile.Profile{SampleType: []*profile.ValueType{{Type: "inuse_space", Unit: "bytes"}}}
	if _, err := Stacks("node1", heap, 0); err == nil {
		t.Error("a heap profile was taken for one of the CPU")
	}
}
