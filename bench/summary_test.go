package bench

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// synthetic makes a run whose variants have these throughputs, a value a block.
func synthetic(answerBy []string, variants []Variant, ops map[string][]float64) *Run {
	run := &Run{
		Schema: Schema, Variants: variants,
		Experiment: ExperimentInfo{Name: "synthetic", Metric: "ops/s", Margin: 0.02, AnswerBy: answerBy, Blocks: 5},
	}
	for _, v := range variants {
		for _, key := range slices.Sorted(maps.Keys(v.Params)) {
			if !slices.Contains(run.Experiment.Axes, key) {
				run.Experiment.Axes = append(run.Experiment.Axes, key)
			}
		}
	}
	for _, v := range variants {
		for i, x := range ops[v.ID] {
			t := Trial{Variant: v.ID, Block: i + 1, Kind: TrialMeasured, Viable: true, Valid: true}
			if math.IsNaN(x) {
				t.Valid, t.Problem = false, "broken"
			} else {
				t.Operations, t.OpsPerS = uint64(x), x
				t.Response = map[string]Latency{"all": {P50Ns: int64(1e9 / x), P99Ns: int64(2e9 / x)}}
			}
			run.Trials = append(run.Trials, t)
		}
	}
	return run
}

func variant(id, name, role, against, ceiling string) Variant {
	v := Variant{ID: id, Name: name, Role: role, Against: against, Params: map[string]string{}}
	if ceiling != "" {
		v.Ceilings = strings.Split(ceiling, ",")
	}
	for part := range strings.SplitSeq(name, "/") {
		if key, value, ok := strings.Cut(part, "="); ok {
			v.Params[key] = value
		}
	}
	return v
}

func TestSummarize(t *testing.T) {
	variants := []Variant{
		variant("v01", "chunking=raft", RoleMeasured, "", "v05"),
		variant("v02", "chunking=fragment", RoleMeasured, "v01", "v05,v07"),
		variant("v03", "chunking=bounded", RoleMeasured, "v01", "v05"),
		variant("v04", "chunking=none", RoleMeasured, "v01", "v05"),
		variant("v05", "target=wire", RoleCeiling, "", ""),
		variant("v06", "chunking=raft/arm=aa", RoleAA, "v01", "v05"),
		variant("v07", "target=relay", RoleCeiling, "", ""),
	}
	variants[0].Baseline = true
	run := synthetic(nil, variants, map[string][]float64{
		"v01": {100, 101, 99, 100, 100},
		"v02": {200, 203, 198, 200, 201},
		"v03": {201, 202, 199, 201, 200},
		"v05": {400, 404, 396, 400, 400},
		"v06": {101, 100, 100, 99, 100},
		"v07": {250, 250, 250, 250, 250},
	})
	run.Trials = append(run.Trials,
		Trial{Variant: "v04", Block: 1, Kind: TrialMeasured, Viable: false, Problem: "message too large"},
		// Profile trials count for nothing.
		Trial{Variant: "v01", Block: 0, Kind: TrialProfile, Viable: true, Valid: true, Operations: 1, OpsPerS: 1},
	)
	s := Summarize(run)
	by := map[string]VariantSummary{}
	for _, v := range s.Variants {
		by[v.Variant.ID] = v
	}
	if v := by["v01"]; v.OpsPerS.Center != 100 || v.Trials != 5 || v.OpsPerS.Lo != 99 || v.OpsPerS.Hi != 101 || v.Verdict != "" {
		t.Errorf("baseline: %+v", v)
	}
	if v := by["v02"]; v.Verdict != "better" || math.Abs(v.Ratio.Center-2) > 0.02 ||
		len(v.Ceilings) != 2 || v.Ceilings[0].Target != TargetWire || v.Ceilings[1].Variant != "v07" ||
		math.Abs(v.Ceilings[0].Fraction.Center-0.5) > 0.005 || v.Ceilings[0].OpsPerS != 400 || v.Ceilings[1].Fraction.Center != 0.8 {
		t.Errorf("twice as fast: %+v", v)
	}
	if v := by["v06"]; v.Verdict != "same" {
		t.Errorf("A/A: %+v", v)
	}
	if v := by["v04"]; v.Viable || v.Problem != "message too large" || v.Trials != 0 || v.Verdict != "" {
		t.Errorf("not viable: %+v", v)
	}
	if len(s.Answers) != 1 {
		t.Fatalf("%d answers", len(s.Answers))
	}
	a := s.Answers[0]
	slices.Sort(a.Best)
	if !slices.Equal(a.Best, []string{"v02", "v03"}) || a.Confidence != 0.95 {
		t.Errorf("best are %v with %v", a.Best, a.Confidence)
	}
	const want = "2 of 3 cannot be told from the best with 95 % confidence (5 blocks): chunking=bounded (201 ops/s) and chunking=fragment (200 ops/s)."
	if a.Sentence != want {
		t.Errorf("sentence %q, want %q", a.Sentence, want)
	}
}

func TestSummarizeAnswersByCell(t *testing.T) {
	var variants []Variant
	ops := map[string][]float64{}
	for i, c := range []struct {
		link, chunk string
		base        float64
	}{{"0", "a", 100}, {"0", "b", 300}, {"200MB/s", "a", 90}, {"200MB/s", "b", 30}} {
		v := variant(fmt.Sprintf("v%02d", i+1), "link-rate="+c.link+"/chunking="+c.chunk, RoleMeasured, "", "")
		v.Params = map[string]string{"link-rate": c.link, "chunking": c.chunk}
		variants = append(variants, v)
		ops[v.ID] = []float64{c.base, c.base * 1.01, c.base * 0.99, c.base}
	}
	s := Summarize(synthetic([]string{"link-rate"}, variants, ops))
	if len(s.Answers) != 2 {
		t.Fatalf("%d answers", len(s.Answers))
	}
	for i, want := range []struct{ link, best, sentence string }{
		{"0", "v02", "chunking=b (300 ops/s) is the best of 2 with 95 % confidence (4 blocks)."},
		{"200MB/s", "v03", "chunking=a (90.0 ops/s) is the best of 2 with 95 % confidence (4 blocks)."},
	} {
		a := s.Answers[i]
		if a.Where["link-rate"] != want.link || !slices.Equal(a.Best, []string{want.best}) || a.Sentence != want.sentence {
			t.Errorf("got %+v, want %+v", a, want)
		}
	}
}

// TestNoiseOfTheBaseline: an A/A arm stands for its baseline wherever that is
// compared with, also in the cells of other answers; for baselines without one stands
// that of their answer, and else the widest.
func TestNoiseOfTheBaseline(t *testing.T) {
	// Each is a tenth better than its baseline, which only a quiet machine can tell.
	faster := []float64{1100, 1102, 1098, 1101, 1099}
	steady := []float64{1000, 1002, 998, 1001, 999}
	shaky := []float64{1000, 1250, 850, 1100, 950}
	level := map[string][]float64{
		"v01": steady, "v02": steady, "v03": faster, "v04": faster, "v05": steady, "v06": faster, "v07": steady, "v08": faster,
	}
	variants := []Variant{
		variant("v01", "target=unary/clients=1", RoleMeasured, "", ""), variant("v02", "target=unary/clients=4", RoleMeasured, "", ""),
		variant("v03", "target=pipeline/clients=1", RoleMeasured, "v01", ""), variant("v04", "target=pipeline/clients=4", RoleMeasured, "v02", ""),
		variant("v05", "target=direct/clients=1", RoleMeasured, "", ""), variant("v06", "target=coalesce/clients=1", RoleMeasured, "v05", ""),
		variant("v07", "target=bare/clients=1", RoleMeasured, "", ""), variant("v08", "target=relay/clients=1", RoleMeasured, "v07", ""),
		variant("v09", "target=unary/clients=1/arm=aa", RoleAA, "v01", ""), variant("v10", "target=direct/clients=1/arm=aa", RoleAA, "v05", ""),
	}
	for _, i := range []int{0, 1, 4, 6} {
		variants[i].Baseline = true
	}
	for _, tt := range []struct {
		name          string
		unary, direct []float64 // the arms
		want          string    // verdicts of v03, v04, v06 and v08
	}{
		{"both quiet", steady, steady, "better better better better"},
		{"that of unary shakes", shaky, steady, "same same better same"},
		{"that of direct shakes", steady, shaky, "better better same same"},
		// An arm without an interval says nothing.
		{"that of direct has too few blocks", steady, shaky[:3], "better better better better"},
		{"that of unary has too few blocks", shaky[:3], steady, "better better better better"},
		{"neither has enough blocks", shaky[:3], shaky[:3], "better better better better"},
	} {
		ops := maps.Clone(level)
		ops["v09"], ops["v10"] = tt.unary, tt.direct
		run := synthetic([]string{"target"}, variants, ops)
		var got []string
		for _, v := range Summarize(run).Variants {
			if v.Variant.Against != "" && v.Variant.Role == RoleMeasured {
				got = append(got, v.Verdict)
			}
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
		c, err := CompareAxis(run, CompareOptions{Axis: "clients", MaxRegression: 0.05})
		if err != nil {
			t.Fatal(err)
		}
		wide := tt.name == "that of unary shakes"
		for _, row := range c.Rows { // both of unary, whose arm is that of clients=1
			if (row.Margin > 0.05) != wide {
				t.Errorf("%s: %s has margin %v", tt.name, row.Variant, row.Margin)
			}
		}
	}
}

func TestSummarizeTooFewBlocks(t *testing.T) {
	variants := []Variant{variant("v01", "clients=1", RoleMeasured, "", ""), variant("v02", "clients=2", RoleMeasured, "v01", "")}
	variants[0].Baseline = true
	nan := math.NaN()
	s := Summarize(synthetic(nil, variants, map[string][]float64{"v01": {100, 100, 100, nan}, "v02": {12345, 12345, 12345, 12345}}))
	a := s.Answers[0]
	if a.Confidence != 0 || !strings.HasPrefix(a.Sentence, "clients=2 (12,345 ops/s) has the best median of 2; 3 valid blocks are too few") {
		t.Errorf("got %+v", a)
	}
	if v := s.Variants[1]; v.Verdict != "inconclusive" {
		t.Errorf("verdict %q of three blocks", v.Verdict)
	}
}

func TestSummarizeLatency(t *testing.T) {
	variants := []Variant{variant("v01", "clients=1", RoleMeasured, "", ""), variant("v02", "clients=2", RoleMeasured, "v01", "")}
	variants[0].Baseline = true
	run := synthetic(nil, variants, map[string][]float64{"v01": {100, 101, 99, 100}, "v02": {200, 203, 198, 200}})
	run.Experiment.Metric = "p99-latency-ns"
	s := Summarize(run)
	if v := s.Variants[1]; v.Verdict != "better" || v.Ratio.Center > 0.51 {
		t.Errorf("half the latency: %+v", v)
	}
	if a := s.Answers[0]; !slices.Equal(a.Best, []string{"v02"}) || !strings.HasPrefix(a.Sentence, "clients=2 (p99 10ms) is the best") {
		t.Errorf("got %+v", a)
	}
}

// A run that is cut short, or has nothing at all, is summarised all the same.
func TestSummarizeEmpty(t *testing.T) {
	if s := Summarize(&Run{}); len(s.Variants) != 0 || len(s.Answers) != 0 {
		t.Errorf("nothing: %+v", s)
	}
	s := Summarize(synthetic(nil, []Variant{variant("v01", "default", RoleMeasured, "", "")}, nil))
	if len(s.Answers) != 1 || s.Answers[0].Sentence != "No variant has a valid trial." {
		t.Errorf("no trial: %+v", s.Answers)
	}
}

// TestSummarizeOpenLoop: where operations are sent by a clock p99 decides, unless
// the experiment says otherwise.
func TestSummarizeOpenLoop(t *testing.T) {
	for _, tt := range []struct {
		metric, rates string
		by            []string
		want          []string // metric and best by answer
	}{
		{MetricAuto, "500 0", []string{"rate"}, []string{"p99-latency-ns v02", "ops/s v03"}},
		{MetricAuto, "500 500", []string{"rate"}, []string{"p99-latency-ns v02"}},
		{MetricAuto, "500 0", nil, []string{"ops/s v01"}},
		{"ops/s", "500 0", []string{"rate"}, []string{"ops/s v01", "ops/s v03"}},
	} {
		var variants []Variant
		for i, rate := range strings.Fields(tt.rates) {
			for _, arm := range []string{"a", "b"} {
				v := variant(fmt.Sprintf("v%02d", len(variants)+1), fmt.Sprintf("rate=%s/arm=%s%d", rate, arm, i), RoleMeasured, "", "")
				v.Config = map[string]string{"rate": rate}
				variants = append(variants, v)
			}
		}
		run := synthetic(tt.by, variants, map[string][]float64{
			"v01": {500, 500, 500, 500}, "v02": {490, 490, 490, 490}, "v03": {450, 451, 449, 450}, "v04": {200, 201, 199, 200},
		})
		run.Experiment.Metric = tt.metric
		for i := range run.Trials {
			// The second of each pair is the quicker one.
			tr := &run.Trials[i]
			l := tr.Response["all"]
			l.P99Ns = map[string]int64{"v01": 8e6, "v02": 4e6, "v03": 8e6, "v04": 5e6}[tr.Variant] + int64(tr.Block)
			tr.Response["all"] = l
		}
		var got []string
		for _, a := range Summarize(run).Answers {
			got = append(got, a.Metric+" "+strings.Join(a.Best, " "))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tt, diff)
		}
	}
}

func TestSummarizeJudgement(t *testing.T) {
	var variants []Variant
	ops := map[string][]float64{}
	add := func(delay, arm string, level float64) {
		id := fmt.Sprintf("v%02d", len(variants)+1)
		v := variant(id, "link-delay="+delay+"/linger="+arm, RoleMeasured, "", "")
		v.Adaptive = arm == "auto"
		variants = append(variants, v)
		ops[id] = []float64{level, 1.001 * level, 0.999 * level, level, 1.002 * level}
	}
	for _, c := range []struct {
		delay           string
		auto, one, five float64
	}{{"0s", 990, 1000, 500}, {"1ms", 80, 50, 100}, {"2ms", 50, 100, 98}} {
		add(c.delay, "auto", c.auto)
		add(c.delay, "1ms", c.one)
		add(c.delay, "5ms", c.five)
	}
	run := synthetic([]string{"link-delay"}, variants, ops)
	run.Experiment.Axes = []string{"link-delay", "linger"}
	run.Experiment.Judge = &JudgeInfo{
		Adaptive: map[string]string{"linger": "auto"},
		Within:   []Tolerance{{"ops/s", 0.05}, {"p99-latency-ns", 0.1}}, Spread: 0.15,
	}
	var got []string
	for _, j := range Summarize(run).Judgements {
		got = append(got, fmt.Sprintf("%s %s %s best %s worst %s: %s", j.Where["link-delay"], j.Metric, j.Variant, j.Best, j.Worst, j.Verdict), j.Sentence)
	}
	want := []string{
		"0s ops/s v01 best v02 worst v03: within",
		"ops/s: within: linger=auto (990 ops/s) is at -1.0 % (-1.0 % to -1.0 %) against the best of 2 fixed, linger=1ms (1,000 ops/s); the limit is 5 %, fixed ones differ by 100 %.",
		"0s p99-latency-ns v01 best v02 worst v03: within",
		"p99: within: linger=auto (p99 2.02ms) is at +1.0 % (+1.0 % to +1.0 %) against the best of 2 fixed, linger=1ms (p99 2ms); the limit is 10 %, fixed ones differ by 100 %.",
		"1ms ops/s v04 best v06 worst v05: beyond",
		"ops/s: beyond: linger=auto (80.0 ops/s) is at -20.0 % (-20.0 % to -20.0 %) against the best of 2 fixed, linger=5ms (100 ops/s); the limit is 5 %, fixed ones differ by 100 %.",
		"1ms p99-latency-ns v04 best v06 worst v05: beyond",
		"p99: beyond: linger=auto (p99 25ms) is at +25.0 % (+25.0 % to +25.0 %) against the best of 2 fixed, linger=5ms (p99 20ms); the limit is 10 %, fixed ones differ by 100 %.",
		"2ms ops/s v07 best v08 worst v09: ",
		"ops/s: not judged, the fixed variants differ by 2 % only.",
		"2ms p99-latency-ns v07 best v08 worst v09: ",
		"p99: not judged, the fixed variants differ by 2 % only.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("judgements (-want +got):\n%s", diff)
	}
}

// What cannot do the work is the worst choice there is, and so is an adaptive one.
func TestSummarizeJudgementOfWhatCannot(t *testing.T) {
	for _, tt := range []struct {
		cannot, verdict, worst, sentence string
	}{
		{"v03", "within", "v03", "ops/s: within: linger=auto (100 ops/s) is at +0.0 % (+0.0 % to +0.0 %) against the best of 2 fixed, linger=1ms (100 ops/s); the limit is 5 %, of the fixed ones v03 cannot do the work."},
		{"v01", "beyond", "v02", "ops/s: beyond: linger=auto (0.0 ops/s) cannot do the work against the best of 2 fixed, linger=1ms (100 ops/s); the limit is 5 %, fixed ones differ by 0 %."},
		{"v02 v03", "", "", "ops/s: no fixed variant has valid trials."},
	} {
		variants := []Variant{
			variant("v01", "linger=auto", RoleMeasured, "", ""), variant("v02", "linger=1ms", RoleMeasured, "", ""),
			variant("v03", "linger=5ms", RoleMeasured, "", ""),
		}
		variants[0].Adaptive = true
		level := []float64{100, 100, 100, 100}
		run := synthetic(nil, variants, map[string][]float64{"v01": level, "v02": level, "v03": level})
		for i := range run.Trials {
			if tr := &run.Trials[i]; strings.Contains(tt.cannot, tr.Variant) {
				tr.Viable, tr.Valid, tr.Problem = false, false, "too slow"
			}
		}
		run.Experiment.Judge = &JudgeInfo{Adaptive: map[string]string{"linger": "auto"}, Within: []Tolerance{{"ops/s", 0.05}}, Spread: 0.15}
		j := Summarize(run).Judgements
		if len(j) != 1 || j[0].Verdict != tt.verdict || j[0].Worst != tt.worst || j[0].Sentence != tt.sentence {
			t.Errorf("%s cannot: %+v", tt.cannot, j)
		}
	}
}
