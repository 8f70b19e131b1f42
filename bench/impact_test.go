package bench

import (
	"strings"
	"testing"
	"time"

	"raftlab/bench/load"
)

// openLoop makes the completions of a server that answers at once, but for times
// in which it stands still: operations due then are answered when it goes on.
func openLoop(window time.Duration, stalls ...[2]time.Duration) []load.Completion {
	var all []load.Completion
	for due := time.Duration(0); due < window; due += time.Millisecond {
		end := due + 200*time.Microsecond
		for _, s := range stalls {
			if end >= s[0] && end < s[1] {
				end = s[1]
			}
		}
		all = append(all, load.Completion{Due: due, End: end, Operations: 1})
	}
	return all
}

const ms = time.Millisecond

func TestImpact(t *testing.T) {
	event := func(at time.Duration, do string) Event { return Event{OffsetS: at.Seconds(), Do: do} }
	for name, c := range map[string]struct {
		stalls  [][2]time.Duration
		events  []Event
		outage  time.Duration
		recover time.Duration // -1: not in time
	}{
		"one outage": {
			stalls: [][2]time.Duration{{1000 * ms, 1500 * ms}}, events: []Event{event(1000*ms, DoKill)},
			outage: 500 * ms, recover: 500 * ms,
		},
		"nothing to notice": {events: []Event{event(1000*ms, DoKill)}, outage: ms, recover: 0},
		"what follows is no event": {
			stalls: [][2]time.Duration{{1000 * ms, 1500 * ms}},
			events: []Event{event(1000*ms, DoPause), event(1200*ms, "")},
			outage: 500 * ms, recover: 500 * ms,
		},
		"the worst of two": {
			stalls: [][2]time.Duration{{1000 * ms, 1100 * ms}, {3000 * ms, 3700 * ms}},
			events: []Event{event(1000*ms, DoKill), event(3000*ms, DoRestart)},
			outage: 700 * ms, recover: 700 * ms,
		},
		"not back before the next": {
			stalls: [][2]time.Duration{{1000 * ms, 1900 * ms}},
			events: []Event{event(1000*ms, DoKill), event(2000*ms, DoRestart)},
			outage: 900 * ms, recover: -1,
		},
		"not back in the window": {
			stalls: [][2]time.Duration{{1000 * ms, 6000 * ms}}, events: []Event{event(1000*ms, DoKill)},
			outage: 5000 * ms, recover: -1,
		},
		"too early to compare with": {events: []Event{event(100*ms, DoKill)}, outage: ms, recover: -1},
		// A stall before the event is not the event's.
		"before": {
			stalls: [][2]time.Duration{{200 * ms, 800 * ms}}, events: []Event{event(1000*ms, DoKill)},
			outage: ms, recover: 0,
		},
		"without events": {stalls: [][2]time.Duration{{200 * ms, 800 * ms}}, outage: 600 * ms, recover: -1},
	} {
		t.Run(name, func(t *testing.T) {
			trial := Trial{WindowS: 5, Events: c.events}
			measureImpact(&trial, openLoop(5*time.Second, c.stalls...))
			if got := time.Duration(trial.OutageNs); got < c.outage || got > c.outage+2*ms {
				t.Errorf("outage %v, want %v", got, c.outage)
			}
			switch {
			case c.recover < 0:
				if trial.RecoverNs != nil {
					t.Errorf("recovered in %v", time.Duration(*trial.RecoverNs))
				}
			case trial.RecoverNs == nil:
				t.Errorf("did not recover, want %v", c.recover)
			default:
				// The first span may begin a step late, and with 1 % of it still stalled.
				if got := time.Duration(*trial.RecoverNs); got < c.recover-2*RecoveryStep || got > c.recover+2*RecoveryStep {
					t.Errorf("recovered in %v, want %v", got, c.recover)
				}
			}
		})
	}
}

// A closed loop keeps no answers after its window: what is not over by then counts
// as far as the window's end.
func TestOutageToTheEnd(t *testing.T) {
	completions := openLoop(1200 * ms)
	for name, c := range map[string]struct {
		events []Event
		want   []time.Duration // by event
	}{
		"one event": {[]Event{{Do: DoKill, OffsetS: 1}}, []time.Duration{800 * ms}},
		"two":       {[]Event{{Do: DoKill, OffsetS: 1}, {Do: DoPause, OffsetS: 1.5}}, []time.Duration{300 * ms, 800 * ms}},
		"none":      {},
	} {
		trial := Trial{WindowS: 2, Events: c.events}
		measureImpact(&trial, completions)
		if got := time.Duration(trial.OutageNs); got < 799*ms || got > 801*ms {
			t.Errorf("%s: outage %v, want 800ms", name, got)
		}
		for i, want := range c.want {
			if got := time.Duration(trial.Events[i].OutageNs); got < want-ms || got > want+ms {
				t.Errorf("%s: outage of event %d %v, want %v", name, i+1, got, want)
			}
		}
	}
}

// Spans before the event in which nothing was due tell nothing of tails: a service
// that is slower for good after it has not recovered.
func TestRecoveryWithEmptySpans(t *testing.T) {
	var completions []load.Completion
	answer := func(from, to, after time.Duration) {
		for due := from; due < to; due += ms {
			completions = append(completions, load.Completion{Due: due, End: due + after, Operations: 1})
		}
	}
	answer(0, 300*ms, ms/5)
	answer(700*ms, 1000*ms, ms/5)
	answer(1000*ms, 2000*ms, 20*ms)
	trial := Trial{WindowS: 2, Events: []Event{{Do: DoSlow, OffsetS: 1}}}
	measureImpact(&trial, completions)
	if trial.RecoverNs != nil {
		t.Errorf("recovered in %v, with answers a hundred times as late as before", time.Duration(*trial.RecoverNs))
	}
}

// Blocks in which service did not come back are counted, and left out of the
// estimate alone.
func TestImpactSummary(t *testing.T) {
	run := &Run{Variants: []Variant{{ID: "v01", Role: RoleMeasured}}}
	for block := 1; block <= 5; block++ {
		trial := Trial{
			Variant: "v01", Block: block, Kind: TrialMeasured, Viable: true, Valid: true, Operations: 1, OpsPerS: 1, Errors: uint64(block),
			OutageNs: int64(block), Events: []Event{{Do: DoKill}},
		}
		if block < 5 {
			trial.RecoverNs = new(int64(block-1) * int64(10*ms))
		}
		run.Trials = append(run.Trials, trial)
	}
	v := Summarize(run).Variants[0]
	if v.OutageNs.Center != 3 || v.OutageNs.N != 5 || v.RecoverNs.Center != 15e6 || v.RecoverNs.N != 4 || v.Unrecovered != 1 || v.ErrorsATrial.Center != 3 {
		t.Errorf("got %+v", v)
	}
}

// To be back at once is the best there is: it takes the time that is told from none,
// and wins, in tables as for benchstat.
func TestRecoveredAtOnce(t *testing.T) {
	variants := []Variant{variant("v01", "events=kill", RoleMeasured, "", ""), variant("v02", "events=transfer", RoleMeasured, "v01", "")}
	variants[0].Baseline = true
	run := &Run{Variants: variants, Experiment: ExperimentInfo{Metric: MetricRecover, Axes: []string{"events"}, Margin: 0.05}}
	for block := 1; block <= 4; block++ {
		for i, recover := range []time.Duration{110 * ms, 0} {
			run.Trials = append(run.Trials, Trial{
				Variant: variants[i].ID, Block: block, Kind: TrialMeasured, Viable: true, Valid: true, Operations: 1, OpsPerS: 1,
				OutageNs: 1e6, Events: []Event{{Do: DoKill}}, RecoverNs: new(int64(recover)),
			})
		}
	}
	s := Summarize(run)
	const want = "events=transfer (recover 10ms) is the best of 2 with 95 % confidence (4 blocks)."
	if v := s.Variants[1]; v.Verdict != "better" || v.RecoverNs.Center != float64(10*ms) || s.Answers[0].Sentence != want {
		t.Errorf("verdict %s, %v, %s", v.Verdict, v.RecoverNs, s.Answers[0].Sentence)
	}
	var b strings.Builder
	if err := writeResults(&b, run); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), " 10000000 recover-ns"); n != 4 {
		t.Errorf("results.txt has %d trials with the resolution:\n%s", n, b.String())
	}
}

// A metric that no trial has is told, not guessed.
func TestAnswerWithoutFigures(t *testing.T) {
	run := &Run{Variants: []Variant{{ID: "v01", Role: RoleMeasured}}, Experiment: ExperimentInfo{Metric: MetricRecover}}
	run.Trials = []Trial{{Variant: "v01", Block: 1, Kind: TrialMeasured, Viable: true, Valid: true, Operations: 1, OpsPerS: 1}}
	if got := Summarize(run).Answers[0].Sentence; got != "No variant has a figure of recover-ns." {
		t.Errorf("got %q", got)
	}
}

// How late a generator may be is told by what decides.
func TestAuditOutage(t *testing.T) {
	if got := auditOutage(500*time.Microsecond, 6*ms); got != "" {
		t.Errorf("8 %%: %q", got)
	}
	if got := auditOutage(ms, 6*ms); got != "the generator fell behind its schedule: lag p99 1ms is more than 10 % of the time without service 6ms" {
		t.Errorf("17 %%: %q", got)
	}
}

// One variant with valid trials is no winner.
func TestOnlyOneWithTrials(t *testing.T) {
	run := &Run{
		Variants:   []Variant{{ID: "v01", Role: RoleMeasured, Params: map[string]string{"clients": "1"}}, {ID: "v02", Role: RoleMeasured}},
		Experiment: ExperimentInfo{Metric: MetricOutage, Axes: []string{"clients"}},
	}
	run.Trials = []Trial{
		{Variant: "v01", Block: 1, Kind: TrialMeasured, Viable: true, Valid: true, Operations: 1, OpsPerS: 1, OutageNs: 5e6},
		{Variant: "v02", Block: 1, Kind: TrialMeasured, Viable: true},
	}
	if got := Summarize(run).Answers[0].Sentence; got != "clients=1 (outage 5ms) is the only one of 2 with a valid trial." {
		t.Errorf("got %q", got)
	}
}
