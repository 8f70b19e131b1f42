package bench

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// execute runs an experiment without a program around it.
func execute(t *testing.T, source string, change func(*Options)) *Run {
	t.Helper()
	e := parse(t, source)
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := CreateFolder(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Experiment: e, Matrix: m, Folder: folder, ID: "test", Seed: 1}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run, err := Execute(ctx, o)
	if err := errors.Join(err, folder.Close()); err != nil {
		t.Fatal(err)
	}
	return run
}

// An outage that outlives the window is what a plan was to show: the trial has
// figures, with what had no answer among the failed, though nobody is left to read
// back from. The window goes on for longer than a machine stands still.
func TestOutageBeyondTheWindow(t *testing.T) {
	run := execute(t, "name: x\nceiling: none\nmetric: outage-ns\n"+
		"fixed: {keys: 10, clients: 8, rate: 200, events: kill 1 at 2500ms; kill 2 at 2500ms}\nmeasure: {warmup: 0s, duration: 5s, blocks: 1, profile: 0s}\n", nil)
	trial := &run.Trials[0]
	if !trial.Viable || !trial.Valid || trial.Problem != "" {
		t.Errorf("viable %v, valid %v: %s", trial.Viable, trial.Valid, trial.Problem)
	}
	// From the last answer on, which comes late when killing takes long.
	least := time.Duration(0)
	for _, p := range trial.Series {
		if least += 500 * time.Millisecond; p.Operations > 0 || p.OffsetS >= trial.WindowS {
			least = -500 * time.Millisecond // points are cut to the millisecond or so
		}
	}
	if d := time.Duration(trial.OutageNs); d < least || d <= 0 || d > 5*time.Second || trial.RecoverNs != nil {
		t.Errorf("outage %v, at least %v are expected; recovered in %v", d, least, trial.RecoverNs)
	}
	if trial.Unanswered == 0 || trial.Failed() < trial.Unanswered || !strings.Contains(trial.Warning, "had no answer 2s after the window") {
		t.Errorf("%d operations without an answer, %d failed: %q", trial.Unanswered, trial.Failed(), trial.Warning)
	}
	if trial.AckedKeys == 0 || trial.VerifiedKeys != 0 || trial.Unverified != "1 of 3 nodes are left, no majority" {
		t.Errorf("%d of %d keys read back: %q", trial.VerifiedKeys, trial.AckedKeys, trial.Unverified)
	}
	v := Summarize(run).Variants[0]
	if !v.Viable || v.OutageNs.N != 1 || v.Unrecovered != 1 || v.ErrorsATrial.Center != float64(trial.Failed()) {
		t.Errorf("%+v", v)
	}
}

// Trials that come to no figures have promised something too: what they
// acknowledged is read back, and their histories are checked.
func TestTrialsThatFailAreVerified(t *testing.T) {
	for name, c := range map[string]struct {
		fields, events, problem string
	}{
		// Five answers a second of the thousand that are due.
		"overloaded": {"rate: 1000, clients: 1, link-delay: 100ms", "none", "cannot follow 1000 operations a second"},
		// Which Expand would have refused.
		"a failed event": {"clients: 2", "pause 3 at 0s for 1ms", "not possible in this topology"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := ParsePlan(c.events)
			if err != nil {
				t.Fatal(err)
			}
			run := execute(t, "name: x\nceiling: none\nfixed: {keys: 10, "+c.fields+"}\nmeasure: {warmup: 0s, duration: 1s, blocks: 1, profile: 0s}\n",
				func(o *Options) { o.Verify, o.Matrix.Variants[0].Settings.Load.Events = true, plan })
			trial := &run.Trials[0]
			if trial.Valid || !strings.Contains(trial.Problem, c.problem) {
				t.Errorf("valid %v: %q", trial.Valid, trial.Problem)
			}
			if trial.AckedKeys == 0 || trial.VerifiedKeys != trial.AckedKeys || trial.Unverified != "" || len(trial.Violations) > 0 {
				t.Errorf("%d of %d keys read back, %q, %q", trial.VerifiedKeys, trial.AckedKeys, trial.Unverified, trial.Violations)
			}
			if trial.Histories == nil || trial.Histories.Operations < trial.Histories.Keys || trial.Histories.Keys == 0 {
				t.Errorf("histories %+v", trial.Histories)
			}
		})
	}
}
