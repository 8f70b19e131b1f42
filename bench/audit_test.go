package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"raftlab/bench/load"
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
	before := machineTime{total: 100, steal: 1, ok: true}
	if got := auditEnd(before, machineTime{total: 200, steal: 2, ok: true}); got != nil {
		t.Errorf("1 %% steal: %v", got)
	}
	if got := auditEnd(before, machineTime{total: 200, steal: 11, ok: true}); len(got) != 1 || !strings.Contains(got[0], "10.0 %") {
		t.Errorf("10 %% steal: %v", got)
	}
	if got := auditEnd(before, machineTime{}); got != nil {
		t.Errorf("unavailable: %v", got)
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

func TestSampleKeys(t *testing.T) {
	acked := make([]uint64, 100)
	for i := 0; i < 100; i += 2 {
		acked[i] = 5
	}
	if got := sampleKeys(acked, 60); len(got) != 50 || got[1] != 2 {
		t.Errorf("all: %v", got)
	}
	got := sampleKeys(acked, 10)
	if len(got) != 10 || !slices.IsSorted(got) || got[9] < 80 {
		t.Errorf("sample: %v", got)
	}
	for _, key := range got {
		if acked[key] == 0 {
			t.Errorf("key %d was not acknowledged", key)
		}
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
