package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCosts(t *testing.T) {
	used := Process{AllocBytes: 50_000, AllocCount: 300}
	for _, c := range []struct {
		name  string
		trial Trial
		want  map[string]float64
		cpu   bool // whether that is known, which every process tells
	}{
		{"all known", Trial{
			Counters:  map[string]uint64{"wire_bytes_sent": 600_000, "journal_fsyncs": 30},
			Processes: map[string]Process{"node1": used, processGenerator: used},
		}, map[string]float64{"wire-B/op": 6000, "fsyncs/op": 0.3, "B/op": 1000, "allocs/op": 6}, true},
		{"nothing is synced", Trial{
			Counters: map[string]uint64{"wire_bytes_sent": 0, "journal_fsyncs": 0}, Processes: map[string]Process{processShared: used},
		}, map[string]float64{"wire-B/op": 0, "fsyncs/op": 0, "B/op": 500, "allocs/op": 3}, true},
		{"a node could not be asked", Trial{Processes: map[string]Process{"node1": used, "node2": {Unavailable: true}}}, nil, false},
		{"the echo server is known by its CPU time only", Trial{Processes: map[string]Process{processGenerator: used, "wire": {CPUS: 1}}}, nil, true},
		{"the nodes ran before", Trial{Processes: map[string]Process{processGenerator: used}}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.trial.Operations = 100
			var got map[string]float64
			for _, cost := range costs {
				if x, ok := cost.of(&c.trial); ok {
					if got == nil {
						got = map[string]float64{}
					}
					got[cost.Unit] = x
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for name, p := range c.trial.Processes {
				p.CPUS = 1
				c.trial.Processes[name] = p
			}
			if _, ok := cpuPerOp(&c.trial); ok != c.cpu {
				t.Errorf("CPU time known: %v, want %v", ok, c.cpu)
			}
		})
	}
}

func TestSummaryHasCosts(t *testing.T) {
	run := recorded()
	for _, s := range Summarize(run).Variants {
		if s.Trials == 0 {
			continue
		}
		if e := s.Costs["wire-B/op"]; e.Center != 600 || e.N != s.Trials {
			t.Errorf("%s: %+v", s.Variant.ID, s.Costs)
		}
		if _, ok := s.Costs["fsyncs/op"]; ok {
			t.Errorf("%s: fsyncs of a run without a disk: %+v", s.Variant.ID, s.Costs)
		}
	}
}
