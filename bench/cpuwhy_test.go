package bench

import (
	"strings"
	"testing"
)

func TestCPUWhy(t *testing.T) {
	level := func(x float64) []float64 { return []float64{x, x * 1.01, x * 0.99, x, x * 1.005} }
	layer := func(l Layer, samples int, us float64) LayerCPU {
		return LayerCPU{l, Estimate{Center: us, N: samples, Confidence: confidence}}
	}
	fast := map[string][]LayerCPU{
		"node1":          {layer(LayerGRPC, 200, 20), layer(LayerRuntime, 100, 10)},
		processGenerator: {layer(LayerRuntime, 100, 10)},
	}
	for _, c := range []struct {
		name string
		cpus []float64 // a block, of the slower; the other's is 1, which is 10µs an operation
		cpu  map[string][]LayerCPU
		want []string // none for no sentence
		not  string
	}{
		{
			"more", level(4),
			map[string][]LayerCPU{"node1": {layer(LayerGRPC, 220, 22), layer(LayerRuntime, 300, 30), layer(LayerSyscalls, 250, 15)}},
			[]string{"CPU: an operation takes nodes and generator 10µs with n=2, 40", "µs with n=1: 30", "µs more (", "By their profiles most of it is syscalls (15µs more) and runtime (10µs more)."},
			"gRPC",
		},
		{
			"less than half, two layers", level(5),
			map[string][]LayerCPU{"node1": {layer(LayerGRPC, 220, 22), layer(LayerRuntime, 3000, 30), layer(LayerSyscalls, 250, 9)}},
			[]string{"µs more (", "By their profiles the largest parts that are sure, together 47 %, are runtime (10µs more) and syscalls (9µs more)."},
			"most",
		},
		{
			"less than half, one layer", level(4),
			map[string][]LayerCPU{"node1": {layer(LayerGRPC, 200, 20), layer(LayerRuntime, 200, 20), layer(LayerSyscalls, 250, 11)}},
			[]string{"µs more (", "By their profiles the largest part that is sure, 37 %, is syscalls (11µs more)."},
			"most",
		},
		{"no profile", level(4), nil, []string{"µs more ("}, "profiles"},
		{"sampling explains the layers", level(4), map[string][]LayerCPU{"node1": {layer(LayerGRPC, 4, 26), layer(LayerRuntime, 3, 24)}}, []string{"µs more ("}, "profiles"},
		{"less", level(0.5), map[string][]LayerCPU{"node1": {layer(LayerGRPC, 100, 5), layer(LayerRuntime, 200, 20)}}, []string{"µs less (", "most of it is gRPC (15µs less)."}, "runtime ("},
		{"noise", []float64{0.5, 4, 0.2, 3, 0.1}, fast, nil, "CPU"},
		{"too few blocks", level(4)[:2], fast, nil, "CPU"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := synthetic(nil, []Variant{variant("v01", "n=1", RoleMeasured, "", ""), variant("v02", "n=2", RoleMeasured, "v01", "")},
				map[string][]float64{"v01": level(50), "v02": level(100)})
			run.Variants[0].Baseline = true
			for i := range run.Trials {
				trial := &run.Trials[i]
				trial.Operations = 100_000
				cpus := 1.0
				if trial.Variant == "v01" {
					cpus = 0
					if trial.Block <= len(c.cpus) {
						cpus = c.cpus[trial.Block-1]
					}
				}
				trial.Processes = map[string]Process{"node1": {CPUS: cpus * 0.75}, processGenerator: {CPUS: cpus * 0.25}}
			}
			run.Trials = append(run.Trials,
				Trial{Variant: "v01", Kind: TrialProfile, Viable: true, Valid: true, Operations: 1, CPU: c.cpu},
				Trial{Variant: "v02", Kind: TrialProfile, Viable: true, Valid: true, Operations: 1, CPU: fast})
			why := strings.Join(Summarize(run).Answers[0].Why, " ")
			for _, want := range c.want {
				if !strings.Contains(why, want) {
					t.Errorf("%q lacks %q", why, want)
				}
			}
			if c.want == nil && why != "" || strings.Contains(why, c.not) {
				t.Errorf("says %q", why)
			}
		})
	}
}
