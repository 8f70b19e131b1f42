package report

import (
	"fmt"
	"slices"

	"raftlab/bench"
)

// outages tells whether the run has experiments with events, and so how long
// there was no service.
func outages(d *Data) bool {
	return slices.ContainsFunc(d.Summary.Variants, func(v bench.VariantSummary) bool { return v.OutageNs.N > 0 })
}

// recovery shows a time to recover; where nothing was to be noticed it is the
// resolution.
func recovery(ns float64) string {
	if ns <= float64(bench.RecoveryStep) {
		return "≤ " + latency(float64(bench.RecoveryStep))
	}
	return latency(ns)
}

// unrecovered adds to the cell of the time to recover in how many trials that has
// no figure: what stands there is of the others.
func unrecovered(v *bench.VariantSummary, c *cell) {
	if v.Unrecovered == 0 {
		return
	}
	c.Note = fmt.Sprintf("not in %d of %d", v.Unrecovered, v.Trials)
	c.Class = "bad"
}

// errorsATrial is the title of the cell with the errors of all trials.
func errorsATrial(e bench.Estimate) string {
	if e.Hi <= e.Lo {
		return ""
	}
	return fmt.Sprintf("%s a trial, %s to %s, %s confidence, %d blocks", count(e.Center), count(e.Lo), count(e.Hi), percent(e.Confidence), e.N)
}

// planned says below a timeline what its lines are.
func planned(v bench.Variant) []string {
	if plan := v.Config["events"]; plan != "" && plan != "none" {
		return []string{"Dashed upright lines, one a block: " + plan + ", and what followed."}
	}
	return nil
}

// outageWords are the terms of experiments with events.
func (d *Data) outageWords() []fact {
	if !outages(d) {
		return nil
	}
	return []fact{
		{"no service", "the longest time between two answers to clients about an event, the worst of a trial's events: with a rate, operations were due all the while. Without events, the longest time between two answers of the window: what the machine and the rate do by themselves"},
		{"recovered", "from an event until a quarter of a second with at least 90 % of the operations a second before the first event, and a p99 of at most 1.5 times that of the worst quarter of a second before it; the slowest of a trial's events. Trials in which that did not come before the next event, or the window's end, are counted beside it, and make it too good"},
	}
}
