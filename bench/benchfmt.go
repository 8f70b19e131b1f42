package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// writeResults writes a run's valid measured trials in Go's benchmark format, a
// line each, so that benchstat reads them. Commit, time and seed are comments:
// as configuration lines they would split benchstat's tables.
func writeResults(w io.Writer, run *Run) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# raftbench run %s of experiment %s\n", run.ID, run.Experiment.Name)
	fmt.Fprintf(&b, "# commit %s dirty %s\n", run.Environment.Commit, run.Environment.Dirty)
	fmt.Fprintf(&b, "# started %s seed %d\n", run.Started.UTC().Format("2006-01-02T15:04:05Z"), run.Seed)
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\npkg: raftlab/bench\n", run.Environment.OS, run.Environment.Arch)
	if run.Environment.CPU != Unavailable {
		fmt.Fprintf(&b, "cpu: %s\n", run.Environment.CPU)
	}
	b.WriteString("Unit ops/s better=higher\n")
	for _, unit := range []string{"p50-latency-ns", "p90-latency-ns", "p99-latency-ns", "p99.9-latency-ns", "max-latency-ns", "wire-B/op", "fsyncs/op"} {
		fmt.Fprintf(&b, "Unit %s better=lower\n", unit)
	}
	if slices.ContainsFunc(run.Trials, func(t Trial) bool { return t.OutageNs > 0 }) {
		fmt.Fprintf(&b, "Unit %s better=lower\nUnit %s better=lower\nUnit %s better=lower\n", MetricOutage, MetricRecover, failedOps)
	}
	variants := map[string]*Variant{}
	for i := range run.Variants {
		variants[run.Variants[i].ID] = &run.Variants[i]
	}
	for i := range run.Trials {
		t := &run.Trials[i]
		if v := variants[t.Variant]; v != nil && t.Kind == TrialMeasured && t.Viable && t.Valid && t.Operations > 0 {
			writeResult(&b, run, v, t)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeResult(b *strings.Builder, run *Run, v *Variant, t *Trial) {
	fmt.Fprintf(b, "%s %d", benchmarkName(run, v), t.Operations)
	value := func(x float64, unit string) {
		fmt.Fprintf(b, " %s %s", strconv.FormatFloat(x, 'f', -1, 64), unit)
	}
	value(1e9/t.OpsPerS, "ns/op")
	value(t.OpsPerS, "ops/s")
	if t.BytesPerS > 0 {
		value(t.BytesPerS, "B/s") // of which benchfmt itself knows that more is better
	}
	l := t.Response["all"]
	value(float64(l.P50Ns), "p50-latency-ns")
	value(float64(l.P90Ns), "p90-latency-ns")
	value(float64(l.P99Ns), "p99-latency-ns")
	value(float64(l.P999Ns), "p99.9-latency-ns")
	value(float64(l.MaxNs), "max-latency-ns")
	for _, c := range costs {
		if x, ok := c.of(t); ok {
			value(x, c.Unit)
		}
	}
	if t.OutageNs > 0 {
		value(float64(t.OutageNs), MetricOutage)
		value(float64(t.Failed()), failedOps)
	}
	if recovered, ok := t.recovery(); ok {
		value(float64(recovered), MetricRecover)
	}
	b.WriteByte('\n')
}

// benchmarkName is BenchmarkPut/topology=processes/clients=16-2: what benchstat
// makes columns and filters of. Axes come in the experiment's order.
func benchmarkName(run *Run, v *Variant) string {
	op := "put"
	if o := v.Config["op"]; o != "" {
		op = o
	}
	var b strings.Builder
	b.WriteString("Benchmark" + strings.ToUpper(op[:1]) + op[1:])
	keys := slices.Clone(run.Experiment.Axes)
	for _, key := range slices.Sorted(maps.Keys(v.Params)) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if value, ok := v.Params[key]; ok && key != "op" {
			b.WriteString("/" + key + "=" + nameValue(value))
		}
	}
	if v.Role == RoleAA {
		b.WriteString("/arm=aa")
	}
	fmt.Fprintf(&b, "-%d", run.Environment.GOMAXPROCS)
	return b.String()
}

// nameValue keeps a value from breaking a benchmark's name apart: 200MB/s is
// 200MBps there.
func nameValue(value string) string {
	return strings.NewReplacer("/s", "ps", "/", "_", " ", "_").Replace(value)
}
