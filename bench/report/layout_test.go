package report

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"raftlab/bench"
)

func product(axes map[string][]string, order ...string) []bench.Variant {
	out := []bench.Variant{{Params: map[string]string{}}}
	for _, a := range order {
		var next []bench.Variant
		for _, v := range out {
			for _, s := range axes[a] {
				p := maps.Clone(v.Params)
				p[a] = s
				next = append(next, bench.Variant{Params: p})
			}
		}
		out = next
	}
	return out
}

func TestChooseLayout(t *testing.T) {
	quick, _ := quickLike()
	chunk, _ := chunkLike()
	sizes := map[string][]string{"value-size": {"64KiB", "1MiB", "4MiB"}, "transport": {"unary", "stream"}, "link-delay": {"0s", "1ms"}}
	arms := []bench.Variant{
		{Params: map[string]string{"chunking": "raft", "append-size": "64KiB"}},
		{Params: map[string]string{"chunking": "raft", "append-size": "1MiB"}},
		{Params: map[string]string{"chunking": "bounded", "chunk-size": "64KiB"}},
		{Params: map[string]string{"chunking": "bounded", "chunk-size": "1MiB"}},
		{Params: map[string]string{"chunking": "bounded", "chunk-size": "auto"}},
	}
	for name, c := range map[string]struct {
		axes, by []string
		variants []bench.Variant
		want     layout
	}{
		"quick": {
			quick.Run.Experiment.Axes, quick.Run.Experiment.AnswerBy, measured(quick.Summary.Variants),
			layout{x: []string{"clients"}, numeric: true, series: []string{"ops-per-message"}, panels: []string{"topology", "op", "target"}},
		},
		"chunk-size": {
			chunk.Run.Experiment.Axes, chunk.Run.Experiment.AnswerBy, measured(chunk.Summary.Variants),
			layout{x: []string{"chunk-size"}, numeric: true, series: []string{"chunking", "chunk-count"}, panels: []string{"link-delay", "link-rate"}},
		},
		"numbers before names": {
			[]string{"transport", "value-size", "link-delay"},
			[]string{"link-delay"},
			product(sizes, "transport", "value-size", "link-delay"),
			layout{x: []string{"value-size"}, numeric: true, series: []string{"transport"}, panels: []string{"link-delay"}},
		},
		"one quantity by two knobs": {
			[]string{"chunking", "append-size", "chunk-size"},
			nil, arms,
			layout{x: []string{"chunk-size", "append-size"}, numeric: true, series: []string{"chunking"}},
		},
		"names only": {
			[]string{"transport"}, nil, product(sizes, "transport"), layout{x: []string{"transport"}},
		},
		"nothing varies": {nil, nil, []bench.Variant{{}}, layout{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := chooseLayout(c.axes, c.by, c.variants)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(layout{}), cmp.Transformer("nil", func(s []string) string { return strings.Join(s, ",") })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the matrix, no two variants may land on the same point of a chart.
func TestLayoutSeparates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := map[string][]string{
			"op": {"put", "get"}, "clients": {"1", "16", "256"}, "target": {"unary", "pipeline", "direct"},
			"value-size": {"1KiB", "1MiB"}, "topology": {"in-process", "processes"}, "gogc": {"100", "400"}, "chunk-size": {"64KiB", "auto", "1MiB"},
		}
		var names []string
		for n := range pool {
			names = append(names, n)
		}
		slices.Sort(names)
		axes := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 4, rapid.ID).Draw(t, "axes")
		var by []string
		if rapid.Bool().Draw(t, "by") {
			by = axes[:1]
		}
		all := product(pool, axes...)
		keep := rapid.SliceOfN(rapid.Bool(), len(all), len(all)).Draw(t, "keep")
		var variants []bench.Variant
		for i, v := range all {
			if keep[i] {
				variants = append(variants, v)
			}
		}
		l := chooseLayout(axes, by, variants)
		seen := map[string]bool{}
		for _, v := range variants {
			k := key(v, slices.Concat(l.panels, l.series, l.x))
			if seen[k] {
				t.Fatalf("two variants at one place of %+v: %q", l, k)
			}
			seen[k] = true
		}
	})
}

func TestUnits(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(812): "812", count(12345): "12.3k", count(999.6): "1k", count(999600): "1M", count(1.4e6): "1.4M", count(3.14159): "3.14", count(100): "100",
		count(math.NaN()): absent,
		latency(812e3):    "812 µs", latency(950): "950 ns", latency(1.25e6): "1.25 ms", latency(999.9e3): "1 ms", latency(2.5e9): "2.5 s", latency(0): "0 ns",
		percent(0.634): "63 %", percent(0.004): "0.4 %", percent(1): "100 %", percent(0.95): "95 %",
		memory(3 << 20): "3 MiB", seconds(0.4): "0.4 s", seconds(131): "2 min 11 s", seconds(120): "2 min", megabytes(45.2e6): "45.2",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for s, want := range map[string]float64{"64KiB": 65536, "200MB/s": 2e8, "1ms": 1e-3, "16": 16, "0s": 0} {
		if got, ok := number(s); !ok || got != want {
			t.Errorf("number(%q) = %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "auto", "unary", "NaN", "Inf", "KiB"} {
		if v, ok := number(s); ok {
			t.Errorf("number(%q) = %v, want none", s, v)
		}
	}
}

func TestOrderX(t *testing.T) {
	got := orderX([]string{"4MiB", "auto", "64KiB", "", "1MiB"}, true)
	if want := []string{"", "64KiB", "1MiB", "4MiB", "auto"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestScale(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Float64Range(1e-3, 1e9).Draw(t, "lo")
		hi := lo * rapid.Float64Range(1, 1e7).Draw(t, "factor")
		for _, s := range []scale{linearScale(hi, 200, 20), logScale(lo, hi, 200, 20)} {
			for _, v := range []float64{lo, hi} {
				if y := s.at(v); y < 20-1e-6 || y > 200+1e-6 || math.IsNaN(y) {
					t.Fatalf("%+v: %v is at %v, off the chart", s, v, y)
				}
			}
			if s.at(lo) < s.at(hi)-1e-6 {
				t.Fatalf("%+v is upside down", s)
			}
			ticks := s.ticks()
			if len(ticks) < 1 || len(ticks) > 8 {
				t.Fatalf("%+v has %d ticks", s, len(ticks))
			}
			for i := 1; i < len(ticks); i++ {
				if gap := s.at(ticks[i-1]) - s.at(ticks[i]); gap < 11 {
					t.Fatalf("%+v: ticks %v and %v are %v apart, labels would overlap", s, ticks[i-1], ticks[i], gap)
				}
			}
		}
	})
}
