package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// arms makes a run with one variant a name, each with these throughputs.
func arms(id string, ops map[string][]float64) *Run {
	var variants []Variant
	byID := map[string][]float64{}
	names := make([]string, 0, len(ops))
	for name := range ops {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		v := variant(fmt.Sprintf("v%02d", i+1), name, RoleMeasured, "", "")
		v.Config = map[string]string{"value-size": "256"}
		variants = append(variants, v)
		byID[v.ID] = ops[name]
	}
	run := synthetic(nil, variants, byID)
	run.ID, run.Complete = id, true
	return run
}

func scaled(f float64, v []float64) []float64 {
	var out []float64
	for _, x := range v {
		out = append(out, f*x)
	}
	return out
}

var (
	quiet = []float64{1000, 1002, 998, 1001, 999, 1000}
	noisy = []float64{1000, 1300, 800, 1100, 900, 1050}
)

// aaArm adds an A/A arm of the first variant, with these throughputs.
func aaArm(run *Run, ops []float64) *Run {
	aa := run.Variants[0]
	aa.ID, aa.Role, aa.Against = "v99", RoleAA, run.Variants[0].ID
	extra := synthetic(nil, []Variant{aa}, map[string][]float64{"v99": ops})
	run.Variants, run.Trials = append(run.Variants, aa), append(run.Trials, extra.Trials...)
	return run
}

func TestCompareRuns(t *testing.T) {
	stuck := arms("b", map[string][]float64{"clients=1": quiet})
	stuck.Trials = []Trial{{Variant: "v01", Block: 1, Kind: TrialMeasured, Problem: "too large"}}
	for _, tt := range []struct {
		name string
		a, b *Run
		most float64
		want string // verdict and gate of each row, then the gate
	}{
		{"the same", arms("a", map[string][]float64{"clients=1": quiet}), arms("b", map[string][]float64{"clients=1": quiet}), 0.05, "same/passed passed"},
		{"a tenth slower", arms("a", map[string][]float64{"clients=1": quiet}), arms("b", map[string][]float64{"clients=1": scaled(0.9, quiet)}), 0.05, "worse/regression regression"},
		{"a tenth faster", arms("a", map[string][]float64{"clients=1": quiet}), arms("b", map[string][]float64{"clients=1": scaled(1.1, quiet)}), 0.05, "better/passed passed"},
		{"a tenth slower, which is allowed", arms("a", map[string][]float64{"clients=1": quiet}), arms("b", map[string][]float64{"clients=1": scaled(0.9, quiet)}), 0.2, "same/passed passed"},
		{"too noisy", arms("a", map[string][]float64{"clients=1": noisy}), arms("b", map[string][]float64{"clients=1": noisy}), 0.05, "inconclusive/inconclusive inconclusive"},
		{"too few", arms("a", map[string][]float64{"clients=1": quiet[:3]}), arms("b", map[string][]float64{"clients=1": quiet}), 0.05, "inconclusive/inconclusive inconclusive"},
		{"cannot any more", arms("a", map[string][]float64{"clients=1": quiet}), stuck, 0.05, "worse/regression regression"},
		{"can now", stuck, arms("b", map[string][]float64{"clients=1": quiet}), 0.05, "better/passed passed"},
		{"never could", stuck, stuck, 0.05, "same/passed passed"},
		{
			"one of two", arms("a", map[string][]float64{"clients=1": quiet, "clients=2": noisy}),
			arms("b", map[string][]float64{"clients=1": scaled(0.9, quiet), "clients=2": noisy}),
			0.05, "worse/regression inconclusive/inconclusive regression",
		},
		{
			// The A/A arm of either run says that a tenth is nothing here: no regression,
			// but neither is 5 % ruled out.
			"the machine cannot tell", arms("a", map[string][]float64{"clients=1": quiet}),
			aaArm(arms("b", map[string][]float64{"clients=1": scaled(0.9, quiet)}), noisy), 0.05, "same/inconclusive inconclusive",
		},
	} {
		c, err := CompareRuns(tt.a, tt.b, CompareOptions{MaxRegression: tt.most})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, r := range c.Rows {
			got = append(got, r.Verdict+"/"+string(r.Gate))
		}
		if s := strings.Join(append(got, string(c.Gate)), " "); s != tt.want {
			t.Errorf("%s: %s, want %s; %+v", tt.name, s, tt.want, c.Rows)
		}
		if c.OnlyA == nil || c.OnlyB == nil {
			t.Errorf("%s: no lists of what is in one only", tt.name)
		}
		if c.Paired || c.Axis != "" {
			t.Errorf("%s: two runs are said to be paired: %+v", tt.name, c)
		}
	}
}

// A build that lost a write in one block is a regression, as good as its others are,
// and wherever in the run it was.
func TestCompareViolations(t *testing.T) {
	figures := map[string][]float64{"clients=1": quiet, "clients=2": quiet}
	for name, kind := range map[string]string{"measured": TrialMeasured, "profile": TrialProfile} {
		b := arms("b", figures)
		b.Trials = append(b.Trials, Trial{Variant: "v02", Kind: kind, Block: 7, Violations: []string{"key 7 has mod revision 1, acknowledged was 2"}})
		c, err := CompareRuns(arms("a", figures), b, CompareOptions{MaxRegression: 0.05})
		if err != nil {
			t.Fatal(err)
		}
		if c.Gate != GateRegression || len(c.Violations) != 1 || c.Rows[0].Gate != GatePassed {
			t.Errorf("%s: gate %s, %q", name, c.Gate, c.Violations)
		}
		// What A did wrong is no fault of B, but is said.
		if c, err = CompareRuns(b, arms("a", figures), CompareOptions{MaxRegression: 0.05}); err != nil {
			t.Fatal(err)
		}
		if want := "the first run has 1 violations: what clients were told does not hold"; c.Gate != GatePassed || len(c.Violations) > 0 || !slices.Contains(c.Warnings, want) {
			t.Errorf("%s in A: gate %s, %q, warnings %q", name, c.Gate, c.Violations, c.Warnings)
		}
		for variant, want := range map[string]Gate{"v01": GatePassed, "v02": GateRegression} {
			b.Trials[len(b.Trials)-1].Variant = variant
			if c, err = CompareAxis(b, CompareOptions{MaxRegression: 0.05}); err != nil {
				t.Fatal(err)
			}
			if c.Gate != want {
				t.Errorf("%s in one run, of %s: gate %s", name, variant, c.Gate)
			}
		}
	}
}

// TestCompareIsSimultaneous: the more is compared, the surer each has to be.
func TestCompareIsSimultaneous(t *testing.T) {
	many := map[string][]float64{}
	for i := range 20 {
		many[fmt.Sprintf("clients=%d", i)] = quiet
	}
	one, err := CompareRuns(arms("a", map[string][]float64{"clients=1": quiet}), arms("b", map[string][]float64{"clients=1": quiet}), CompareOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := CompareRuns(arms("a", many), arms("b", many), CompareOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := one.Rows[0].Ratio, all.Rows[0].Ratio; a.Confidence != 0.95 || b.Confidence < 0.997 || b.Hi <= a.Hi || len(all.Rows) != 20 {
		t.Errorf("alone %+v, among twenty %+v", a, b)
	}
}

func TestCompareRunsSaysWhatDiffers(t *testing.T) {
	a := arms("a", map[string][]float64{"clients=1": quiet, "clients=2": quiet, "clients=4": quiet})
	b := arms("b", map[string][]float64{"clients=1": quiet, "clients=2": quiet, "clients=8": quiet})
	a.Environment.Cores, b.Environment.Cores = 2, 8
	b.Complete, b.TrialsPlanned, b.TrialsCompleted = false, 20, 18
	a.Warnings = []string{"the machine is busy"}
	for i := range b.Variants {
		b.Variants[i].Config = map[string]string{"value-size": "1MiB", "news": "1"}
	}
	c, err := CompareRuns(a, b, CompareOptions{Metrics: []string{"ops/s", "p99-latency-ns"}, MaxRegression: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rows) != 4 || c.Rows[1].Metric != "p99-latency-ns" || c.Rows[1].A.Center != 2e9/1000 {
		t.Errorf("rows %+v", c.Rows)
	}
	if diff := cmp.Diff([]string{"clients=4"}, c.OnlyA) + cmp.Diff([]string{"clients=8"}, c.OnlyB); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"cores differs: 2 and 8", "the first run: the machine is busy", "the second run is incomplete: 18 of 20 trials",
		"value-size differs in 2 of 2 variants: 256 and 1MiB",
	}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestCompareFaults(t *testing.T) {
	a := arms("a", map[string][]float64{"clients=1": quiet})
	other := arms("b", map[string][]float64{"clients=2": quiet})
	latency := arms("c", map[string][]float64{"clients=1": quiet})
	latency.Experiment.Metric = "p99-latency-ns"
	two := arms("d", map[string][]float64{"clients=1/chunking=raft": quiet, "clients=2/chunking=none": quiet})
	search := arms("e", map[string][]float64{"clients=1": quiet})
	search.Objective = &Objective{}
	const noBlocks = "run e is a search for a rate (--objective), without blocks to compare; its report has the rates with their intervals"
	for _, tt := range []struct {
		a, b *Run
		axis string
		want string
	}{
		{a, other, "", "runs a (synthetic) and b (synthetic) have no variant in common"},
		{a, latency, "", "clients=1 is decided by ops/s on one side and by p99-latency-ns on the other; name one with --metric"},
		{a, nil, "", "run a has no axis with two values: there is nothing to compare within it"},
		{two, nil, "", "run d varies chunking, clients: name the one to compare with --by, or a second run"},
		{two, nil, "rate", "rate does not vary in run d; what does is chunking, clients"},
		{search, a, "", noBlocks},
		{a, search, "", noBlocks},
		{search, nil, "", noBlocks},
		{two, nil, "clients", "run d has no two variants that differ in clients only"},
	} {
		var err error
		if tt.b != nil {
			_, err = CompareRuns(tt.a, tt.b, CompareOptions{})
		} else {
			_, err = CompareAxis(tt.a, CompareOptions{Axis: tt.axis})
		}
		if err == nil || err.Error() != tt.want || !errors.As(err, new(*UsageError)) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

// TestCompareAxis: within a run the comparison is paired, so that a machine that is
// slow for a block is slow for both.
func TestCompareAxis(t *testing.T) {
	run := arms("a", map[string][]float64{
		"clients=1/server-bin=new": scaled(0.9, noisy), "clients=1/server-bin=old": noisy,
		"clients=2/server-bin=new": noisy, "clients=2/server-bin=old": noisy,
		"clients=3/server-bin=new": noisy, "clients=4": noisy, "clients=5/server-bin=old": noisy,
	})
	// The first value that the run has is what the other is compared with.
	slices.SortStableFunc(run.Variants, func(a, b Variant) int { return strings.Compare(b.Params["server-bin"], a.Params["server-bin"]) })
	c, err := CompareAxis(run, CompareOptions{MaxRegression: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Rows {
		got = append(got, fmt.Sprintf("%s %s/%s %s %.2f", r.Variant, r.SideA, r.SideB, r.Verdict, r.Ratio.Center))
	}
	want := []string{"clients=1 old/new worse 0.90", "clients=2 old/new same 1.00"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !c.Paired || c.Axis != "server-bin" || c.Gate != GateRegression {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(c.OnlyA, []string{"clients=5/server-bin=old"}) || !slices.Equal(c.OnlyB, []string{"clients=3/server-bin=new"}) {
		t.Errorf("only in one: %q, %q", c.OnlyA, c.OnlyB)
	}
}

// TestCompareDifferentRates: of sides that were not asked to do the same nothing is
// said, unless one could not do the closed loop that its rate is a share of.
func TestCompareDifferentRates(t *testing.T) {
	for _, tt := range []struct {
		name       string
		rates      [2]string
		axis       string
		fail       bool // the second cannot do the work
		want, says string
	}{
		{"the same", [2]string{"500", "500"}, "server-bin", false, "worse/regression", ""},
		{"closed loops", [2]string{"0", "0"}, "server-bin", false, "worse/regression", ""},
		{
			"driven harder",
			[2]string{"500", "5000"},
			"server-bin", false, "inconclusive/inconclusive",
			"they were not asked to do the same: 500 operations a second on one side, 5,000 operations a second on the other",
		},
		{
			"driven too hard",
			[2]string{"500", "5000"},
			"server-bin", true, "inconclusive/inconclusive",
			"they were not asked to do the same: 500 operations a second on one side, 5,000 operations a second on the other",
		},
		{
			"by a clock and not",
			[2]string{"0", "500"},
			"server-bin", false, "inconclusive/inconclusive",
			"they were not asked to do the same: a closed loop on one side, 500 operations a second on the other",
		},
		{"no closed loop", [2]string{"500", "0 of 0.5"}, "server-bin", true, "worse/regression", "b cannot do the work: too slow"},
		{"by the rate", [2]string{"500", "5000"}, "rate", false, "worse/regression", ""},
	} {
		run := arms("a", map[string][]float64{tt.axis + "=a": quiet, tt.axis + "=b": scaled(0.5, quiet)})
		for i, rate := range tt.rates {
			rate, share, _ := strings.Cut(rate, " of ")
			run.Variants[i].Config = map[string]string{"rate": rate, "rate-share": share}
		}
		for i := range run.Trials {
			if tr := &run.Trials[i]; tt.fail && tr.Variant == "v02" {
				tr.Viable, tr.Valid, tr.Problem = false, false, "too slow"
			}
		}
		c, err := CompareAxis(run, CompareOptions{MaxRegression: 0.05, Metrics: []string{"p99-latency-ns"}})
		if err != nil {
			t.Fatal(err)
		}
		r := c.Rows[0]
		if got := r.Verdict + "/" + string(r.Gate); got != tt.want || r.Problem != tt.says || c.Gate != r.Gate {
			t.Errorf("%s: %s with %q, want %s with %q", tt.name, got, r.Problem, tt.want, tt.says)
		}
	}
}
