package bench

import (
	"fmt"
	"maps"
	"slices"
)

// differences says what else is not the same in two runs, and what was wrong with
// either.
func differences(a, b *Run) []string {
	var out []string
	differs := func(what string, x, y any) {
		if x != y {
			out = append(out, fmt.Sprintf("%s differs: %v and %v", what, x, y))
		}
	}
	ea, eb := &a.Environment, &b.Environment
	differs("experiment", a.Experiment.Name, b.Experiment.Name)
	differs("window", a.Experiment.MeasureS, b.Experiment.MeasureS)
	differs("warm-up", a.Experiment.WarmupS, b.Experiment.WarmupS)
	differs("raftkv", ea.ServerInfo, eb.ServerInfo)
	differs("commit of raftbench", ea.Commit, eb.Commit)
	differs("Go", ea.Go, eb.Go)
	differs("OS", ea.OS+"/"+ea.Arch, eb.OS+"/"+eb.Arch)
	differs("CPU", ea.CPU, eb.CPU)
	differs("cores", ea.Cores, eb.Cores)
	differs("GOMAXPROCS", ea.GOMAXPROCS, eb.GOMAXPROCS)
	differs("memory", ea.MemoryB, eb.MemoryB)
	differs("kernel", ea.Kernel, eb.Kernel)
	differs("governor", ea.Governor, eb.Governor)
	differs("race detector", ea.Race, eb.Race)
	return slices.Concat(out, own("the first run", a), own("the second run", b))
}

// own are a run's own warnings.
func own(name string, run *Run) []string {
	var out []string
	if !run.Complete {
		out = append(out, fmt.Sprintf("%s is incomplete: %d of %d trials", name, run.TrialsCompleted, run.TrialsPlanned))
	}
	if n := len(run.Violations()); n > 0 {
		out = append(out, fmt.Sprintf("%s has %d violations: what clients were told does not hold", name, n))
	}
	for _, w := range run.Warnings {
		out = append(out, name+": "+w)
	}
	return out
}

// configs says which knobs are set otherwise in variants of the same name.
func (c *comparer) configs() []string {
	differing := map[string]int{}
	example := map[string]string{}
	for _, p := range c.pairs {
		keys := slices.Collect(maps.Keys(p.a.Config))
		for key := range p.b.Config {
			if _, ok := p.a.Config[key]; !ok {
				keys = append(keys, key)
			}
		}
		for _, key := range keys {
			x, okA := p.a.Config[key]
			y, okB := p.b.Config[key]
			if x == y || !okA || !okB { // a knob that one of them did not know yet
				continue
			}
			if differing[key]++; differing[key] == 1 {
				example[key] = fmt.Sprintf("%s and %s", x, y)
			}
		}
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(differing)) {
		out = append(out, fmt.Sprintf("%s differs in %d of %d variants: %s", key, differing[key], len(c.pairs), example[key]))
	}
	return out
}
