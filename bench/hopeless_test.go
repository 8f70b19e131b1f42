package bench

import (
	"strings"
	"testing"
)

// outcomes makes trials of a variant, a letter a block: v is valid, i invalid, x
// could not do the work.
func outcomes(variant, letters string) []Trial {
	var trials []Trial
	for i, letter := range letters {
		trials = append(trials, Trial{
			Variant: variant, Block: i + 1, Kind: TrialMeasured, Viable: letter != 'x', Valid: letter == 'v',
			Problem: map[rune]string{'i': "late", 'x': "too slow"}[letter], Operations: 1000, OpsPerS: 1000,
			Response: map[string]Latency{"all": {MeanNs: 1}},
		})
	}
	return trials
}

// One block in which it could not does not condemn a variant, nor do many apart.
func TestFitness(t *testing.T) {
	for letters, want := range map[string]struct{ hopeless, able bool }{
		"": {false, true}, "v": {false, true}, "i": {false, true}, "vxvxv": {false, true}, "xv": {false, true}, "vx": {false, true},
		"x": {false, false}, "xx": {true, false}, "vvxx": {true, false}, "xxv": {true, false}, "xixix": {false, true},
	} {
		var f fitness
		for _, trial := range outcomes("v01", letters) {
			f.observe(&trial)
		}
		if f.hopeless != want.hopeless || f.able() != want.able || !f.able() && f.problem != "too slow" {
			t.Errorf("%q: hopeless %v, able %v: %q", letters, f.hopeless, f.able(), f.problem)
		}
	}
}

// What a variant did in the blocks in which it could stands, in summaries and
// comparisons, and the other blocks are told of.
func TestOneBadBlock(t *testing.T) {
	run := arms("a", map[string][]float64{"clients=1": quiet, "clients=2": quiet})
	bad := &run.Trials[2]
	bad.Viable, bad.Valid, bad.Problem = false, false, "1 operations had no answer"
	s := Summarize(run).Variants[0]
	if !s.Viable || s.Trials != len(quiet)-1 || s.OpsPerS.N != len(quiet)-1 || s.OpsPerS.Center != 1000 {
		t.Errorf("%+v", s)
	}
	invalid := run.Invalid()
	if len(invalid) != 1 || invalid[0] != bad {
		t.Errorf("%d invalid trials", len(invalid))
	}
	if got := strings.Join(auditTrials(run), "\n"); !strings.Contains(got, "1 trials are invalid and left out") {
		t.Errorf("warnings %q", got)
	}
	c, err := CompareRuns(arms("b", map[string][]float64{"clients=1": quiet}), run, CompareOptions{MaxRegression: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	if c.Gate != GatePassed || c.Rows[0].Problem != "" {
		t.Errorf("gate %s: %+v", c.Gate, c.Rows)
	}

	// Of one that is given up nothing more is tried; what it did before is kept.
	next := &run.Trials[3]
	next.Viable, next.Valid, next.Problem = false, false, "no operation was acknowledged"
	if s = Summarize(run).Variants[0]; s.Viable || s.Problem != next.Problem || s.Trials != len(quiet)-2 || s.OpsPerS.Center == 0 {
		t.Errorf("%+v", s)
	}
	if n := len(run.Invalid()); n != 0 {
		t.Errorf("%d invalid trials of a variant that cannot", n)
	}
}

// A rate that is not followed in a block is not the knee there, and takes nothing
// from the others.
func TestKneeWithABadBlock(t *testing.T) {
	var variants []Variant
	var trials []Trial
	for i, rate := range []string{"100", "200", "300", "400"} {
		v := variant("v0"+string(rune('1'+i)), "rate="+rate, RoleMeasured, "", "")
		v.Config = map[string]string{"rate": rate}
		variants = append(variants, v)
		trials = append(trials, outcomes(v.ID, "vvvvvv")...)
	}
	run := synthetic(nil, variants, nil)
	run.Trials = trials
	for i := range run.Trials {
		trial := &run.Trials[i]
		trial.Response["all"] = Latency{MeanNs: map[string]float64{"v01": 4, "v02": 3, "v03": 2, "v04": 1}[trial.Variant]}
		if trial.Variant == "v04" && trial.Block%2 == 0 {
			trial.Viable, trial.Valid = false, false
		}
	}
	if k := Summarize(run).Knees[0]; k.Rate.N != 6 || k.Rate.Center != 350 {
		t.Errorf("%+v", k)
	}
}
