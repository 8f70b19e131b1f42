package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"raftlab/bench"
)

// madeStack begins with the outermost function; others than its own process' are
// left out of a profile.
type madeStack struct {
	process   string // node or generator
	samples   int64
	functions string // between arrows
}

// stacksOf is what a made process does. Variants differ by what they allocate.
func stacksOf(variant int) []madeStack {
	const (
		server = "google.golang.org/grpc.(*Server).handleStream > raftlab/kv/node.(*service).Put > "
		writer = "sync.(*WaitGroup).Go.func1 > raftlab/kv/replica.(*Replica).writeJournal > raftlab/kv/storage.(*Disk).Write > "
		lane   = "raftlab/transport.(*lane).run > "
		client = "raftlab/bench/load.(*generator).client > raftlab/kv/client.(*Client).Put > "
	)
	return []madeStack{
		{"node", 30, writer + "internal/runtime/syscall/linux.Syscall6"},
		{"node", 4, writer + "hash/crc32.update"},
		{"node", 9, server + "raftlab/kv/replica.(*Replica).Propose"},
		{"node", 5 + 6*int64(variant%3), server + "runtime.mallocgc"},
		{"node", 7, lane + "google.golang.org/protobuf/proto.MarshalOptions.marshal > runtime.memmove"},
		{"node", 6, "google.golang.org/grpc/internal/transport.(*loopyWriter).run > golang.org/x/net/http2.(*Framer).WriteData"},
		{"node", 3, "raftlab/kv/replica.(*Replica).apply > raftlab/kv.(*Store[go.shape.struct { raftlab/kv.high uint64 }]).Apply"},
		{"generator", 12, client + "google.golang.org/grpc.(*ClientConn).Invoke"},
		{"generator", 4, "runtime.mcall > runtime.schedule > runtime.findRunnable"},
	}
}

// madeProfile is the CPU profile of a made process.
func madeProfile(process string, variant int) *profile.Profile {
	period := int64(10 * time.Millisecond)
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: period,
	}
	locations := map[string]*profile.Location{}
	for _, s := range stacksOf(variant) {
		if !strings.HasPrefix(process, s.process) {
			continue
		}
		sample := &profile.Sample{Value: []int64{s.samples, s.samples * period}}
		for name := range strings.SplitSeq(s.functions, " > ") {
			l := locations[name]
			if l == nil {
				f := &profile.Function{ID: uint64(len(locations) + 1), Name: name}
				l = &profile.Location{ID: f.ID, Line: []profile.Line{{Function: f}}}
				locations[name] = l
				p.Function, p.Location = append(p.Function, f), append(p.Location, l)
			}
			sample.Location = append([]*profile.Location{l}, sample.Location...)
		}
		p.Sample = append(p.Sample, sample)
	}
	return p
}

// sample makes the CPU profiles of a profile trial.
func (m *maker) sample(t *bench.Trial) {
	for _, name := range cpuProfiles(t) {
		m.profiles[name] = madeProfile(path.Base(path.Dir(name)), len(m.profiles)/4)
	}
	t.CPU = bench.CPUByLayer(m.stacks(t), t.Operations)
}

func (m *maker) stacks(t *bench.Trial) []bench.Stack {
	var all []bench.Stack
	for _, name := range cpuProfiles(t) {
		process := path.Base(path.Dir(name))
		stacks, err := bench.Stacks(process, m.profiles[name], t.Processes[process].CPUS)
		if err != nil {
			panic(err)
		}
		all = append(all, stacks...)
	}
	return all
}

// explain adds to a made run's data what Load reads beside run.json.
func (m *maker) explain(d *Data) {
	for i := range d.Summary.Variants {
		s := &d.Summary.Variants[i]
		if s.Trials > 0 && s.Variant.Role == bench.RoleMeasured {
			s.Costs = map[string]bench.Estimate{
				"wire-B/op":  {Center: 2150, Lo: 2140, Hi: 2170, Confidence: 0.95, N: s.Trials},
				"allocs/op":  {Center: 180.5, Lo: 175, Hi: 186, Confidence: 0.95, N: s.Trials},
				"fsyncs/op":  {Center: 0.12, Lo: 0.1, Hi: 0.14, Confidence: 0.95, N: s.Trials},
				"unheard/op": {Center: 1, N: 1},
			}
		}
	}
	d.Stacks = map[string][]bench.Stack{}
	for _, id := range d.chosen() {
		d.Stacks[id] = m.stacks(d.profileTrial(id))
		var moments []moment
		for _, h := range m.hists[id] {
			for i := range 4 {
				moments = append(moments, moment{float64(i) * m.run.Experiment.MeasureS / 4, m.run.Experiment.MeasureS / 4, h})
			}
		}
		if h, ok := newHeat(moments); ok {
			h.Variant, h.Trials = id, len(m.hists[id])
			d.Heat = append(d.Heat, h)
		}
	}
	d.Usage = m.usage()
}

// usage is what the processes of every measured trial used over time.
func (m *maker) usage() []bench.TrialUsage {
	var all []bench.TrialUsage
	for _, t := range m.run.Trials {
		if t.Kind != bench.TrialMeasured {
			continue
		}
		u := bench.TrialUsage{Variant: t.Variant, Block: t.Block, Kind: t.Kind}
		for i := range 4 {
			p := bench.UsagePoint{OffsetS: 0.1 * float64(i+1), Processes: map[string]bench.ProcessPoint{}}
			for j, name := range sortedKeys(t.Processes) {
				p.Processes[name] = bench.ProcessPoint{CPUs: 0.4 + 0.1*float64(j), RSSBytes: uint64(40+4*i) << 20, Goroutines: uint64(50 + i)}
			}
			u.Points = append(u.Points, p)
		}
		all = append(all, u)
	}
	return all
}

// writeProfiles writes the CPU profiles and trials.jsonl.
func (m *maker) writeProfiles(t *testing.T, dir string) {
	t.Helper()
	for name, p := range m.profiles {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := p.Write(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	for _, u := range m.usage() {
		// A line of the load, then those of its processes.
		for _, line := range append([]any{map[string]any{"variant": u.Variant, "offset_s": 0, "operations": 7}}, usageLines(u)...) {
			if err := e.Encode(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, bench.SeriesFile), lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func usageLines(u bench.TrialUsage) []any {
	var lines []any
	for _, p := range u.Points {
		lines = append(lines, map[string]any{
			"variant": u.Variant, "block": u.Block, "kind": u.Kind, "offset_s": p.OffsetS, "processes": p.Processes,
		})
	}
	return lines
}
