package report

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"

	"raftlab/bench"
)

// Every operation is in a cell, and in the row and column where it belongs.
func TestHeatKeepsEveryOperation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var moments []moment
		var operations int64
		n := rapid.IntRange(1, 130).Draw(t, "intervals")
		slowest, slowestAt := int64(0), 0.0
		for i := range n {
			h := hdrhistogram.New(1, histogramMax, 2)
			for range rapid.IntRange(0, 4).Draw(t, "operations") {
				ns := rapid.Int64Range(1, 50_000_000_000).Draw(t, "ns")
				if err := h.RecordValues(ns, 3); err != nil {
					t.Fatal(err)
				}
				operations += 3
				if ns > slowest {
					slowest, slowestAt = ns, (float64(i)+0.5)*0.05
				}
			}
			moments = append(moments, moment{float64(i) * 0.05, 0.05, h})
		}
		heat, ok := newHeat(moments)
		if ok != (operations > 0) {
			t.Fatalf("%d operations, heat %t", operations, ok)
		}
		if !ok {
			return
		}
		var counted int64
		top, column := 0, 0
		for i, c := range heat.Counts {
			for r, n := range c {
				counted += n
				if n > 0 && r > top {
					top, column = r, i
				}
			}
		}
		if counted != operations || len(heat.Counts) > mostHeatColumn {
			t.Fatalf("%d of %d operations in %d columns", counted, operations, len(heat.Counts))
		}
		// Two digits of an HDR histogram, which takes a tenth of the memory of three.
		from := heat.LowestNs * math.Pow(10, float64(top)/heatPerDecade)
		if float64(slowest) < from*0.99 || float64(slowest) > from*math.Pow(10, 1.0/heatPerDecade)*1.01 {
			t.Fatalf("the slowest took %d ns, its row begins at %g", slowest, from)
		}
		if at := slowestAt / heat.WindowS * float64(len(heat.Counts)); top > 0 && math.Abs(at-float64(column)-0.5) > float64(len(heat.Counts)) {
			t.Fatalf("the slowest is in column %d, was in %g", column, at)
		}
	})
}

// Shades cover every count once, in order.
func TestShades(t *testing.T) {
	for _, top := range []int64{1, 2, 5, 7, 100, 12_345} {
		last := 0
		for n := int64(1); n <= top; n++ {
			s := shade(n, top)
			if s < last || s >= heatShades {
				t.Fatalf("%d of %d has shade %d after %d", n, top, s, last)
			}
			last = s
		}
		if last != heatShades-1 {
			t.Errorf("the most of %d has shade %d", top, last)
		}
	}
	one := Heat{Variant: "v01", Trials: 1, WindowS: 1, LowestNs: 1000, Counts: [][]int64{{0, 1, 3}, {40, 1000, 2}}}
	m := one.draw("x", "x", []bench.Event{{OffsetS: 0.5, What: "node 1 killed"}})
	if len(m.Marks) != 1 || m.Marks[0].D != "M254 12V184" || m.Marks[0].Title != "node 1 killed" {
		t.Errorf("the event is drawn as %+v", m.Marks)
	}
	want := []string{"1 to 3", "4 to 9", "10 to 31", "32 to 99", "100 to 316", "317 to 1k"}
	for i, s := range m.Shades {
		if i >= len(want) || s.Label != want[i] {
			t.Errorf("shade %d is labelled %q, want %v", i, s.Label, want)
		}
	}
}

// Times are of the log, whose first interval may have had no operation.
func TestMomentsKeepTheirTime(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "a.hlog"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("#[Histogram log format version 1.3]\n#[StartTime: 1795987871.170 (seconds since epoch), 2026-11-29T21:31:11.170Z]\n"); err != nil {
		t.Fatal(err)
	}
	log := hdrhistogram.NewHistogramLogWriter(f)
	for i, tag := range []string{"put", "put-service", "get", "lag"} {
		h := hdrhistogram.New(1, histogramMax, 3)
		h.SetTag(tag)
		h.SetStartTimeMs(1795987871170 + int64(200+100*i))
		h.SetEndTimeMs(1795987871170 + int64(300+100*i))
		if err := h.RecordValue(1_000_000); err != nil {
			t.Fatal(err)
		}
		if err := log.OutputIntervalHistogram(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	moments, err := readMoments(root, "a.hlog")
	if err != nil || len(moments) != 2 {
		t.Fatalf("%d moments, %v; want put and get", len(moments), err)
	}
	for i, want := range []float64{0.2, 0.4} {
		if m := moments[i]; math.Abs(m.offsetS-want) > 0.0011 || math.Abs(m.lengthS-0.1) > 0.0021 {
			t.Errorf("moment %d begins at %v s and lasts %v s", i, m.offsetS, m.lengthS)
		}
	}
}
