package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseObjective(t *testing.T) {
	for text, want := range map[string]string{
		"p99<10ms": "p99<10ms", " p99.9 <= 1s": "p99.9<1s", "p50-latency-ns<500us": "p50<500µs", "max<1m": "max<1m0s",
	} {
		o, err := ParseObjective(text)
		if err != nil || o.String() != want {
			t.Errorf("%q: %v, %v", text, o, err)
		}
	}
	for text, want := range map[string]string{
		"":             `objective "" is not a latency, < and a duration, such as p99<10ms`,
		"p99":          `objective "p99" is not a latency, < and a duration, such as p99<10ms`,
		"p99>10ms":     `objective "p99>10ms" is not a latency, < and a duration, such as p99<10ms`,
		"p98<10ms":     `objective "p98<10ms" does not limit one of p50, p90, p99, p99.9 or max`,
		"p99<10":       `objective "p99<10" has a limit that is not a duration from 1ns to 1m, such as 10ms`,
		"p99<-1ms":     `objective "p99<-1ms" has a limit that is not a duration from 1ns to 1m, such as 10ms`,
		"p99<0s":       `objective "p99<0s" has a limit that is not a duration from 1ns to 1m, such as 10ms`,
		"p99<2m":       `objective "p99<2m" has a limit that is not a duration from 1ns to 1m, such as 10ms`,
		"ops/s>10000":  `objective "ops/s>10000" limits throughput, which is what is looked for; limit a latency, such as p99<10ms`,
		"ops/s < 1000": `objective "ops/s < 1000" limits throughput, which is what is looked for; limit a latency, such as p99<10ms`,
	} {
		if _, err := ParseObjective(text); err == nil || err.Error() != want || !errors.As(err, new(*UsageError)) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestPrepareObjective(t *testing.T) {
	e := parse(t, "name: x\nvary: {clients: [1, 2], rate: [100, 200]}\nbaseline: {clients: 1}\nmeasure: {duration: 500ms, blocks: 5}\n")
	o, err := ParseObjective("p99<10ms")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Prepare(e, false, false); err != nil {
		t.Fatal(err)
	}
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	// Neither rates of their own, nor a twin, nor ceilings; 1,000 operations for a p99.
	if got := matrixText(m); got != "axes clients\nv01 clients=1\nv02 clients=2\n" {
		t.Errorf("matrix\n%s", got)
	}
	if e.Measure.Duration != 2*time.Second || o.LowestRate != 500 || o.Rounds != 20 {
		t.Errorf("window %v, lowest rate %v, %d rounds", e.Measure.Duration, o.LowestRate, o.Rounds)
	}
	if trials, d := SearchBudget(m, e.Measure, o); trials != 42 || d < 100*time.Second || d > 150*time.Second {
		t.Errorf("%d trials, %v", trials, d)
	}
	e.Measure.Duration, e.Measure.Blocks = 500*time.Millisecond, 7
	o.Metric = "max-latency-ns"
	if err := o.Prepare(e, true, true); err != nil || e.Measure.Duration != 500*time.Millisecond || o.LowestRate != 20 || o.Rounds != 7 {
		t.Errorf("%v: window %v, lowest rate %v, %d rounds", err, e.Measure.Duration, o.LowestRate, o.Rounds)
	}
}

func TestObjectiveMet(t *testing.T) {
	o := &Objective{Metric: "p99-latency-ns", LimitNs: 10e6}
	good := func(change func(*Trial)) *Trial {
		trial := &Trial{
			WindowS: 2, Viable: true, Valid: true, Operations: 10000,
			Response: map[string]Latency{"all": {P99Ns: 9e6}}, Service: map[string]Latency{"all": {P99Ns: 8e6}},
		}
		change(trial)
		return trial
	}
	for _, tt := range []struct {
		name  string
		trial *Trial
		want  string
	}{
		{"below", good(func(*Trial) {}), "met"},
		{"at the limit", good(func(t *Trial) { t.Response["all"] = Latency{P99Ns: 10e6} }), "missed"},
		{"backlog", good(func(t *Trial) { t.Viable, t.Valid, t.Problem = false, false, "cannot follow" }), "missed"},
		{"half a percent failed", good(func(t *Trial) { t.failing(9950, 50) }), "met"},
		{"two percent failed", good(func(t *Trial) { t.failing(9800, 200) }), "missed"},
		{"two percent failed, and late", good(func(t *Trial) {
			t.failing(9800, 200)
			t.Valid, t.Late = false, true
		}), "missed"},
		{"late, yet below", good(func(t *Trial) { t.Valid, t.Late = false, true }), "met"},
		{"events failed", good(func(t *Trial) { t.Valid, t.Problem = false, "no leader to kill" }), "nothing: no leader to kill"},
		{"above, by lateness", good(func(t *Trial) { t.Valid, t.Late, t.Response["all"] = false, true, Latency{P99Ns: 20e6} }), "missed late"},
		{"above, and late", good(func(t *Trial) {
			t.Valid, t.Late, t.Response["all"], t.Service["all"] = false, true, Latency{P99Ns: 20e6}, Latency{P99Ns: 11e6}
		}), "missed"},
		{"did not start", &Trial{Viable: true, Problem: "no port"}, "nothing: no port"},
		{"lost writes", good(func(t *Trial) { t.Violations = []string{"key 1"} }), "nothing: acknowledged writes were lost"},
	} {
		met, err := o.met(tt.trial)
		got := map[bool]string{true: "met", false: "missed"}[met]
		switch {
		case err != nil:
			got = "nothing: " + err.Error()
		case !met && o.late(tt.trial):
			got += " late"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// simulated does a whole search of one variant whose latency is below the limit up
// to about capacity; late tells which trials the generator spoils.
func simulated(t *testing.T, capacity float64, closedLoop float64, late func(random *rand.Rand) bool) *Run {
	t.Helper()
	run := arms("a", map[string][]float64{"clients=1": nil})
	run.Experiment.MeasureS = 2
	run.Objective = &Objective{Metric: "p99-latency-ns", LimitNs: 10e6, LowestRate: 500, Rounds: 20, Precision: 0.05}
	random := rand.New(rand.NewPCG(9, 10))
	for {
		rate, more := pursue(run, "v01").next()
		if !more {
			run.Objective.Rates = foundRates(run)
			return run
		}
		trial := Trial{
			Variant: "v01", Kind: TrialSearch, Rate: rate, WindowS: 2, Viable: true, Valid: true, Operations: 1000, OpsPerS: closedLoop,
			Response: map[string]Latency{}, Service: map[string]Latency{},
		}
		p99 := 5e6 * 2 * (rate / capacity) * (rate / capacity) * (rate / capacity) * math.Exp(0.05*random.NormFloat64())
		trial.Response["all"], trial.Service["all"] = Latency{P99Ns: int64(p99)}, Latency{P99Ns: int64(p99)}
		if rate > 0 && late(random) {
			trial.Valid, trial.Late, trial.Problem = false, true, "late"
			trial.Response["all"] = Latency{P99Ns: 50e6}
		}
		run.Trials = append(run.Trials, trial)
		if len(run.Trials) > 30 {
			t.Fatal("the search does not end")
		}
	}
}

func TestRateSearch(t *testing.T) {
	never := func(*rand.Rand) bool { return false }
	for _, tt := range []struct {
		name                 string
		capacity, closedLoop float64
		late                 func(*rand.Rand) bool
		outcome              RateOutcome
		sentence             string
		err                  error
	}{
		{"found", 6000, 10000, never, RateIsFound, "It is met up to ", nil},
		{"missed", 100, 10000, never, RateMissed, "It is missed already at 500 ops/s, the lowest rate of which a window of 2s has operations enough (", ErrMissed},
		{"above all", 1e6, 10000, never, RateAbove, "It is met at 12,500 ops/s, the highest rate that was tried, above what a closed loop reached (10,000 ops/s, ", nil},
		{"always late", 6000, 10000, func(*rand.Rand) bool { return true }, RateInconclusive, "Nothing can be said: in ", ErrInconclusive},
		{"below the lowest rate already", 100, 300, never, RateMissed, "It is missed already at 500 ops/s", ErrMissed},
	} {
		run := simulated(t, tt.capacity, tt.closedLoop, tt.late)
		f := run.Objective.Rates[0]
		if f.Outcome != tt.outcome || !strings.HasPrefix(f.Sentence, tt.sentence) {
			t.Errorf("%s: %+v", tt.name, f)
		}
		if err := run.SearchError(); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.outcome == RateIsFound && (f.Rate.Lo > tt.capacity || f.Rate.Hi < tt.capacity || f.Rate.Hi/f.Rate.Lo > 1.2) {
			t.Errorf("%s: %+v", tt.name, f)
		}
		answers := Summarize(run).Answers
		if len(answers) != 1 || answers[0].Sentence != "p99 below 10ms: "+f.Sentence {
			t.Errorf("%s: answers %+v", tt.name, answers)
		}
	}
}

// TestRateSearchGivesUp on a variant that does not start, or does nothing.
func TestRateSearchGivesUp(t *testing.T) {
	run := arms("a", map[string][]float64{"clients=1": nil})
	run.Objective = &Objective{Metric: "p99-latency-ns", LimitNs: 10e6, LowestRate: 500, Rounds: 20, Precision: 0.05}
	tries := 0
	for ; ; tries++ {
		rate, more := pursue(run, "v01").next()
		if !more {
			break
		}
		if rate != 0 || tries > 10 {
			t.Fatalf("tries %v after %d", rate, tries)
		}
		run.Trials = append(run.Trials, Trial{Variant: "v01", Kind: TrialSearch, Problem: "message too large"})
	}
	f := foundRates(run)[0]
	if tries != mostVoid || f.Outcome != RateFailed || f.Sentence != "It cannot do the work: message too large." {
		t.Errorf("%d tries, %+v", tries, f)
	}
	run.Objective.Rates = []RateFound{{Outcome: RateMissed}, f}
	if err := run.SearchError(); !errors.Is(err, ErrFailed) {
		t.Errorf("ends with %v", err)
	}
}

func TestRoundRate(t *testing.T) {
	for rate, want := range map[float64]float64{1234.5: 1230, 0.012345: 0.0123, 12.345: 12.3, 99950: 100000, 500: 500} {
		if got := roundRate(rate); got != want {
			t.Errorf("%v: %v, want %v", rate, got, want)
		}
	}
}

// knees of variants whose latency is that of a queue: it doubles at half of
// capacity, where throughput for latency is most.
func TestKnee(t *testing.T) {
	const capacity = 10000.0
	var variants []Variant
	rates := []float64{0.1, 0.3, 0.5, 0.7, 0.9, 1.1}
	for i, share := range rates {
		v := variant(fmt.Sprintf("v%02d", i+1), fmt.Sprintf("clients=4/rate-share=%v", share), RoleMeasured, "", "")
		v.Config = map[string]string{"rate": fmt.Sprint(share * capacity)}
		variants = append(variants, v)
	}
	run := synthetic(nil, variants, nil)
	run.Experiment.Axes = []string{"clients", "rate-share"}
	random := rand.New(rand.NewPCG(11, 12))
	for block := 1; block <= 6; block++ {
		for i, share := range rates {
			trial := Trial{Variant: variants[i].ID, Block: block, Kind: TrialMeasured, Viable: share < 1, Valid: share < 1}
			if trial.Viable {
				mean := 1e6 / (1 - share) * math.Exp(0.02*random.NormFloat64())
				// What was due in the window was a twentieth less than the rate, as exponential
				// gaps may have it, and all of it was answered.
				trial.WindowS, trial.Operations, trial.OpsPerS = 1, uint64(0.95*share*capacity), 0.95*share*capacity
				trial.Response = map[string]Latency{"all": {MeanNs: mean, P50Ns: int64(0.7 * mean), P99Ns: int64(4 * mean)}}
			}
			run.Trials = append(run.Trials, trial)
		}
	}
	s := Summarize(run)
	if len(s.Knees) != 1 {
		t.Fatalf("%d knees", len(s.Knees))
	}
	k := s.Knees[0]
	if k.Rate.Center != 5000 || k.Rate.N != 6 || k.Followed != 9000 || len(k.Points) != 6 || k.Points[5].Viable || k.Where["clients"] != "4" || len(k.Where) != 1 {
		t.Errorf("%+v", k)
	}
	for _, want := range []string{"The knee is at 5,000 ops/s (5,000 to 5,000 with 97 % confidence, 6 blocks)", "ms at 1,000 ops/s; at 11,000 ops/s the backlog grows without end."} {
		if len(s.Answers) != 1 || s.Answers[0].Sentence != k.Sentence || !strings.Contains(k.Sentence, want) {
			t.Errorf("%q lacks %q", k.Sentence, want)
		}
	}
	// A late generator adds to response times: those trials count, and are told of.
	for i := range run.Trials {
		if trial := &run.Trials[i]; trial.Variant == "v02" {
			trial.Valid, trial.Late = false, true
		}
	}
	if k = Summarize(run).Knees[0]; k.Rate.N != 6 || k.Late != 6 || !strings.HasSuffix(k.Sentence, " In 6 trials the generator was late: it is the knee of servers and generator together.") {
		t.Errorf("%+v", k)
	}
	for i := range run.Trials {
		run.Trials[i].Valid, run.Trials[i].Late = run.Trials[i].Viable, false
	}
	// A rate without a valid trial is said; too few rates have no knee.
	for i := range run.Trials {
		if run.Trials[i].Variant == "v01" {
			run.Trials[i].Valid = false
		}
	}
	if k = Summarize(run).Knees[0]; !strings.HasSuffix(k.Sentence, " 1 of 6 rates have no valid trial and are left out.") {
		t.Errorf("%q", k.Sentence)
	}
	run.Variants = run.Variants[:3]
	run.Trials = slices.DeleteFunc(run.Trials, func(t Trial) bool { return t.Variant > "v03" })
	if s = Summarize(run); len(s.Knees) != 0 {
		t.Errorf("of three rates: %+v", s.Knees)
	}
}

// TestKneeByBlock leaves out blocks that lack a rate.
func TestKneeByBlock(t *testing.T) {
	nan := math.NaN()
	power := [][]float64{{1, 5, 1, 1}, {2, 2, nan, 2}, {1, 1, 9, 3, 9}, {1, 1, 9, 1}}
	if got := kneeByBlock([]float64{10, 20, 30, 40}, power); !slices.Equal(got, []float64{20, 10, 30}) {
		t.Errorf("%v", got)
	}
}
