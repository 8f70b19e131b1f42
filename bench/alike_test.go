package bench

import (
	"slices"
	"strings"
	"testing"
)

// used gives the first n trials of each variant CPU time and bytes on links.
func used(run *Run, n int) {
	for i := range run.Trials {
		t := &run.Trials[i]
		if t.Block > n {
			continue
		}
		t.WindowS = 1
		// 1.2 cores, and a hundredth more in each block.
		cpus := 1.2 + float64(t.Block)/100
		t.Processes = map[string]Process{"node1": {CPUS: cpus / 2}, "node2": {CPUS: cpus / 4}, processGenerator: {CPUS: cpus / 4}}
		// Two followers are sent 48 MB, and answer with 16.
		t.Counters = map[string]uint64{wireBytes: 64e6 + uint64(t.Block)*1e6}
		if t.Stages == nil {
			t.Stages = &Stages{Leader: 1, OnLeader: map[string]Distribution{}, OnFollowers: map[string]Distribution{}}
		}
		t.Stages.OnLeader["frame_bytes"] = Distribution{Count: 48, Mean: 1e6}
		t.Stages.OnFollowers["frame_bytes"] = Distribution{Count: 16e3, Mean: 1e3}
	}
}

func TestWhyAlike(t *testing.T) {
	const (
		stages = "Stages: a write takes on average 865µs (855µs to 875µs over 10 trials). The largest part, 58 % (57 % to 58 %), is spent from the proposal until the leader knows of its commit. Meanwhile the followers' log takes 250µs (245µs to 255µs)."
		cpu    = "CPU: nodes and generator use 1.23 of 2 cores (1.21 to 1.26 over 10 trials)."
		link   = "Link: the leader's links carry 84 % of 30MB/s (81 % to 86 % over 10 trials)."
	)
	level := func(x float64) []float64 { return []float64{x, x * 1.01, x * 0.99, x, x * 1.005} }
	commits := [][]float64{{10e3, 500e3, 50e3, 5e3, 300e3}, {10e3, 510e3, 50e3, 5e3, 300e3}, {10e3, 490e3, 50e3, 5e3, 300e3}, {10e3, 500e3, 50e3, 5e3, 300e3}, {10e3, 500e3, 50e3, 5e3, 300e3}}
	swapped := func(i, j int) [][]float64 {
		var out [][]float64
		for _, row := range commits {
			row = slices.Clone(row)
			row[i], row[j] = row[j], row[i]
			out = append(out, row)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		second [][]float64 // stages of the second variant
		change func(*Run)
		want   []string
		told   int // trials of a variant that tell what they used
	}{
		{"all are alike", commits, nil, []string{stages, cpu, link}, 5},
		{"one is alone", nil, func(r *Run) {
			r.Trials = slices.DeleteFunc(r.Trials, func(t Trial) bool { return t.Variant == "v02" })
			r.Variants = r.Variants[:1]
		}, []string{strings.Replace(stages, "10 trials", "5 trials", 1), strings.Replace(cpu, "10 trials", "5 trials", 1), strings.Replace(link, "10 trials", "5 trials", 1)}, 5},
		{"different stages are the largest", swapped(0, 1), nil, []string{cpu, link}, 5},
		{"another than commit", swapped(1, 4), func(r *Run) { r.Variants, r.Trials = r.Variants[1:], r.Trials[5:] }, []string{
			"Stages: a write takes on average 865µs (855µs to 875µs over 5 trials). The largest part, 58 % (57 % to 58 %), is spent outside the stages: client, RPC, handler.",
			strings.Replace(cpu, "10 trials", "5 trials", 1), strings.Replace(link, "10 trials", "5 trials", 1),
		}, 5},
		{"of one too few are known", commits[:3], nil, []string{cpu, link}, 5},
		{"of all too few are known", commits[:3], nil, nil, 3},
		{"few writes are measured", commits, func(r *Run) {
			for i := range r.Trials {
				r.Trials[i].Service["put"] = Latency{MeanNs: 450e3}
			}
		}, []string{"Stages: a write takes on average 450µs (450µs to 450µs over 10 trials). The largest part, 100 % (100 % to 100 %), is spent from the proposal until the leader knows of its commit. Meanwhile the followers' log takes 250µs (245µs to 255µs).", cpu, link}, 5},
		{"no rate", commits, func(r *Run) { r.Variants[0].Config["link-rate"], r.Variants[1].Config["link-rate"] = "0", "0" }, []string{stages, cpu}, 5},
		{"two rates", commits, func(r *Run) { r.Variants[0].Config["link-rate"] = "10MB/s" }, []string{stages, cpu}, 5},
		{"nobody knows the cores", commits, func(r *Run) { r.Environment.Cores = 0 }, []string{stages, link}, 5},
		{"an outage decides", commits, func(r *Run) {
			r.Experiment.Metric = MetricOutage
			for i := range r.Trials {
				r.Trials[i].OutageNs = 7e6
			}
		}, nil, 5},
		{"others are worse, and nothing says why", commits, func(r *Run) {
			r.Variants = append(r.Variants, variant("v03", "chunking=none", RoleMeasured, "", ""))
			for i := range 5 {
				slow := r.Trials[i]
				slow.Variant, slow.OpsPerS = "v03", slow.OpsPerS/2
				slow.Processes, slow.Stages = nil, nil
				r.Trials = append(r.Trials, slow)
			}
		}, []string{
			strings.Replace(stages, ": ", ": with the best, ", 1), strings.Replace(cpu, ": ", ": with the best, ", 1), strings.Replace(link, ": ", ": with the best, ", 1),
		}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := synthetic(nil, []Variant{variant("v01", "chunking=raft", RoleMeasured, "", ""), variant("v02", "chunking=fragment", RoleMeasured, "", "")},
				map[string][]float64{"v01": level(100), "v02": level(100)})
			run.Environment.Cores = 2
			for i := range run.Variants {
				run.Variants[i].Config = map[string]string{"link-rate": "30MB/s", "nodes": "3"}
			}
			staged(run, map[string][][]float64{"v01": commits, "v02": c.second})
			used(run, c.told)
			if c.change != nil {
				c.change(run)
			}
			a := Summarize(run).Answers[0]
			if !slices.Equal(a.Why, c.want) {
				t.Errorf("why:\n%s\nwant:\n%s", strings.Join(a.Why, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}
