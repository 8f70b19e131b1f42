package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"raftlab/bench/load"
	"raftlab/bench/stats"
)

// windowOf makes a recording of a closed loop, or an open one with a rate, whose
// intervals did so many operations, and took as many microseconds each.
func windowOf(rate float64, operations ...uint64) *load.Recording {
	r := &load.Recording{Config: load.Config{Rate: rate, Interval: 100 * time.Millisecond}}
	for _, n := range operations {
		r.Intervals = append(r.Intervals, load.Interval{Length: 100 * time.Millisecond, Operations: n, P50: time.Duration(n) * time.Microsecond})
	}
	return r
}

func TestJudgeSteady(t *testing.T) {
	level := []uint64{500, 502, 499, 501, 500, 498, 501, 500, 500, 502}
	falling := []uint64{600, 590, 575, 565, 550, 540, 525, 515, 505, 490}
	short := windowOf(0, level...)
	short.Intervals = append(short.Intervals, load.Interval{Length: 20 * time.Millisecond, Operations: 1}, load.Interval{Length: time.Second, Drain: true})
	for _, c := range []struct {
		name   string
		rec    *load.Recording
		events []Event
		want   stats.Steadiness
		why    string
	}{
		{"level", windowOf(0, level...), nil, stats.Steady, "throughput drifted by +0 % (-1 to +1 %) over the window: less than 20 % for sure"},
		{"falling", windowOf(0, falling...), nil, stats.Unsteady, "throughput drifted by -23 %"},
		{"open, rising latency", windowOf(100, slices.Sorted(slices.Values(falling))...), nil, stats.Unsteady, "median latency drifted by +23 %"},
		{"open, level", windowOf(100, level...), nil, stats.Steady, "median latency"},
		{"a cut interval and the drain", short, nil, stats.Steady, "less than 20 %"},
		{"few", windowOf(0, level[:5]...), nil, stats.Unsure, "not judged: 5 intervals are too few, at least 8 are needed"},
		{"wild", windowOf(0, 100, 900, 300, 700, 100, 800, 200, 900, 400, 100), nil, stats.Unsure, "too noisy to tell"},
		{"idle", windowOf(0, 0, 0, 0, 0, 0, 0, 0, 9, 0), nil, stats.Unsure, "not judged: most intervals are empty"},
		{"join", windowOf(0, falling...), []Event{{What: "a node joined"}}, stats.Unsure, "not judged: something was done to the cluster"},
	} {
		trial := Trial{Events: c.events, Valid: true}
		trial.judgeSteady(c.rec)
		if trial.Steady != string(c.want) || !strings.Contains(trial.SteadyWhy, c.why) {
			t.Errorf("%s: %s, %q; want %s, %q", c.name, trial.Steady, trial.SteadyWhy, c.want, c.why)
		}
		if warned := trial.Warning == notSteady; warned != (c.want == stats.Unsteady) || !trial.Valid {
			t.Errorf("%s: warning %q, valid %v", c.name, trial.Warning, trial.Valid)
		}
	}
}

func TestAuditSteady(t *testing.T) {
	trials := []Trial{{Steady: "true"}, {Steady: "false"}, {Steady: "unknown"}, {Steady: "unknown"}, {}, {Steady: "false"}}
	got := auditSteady(trials)
	if len(got) != 1 || !strings.HasPrefix(got[0], "2 of 5 trials were not in a steady state, and of 2 it is not known") {
		t.Errorf("%q", got)
	}
	if got := auditSteady(trials[2:5]); got != nil {
		t.Errorf("none drifted: %q", got)
	}
}

func TestIntervalIsBounded(t *testing.T) {
	for window, want := range map[time.Duration]time.Duration{
		50 * time.Millisecond: 50 * time.Millisecond,
		2 * time.Second:       200 * time.Millisecond,
		time.Minute:           time.Second,
		10 * time.Minute:      time.Second,
		time.Hour:             6 * time.Second,
	} {
		if got := (Measure{Duration: window}).interval(); got != want {
			t.Errorf("%v: every %v, want %v", window, got, want)
		}
	}
}
