package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"raftlab/bench"
)

// leaves adds up what frames took themselves.
func (f *frame) leaves() (us [2]float64) {
	us = f.self
	for _, k := range f.kids {
		for side, v := range k.leaves() {
			us[side] += v
		}
	}
	return us
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b), 1) }

// No time is lost or counted twice, however a tree is bounded, and boxes lie
// within their callers'.
func TestFlameKeepsAllTime(t *testing.T) {
	profileOf := func(t *rapid.T, name string) *sampledProfile {
		p := &sampledProfile{operations: rapid.Uint64Range(1, 1000).Draw(t, name+" operations")}
		for range rapid.IntRange(1, 60).Draw(t, name+" stacks") {
			s := bench.Stack{Process: rapid.SampledFrom([]string{"node1", "node2", "generator", "process"}).Draw(t, "process")}
			for range rapid.IntRange(0, 50).Draw(t, "depth") {
				s.Functions = append(s.Functions, rapid.SampledFrom([]string{"a.f", "b.g", "runtime.mallocgc", "raftlab/kv.h", "runtime.goexit"}).Draw(t, "function"))
			}
			s.Samples = rapid.Int64Range(1, 300).Draw(t, "samples")
			s.Nanos = float64(s.Samples) * 12e6
			p.stacks = append(p.stacks, s)
		}
		return p
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := profileOf(t, "first"), profileOf(t, "second")
		totals := [2]float64{}
		for side, p := range []*sampledProfile{a, b} {
			for _, s := range p.stacks {
				totals[side] += s.Nanos / 1e3 / float64(p.operations)
			}
		}
		one, two := flame(a), flameDifference(a, b)
		for side := range 2 {
			if got := two.leaves(); !near(got[side], totals[side]) || !near(two.us[side], totals[side]) {
				t.Fatalf("side %d: %v and %v, want %v", side, got[side], two.us[side], totals[side])
			}
		}
		if got := one.leaves()[0]; !near(got, totals[0]) {
			t.Fatalf("%v, want %v", got, totals[0])
		}
		var check func(f *frame, level int)
		check = func(f *frame, level int) {
			sum := f.self
			n := f.selfN
			for _, k := range f.kids {
				check(k, level+1)
				for side := range 2 {
					sum[side] += k.us[side]
					n[side] += k.n[side]
				}
			}
			for side := range 2 {
				if !near(sum[side], f.us[side]) || n[side] != f.n[side] {
					t.Fatalf("%s: %v µs and %d samples in parts, %v and %d in all", f.name, sum[side], n[side], f.us[side], f.n[side])
				}
			}
			if level > deepestLevel {
				t.Fatalf("%s is at level %d", f.name, level)
			}
		}
		check(one, 0)
		check(two, 0)
		if kids := len(one.draw(func(*frame) string { return "" }, func(*frame) string { return "" }).Boxes); kids > int(deepestLevel/narrowestShare) {
			t.Fatalf("%d boxes", kids)
		}
	})
}

func madeFlame(samples ...int64) *sampledProfile {
	p := &sampledProfile{operations: 1000}
	for i, n := range samples {
		p.stacks = append(p.stacks, bench.Stack{
			Process: "node1", Functions: []string{"main.main", fmt.Sprintf("f%d", i)}, Samples: n, Nanos: float64(n) * 12e6,
		})
	}
	return p
}

func classes(baseline, other *sampledProfile) map[string]string {
	root := flameDifference(baseline, other)
	each := [2]float64{baseline.perSample(), other.perSample()}
	out := map[string]string{}
	root.draw(func(*frame) string { return "" }, func(f *frame) string {
		delta, noise := difference(f.us, f.n, each)
		out[f.name] = differenceClass(delta, noise, max(root.us[0], root.us[1]))
		return ""
	})
	return out
}

func TestDifferenceIsColouredWhereItIsThere(t *testing.T) {
	same := classes(madeFlame(100, 50, 30), madeFlame(104, 47, 33))
	for name, class := range same {
		if class != "same" {
			t.Errorf("%s is %s, but sampling explains it", name, class)
		}
	}
	changed := classes(madeFlame(100, 50, 30, 0, 40), madeFlame(260, 51, 2, 60, 0))
	for name, want := range map[string]string{"f0": "more3", "f1": "same", "f2": "less2", "f3": "more3", "f4": "less3"} {
		if !strings.HasPrefix(changed[name], want[:4]) {
			t.Errorf("%s is %s, want %s", name, changed[name], want)
		}
	}
}

// Two profiles of one truth differ in about one function of twenty.
func TestDifferenceOfTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 2))
	poisson := func(mean float64) int64 {
		n, p := int64(0), math.Exp(-mean)
		for u := r.Float64(); u > p; u *= r.Float64() {
			n++
		}
		return n
	}
	coloured, all := 0, 0
	for range 300 {
		var a, b []int64
		for i := range 10 {
			a, b = append(a, poisson(float64(10+10*i))), append(b, poisson(float64(10+10*i)))
		}
		for name, class := range classes(madeFlame(a...), madeFlame(b...)) {
			if strings.HasPrefix(name, "f") {
				all++
				if class != "same" {
					coloured++
				}
			}
		}
	}
	if share := float64(coloured) / float64(all); share > 0.07 || share < 0.02 {
		t.Errorf("%.1f %% of functions coloured by chance (seed 11)", 100*share)
	}
}

func TestShortFunction(t *testing.T) {
	for name, want := range map[string]string{
		"google.golang.org/grpc/internal/transport.(*loopyWriter).run": "transport.(*loopyWriter).run",
		"raftlab/kv.(*Store).Apply":                                    "kv.(*Store).Apply",
		"github.com/tidwall/btree.(*BTreeG[go.shape.struct { raftlab/kv.high uint64; raftlab/kv.low uint64 }]).bsearch": "btree.(*BTreeG[…]).bsearch",
		"runtime.mallocgc": "runtime.mallocgc",
		"gogo":             "gogo",
	} {
		if got := shortFunction(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestTopFunctions(t *testing.T) {
	p := &sampledProfile{operations: 1000, stacks: []bench.Stack{
		{Process: "node1", Functions: []string{"main.main", "a.f", "a.f", "raftlab/kv.g"}, Samples: 30, Nanos: 30e7},
		{Process: "node2", Functions: []string{"main.main", "a.f"}, Samples: 10, Nanos: 10e7},
	}}
	top := topFunctions(p, 400)
	// A function that calls itself counts once.
	for i, want := range []struct{ id, layer, self, share, cum string }{
		{"kv.g", "kv", "300", "75 %", "300"}, {"a.f", "its caller's", "100", "25 %", "400"}, {"main.main", "its caller's", "–", "0 %", "400"},
	} {
		r := top.Rows[i]
		if r.ID != want.id || r.Cells[0].Text != want.layer || r.Cells[1].Text != want.self || r.Cells[2].Text != want.share || r.Cells[3].Text != want.cum {
			t.Errorf("row %d is %s %+v, want %+v", i, r.ID, r.Cells, want)
		}
	}
	first := topDifferences(p, &sampledProfile{operations: 500, stacks: p.stacks}).Rows[0]
	if first.ID != "kv.g" || first.Cells[0].Text != "600" || first.Cells[1].Text != "300" || first.Cells[2].Text != "+300" || first.Cells[3].Text != "more" {
		t.Errorf("the difference is %+v", first)
	}
}

func TestPprofLines(t *testing.T) {
	d, _ := chunkLike()
	s := d.flames()
	if len(s.Graphs) < 2 || !s.Differs {
		t.Fatalf("%d graphs, differences: %t", len(s.Graphs), s.Differs)
	}
	single := regexp.MustCompile(`^go tool pprof -http=:0( pprof/v\d+/\w+/cpu\.pb\.gz){4}$`)
	double := regexp.MustCompile(`^go tool pprof -http=:0( -diff_base pprof/v\d+/\w+/cpu\.pb\.gz){4}( pprof/v\d+/\w+/cpu\.pb\.gz){4}$`)
	for _, g := range s.Graphs {
		if want := map[bool]*regexp.Regexp{false: single, true: double}[g.Difference]; !want.MatchString(g.Command) {
			t.Errorf("%s: %s", g.Heading, g.Command)
		}
	}
}

// A browser reaches every box by keys, looks into one, and comes back.
func TestChromiumFlames(t *testing.T) {
	probe := `<script>
addEventListener("load", () => {
  const svg = document.querySelector("svg.flame");
  const out = document.body.dataset;
  const shown = () => [...svg.querySelectorAll("g")].filter((g) => !g.classList.contains("out")).length;
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const name = () => document.activeElement.querySelector("title").textContent.split(":")[0];
  out.stops = svg.querySelectorAll('[tabindex="0"]').length;
  out.all = shown() === svg.querySelectorAll("g").length;
  svg.querySelector('g[tabindex="0"]').focus();
  out.first = name();
  press("ArrowDown");
  out.child = name();
  press("ArrowRight");
  out.beside = name();
  press("ArrowDown");
  press("Enter");
  out.wide = document.activeElement.querySelector("rect").getAttribute("width");
  out.less = shown() < svg.querySelectorAll("g").length;
  out.button = !svg.closest("figure").querySelector(".whole").hidden;
  out.said = svg.closest("figure").querySelector(".said").textContent.startsWith(name() + ": ");
  press("Escape");
  out.back = shown() === svg.querySelectorAll("g").length;
});
</script>`
	out := browse(t, strings.Replace(chunkPage(), "<body>", "<body>"+probe, 1), "1400,2000")
	body := regexp.MustCompile(`<body[^>]*>`).FindString(out)
	for _, want := range []string{
		`data-stops="1"`, `data-all="true"`, `data-first="all"`, `data-child="generator"`, `data-beside="node`, fmt.Sprintf(`data-wide="%g"`, flameWidth),
		`data-less="true"`, `data-button="true"`, `data-said="true"`, `data-back="true"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
}
