package bench

import (
	"fmt"
	"strconv"
	"time"
)

// Thresholds of the audit: beyond them a figure is doubtful, and the run says so.
const (
	// busyLoad is the load average per core above which others use the machine.
	busyLoad = 0.5
	// stealShare of all CPU time taken by the hypervisor for others.
	stealShare = 0.02
	// minBlocks: fewer leave intervals and verdicts meaningless.
	minBlocks = 4
	// lagShare: an open-loop trial whose generator was later than this share of
	// its p99, and by that moved the p99 as much, measured itself.
	lagShare = 0.1
	// generatorShare of all cores used by the generator: the servers may have
	// waited for it.
	generatorShare = 0.5
)

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
	if blocks < minBlocks {
		warnings = append(warnings, fmt.Sprintf("%d blocks are too few for intervals and verdicts; at least %d are needed", blocks, minBlocks))
	}
	return warnings
}

// auditEnd returns what went wrong with the machine during a run.
func auditEnd(before, after machineTime) []string {
	if !before.ok || !after.ok || after.total <= before.total {
		return nil
	}
	share := (after.steal - before.steal) / (after.total - before.total)
	if share <= stealShare {
		return nil
	}
	return []string{fmt.Sprintf("the hypervisor took %.1f %% of the CPU time for others (steal)", 100*share)}
}

// auditTrials returns what trials have in common that makes them doubtful.
func auditTrials(run *Run) []string {
	var invalid, warned int
	for i := range run.Trials {
		t := &run.Trials[i]
		if t.Kind != TrialMeasured {
			continue
		}
		if t.Viable && !t.Valid {
			invalid++
		}
		if t.Warning != "" {
			warned++
		}
	}
	var warnings []string
	if invalid > 0 {
		warnings = append(warnings, fmt.Sprintf("%d trials are invalid and left out; run.json says why", invalid))
	}
	if warned > 0 {
		warnings = append(warnings, fmt.Sprintf("%d trials have a warning of their own in run.json", warned))
	}
	return warnings
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
