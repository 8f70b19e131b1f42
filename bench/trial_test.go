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

// Trials that come to no figures have promised something too: what they
// acknowledged is read back, and their histories are checked.
func TestTrialsThatFailAreVerified(t *testing.T) {
	for name, c := range map[string]struct {
		fields, problem string
	}{
		// Five answers a second of the thousand that are due.
		"overloaded":     {"rate: 1000, clients: 1, link-delay: 100ms", "cannot follow 1000 operations a second"},
		"a failed event": {"clients: 2, events: kill 3 at 50ms; kill 3 at 100ms", "node 3 has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			run := execute(t, "name: x\nceiling: none\nfixed: {keys: 10, "+c.fields+"}\nmeasure: {warmup: 0s, duration: 300ms, blocks: 1, profile: 0s}\n",
				func(o *Options) { o.Verify = true })
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
