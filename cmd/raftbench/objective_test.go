package main

import (
	"path/filepath"
	"strings"
	"testing"

	"raftlab/bench"
)

// TestObjective searches for real, for limits that any machine meets, or none does.
func TestObjective(t *testing.T) {
	for _, c := range []search{
		{"p50<1m", exitDone, bench.RateAbove, "p50 below 1m0s: It is met at "},
		{"p50<1ns", exitMissed, bench.RateMissed, "p50 below 1ns: It is missed already at 100 ops/s"},
	} {
		t.Run(c.objective, func(t *testing.T) {
			patiently(t, func(errorf errorf) { c.check(t, errorf) })
		})
	}
}

// search is an objective and what becomes of it.
type search struct {
	objective string
	code      int
	outcome   bench.RateOutcome
	want      string
}

func (c *search) check(t *testing.T, errorf errorf) {
	t.Helper()
	file := experimentFile(t, "name: x\nfixed: {topology: in-process, target: direct, keys: 100}\nvary: {clients: [4, 8]}\nbaseline: {clients: 4}\nmeasure: {warmup: 20ms, duration: 200ms, blocks: 5}\n")
	dir := filepath.Join(t.TempDir(), "run")
	code, out, stderr := cli(t.Context(), "run", file, "--out", dir, "--objective", c.objective, "--duration", "200ms", "--blocks", "8")
	if !strings.Contains(stderr, "looking for the highest rate with "+c.objective[:4]) || !strings.Contains(stderr, "2 variants, 18 trials, about ") {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	if code != c.code || !strings.Contains(out, c.want) {
		errorf("exit %d\n%s%s", code, out, stderr)
		return
	}
	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !run.Complete || len(run.Objective.Rates) != 2 || run.TrialsPlanned != run.TrialsCompleted || len(run.Trials) > 18 {
		t.Errorf("%+v, %d of %d trials", run.Objective, run.TrialsCompleted, run.TrialsPlanned)
	}
	for _, f := range run.Objective.Rates {
		if f.Outcome != c.outcome || f.ClosedLoop <= 0 {
			errorf("%+v", f)
		}
	}
	for i, trial := range run.Trials {
		if trial.Kind != bench.TrialSearch || (trial.Rate == 0) != (i < 2) || (trial.Met == nil) != (i < 2) || trial.VerifiedKeys == 0 {
			errorf("trial %d: %+v", i, trial)
		}
	}
	for _, format := range []string{"md", "html", "csv"} {
		if code, out, stderr := cli(t.Context(), "report", dir, "--format", format); code != 0 || format != "csv" && !strings.Contains(out, "closed loop") {
			t.Errorf("report as %s: exit %d, %s%s", format, code, out, stderr)
		}
	}
}

// TestKneeRuns: shares of a closed loop become rates before the first block.
func TestKneeRuns(t *testing.T) {
	patiently(t, func(errorf errorf) {
		run, _, out := ran(t, errorf, "name: x\nceiling: none\nfixed: {topology: in-process, target: direct, keys: 100, clients: 4}\nvary: {rate-share: [0.05, 0.1, 0.2, 0.4]}\nmeasure: {warmup: 20ms, duration: 400ms, blocks: 2, profile: 0s}\n")
		if run == nil {
			return
		}
		knees := bench.Summarize(run).Knees
		if len(knees) != 1 || len(knees[0].Points) != 4 || !strings.Contains(out, "nee") {
			errorf("%+v\n%s", knees, out)
			return
		}
		for i, p := range knees[0].Points {
			if factor := p.Rate / knees[0].Points[0].Rate; p.Rate <= 0 || factor < 0.98*float64(int(1)<<i) || factor > 1.02*float64(int(1)<<i) {
				t.Errorf("rate %d is %v", i+1, p.Rate)
			}
		}
	})
}

// TestKneeWithoutClosedLoop: a variant that cannot do its closed loop is told of,
// and the others are measured all the same.
func TestKneeWithoutClosedLoop(t *testing.T) {
	patiently(t, func(errorf errorf) {
		run, _, _ := ran(t, errorf, "name: x\nceiling: none\nfixed: {topology: in-process-grpc, target: unary, keys: 10, clients: 2, max-request: 64KiB}\nvary: {value-size: [1MiB, 16], rate-share: [0.3]}\nmeasure: {warmup: 20ms, duration: 500ms, blocks: 1, profile: 0s}\n")
		if run == nil {
			return
		}
		if len(run.Trials) != 2 {
			t.Fatalf("%d trials", len(run.Trials))
		}
		for _, trial := range run.Trials {
			cannot := trial.Variant == "v01"
			if trial.Viable == cannot || strings.HasPrefix(trial.Problem, "in a closed loop, of which its rate is a share: ") != cannot || (trial.Operations == 0) != cannot {
				errorf("%s: %+v", trial.Variant, trial)
			}
		}
	})
}

// TestKneeAgainstBaseline: what is compared is asked to do the same, so a variant's
// rates are shares of its baseline's closed loop, unless that has none.
func TestKneeAgainstBaseline(t *testing.T) {
	for _, tt := range []struct {
		fixed, vary, baseline string
		cannot                bool // the baseline cannot do its closed loop
	}{
		{"topology: in-process, target: direct", "clients: [1, 8]", "clients: 1", false},
		{"topology: in-process-grpc, target: unary, max-request: 64KiB", "value-size: [1MiB, 16]", "value-size: 1MiB", true},
	} {
		patiently(t, func(errorf errorf) {
			run, _, _ := ran(t, errorf, "name: x\nceiling: none\nfixed: {keys: 10, "+tt.fixed+"}\nvary: {"+tt.vary+", rate-share: [0.1, 0.2]}\nbaseline: {"+tt.baseline+
				"}\nmeasure: {warmup: 20ms, duration: 400ms, blocks: 1, profile: 0s}\n")
			if run == nil {
				return
			}
			rates := map[string]string{}
			for _, v := range run.Variants {
				rates[v.ID] = v.Config["rate"]
			}
			for _, v := range run.Variants {
				switch own := rates[v.ID]; {
				case v.Baseline && tt.cannot != (own == "0"), !v.Baseline && own == "0" && v.Role == bench.RoleMeasured:
					errorf("%s is driven at %s", v.Name, own)
				case v.Against != "" && !tt.cannot && own != rates[v.Against]:
					t.Errorf("%s is driven at %s, its baseline at %s", v.Name, own, rates[v.Against])
				}
			}
		})
	}
}
