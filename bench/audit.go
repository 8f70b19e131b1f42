package bench

import (
	"fmt"
	"runtime/metrics"
	"slices"
	"strconv"
	"time"

	"raftlab/bench/stats"
)

// Thresholds of the audit: beyond them a figure is doubtful, and the run says so.
const (
	// busyLoad is the load average per core above which others use the machine.
	busyLoad = 0.5
	// stealShare of all CPU time taken by the hypervisor for others.
	stealShare = 0.02
	// lagShare: an open-loop trial whose generator was later than this share of
	// its p99, and by that moved the p99 as much, measured itself.
	lagShare = 0.1
	// generatorShare of all cores used by the generator: the servers may have
	// waited for it.
	generatorShare = 0.5
	// gcShare of the generator's CPU time in its garbage collector: Go lets it have a
	// quarter of all cores before it makes those who allocate wait for it, and
	// answers that wait are booked on the target.
	gcShare = 0.25
	// othersShare of all CPU time used by other programs during a run.
	othersShare = 0.1
)

// lateAfterThinking is no more than a warning: who sends late only thinks longer.
const lateAfterThinking = "clients sent late after thinking: the generator's lag is a part of p99, and service times are without it"

// auditStart returns what is wrong with where and how a run begins.
func auditStart(e *Environment, blocks int) []string {
	var warnings []string
	if load, err := strconv.ParseFloat(e.Load1, 64); err == nil && load > busyLoad*float64(e.Cores) {
		warnings = append(warnings, fmt.Sprintf("the machine is busy: load average %.2f on %d cores before the first trial", load, e.Cores))
	}
	if e.Dirty == "true" {
		warnings = append(warnings, "built from a tree with uncommitted changes: the commit does not say what was measured")
	}
	if e.Race {
		warnings = append(warnings, "built with the race detector: the figures mean nothing")
	}
	if blocks < stats.MinBlocks {
		warnings = append(warnings, fmt.Sprintf("%d blocks are too few for intervals and verdicts; at least %d are needed", blocks, stats.MinBlocks))
	}
	return warnings
}

// auditEnd returns what went wrong with the machine during a run. Where the nodes
// are not ours, on an external cluster, what they use cannot be told from what
// others do.
func auditEnd(before, after machineTime, external bool) []string {
	if !before.ok || !after.ok || after.total <= before.total {
		return nil
	}
	var warnings []string
	all := after.total - before.total
	if share := (after.steal - before.steal) / all; share > stealShare {
		warnings = append(warnings, fmt.Sprintf("the hypervisor took %.1f %% of the CPU time for others (steal)", 100*share))
	}
	others := (after.programs - before.programs) - (after.own - before.own)
	if share := others / all; share > othersShare && !external {
		warnings = append(warnings, fmt.Sprintf("the machine was busy: other programs used %.0f %% of the CPU time during the run", 100*share))
	}
	return warnings
}

// auditAA returns which baselines, measured twice, differ from themselves.
func auditAA(variants []VariantSummary) []string {
	var warnings []string
	for i := range variants {
		v := &variants[i]
		if r := v.Ratio; v.Variant.Role == RoleAA && r.Confidence > 0 && (r.Lo > 1 || r.Hi < 1) {
			warnings = append(warnings, fmt.Sprintf("the A/A arm failed: %s is %s measured a second time, and they differ by ×%.3f (%.3f to %.3f, %.0f %% confidence); "+
				"so may others that are alike, as one in %.0f does by chance",
				v.Variant.ID, v.Variant.Against, r.Center, r.Lo, r.Hi, 100*r.Confidence, 1/(1-r.Confidence)))
		}
	}
	return warnings
}

// auditTrials returns what trials have in common that makes them doubtful.
func auditTrials(run *Run) []string {
	var invalid, warned int
	for i := range run.Trials {
		if t := &run.Trials[i]; t.Kind == TrialMeasured && t.Warning != "" {
			warned++
		}
	}
	for _, t := range run.Invalid() {
		if t.Kind == TrialMeasured { // a search has use for some of them
			invalid++
		}
	}
	var warnings []string
	if invalid > 0 {
		warnings = append(warnings, fmt.Sprintf("%d trials are invalid and left out; run.json says why", invalid))
	}
	if warned > 0 {
		warnings = append(warnings, fmt.Sprintf("%d trials have a warning of their own in run.json", warned))
	}
	return slices.Concat(warnings, auditSteady(run.Trials), auditAA(Summarize(run).Variants))
}

// auditLag says why an open-loop trial measured its generator rather than the
// target; empty when it did not. Lag is part of the response but not of the service
// time: where their p99 are near each other, the lag was in other operations than
// those that make the tail, and did no harm.
func auditLag(lagP99, responseP99, serviceP99 time.Duration) string {
	harmless := time.Duration(lagShare * float64(responseP99))
	if responseP99 <= 0 || min(lagP99, responseP99-serviceP99) <= harmless {
		return ""
	}
	return fmt.Sprintf("the generator fell behind its schedule: lag p99 %v is more than %.0f %% of response p99 %v, and service p99 is %v",
		lagP99, 100*lagShare, responseP99, serviceP99)
}

// auditGenerator warns of a generator that took so much CPU time that what was
// measured may have waited for it. In one process the share includes the nodes
// and is not judged.
func auditGenerator(cpu, window float64, cores int) string {
	share := cpu / (window * float64(cores))
	if share <= generatorShare {
		return ""
	}
	return fmt.Sprintf("the generator used %.0f %% of all CPU time", 100*share)
}

// auditGC warns of a generator whose garbage collector took so much of its CPU
// time that it may show in the latencies. In one process it is the nodes' as well,
// and not judged.
func auditGC(gc, cpu float64) string {
	if cpu <= 0 || gc/cpu <= gcShare {
		return ""
	}
	return fmt.Sprintf("the generator's garbage collector took %.0f %% of its CPU time: its waits are in the latencies", 100*gc/cpu)
}

// gcTime is the CPU time of this process's garbage collector so far, in seconds,
// as it was when the last collection ended; 0 where the runtime does not tell.
func gcTime() float64 {
	sample := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64 {
		return 0
	}
	return sample[0].Value.Float64()
}
