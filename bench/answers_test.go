package bench

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"raftlab/bench/stats"
)

// made is a run of an experiment whose variants all have their own level, with a noise
// of 1 % from block to block.
func made(t *testing.T, e *Experiment, seed uint64) *Run {
	t.Helper()
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	run := &Run{Experiment: ExperimentInfo{
		Name: e.Name, Question: e.Question, Axes: m.Axes, AnswerBy: e.AnswerBy, Metric: e.Metric, Judge: e.Judge.info(), Margin: e.Margin, Blocks: e.Measure.Blocks,
	}}
	random := rand.New(rand.NewPCG(seed, 1))
	for _, p := range m.Variants {
		v := p.Variant
		v.Config = maps.Clone(v.Config)
		if share := p.Settings.Load.RateShare; share > 0 {
			v.Config["rate"] = fmt.Sprint(10000 * share)
		}
		run.Variants = append(run.Variants, v)
		level := 1000 + 1000*random.Float64()
		for block := 1; block <= e.Measure.Blocks; block++ {
			x := level * math.Exp(0.01*random.NormFloat64())
			ns := int64(1e12 / x)
			trial := Trial{
				Variant: v.ID, Block: block, Kind: TrialMeasured, Viable: true, Valid: true, Operations: uint64(x), OpsPerS: x,
				BytesPerS: x * float64(p.Settings.Load.ValueSize.Most()), OutageNs: ns,
				Response: map[string]Latency{"all": {MeanNs: float64(ns), P50Ns: ns, P90Ns: 2 * ns, P99Ns: 3 * ns, P999Ns: 4 * ns, MaxNs: 5 * ns}},
			}
			if slice := p.Settings.Load.StagesSlice.Seconds(); slice > 0 {
				for i := range 8 {
					on := i%2 == 0
					trial.Slices = append(trial.Slices, Slice{
						OffsetS: float64(i) * slice, LengthS: 0.75 * slice, Stages: on,
						Operations: uint64(1e6 * math.Exp(0.01*random.NormFloat64()) * map[bool]float64{true: 0.9, false: 1}[on]),
					})
				}
			}
			run.Trials = append(run.Trials, trial)
		}
	}
	return run
}

// TestExperimentsAnswer: each embedded experiment has a question; whatever its figures
// are, each answer has its confidence, and what is compared with a baseline is judged by
// what this machine can tell.
func TestExperimentsAnswer(t *testing.T) {
	for i, name := range Names() {
		e, err := LoadExperiment(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(e.Question, "?") {
			t.Errorf("%s asks %q", name, e.Question)
		}
		run := made(t, e, uint64(i))
		s := Summarize(run)
		if len(s.Answers) == 0 {
			t.Errorf("%s has no answer", name)
		}
		for _, a := range s.Answers {
			if !strings.Contains(a.Sentence, "confidence") {
				t.Errorf("%s answers %v without confidence or interval: %s", name, a.Where, a.Sentence)
			}
		}
		summarizer := newSummarizer(run)
		for j := range run.Variants {
			v := &run.Variants[j]
			if v.Role == RoleMeasured && v.Against != "" && !summarizer.noise(v, summarizer.metric(v), stats.PairedRatio).HasInterval() {
				t.Errorf("%s judges %s without an A/A arm", name, v.Name)
			}
		}
	}
}

// What single experiments answer.
func TestAnswersToTheQuestion(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*Experiment) error
		answers int
		want    string
	}{
		// The level of bytes a second is that of the size: the largest wins.
		{"value-size", nil, 1, "value-size=16MiB clients=2 keys=4 ("},
		{"value-size", nil, 1, " MB/s, "},
		{"stages", nil, 3, "Measuring stages costs "},
		{"stages", nil, 3, " % of throughput ("},
		{"stages", nil, 3, " % with 95 % confidence, 16 pairs of slices)."},
		// Some slices are no question of their own.
		{"codec", func(e *Experiment) error {
			e.Arms = []Arm{{{Key: "stages-slice", Values: []string{"0s", "50ms"}}}}
			return nil
		}, 3, " the best "},
		// A cell with one variant has its interval.
		{"codec", func(e *Experiment) error { return e.Set("codec", "append") }, 3, " ops/s with 88 % confidence (4 blocks)."},
	} {
		e, err := LoadExperiment(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if tt.change != nil {
			if err := tt.change(e); err != nil {
				t.Fatal(err)
			}
		}
		answers := Summarize(made(t, e, 3)).Answers
		if len(answers) != tt.answers {
			t.Errorf("%s: %d answers, want %d", tt.name, len(answers), tt.answers)
		}
		for _, a := range answers {
			if !strings.Contains(a.Sentence, tt.want) {
				t.Errorf("%s answers %q, without %q", tt.name, a.Sentence, tt.want)
			}
		}
	}
}

// What measuring stages costs is told from nothing only where the slices do.
func TestDescribeCost(t *testing.T) {
	for _, tt := range []struct {
		onOff Estimate
		want  string
	}{
		{Estimate{Center: 0.98, Lo: 0.97, Hi: 0.99, Confidence: 0.95, N: 160}, "Measuring stages costs 2.0 % of throughput (1.0 to 3.0 % with 95 % confidence, 160 pairs of slices)."},
		{Estimate{Center: 0.998, Lo: 0.993, Hi: 1.003, Confidence: 0.95, N: 160}, "Measuring stages costs no more than 0.7 % of throughput, if anything (-0.3 to 0.7 % with 95 % confidence, 160 pairs of slices)."},
		{Estimate{Center: 0.98, N: 3}, "Measuring stages costs 2.0 % of throughput (3 pairs of slices, too few for an interval)."},
	} {
		if got := describeCost(tt.onOff); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
