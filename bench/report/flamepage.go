package report

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/pprof/profile"

	"raftlab/bench"
	"raftlab/bench/stats"
)

// readStacks reads the CPU profiles of the variants that are shown in depth.
func readStacks(root *os.Root, d *Data) (stacks map[string][]bench.Stack, problems []string) {
	stacks = map[string][]bench.Stack{}
	for _, id := range d.chosen() {
		t := d.profileTrial(id)
		if t == nil {
			continue
		}
		for _, name := range cpuProfiles(t) {
			s, err := readProfile(root, name, t)
			if err != nil {
				problems = append(problems, fmt.Sprintf("CPU profile of %s: %v", id, err))
				continue
			}
			stacks[id] = append(stacks[id], s...)
		}
	}
	return stacks, problems
}

// cpuProfiles are the files of a trial's CPU profiles, in the run folder.
func cpuProfiles(t *bench.Trial) []string {
	var files []string
	for _, name := range t.Profiles {
		if path.Base(name) == "cpu.pb.gz" {
			files = append(files, path.Clean(name))
		}
	}
	return files
}

func readProfile(root *os.Root, name string, t *bench.Trial) ([]bench.Stack, error) {
	f, err := root.Open(filepath.FromSlash(name)) // root keeps it inside the run folder
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	p, err := profile.Parse(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	process := path.Base(path.Dir(name))
	return bench.Stacks(process, p, t.Processes[process].CPUS)
}

// flameSection is the graphs of the chosen variants and, below each, how it
// differs from its baseline.
type flameSection struct {
	Graphs  []flameGraph
	Legend  []layerKey
	Differs bool // some graph is a difference
}

// flameGraph is a graph with its twin as a table and the line that opens the same.
type flameGraph struct {
	flameChart
	Heading, Note, Command string
	Top                    *table
}

func (d *Data) flames() *flameSection {
	s := &flameSection{}
	all := map[string]*sampledProfile{}
	for _, id := range d.chosen() {
		if t := d.profileTrial(id); t != nil && len(d.Stacks[id]) > 0 {
			all[id] = &sampledProfile{d.Stacks[id], t.Operations}
		}
	}
	for _, id := range d.chosen() {
		p := all[id]
		if p == nil {
			continue
		}
		s.Graphs = append(s.Graphs, d.flameOf(id, p))
		against := d.against(id)
		if b := all[against]; b != nil && against != id {
			s.Graphs = append(s.Graphs, d.flameAgainst(id, against, p, b))
			s.Differs = true
		}
	}
	if len(s.Graphs) == 0 {
		return nil
	}
	for _, l := range bench.Layers() {
		s.Legend = append(s.Legend, layerKey{layerClass(l.Layer), string(l.Layer), l.Sentence})
	}
	return s
}

func (d *Data) flameOf(id string, p *sampledProfile) flameGraph {
	root := flame(p)
	total := root.us[0]
	g := flameGraph{
		Heading: id + " " + variantName(d, d.variant(id)),
		Note:    fmt.Sprintf("%s µs of CPU time an operation, %s samples.", digits3(total), count(float64(root.n[0]))),
		Command: "go tool pprof -http=:0 " + quoteAll(cpuProfiles(d.profileTrial(id)), ""),
		Top:     topFunctions(p, total),
	}
	g.flameChart = root.draw(
		func(f *frame) string {
			s := fmt.Sprintf("%s µs, %s", digits3(f.us[0]), percent(f.us[0]/max(total, 1e-12)))
			if f.layer != bench.LayerCaller {
				s += ", " + string(f.layer)
			}
			return s
		},
		func(f *frame) string { return layerClass(f.layer) },
	)
	g.ID, g.Title = "fl-"+id, "Flame graph of "+g.Heading
	return g
}

func (d *Data) flameAgainst(id, against string, p, baseline *sampledProfile) flameGraph {
	root := flameDifference(baseline, p)
	each := [2]float64{baseline.perSample(), p.perSample()}
	total := max(root.us[0], root.us[1])
	delta, noise := difference(root.us, root.n, each)
	g := flameGraph{
		Heading: id + " against the baseline " + against,
		Note: fmt.Sprintf("%s µs of CPU time an operation, the baseline %s: %s.",
			digits3(root.us[1]), digits3(root.us[0]), signed(delta)+" ± "+digits3(noise)+" µs"),
		Command: "go tool pprof -http=:0 " + quoteAll(cpuProfiles(d.profileTrial(against)), "-diff_base ") + " " +
			quoteAll(cpuProfiles(d.profileTrial(id)), ""),
		Top: topDifferences(baseline, p),
	}
	g.flameChart = root.draw(
		func(f *frame) string {
			delta, noise := difference(f.us, f.n, each)
			return fmt.Sprintf("%s µs, the baseline %s: %s ± %s", digits3(f.us[1]), digits3(f.us[0]), signed(delta), digits3(noise))
		},
		func(f *frame) string {
			delta, noise := difference(f.us, f.n, each)
			return differenceClass(delta, noise, total)
		},
	)
	g.ID, g.Title, g.Difference = "fd-"+id, "Difference of "+g.Heading, true
	return g
}

func signed(v float64) string {
	if v < 0 {
		return "−" + digits3(-v)
	}
	return "+" + digits3(v)
}

// quoteAll makes words of a shell, each behind a flag.
func quoteAll(files []string, flag string) string {
	words := make([]string, len(files))
	for i, f := range files {
		words[i] = flag + shellQuote(f)
	}
	return strings.Join(words, " ")
}

// functionCost is one function over all stacks.
type functionCost struct {
	name  string
	self  [2]float64
	cum   [2]float64
	selfN [2]int64
	cumN  [2]int64
}

// byFunction adds up the profiles by function: a function counts once in a stack
// that it is in twice.
func byFunction(profiles ...*sampledProfile) []functionCost {
	at := map[string]int{}
	var all []functionCost
	for side, p := range profiles {
		for i := range p.stacks {
			s := &p.stacks[i]
			us := s.Nanos / 1e3 / float64(max(p.operations, 1))
			for j, name := range s.Functions {
				k, ok := at[name]
				if !ok {
					k = len(all)
					at[name] = k
					all = append(all, functionCost{name: name})
				}
				f := &all[k]
				if slices.Index(s.Functions, name) == j {
					f.cum[side] += us
					f.cumN[side] += s.Samples
				}
				if j == len(s.Functions)-1 {
					f.self[side] += us
					f.selfN[side] += s.Samples
				}
			}
		}
	}
	return all
}

// mostFunctions of a table beside a graph.
const mostFunctions = 15

// topFunctions are the functions that took most themselves.
func topFunctions(p *sampledProfile, total float64) *table {
	all := byFunction(p)
	slices.SortFunc(all, func(a, b functionCost) int {
		return cmp.Or(cmp.Compare(b.self[0], a.self[0]), cmp.Compare(b.cum[0], a.cum[0]), strings.Compare(a.name, b.name))
	})
	t := &table{Columns: []column{
		{Name: "layer"},
		{Name: "itself, µs", Numeric: true, Title: "CPU time an operation in the function itself"},
		{Name: "share", Numeric: true},
		{Name: "with callees, µs", Numeric: true, Title: "CPU time an operation in it and in what it called"},
	}}
	each := p.perSample()
	for _, f := range all[:min(len(all), mostFunctions)] {
		layer := string(bench.LayerOf(f.name))
		if layer == "" {
			layer = "its caller's"
		}
		share := f.self[0] / max(total, 1e-12)
		t.Rows = append(t.Rows, row{ID: shortFunction(f.name), Cells: []cell{
			text(layer), sampledCell(sampled(f.selfN[0], each)), {Text: percent(share), Sort: share}, sampledCell(sampled(f.cumN[0], each)),
		}})
	}
	return t
}

// sampled is what a number of samples stands for, with its interval.
func sampled(n int64, each float64) bench.Estimate {
	e := stats.Sampled(n, 0.95)
	return bench.Estimate{Center: e.Center * each, Lo: e.Lo * each, Hi: e.Hi * each, Confidence: e.Confidence, N: e.N}
}

// topDifferences are the functions that differ most themselves, whether or not
// sampling explains it.
func topDifferences(baseline, p *sampledProfile) *table {
	each := [2]float64{baseline.perSample(), p.perSample()}
	all := byFunction(baseline, p)
	size := func(f functionCost) float64 { return math.Abs(f.self[1] - f.self[0]) }
	slices.SortFunc(all, func(a, b functionCost) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), strings.Compare(a.name, b.name))
	})
	t := &table{Columns: []column{
		{Name: "itself, µs", Numeric: true, Title: "CPU time an operation in the function itself"},
		{Name: "baseline, µs", Numeric: true},
		{Name: "difference", Numeric: true, Title: "± is what sampling alone leaves open"},
		{Name: "sampling", Title: "whether sampling alone explains the difference"},
	}}
	for _, f := range all[:min(len(all), mostFunctions)] {
		delta, noise := difference(f.self, f.selfN, each)
		verdict := "explains it"
		if math.Abs(delta) > noise {
			verdict = map[bool]string{true: "more", false: "less"}[delta > 0]
		}
		t.Rows = append(t.Rows, row{ID: shortFunction(f.name), Cells: []cell{
			{Text: digits3(f.self[1]), Sort: f.self[1]},
			{Text: digits3(f.self[0]), Sort: f.self[0]},
			{Text: signed(delta), Sort: delta, Note: "± " + digits3(noise)},
			text(verdict),
		}})
	}
	return t
}
