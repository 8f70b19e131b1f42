package bench

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"raftlab/bench/load"
)

// failing gives a trial operations of 1 ms and up, each 1 ns slower than the last, and
// some that failed.
func (t *Trial) failing(operations, failed int) {
	h := load.NewHistogram()
	for i := range operations {
		if err := h.RecordValue(int64(time.Millisecond) + int64(i)); err != nil {
			panic(err)
		}
	}
	t.Operations, t.Errors = uint64(operations), uint64(failed)
	l := withFailed(h, t.Errors)
	t.Response, t.Service = map[string]Latency{"all": l}, map[string]Latency{"all": l}
}

// TestWithFailed: percentiles are those of a sorted list in which what failed comes
// last.
func TestWithFailed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		answered := rapid.SliceOfN(rapid.Int64Range(1, int64(time.Second)), 1, 400).Draw(t, "answered")
		failed := rapid.IntRange(0, 400).Draw(t, "failed")
		h := load.NewHistogram()
		for _, ns := range answered {
			if err := h.RecordValue(ns); err != nil {
				t.Fatal(err)
			}
		}
		l := withFailed(h, uint64(failed))
		all := slices.Concat(answered, slices.Repeat([]int64{FailedNs}, failed))
		slices.Sort(all)
		for _, q := range []struct {
			quantile float64
			got      int64
		}{{0.5, l.P50Ns}, {0.9, l.P90Ns}, {0.99, l.P99Ns}, {0.999, l.P999Ns}, {1, l.MaxNs}} {
			rank := min(max(int(q.quantile*float64(len(all))+0.5), 1), len(all))
			want := all[rank-1]
			if diff := q.got - want; diff < 0 || diff > want/1000 && q.got != FailedNs || (want == FailedNs) != (q.got == FailedNs) {
				t.Fatalf("quantile %v of %d and %d that failed is %d, want %d", q.quantile, len(answered), failed, q.got, want)
			}
		}
		if l.Count != uint64(len(answered)) || l.MeanNs > float64(time.Second)*1.001 {
			t.Fatalf("count and mean are not of what was answered: %+v", l)
		}
	})
	if l := withFailed(load.NewHistogram(), 7); l != (Latency{}) {
		t.Errorf("nothing answered: %+v", l)
	}
}

// givenUp makes a run of two variants at a rate, of which the second answers in a tenth
// of the time, and fails in as much of its operations as is said, by block.
func givenUp(share []float64) *Run {
	variants := []Variant{variant("v01", "attempt-timeout=0s", RoleMeasured, "", ""), variant("v02", "attempt-timeout=5ms", RoleMeasured, "v01", "")}
	variants[0].Baseline = true
	for i := range variants {
		variants[i].Config = map[string]string{"rate": "5000"}
	}
	random := rand.New(rand.NewPCG(21, 22))
	run := &Run{ID: "a", Complete: true, Variants: variants, Experiment: ExperimentInfo{
		Metric: MetricAuto, Margin: 0.05, Axes: []string{"attempt-timeout"}, AnswerBy: []string{},
	}}
	for block, failed := range share {
		for i, v := range variants {
			h := load.NewHistogram()
			const operations = 2000
			answered := operations - i*int(failed*operations)
			for range answered {
				if err := h.RecordValue(int64((1 + random.Float64()) * []float64{50e6, 5e6}[i])); err != nil {
					panic(err)
				}
			}
			t := Trial{
				Variant: v.ID, Block: block + 1, Kind: TrialMeasured, Viable: true, Valid: true,
				Operations: uint64(answered), Errors: uint64(operations - answered), OpsPerS: float64(answered),
			}
			t.Response = map[string]Latency{"all": withFailed(h, t.Errors)}
			run.Trials = append(run.Trials, t)
		}
	}
	return run
}

// TestGivingUpIsNoWin: who fails what is slow has the better percentiles of what it
// answers, and does not win by them.
func TestGivingUpIsNoWin(t *testing.T) {
	for _, tt := range []struct {
		name          string
		share         []float64
		verdict, gate string
		sentence      string
	}{
		{
			"nothing fails",
			[]float64{0, 0, 0, 0},
			"better", "better/passed",
			"attempt-timeout=5ms (p99 9.95ms) is the best of 2 with 95 % confidence (4 blocks).",
		},
		{
			"less than p99 leaves out",
			[]float64{0.005, 0.005, 0.005, 0.005},
			"better", "better/passed",
			"attempt-timeout=5ms (p99 9.98ms, 0.5 % failed) is the best of 2 with 95 % confidence (4 blocks).",
		},
		{
			"more",
			[]float64{0.02, 0.03, 0.02, 0.03},
			"worse", "worse/regression 5ms",
			"attempt-timeout=0s (p99 99.5ms) is the best of 2 with 95 % confidence (4 blocks). No p99 has attempt-timeout=5ms (2.5 % failed).",
		},
		{
			"in half the blocks",
			[]float64{0.02, 0, 0.02, 0},
			"inconclusive", "inconclusive/inconclusive",
			"2 of 2 cannot be told from the best with 95 % confidence (4 blocks): attempt-timeout=0s (p99 99.5ms) and attempt-timeout=5ms (p99 30s, 1.0 % failed).",
		},
	} {
		run := givenUp(tt.share)
		s := Summarize(run)
		if got := s.Variants[1].Verdict; got != tt.verdict {
			t.Errorf("%s: verdict %s, want %s; ratio %+v", tt.name, got, tt.verdict, s.Variants[1].Ratio)
		}
		if got := s.Answers[0].Sentence; got != tt.sentence {
			t.Errorf("%s: got  %s\nwant %s", tt.name, got, tt.sentence)
		}
		c, err := CompareAxis(run, CompareOptions{MaxRegression: 0.05, Metrics: []string{"p99-latency-ns"}})
		if err != nil {
			t.Fatal(err)
		}
		r := c.Rows[0]
		got := r.Verdict + "/" + string(r.Gate)
		if r.Problem != "" {
			got += " " + strings.TrimSuffix(r.Problem, ": more operations failed than p99 leaves out")
		}
		if got != tt.gate {
			t.Errorf("%s: compare says %s, want %s", tt.name, got, tt.gate)
		}
	}
}

// Two that both fail are not the same, though their figures are.
func TestBothFail(t *testing.T) {
	run := givenUp([]float64{0.05, 0.05, 0.05, 0.05})
	for i := range run.Trials {
		if tr := &run.Trials[i]; tr.Variant == "v01" {
			tr.failing(1000, 100)
		}
	}
	s := Summarize(run)
	if v := s.Variants[1]; v.Verdict != "inconclusive" || v.Ratio != (Estimate{}) {
		t.Errorf("verdict %s, ratio %+v", v.Verdict, v.Ratio)
	}
	const want = "2 of 2 cannot be told from the best with 95 % confidence (4 blocks): attempt-timeout=0s (no p99, 9.1 % failed) and attempt-timeout=5ms (no p99, 5.0 % failed)."
	if got := s.Answers[0].Sentence; got != want {
		t.Errorf("got %s", got)
	}
	c, err := CompareAxis(run, CompareOptions{MaxRegression: 0.05, Metrics: []string{"p99-latency-ns"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Rows[0]; r.Verdict != "inconclusive" || r.Gate != GateInconclusive || r.Problem != "more operations failed than p99 leaves out" {
		t.Errorf("compare: %+v", r)
	}
}
