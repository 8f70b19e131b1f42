package report

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"raftlab/bench"
)

// stagesLike divides a variant's latencies among the stages; nil for what cannot do
// the work.
func stagesLike(v *bench.VariantSummary) *bench.StageSummary {
	if !v.Viable || v.Variant.Role == bench.RoleCeiling {
		return nil
	}
	around := func(x float64) bench.Estimate {
		return bench.Estimate{Center: x, Lo: x * 0.96, Hi: x * 1.05, Confidence: 0.95, N: 4}
	}
	s := &bench.StageSummary{Samples: 4000}
	time := func(stage string, share float64) bench.StageTime {
		return bench.StageTime{Stage: stage, Mean: around(share * v.P50Ns.Center * 1.1), P50: around(share * v.P50Ns.Center), P99: around(share * v.P99Ns.Center)}
	}
	for i, stage := range []string{"queue", "commit", "apply", "answer", bench.StageOutside} {
		s.Writes = append(s.Writes, time(stage, []float64{0.1, 0.6, 0.05, 0.01, 0.24}[i]))
	}
	s.Way = new(time(bench.StageWay, 0.5))
	distribution := func(share float64) bench.DistributionSummary {
		return bench.DistributionSummary{Mean: around(share * v.P50Ns.Center), P50: around(share * v.P50Ns.Center), P99: around(share * v.P99Ns.Center)}
	}
	s.OnLeader = map[string]bench.DistributionSummary{
		"stage_append_nanos": distribution(0.02), "round_trip_nanos": distribution(0.4),
		"entry_commands": {Mean: around(3.5), P50: around(2), P99: around(16)}, "frame_bytes": {Mean: around(250e3), P50: around(256e3), P99: around(262144)},
	}
	s.OnFollowers = map[string]bench.DistributionSummary{"stage_step_nanos": distribution(0.04), "stage_durable_nanos": distribution(0.06)}
	if v.Variant.Params["chunking"] == "fragment" {
		s.OnFollowers["reassembly_nanos"] = distribution(0.15)
	}
	return s
}

func pixels(t *testing.T, s string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Each bar begins where the one before ended, what goes on meanwhile lies within
// commit, and the lengths are those of the summary to the charts' common scale.
func TestWaterfall(t *testing.T) {
	d, _ := chunkLike()
	falls := d.waterfalls()
	if len(falls) < 3 || len(falls) > mostWaterfalls {
		t.Fatalf("%d waterfalls", len(falls))
	}
	ids := map[string]bool{}
	for _, w := range falls {
		ids[w.ID] = true
	}
	for _, a := range d.Summary.Answers {
		if !ids[a.Best[0]] {
			t.Errorf("no waterfall of %s, the best of %v", a.Best[0], a.Where)
		}
	}
	perPixel := map[string]float64{}
	for _, w := range falls {
		i := slices.IndexFunc(d.Summary.Variants, func(v bench.VariantSummary) bool { return v.Variant.ID == w.ID })
		s := d.Summary.Variants[i].Stages
		for k, f := range w.Charts {
			end, commit := fallLabels, [2]float64{}
			main := 0
			for _, r := range f.Rows {
				from, length := pixels(t, r.X), pixels(t, r.Width)
				if strings.Contains(r.Class, "meanwhile") {
					if from < commit[0]-0.02 || from+length > commit[1]+1.02 {
						t.Errorf("%s %s: %s from %g to %g is not within commit, %v", w.ID, f.Title, r.Label, from, from+length, commit)
					}
					continue
				}
				if math.Abs(from-end) > 1 { // the shortest bar is a pixel long
					t.Errorf("%s %s: %s begins at %g, what is before ends at %g", w.ID, f.Title, r.Label, from, end)
				}
				end = from + length
				if r.Label == "commit" {
					commit = [2]float64{from, end}
				}
				want := waterfallBands[k].of(s.Writes[main]).Center
				if scale := want / length; length > 1 {
					if known := perPixel[f.Title]; known > 0 && math.Abs(known/scale-1) > 0.01 {
						t.Errorf("%s %s: %s has %g ns a pixel, others %g", w.ID, f.Title, r.Label, scale, known)
					} else if length > 50 {
						perPixel[f.Title] = scale
					}
				}
				if !strings.HasPrefix(r.Figure, latency(want)) || !strings.Contains(r.Title, latency(want*1.05)) {
					t.Errorf("%s %s: %s says %q, %q", w.ID, f.Title, r.Label, r.Figure, r.Title)
				}
				if !strings.Contains(f.Desc, r.Label+" "+latency(want)) {
					t.Errorf("%s: not in words: %s", r.Label, f.Desc)
				}
				main++
			}
			if main != len(stageRows) {
				t.Errorf("%s has %d of %d stages", w.ID, main, len(stageRows))
			}
			// 4000 writes, of which one in eight was measured, carry a median only.
			if thin := f.Thin != ""; thin != (k == 1) {
				t.Errorf("%s %s: thin %t", w.ID, f.Title, thin)
			}
		}
	}
}

// Tables have what the charts leave out: every variant that tells of stages.
func TestStageTables(t *testing.T) {
	d, _ := chunkLike()
	d.Summary.Variants[0].Stages = &bench.StageSummary{Void: 2}
	s := d.stages()
	if len(s.Tables) != 5 {
		t.Fatalf("%d tables", len(s.Tables))
	}
	want := 0
	for _, v := range d.Summary.Variants {
		if v.Stages != nil && len(v.Stages.Writes) > 0 {
			want++
		}
	}
	for _, table := range s.Tables {
		if len(table.Rows) != want {
			t.Errorf("%s has %d rows of %d", table.Title, len(table.Rows), want)
		}
		for _, r := range table.Rows {
			if len(r.Cells) != len(table.Columns) {
				t.Errorf("%s: %d cells below %d headings", table.Title, len(r.Cells), len(table.Columns))
			}
		}
	}
	if len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "v01: of 2 trials") {
		t.Errorf("notes: %q", s.Notes)
	}
	for i := range d.Summary.Variants {
		d.Summary.Variants[i].Stages = nil
	}
	if d.stages() != nil || len(d.stageLines()) != 0 {
		t.Error("stages without any")
	}
}

// What the stages leave out is a difference, and negative when percentiles are of
// different writes.
func TestNegativeOutside(t *testing.T) {
	d, _ := chunkLike()
	v := d.staged()[0]
	for i := range v.Stages.Writes {
		if w := &v.Stages.Writes[i]; w.Stage == bench.StageOutside {
			w.P50 = bench.Estimate{Center: -14590, Lo: -20000, Hi: 100, N: 4}
		}
	}
	rows := d.waterfalls()[0].Charts[0].Rows
	if r := rows[len(rows)-1]; r.Figure != "−14.6 µs" || r.Width != "" || !strings.HasSuffix(r.Title, "−14.6 µs (−20 µs to 100 ns)") {
		t.Errorf("%+v", r)
	}
	if line := d.stageLines()[0]; !strings.Contains(line, "outside −14.6 µs") {
		t.Error(line)
	}
}

// The answer's reason stands below it in every form.
func TestWhyIsShown(t *testing.T) {
	d, _ := chunkLike()
	d.Summary.Answers[1].Why = []string{"Stages: most is lost <here>.", "CPU: more."}
	if out := render(t, d.Text); !strings.Contains(out, "\n    Stages: most is lost <here>.\n    CPU: more.\n") {
		t.Error("not in the text")
	}
	if out := render(t, d.Markdown); !strings.Contains(out, "\n  Stages: most is lost &lt;here&gt;.\n  CPU: more.\n") {
		t.Error("not in the Markdown")
	}
	var found []string
	parse(t, render(t, d.HTML), func(n *html.Node) {
		if class, _ := attr(n, "class"); class == "why" {
			found = append(found, n.FirstChild.Data)
		}
	})
	if !slices.Equal(found, d.Summary.Answers[1].Why) {
		t.Errorf("the page has the reasons %q", found)
	}
}
