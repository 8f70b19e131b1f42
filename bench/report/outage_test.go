package report

import (
	"strings"
	"testing"

	"raftlab/bench"
)

// failing is a run in whose windows the leader is killed; in one trial service
// was not back in time.
func failing() *Data {
	m := newMaker(3, bench.ExperimentInfo{
		Name: "failing", Question: "How long is there no service?", Axes: []string{"events"}, Metric: bench.MetricOutage,
		Margin: 0.05, Blocks: 4, MeasureS: 2,
	})
	m.variant(bench.RoleMeasured, 500, 4e5, "256", "events", "none")
	killed := m.variant(bench.RoleMeasured, 490, 5e5, "256", "events", "kill leader at 500ms")
	m.trials()
	for i := range m.run.Trials {
		t := &m.run.Trials[i]
		if t.Kind != bench.TrialMeasured {
			continue
		}
		t.OutageNs = 5e6
		if t.Variant != killed {
			continue
		}
		t.OutageNs = int64(t.Block) * 100e6
		if t.Block < 4 {
			t.RecoverNs = new(int64(t.Block-1) * 110e6)
		}
		t.Errors = uint64(t.Block)
		t.Events = []bench.Event{
			{OffsetS: 0.51, What: "node 2, the leader, was killed", Do: bench.DoKill, Node: 2, OutageNs: t.OutageNs, RecoverNs: t.RecoverNs},
		}
	}
	return &Data{Run: m.run, Summary: bench.Summarize(m.run)}
}

// What events did to service stands in every form of the report, beside how many
// trials the time to recover is not of.
func TestOutages(t *testing.T) {
	d := failing()
	text, md, page := render(t, d.Text), render(t, d.Markdown), render(t, d.HTML)
	for form, s := range map[string]string{"text": text, "md": md, "html": page} {
		for _, want := range []string{"no service", "recovered", "250 ms", "110 ms", "not in 1 of 4"} {
			if !strings.Contains(s, want) {
				t.Errorf("%s lacks %q:\n%s", form, want, s)
			}
		}
	}
	if !strings.Contains(text, "events=none (outage 5ms) is the best of 2") {
		t.Errorf("the answer is another:\n%s", text)
	}
	for _, want := range []string{
		"block 3: node 2, the leader, was killed at 0.51 s", `class="event"`,
		"Dashed upright lines, one a block: kill leader at 500ms, and what followed.",
		"2.5 a trial, 1 to 4", "<dt>recovered</dt>",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	csv := render(t, d.CSV)
	if !strings.Contains(csv, "outage_ns,outage_ns_lo,outage_ns_hi,recover_ns,recover_ns_lo,recover_ns_hi,errors_a_trial") || !strings.Contains(csv, "250000000,100000000,400000000,110000000") {
		t.Errorf("csv:\n%s", csv)
	}
}

// The best are listed with what decides.
func TestOutageHeadline(t *testing.T) {
	for metric, want := range map[string]string{bench.MetricOutage: "5 ms", bench.MetricRecover: "110 ms"} {
		d := failing()
		d.Run.Experiment.Metric = metric
		d.Summary = bench.Summarize(d.Run)
		a := d.answers()[0]
		if len(a.Best) != 1 || a.Best[0].Figure != want {
			t.Errorf("%s: the best are %+v, want one with %s", metric, a.Best, want)
		}
	}
}

// Runs without events are without these columns and words.
func TestNoOutages(t *testing.T) {
	d := failing()
	for i := range d.Run.Trials {
		d.Run.Trials[i].OutageNs, d.Run.Trials[i].RecoverNs, d.Run.Trials[i].Events = 0, nil, nil
	}
	d.Summary = bench.Summarize(d.Run)
	for _, s := range []string{render(t, d.Text), render(t, d.HTML)} {
		if strings.Contains(s, "no service") && strings.Contains(s, "recovered") {
			t.Error("columns of events without any")
		}
	}
}

// What was checked is said, and what was not.
func TestChecked(t *testing.T) {
	d := failing()
	if got := d.checked(); got != nil {
		t.Errorf("nothing was checked, yet it says %q", got)
	}
	for i := range d.Run.Trials {
		d.Run.Trials[i].AckedKeys, d.Run.Trials[i].VerifiedKeys = 1000, 1000
		d.Run.Trials[i].Histories = &bench.HistoryCheck{Keys: 64, Operations: 500, Unanswered: 3}
	}
	d.Run.Trials[0].VerifiedKeys, d.Run.Trials[0].Histories.Undecided = 600, 2
	d.Run.Trials[1].Restarted = []uint64{1, 2}
	last := &d.Run.Trials[len(d.Run.Trials)-1]
	last.VerifiedKeys, last.Unverified = 0, "no node answers"
	for form, s := range map[string]string{"text": render(t, d.Text), "md": render(t, d.Markdown), "html": render(t, d.HTML)} {
		for _, want := range []string{
			"8.6k of 10k, over 10 trials; in 1 of them there was no time for all; in 1 of them nodes that had been killed were started again for it, after the window",
			"UNVERIFIED: v02 in the profile block: what it acknowledged could not be read back: no node answers",
			"638 of a key each, with 5k operations, 30 of them without an answer; 2 more took too long and are undecided",
		} {
			if !strings.Contains(s, want) {
				t.Errorf("%s lacks %q", form, want)
			}
		}
	}
}
