package bench

// CostInfo is something that operations cost beside time, by its unit in results.txt.
type CostInfo struct {
	Unit     string
	Sentence string
	// of is the cost of an operation of a trial; false where it is not known.
	of func(*Trial) (float64, bool)
}

// wireBytes is the counter of what nodes sent each other, as it travelled.
const wireBytes = "wire_bytes_sent"

// costs are what operations cost, all processes of the trial together.
var costs = []CostInfo{
	{"wire-B/op", "bytes between nodes as they travelled, with gRPC's own five a frame", counterPerOp(wireBytes)},
	{"fsyncs/op", "fsyncs of all nodes' logs", counterPerOp("journal_fsyncs")},
	{"B/op", "bytes allocated by nodes and generator", processesPerOp(func(p *Process) uint64 { return p.AllocBytes })},
	{"allocs/op", "objects allocated by nodes and generator", processesPerOp(func(p *Process) uint64 { return p.AllocCount })},
}

// Costs lists what VariantSummary.Costs may hold, in the order in which it is shown.
func Costs() []CostInfo { return costs }

// counterPerOp is a counter's share of an operation. It is not known where no
// node has that counter: nothing is written to a disk, or there is no node.
func counterPerOp(counter string) func(*Trial) (float64, bool) {
	return func(t *Trial) (float64, bool) {
		n, ok := t.Counters[counter]
		return float64(n) / float64(max(t.Operations, 1)), ok
	}
}

// asked tells whether all processes of a trial could be asked what they used, and
// not the generator alone, as where the cluster ran before: a sum would be too
// small.
func (t *Trial) asked() bool {
	_, ok := t.Processes[processGenerator]
	alone := ok && len(t.Processes) == 1
	for _, p := range t.Processes {
		if p.Unavailable {
			return false
		}
	}
	return len(t.Processes) > 0 && !alone
}

// processesPerOp adds up what processes used. It is not known where one of them
// does not tell it.
func processesPerOp(of func(*Process) uint64) func(*Trial) (float64, bool) {
	return func(t *Trial) (float64, bool) {
		if !t.asked() {
			return 0, false
		}
		var sum uint64
		for _, p := range t.Processes {
			used := of(&p)
			if used == 0 {
				return 0, false
			}
			sum += used
		}
		return float64(sum) / float64(max(t.Operations, 1)), true
	}
}

// costs estimates those that are known.
func (b *blocks) costs() map[string]Estimate {
	known := map[string]Estimate{}
	for _, c := range costs {
		if _, ok := b.figures[c.Unit]; ok {
			known[c.Unit] = b.estimate(c.Unit)
		}
	}
	return known
}
