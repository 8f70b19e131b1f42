package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"raftlab/bench"
)

// CSV writes one line a variant with plain numbers: rates a second, latencies
// in nanoseconds, each with the ends of its interval; empty where there is none.
// Of several runs the first column is the run, and a variant is empty where its run
// lacks an axis.
func CSV(w io.Writer, runs []*Data) error {
	var axes []string
	for _, d := range runs {
		for _, a := range tableAxes(d) {
			if !slices.Contains(axes, a) {
				axes = append(axes, a)
			}
		}
	}
	estimates := csvEstimates()
	head := append([]string{"id", "name", "role", "baseline", "best"}, axes...)
	head = append(head, "trials", "viable", "problem", "samples", "errors")
	for _, e := range estimates {
		head = append(head, e.name, e.name+"_lo", e.name+"_hi")
	}
	for _, target := range bench.CeilingTargets {
		head = append(head, target+"_ops_per_s")
	}
	head = append(head, "verdict")
	if len(runs) > 1 {
		head = append([]string{"run"}, head...)
	}
	lines := [][]string{head}
	for _, d := range runs {
		for _, line := range d.csvLines(axes, estimates) {
			if len(runs) > 1 {
				line = append([]string{d.Run.ID}, line...)
			}
			lines = append(lines, line)
		}
	}
	return csv.NewWriter(w).WriteAll(lines)
}

// CSV writes the run's table alone.
func (d *Data) CSV(w io.Writer) error { return CSV(w, []*Data{d}) }

// csvEstimate is a figure that takes three columns.
type csvEstimate struct {
	name string
	of   func(*bench.VariantSummary) bench.Estimate
}

func csvEstimates() []csvEstimate {
	estimates := []csvEstimate{
		{"ops_per_s", func(v *bench.VariantSummary) bench.Estimate { return v.OpsPerS }},
		{"bytes_per_s", func(v *bench.VariantSummary) bench.Estimate { return v.BytesPerS }},
		{"p50_ns", func(v *bench.VariantSummary) bench.Estimate { return v.P50Ns }},
		{"p90_ns", func(v *bench.VariantSummary) bench.Estimate { return v.P90Ns }},
		{"p99_ns", func(v *bench.VariantSummary) bench.Estimate { return v.P99Ns }},
		{"p999_ns", func(v *bench.VariantSummary) bench.Estimate { return v.P999Ns }},
		{"max_ns", func(v *bench.VariantSummary) bench.Estimate { return v.MaxNs }},
		{"outage_ns", func(v *bench.VariantSummary) bench.Estimate { return v.OutageNs }},
		{"recover_ns", func(v *bench.VariantSummary) bench.Estimate { return v.RecoverNs }},
		{"errors_a_trial", func(v *bench.VariantSummary) bench.Estimate { return v.ErrorsATrial }},
		{"ratio", func(v *bench.VariantSummary) bench.Estimate { return v.Ratio }},
	}
	for _, target := range bench.CeilingTargets {
		estimates = append(estimates, csvEstimate{target + "_fraction", func(v *bench.VariantSummary) bench.Estimate {
			if share := ceiling(v, target); share != nil {
				return share.Fraction
			}
			return bench.Estimate{}
		}})
	}
	for _, c := range bench.Costs() {
		name := strings.NewReplacer("-", "_", "/", "_per_").Replace(c.Unit)
		estimates = append(estimates, csvEstimate{name, func(v *bench.VariantSummary) bench.Estimate { return v.Costs[c.Unit] }})
	}
	return estimates
}

func (d *Data) csvLines(axes []string, estimates []csvEstimate) [][]string {
	best := d.best()
	var lines [][]string
	for i := range d.Summary.Variants {
		v := &d.Summary.Variants[i]
		line := []string{v.Variant.ID, v.Variant.Name, v.Variant.Role, fmt.Sprint(v.Variant.Baseline), fmt.Sprint(best[v.Variant.ID])}
		for _, a := range axes {
			line = append(line, v.Variant.Params[a])
		}
		line = append(line, strconv.Itoa(v.Trials), fmt.Sprint(v.Viable), v.Problem,
			strconv.FormatUint(v.Samples, 10), strconv.FormatUint(v.Errors, 10))
		for _, e := range estimates {
			x := e.of(v)
			line = append(line, csvNumber(x.Center, x.N > 0), csvNumber(x.Lo, x.Hi > x.Lo), csvNumber(x.Hi, x.Hi > x.Lo))
		}
		for _, target := range bench.CeilingTargets {
			share := ceiling(v, target)
			if share == nil {
				share = new(bench.CeilingShare)
			}
			line = append(line, csvNumber(share.OpsPerS, share.OpsPerS > 0))
		}
		lines = append(lines, append(line, v.Verdict))
	}
	return lines
}

func csvNumber(v float64, known bool) string {
	if !known {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 9, 64)
}
