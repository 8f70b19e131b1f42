package report

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"raftlab/bench"
)

// What is shown in depth are the best of each answer with their baselines, the
// most important first, and never too many.
func TestChosen(t *testing.T) {
	d, _ := chunkLike()
	if got, want := d.chosen(), []string{"v06", "v02", "v20", "v13", "v09", "v10"}; !slices.Equal(got, want) {
		t.Errorf("chosen %v, want %v", got, want)
	}
	d.Summary.Answers = nil
	if got := d.chosen(); len(got) != mostChosen || got[0] != "v01" {
		t.Errorf("without an answer %v", got)
	}
}

// loadExplains checks that what Load reads beside run.json is what the run's own
// data says.
func loadExplains(t *testing.T, want, d *Data) {
	t.Helper()
	// Answers of the made run are made up too; those of Load are computed.
	d.Summary.Answers = want.Summary.Answers
	for _, id := range d.chosen() {
		if len(d.Stacks[id]) == 0 {
			continue
		}
		trial := d.profileTrial(id)
		if diff := cmp.Diff(trial.CPU, bench.CPUByLayer(d.Stacks[id], trial.Operations), cmpopts.EquateApprox(1e-9, 0)); diff != "" {
			t.Errorf("%s: run.json and the profiles differ:\n%s", id, diff)
		}
	}
	if len(d.Stacks) == 0 || len(d.Heat) == 0 || len(d.Usage) != len(want.Usage) {
		t.Errorf("%d variants with stacks, %d with heat, %d trials with usage", len(d.Stacks), len(d.Heat), len(d.Usage))
	}
}

// Layers add up to their process, processes to the variant.
func TestCPUAddsUp(t *testing.T) {
	d, _ := quickLike()
	for _, v := range d.profiled() {
		trial := d.profileTrial(v.ID)
		sum := 0.0
		for _, l := range cpuOf(trial, isNotGenerator).byLayer {
			sum += l.Center
		}
		total := 0.0
		for _, p := range []string{"node1", "node2", "node3", "process"} {
			total += cpuOf(trial, func(process string) bool { return process == p }).total.Center
		}
		if got := cpuOf(trial, isNotGenerator).total.Center; !near(sum, got) && math.Abs(sum-got) > 0.02*got || math.Abs(total-got) > 0.02*got {
			t.Errorf("%s: layers %v, processes %v, in all %v", v.ID, sum, total, got)
		}
	}
}

func TestNothingProfiledNothingShown(t *testing.T) {
	d, _ := quickLike()
	d.Stacks, d.Heat, d.Usage = nil, nil, nil
	for i := range d.Run.Trials {
		d.Run.Trials[i].CPU = nil
	}
	for i := range d.Summary.Variants {
		d.Summary.Variants[i].Costs = nil
	}
	for name, out := range map[string]string{"html": render(t, d.HTML), "text": render(t, d.Text), "markdown": render(t, d.Markdown)} {
		for _, gone := range []string{cpuTitle, costTitle, `id="flames"`, `id="heat"`, "Processes over time"} {
			if strings.Contains(out, gone) {
				t.Errorf("%s has %q without anything to show", name, gone)
			}
		}
	}
}
