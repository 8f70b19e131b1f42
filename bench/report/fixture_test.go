package report

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/pprof/profile"

	"raftlab/bench"
)

// maker builds runs that look like real ones, from a seed: the same seed makes
// the same run.
type maker struct {
	r   *rand.Rand
	run *bench.Run
	// speed and tail of each variant: what the made figures scatter around.
	rate, p50 map[string]float64
	hists     map[string][]*hdrhistogram.Histogram // by variant, one a block
	profiles  map[string]*profile.Profile          // of the CPU, by file
}

func newMaker(seed uint64, info bench.ExperimentInfo) *maker {
	start := time.Date(2026, 11, 23, 10, 30, 0, 0, time.UTC)
	return &maker{
		r: rand.New(rand.NewPCG(seed, 1)), rate: map[string]float64{}, p50: map[string]float64{}, hists: map[string][]*hdrhistogram.Histogram{}, profiles: map[string]*profile.Profile{},
		run: &bench.Run{
			Schema: bench.Schema, ID: "2026-11-23-" + info.Name + "-1f0c", Experiment: info, Seed: seed,
			Command: []string{"raftbench", "run", info.Name}, Started: start, Ended: start.Add(131 * time.Second), Complete: true,
			Environment: bench.Environment{
				Commit: "2f6c1a9be0d14b7f9f00aa3c5ddee0a1b2c3d4e5", Dirty: "false", ServerBin: "bin/raftkv", ServerInfo: "2f6c1a9be0d1",
				Go: "go1.26.8", OS: "linux", Arch: "amd64", CPU: "Example CPU @ 2.80GHz", Cores: 2, GOMAXPROCS: 2,
				MemoryB: 8 << 30, Kernel: "6.1.0", Governor: "unavailable", Load1: "0.31",
			},
		},
	}
}

// variant adds one; pairs are key, value, ...
func (m *maker) variant(role string, rate, p50ns float64, value string, pairs ...string) string {
	v := bench.Variant{
		ID: fmt.Sprintf("v%02d", len(m.run.Variants)+1), Role: role, Params: map[string]string{},
		Config: map[string]string{"value-size": value, "rate": "0", "max-message": "4MiB"},
	}
	var name []string
	for i := 0; i < len(pairs); i += 2 {
		v.Params[pairs[i]] = pairs[i+1]
		v.Config[pairs[i]] = pairs[i+1]
		name = append(name, pairs[i]+"="+pairs[i+1])
	}
	v.Name = strings.Join(name, "/")
	m.run.Variants = append(m.run.Variants, v)
	m.rate[v.ID], m.p50[v.ID] = rate, p50ns
	return v.ID
}

func (m *maker) get(id string) *bench.Variant {
	i := slices.IndexFunc(m.run.Variants, func(v bench.Variant) bool { return v.ID == id })
	return &m.run.Variants[i]
}

// trials measures every variant once a block, with scatter, a tail and a
// series; then the profile block.
func (m *maker) trials() {
	info := m.run.Experiment
	for b := range info.Blocks {
		for _, v := range m.run.Variants {
			t := m.trial(v, b+1)
			m.run.Trials = append(m.run.Trials, t)
		}
	}
	for _, v := range m.run.Variants {
		t := m.trial(v, 0)
		t.Kind, t.Hlog, t.Series = bench.TrialProfile, "", nil
		for name := range t.Processes {
			for _, kind := range []string{"cpu", "heap", "allocs"} {
				t.Profiles = append(t.Profiles, "pprof/"+v.ID+"/"+name+"/"+kind+".pb.gz")
			}
		}
		slices.Sort(t.Profiles)
		m.sample(&t)
		m.run.Trials = append(m.run.Trials, t)
	}
	m.run.TrialsPlanned = len(m.run.Trials)
	m.run.TrialsCompleted = len(m.run.Trials)
}

func (m *maker) trial(v bench.Variant, block int) bench.Trial {
	info := m.run.Experiment
	rate := m.rate[v.ID] * math.Exp(m.r.NormFloat64()*0.03)
	ops := uint64(rate * info.MeasureS)
	h := hdrhistogram.New(1, histogramMax, 3)
	sampled := min(ops, 3000)
	for range sampled {
		ns := m.p50[v.ID] * math.Exp(math.Abs(m.r.NormFloat64())*0.5-0.3)
		if m.r.Float64() < 0.012 {
			ns *= 3 + 6*m.r.Float64() // a collection
		}
		_ = h.RecordValues(int64(ns), int64(max(ops/max(sampled, 1), 1)))
	}
	l := bench.Latency{Count: ops, P50Ns: h.ValueAtPercentile(50), P90Ns: h.ValueAtPercentile(90), P99Ns: h.ValueAtPercentile(99), P999Ns: h.ValueAtPercentile(99.9), MaxNs: h.Max()}
	t := bench.Trial{
		Variant: v.ID, Block: block, Kind: bench.TrialMeasured, Viable: true, Valid: true, WindowS: info.MeasureS,
		Operations: ops, OpsPerS: rate, BytesPerS: rate * valueBytes(v), Response: map[string]bench.Latency{"all": l},
		Hlog: fmt.Sprintf("%s-b%d.hlog", v.ID, block), Processes: map[string]bench.Process{},
	}
	const points = 10
	for i := range points {
		wobble := 1 + 0.12*m.r.NormFloat64()
		t.Series = append(t.Series, bench.Point{
			OffsetS: info.MeasureS * float64(i) / points, Operations: uint64(max(rate*wobble, 0) * info.MeasureS / points),
			P50Ns: int64(float64(l.P50Ns) / wobble), P99Ns: int64(float64(l.P99Ns) / wobble),
		})
	}
	names := []string{"generator"}
	switch {
	case v.Params["target"] == bench.TargetRelay:
		names = append(names, "relay", "follower2", "follower3")
	case v.Role == bench.RoleCeiling:
		names = append(names, "wire")
	case v.Params["topology"] == "processes" || v.Params["topology"] == "":
		names = append(names, "node1", "node2", "node3")
	}
	for i, name := range names {
		t.Processes[name] = bench.Process{
			CPUS: info.MeasureS * (1.1 - 0.2*float64(i)) / 2, RSSBytes: uint64(40+30*m.r.IntN(4)) << 20, AllocCount: ops * uint64(90-20*i),
		}
	}
	if block > 0 {
		m.hists[v.ID] = append(m.hists[v.ID], h)
	}
	return t
}

// data summarises the run in the simplest way that has the right shape.
func (m *maker) data(answers func(s *bench.Summary)) *Data {
	d := &Data{Run: m.run}
	for _, v := range m.run.Variants {
		s := bench.VariantSummary{Variant: v, Viable: true}
		of := map[string][]float64{}
		for _, t := range m.run.Trials {
			if t.Variant != v.ID || t.Kind != bench.TrialMeasured {
				continue
			}
			s.Errors += t.Errors
			if !t.Viable {
				s.Viable, s.Problem = false, t.Problem
			}
			if !t.Valid || !t.Viable {
				continue
			}
			s.Trials++
			s.Samples += t.Operations
			all := t.Response["all"]
			for k, x := range map[string]float64{
				"ops": t.OpsPerS, "bytes": t.BytesPerS, "p50": float64(all.P50Ns), "p90": float64(all.P90Ns),
				"p99": float64(all.P99Ns), "p999": float64(all.P999Ns), "max": float64(all.MaxNs),
			} {
				of[k] = append(of[k], x)
			}
		}
		s.OpsPerS, s.BytesPerS, s.P50Ns, s.P90Ns = estimate(of["ops"]), estimate(of["bytes"]), estimate(of["p50"]), estimate(of["p90"])
		s.P99Ns, s.P999Ns, s.MaxNs = estimate(of["p99"]), estimate(of["p999"]), estimate(of["max"])
		d.Summary.Variants = append(d.Summary.Variants, s)
		merged := hdrhistogram.New(1, histogramMax, 3)
		for _, h := range m.hists[v.ID] {
			merged.Merge(h)
		}
		if s.Viable && merged.TotalCount() > 0 {
			d.Spectra = append(d.Spectra, newSpectrum(v.ID, merged))
		}
	}
	find := func(id string) *bench.VariantSummary {
		i := slices.IndexFunc(d.Summary.Variants, func(s bench.VariantSummary) bool { return s.Variant.ID == id })
		if i < 0 {
			return nil
		}
		return &d.Summary.Variants[i]
	}
	for i := range d.Summary.Variants {
		s := &d.Summary.Variants[i]
		for _, id := range s.Variant.Ceilings {
			if c := find(id); s.Viable {
				s.Ceilings = append(s.Ceilings, bench.CeilingShare{
					Variant: id, Target: c.Variant.Params["target"], OpsPerS: c.OpsPerS.Center,
					Fraction: bench.Estimate{Center: s.OpsPerS.Center / c.OpsPerS.Center, N: s.Trials},
				})
			}
		}
		if b := find(s.Variant.Against); b != nil && s.Viable {
			x := s.OpsPerS.Center / b.OpsPerS.Center
			s.Ratio = bench.Estimate{Center: x, Lo: x * 0.95, Hi: x * 1.05, Confidence: 0.95, N: s.Trials}
			s.Verdict = map[bool]string{true: "better", false: "worse"}[x > 1]
			if math.Abs(x-1) < 0.04 {
				s.Verdict = "same"
			} else if math.Abs(x-1) < 0.08 {
				s.Verdict = "inconclusive"
			}
		}
	}
	answers(&d.Summary)
	m.explain(d)
	return d
}

func estimate(v []float64) bench.Estimate {
	if len(v) == 0 {
		return bench.Estimate{}
	}
	e := bench.Estimate{Center: median(v), N: len(v)}
	if len(v) > 1 {
		e.Lo, e.Hi, e.Confidence = slices.Min(v), slices.Max(v), 0.95
	}
	return e
}

// quickLike and chunkLike return a run and its maker. To make one takes seconds
// with the race detector, so that is done once; each caller has a copy to change.
var (
	quickLike = copied(makeQuick)
	chunkLike = copied(makeChunk)
)

func copied(makeOne func() (*Data, *maker)) func() (*Data, *maker) {
	once := sync.OnceValues(makeOne)
	return func() (*Data, *maker) {
		d, m := once()
		data, maker := deepCopy(reflect.ValueOf(d), map[uintptr]reflect.Value{}).Interface().(*Data), *m
		maker.run = data.Run
		return data, &maker
	}
}

// deepCopy copies what exported fields lead to; copied holds the maps that were,
// as variants share theirs with their summaries.
func deepCopy(v reflect.Value, copied map[uintptr]reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	out.Set(v)
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(deepCopy(v.Elem(), copied))
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(deepCopy(v.Index(i), copied))
			}
		}
	case reflect.Map:
		if one, ok := copied[v.Pointer()]; ok {
			return one
		}
		if !v.IsNil() {
			out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			copied[v.Pointer()] = out
			for key, value := range v.Seq2() {
				out.SetMapIndex(key, deepCopy(value, copied))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(deepCopy(v.Field(i), copied))
			}
		}
	default: // it holds no reference
	}
	return out
}

// pageOf is the HTML of a run as it was made.
func pageOf(like func() (*Data, *maker)) func() string {
	return sync.OnceValue(func() string {
		d, _ := like()
		var b strings.Builder
		if err := d.HTML(&b); err != nil {
			panic(err)
		}
		return b.String()
	})
}

var quickPage, chunkPage = pageOf(quickLike), pageOf(chunkLike)

// makeQuick has the axes of the experiment quick.
func makeQuick() (*Data, *maker) {
	m := newMaker(1, bench.ExperimentInfo{
		Name: "quick", Question: "How many operations a second does a three-node cluster commit, by topology and concurrency, and what share of the bare gRPC ceiling is that?",
		Axes: []string{"topology", "target", "op", "clients", "ops-per-message"}, AnswerBy: []string{"topology", "op"}, Metric: "ops/s",
		Blocks: 4, WarmupS: 0.15, MeasureS: 0.4, Source: "name: quick\nfixed: {nodes: 3, value-size: 256, keys: 1000}\n",
	})
	wire, relay := map[string]string{}, map[string]string{}
	clients := []struct {
		n            string
		direct, grpc float64
	}{{"1", 61000, 1900}, {"16", 420000, 14500}, {"256", 730000, 21800}}
	for _, op := range []string{"put", "get"} {
		factor := map[string]float64{"put": 1, "get": 1.35}[op]
		for _, c := range clients {
			n, _ := number(c.n)
			id := m.variant(bench.RoleMeasured, c.direct*factor, n/c.direct*1e9, "256", "topology", "in-process", "target", "direct", "op", op, "clients", c.n)
			m.get(id).Baseline = true
		}
	}
	for i, topology := range []string{"in-process-grpc", "processes"} {
		slow := 1 - 0.15*float64(i)
		for _, op := range []string{"put", "get"} {
			factor := slow * map[string]float64{"put": 1, "get": 1.35}[op]
			for _, c := range clients {
				n, _ := number(c.n)
				m.variant(bench.RoleMeasured, c.grpc*factor, n/(c.grpc*factor)*1e9, "256", "topology", topology, "target", "unary", "op", op, "clients", c.n)
			}
		}
	}
	m.variant(bench.RoleMeasured, 1.1e6, 900e3, "256", "topology", "in-process", "target", "direct", "op", "put", "clients", "16", "ops-per-message", "64")
	for i, topology := range []string{"in-process-grpc", "processes"} {
		slow := 1 - 0.15*float64(i)
		m.variant(bench.RoleMeasured, 310e3*slow, 3.2e6, "256", "topology", topology, "target", "pipeline", "op", "put", "clients", "16", "ops-per-message", "64")
		wire[topology+"64"] = m.variant(bench.RoleCeiling, 1.25e6*slow, 800e3, "256", "target", "wire", "wire", "stream", "topology", topology, "clients", "16", "ops-per-message", "64")
		for _, c := range clients {
			n, _ := number(c.n)
			wire[topology+c.n] = m.variant(bench.RoleCeiling, c.grpc*1.6*slow, n/(c.grpc*1.6)*1e9, "256", "target", "wire", "wire", "unary", "topology", topology, "clients", c.n)
			if topology == "processes" {
				relay[topology+c.n] = m.variant(bench.RoleCeiling, c.grpc*1.25*slow, n/(c.grpc*1.25)*1e9, "256", "target", "relay", "wire", "unary", "topology", topology, "clients", c.n)
			}
		}
	}
	aa := m.variant(bench.RoleAA, 420000, 16/420000.0*1e9, "256", "topology", "in-process", "target", "direct", "op", "put", "clients", "16")
	for i := range m.run.Variants {
		v := &m.run.Variants[i]
		if v.Role == bench.RoleMeasured && v.Params["topology"] != "in-process" {
			k := v.Params["topology"] + v.Params["clients"]
			if v.Params["target"] == "pipeline" {
				k = v.Params["topology"] + "64"
			}
			v.Ceilings = []string{wire[k]}
			if id := relay[k]; id != "" && v.Params["op"] == "put" {
				v.Ceilings = append(v.Ceilings, id)
			}
			if v.Params["target"] == "unary" {
				v.Against = fmt.Sprintf("v%02d", map[string]int{"put1": 1, "put16": 2, "put256": 3, "get1": 4, "get16": 5, "get256": 6}[v.Params["op"]+v.Params["clients"]])
			}
		}
	}
	m.get(aa).Against = "v02"
	m.trials()
	m.run.Warnings = []string{"the machine's 1-minute load was 0.31 before the first trial", "2 cores run the generator and three nodes: they take CPU from each other"}
	for i := range m.run.Trials {
		if t := &m.run.Trials[i]; t.Variant == "v18" && t.Block == 2 {
			t.Valid, t.Problem = false, "the generator used 61 % of the CPU it could have"
		}
	}
	d := m.data(func(s *bench.Summary) {
		for _, where := range [][2]string{{"in-process", "put"}, {"in-process", "get"}, {"in-process-grpc", "put"}, {"in-process-grpc", "get"}, {"processes", "put"}, {"processes", "get"}} {
			best := bench.VariantSummary{}
			for _, v := range s.Variants {
				if v.Variant.Role == bench.RoleMeasured && v.Variant.Params["topology"] == where[0] && v.Variant.Params["op"] == where[1] && v.OpsPerS.Center > best.OpsPerS.Center {
					best = v
				}
			}
			s.Answers = append(s.Answers, bench.Answer{
				Where: map[string]string{"topology": where[0], "op": where[1]}, Best: []string{best.Variant.ID}, Confidence: 0.95,
				Sentence: fmt.Sprintf("%s commits most: %s operations a second, of 7 variants.", best.Variant.ID, count(best.OpsPerS.Center)),
			})
		}
	})
	return d, m
}

// makeChunk has the axes of the experiment chunk-size: arms with knobs of their
// own, two links with an answer each, and one arm that cannot do the work.
func makeChunk() (*Data, *maker) {
	m := newMaker(2, bench.ExperimentInfo{
		Name: "chunk-size", Question: "Which chunking strategy and size replicates 1 MiB values fastest under a 4 MiB message limit, on loopback and on a slower link?",
		Axes: []string{"link-delay", "link-rate", "chunking", "chunk-size", "chunk-count"}, AnswerBy: []string{"link-delay", "link-rate"}, Metric: "ops/s",
		Blocks: 4, WarmupS: 0.2, MeasureS: 2, Source: "name: chunk-size\nanswer-by: [link-delay, link-rate]\n",
	})
	for _, link := range [][2]string{{"0s", "0"}, {"1ms", "200MB/s"}} {
		base, lat := 310.0, 48e6
		if link[0] != "0s" {
			base, lat = 88, 170e6
		}
		add := func(rate float64, pairs ...string) string {
			return m.variant(bench.RoleMeasured, base*rate, lat/rate, "1MiB", append([]string{"link-delay", link[0], "link-rate", link[1]}, pairs...)...)
		}
		first := len(m.run.Variants)
		add(0.97, "chunking", "none")
		b := add(1, "chunking", "raft", "chunk-size", "1MiB")
		m.get(b).Baseline = true
		add(0.9, "chunking", "count", "chunk-size", "1MiB", "chunk-count", "2")
		add(0.93, "chunking", "reactive")
		add(1.02, "chunking", "bounded", "chunk-size", "1MiB")
		add(1.1, "chunking", "bounded", "chunk-size", "4MiB")
		for i, size := range []string{"64KiB", "256KiB", "1MiB", "4MiB"} {
			add([]float64{0.82, 1.04, 1.12, 1.1}[i], "chunking", "fragment", "chunk-size", size)
		}
		aa := add(1, "chunking", "raft", "chunk-size", "1MiB")
		m.get(aa).Role = bench.RoleAA
		for i := first; i < len(m.run.Variants); i++ {
			if !m.run.Variants[i].Baseline {
				m.run.Variants[i].Against = b
			}
		}
	}
	m.trials()
	for i := range m.run.Trials {
		if t := &m.run.Trials[i]; t.Variant == "v12" {
			t.Viable, t.Valid, t.Problem = false, false, "no operation was acknowledged (RESOURCE_EXHAUSTED 16)"
			t.Errors, t.ErrorsByCode = 16, map[string]uint64{"RESOURCE_EXHAUSTED": 16}
		}
	}
	m.run.Skipped = []bench.Skipped{{Params: map[string]string{"chunking": "bounded", "chunk-size": "8MiB"}, Reason: "chunk-size 8MiB exceeds max-message 4MiB"}}
	d := m.data(func(s *bench.Summary) {
		s.Answers = []bench.Answer{
			{Where: map[string]string{"link-delay": "0s", "link-rate": "0"}, Best: []string{"v06", "v09", "v10"}, Confidence: 0.95, Sentence: "Three of ten variants cannot be told apart from the best: bounded with 4MiB and fragment with 1MiB or 4MiB."},
			{Where: map[string]string{"link-delay": "1ms", "link-rate": "200MB/s"}, Best: []string{"v20"}, Confidence: 0.95, Sentence: "fragment with 1MiB is fastest."},
		}
	})
	for i := range d.Summary.Variants {
		d.Summary.Variants[i].Stages = stagesLike(&d.Summary.Variants[i])
	}
	return d, m
}

// write makes a run folder: the record, and a log for each histogram.
func (m *maker) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for id, hists := range m.hists {
		for b, h := range hists {
			recorded := func(t bench.Trial) bool { return t.Variant == id && t.Block == b+1 }
			if !slices.ContainsFunc(m.run.Trials, recorded) {
				continue
			}
			f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-b%d.hlog", id, b+1)))
			if err != nil {
				t.Fatal(err)
			}
			log := hdrhistogram.NewHistogramLogWriter(f)
			if err := log.OutputLogFormatVersion(); err != nil {
				t.Fatal(err)
			}
			for _, tag := range []string{"put", "put-service", "delay", "lag"} {
				h.SetTag(tag)
				h.SetStartTimeMs(m.run.Started.UnixMilli())
				h.SetEndTimeMs(m.run.Started.UnixMilli() + int64(m.run.Experiment.MeasureS*1e3))
				if err := log.OutputIntervalHistogram(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.writeProfiles(t, dir)
	raw, err := json.Marshal(m.run)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bench.RunFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
