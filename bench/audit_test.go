package bench

import (
	"bytes"
	"math"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"raftlab/bench/load"
	"raftlab/bench/stats"
)

func TestAuditStart(t *testing.T) {
	quiet := Environment{Cores: 2, Load1: "0.10", Dirty: "false"}
	for name, c := range map[string]struct {
		change func(e *Environment)
		blocks int
		want   string
	}{
		"all well":     {func(*Environment) {}, 4, ""},
		"busy":         {func(e *Environment) { e.Load1 = "1.20" }, 4, "the machine is busy: load average 1.20 on 2 cores"},
		"no load1":     {func(e *Environment) { e.Load1 = Unavailable }, 4, ""},
		"dirty":        {func(e *Environment) { e.Dirty = "true" }, 4, "uncommitted changes"},
		"unknown tree": {func(e *Environment) { e.Dirty = "unknown" }, 4, ""},
		"race":         {func(e *Environment) { e.Race = true }, 4, "race detector"},
		"few blocks":   {func(*Environment) {}, 3, "3 blocks are too few"},
	} {
		e := quiet
		c.change(&e)
		got := strings.Join(auditStart(&e, c.blocks), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestAuditEnd(t *testing.T) {
	before := machineTime{total: 100, steal: 1, programs: 50, own: 10, ok: true}
	for name, c := range map[string]struct {
		after    machineTime
		external bool
		want     string
	}{
		"all well":          {machineTime{total: 200, steal: 2, programs: 140, own: 95, ok: true}, false, ""},
		"steal":             {machineTime{total: 200, steal: 11, programs: 140, own: 95, ok: true}, false, "10.0 %"},
		"busy":              {machineTime{total: 200, steal: 1, programs: 140, own: 60, ok: true}, false, "the machine was busy: other programs used 40 % of the CPU time"},
		"external":          {machineTime{total: 200, steal: 1, programs: 140, own: 60, ok: true}, true, ""},
		"unavailable":       {machineTime{}, false, ""},
		"no time gone by":   {before, false, ""},
		"more own than all": {machineTime{total: 200, steal: 1, programs: 140, own: 110, ok: true}, false, ""}, // clocks of different grain
	} {
		got := strings.Join(auditEnd(before, c.after, c.external), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestMachineTimeSeesOthers: what a child uses is its own while it runs, and ours
// once it has ended.
func TestMachineTimeSeesOthers(t *testing.T) {
	before := readMachineTime()
	if !before.ok {
		t.Skip("no /proc/stat here")
	}
	child := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	after := readMachineTime()
	used := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	if got := after.own - before.own; got < used.Seconds() {
		t.Errorf("%v s are ours, the child alone used %v", got, used)
	}
	if after.programs <= before.programs || after.total < after.programs {
		t.Errorf("from %+v to %+v", before, after)
	}
}

func TestAuditAA(t *testing.T) {
	arm := func(role string, lo, hi, confidence float64) VariantSummary {
		return VariantSummary{
			Variant: Variant{ID: "v07", Against: "v01", Role: role},
			Ratio:   Estimate{Center: (lo + hi) / 2, Lo: lo, Hi: hi, Confidence: confidence, N: 5},
		}
	}
	for name, c := range map[string]struct {
		arm  VariantSummary
		want string
	}{
		"alike":         {arm(RoleAA, 0.98, 1.03, 0.95), ""},
		"slower":        {arm(RoleAA, 0.91, 0.95, 0.95), "v07 is v01 measured a second time, and they differ by ×0.930 (0.910 to 0.950, 95 % confidence)"},
		"faster":        {arm(RoleAA, 1.01, 1.03, 0.95), "×1.020"},
		"too few":       {arm(RoleAA, 0, 0, 0), ""},
		"no A/A at all": {arm(RoleMeasured, 1.5, 1.6, 0.95), ""},
	} {
		got := strings.Join(auditAA([]VariantSummary{c.arm}), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestAuditTrials: a run says at its end what its trials have in common.
func TestAuditTrials(t *testing.T) {
	run := synthetic(nil, []Variant{variant("v01", "a=1", RoleMeasured, "", ""), variant("v02", "a=1/arm=aa", RoleAA, "v01", "")}, map[string][]float64{
		"v01": {100, 101, 99, 100, 100}, "v02": {120, 121, 119, 120, math.NaN()},
	})
	run.Trials[0].warn("a leader was elected in the window")
	run.Trials[1].Steady = string(stats.Unsteady)
	got := auditTrials(run)
	for i, want := range []string{"1 trials are invalid", "1 trials have a warning", "1 of 1 trials were not in a steady state", "the A/A arm failed: v02 is v01"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestAuditGC(t *testing.T) {
	if got := auditGC(0.24, 1); got != "" {
		t.Errorf("24 %%: %q", got)
	}
	if got := auditGC(0.6, 2); !strings.HasPrefix(got, "the generator's garbage collector took 30 % of its CPU time") {
		t.Errorf("30 %%: %q", got)
	}
	if got := auditGC(0, 0); got != "" {
		t.Errorf("nothing: %q", got)
	}
	before := gcTime()
	runtime.GC()
	if after := gcTime(); after <= before {
		t.Errorf("a collection took from %v to %v s", before, after)
	}
}

func TestAuditLag(t *testing.T) {
	if got := auditLag(time.Millisecond, 10*time.Millisecond, 5*time.Millisecond); got != "" {
		t.Errorf("a tenth: %q", got)
	}
	if got := auditLag(1100*time.Microsecond, 10*time.Millisecond, 9*time.Millisecond); got != "" {
		t.Errorf("at most a tenth of the tail: %q", got)
	}
	if got := auditLag(1100*time.Microsecond, 10*time.Millisecond, 8900*time.Microsecond); !strings.Contains(got, "lag p99 1.1ms is more than 10 %") {
		t.Errorf("more than a tenth: %q", got)
	}
}

func TestAuditGenerator(t *testing.T) {
	if got := auditGenerator(0.9, 1, 2); got != "" {
		t.Errorf("45 %%: %q", got)
	}
	if got := auditGenerator(1.1, 1, 2); got != "the generator used 55 % of all CPU time" {
		t.Errorf("55 %%: %q", got)
	}
}

func TestLive(t *testing.T) {
	var b bytes.Buffer
	l := NewLive(&b)
	l.Show(Progress{Trial: 1})
	l.Clear()
	if b.Len() > 0 {
		t.Errorf("not a terminal, yet it shows %q", b.String())
	}

	now := time.Unix(0, 0)
	l.on, l.now = true, func() time.Time { return now }
	p := Progress{Trial: 3, Trials: 9, Left: 61 * time.Second, Variant: &Variant{Name: "clients=1"}, Kind: TrialMeasured}
	p.Interval = load.Interval{Length: 500 * time.Millisecond, Operations: 1000, P50: 123456, P99: 2 * time.Millisecond}
	now = now.Add(time.Hour)
	l.Show(p)
	want := "\r\x1b[Ktrial 3 of 9, 1m1s left  2000 ops/s  p50 123µs  p99 2ms  errors 0  clients=1"
	if got := b.String(); !strings.HasPrefix(want, got) || len(got) < 60 {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	b.Reset()
	now = now.Add(900 * time.Millisecond)
	l.Show(p)
	if b.Len() > 0 {
		t.Errorf("a second line within a second: %q", b.String())
	}
	l.Clear()
	if b.String() != "\r\x1b[K" {
		t.Errorf("cleared with %q", b.String())
	}
}
