package report

import (
	"fmt"
	"io"
	"strings"

	"raftlab/bench"
)

// CompareText writes a comparison as a terminal shows it: the verdict first, then
// a table, then what to mind.
func CompareText(w io.Writer, c *bench.Comparison) error {
	var b strings.Builder
	for _, s := range compareHead(c) {
		fmt.Fprintf(&b, "%s\n", plain(s))
	}
	b.WriteByte('\n')
	for _, s := range compareAnswer(c) {
		fmt.Fprintf(&b, "  %s\n", plain(s))
	}
	b.WriteByte('\n')
	grid := [][]string{{"variant", "metric", "A", "B", "B over A", "margin", "p", "verdict"}}
	if c.Axis != "" {
		grid[0][2], grid[0][3], grid[0][4] = "baseline", "value", "ratio"
	}
	for i := range c.Rows {
		grid = append(grid, compareLine(&c.Rows[i], c.Axis != ""))
	}
	for _, line := range alignGrid(grid, []bool{false, false, true, true, false, true, true, false}) {
		b.WriteString(line + "\n")
	}
	fmt.Fprintf(&b, "\nratio: geometric mean, with an interval; all %d together hold with %s confidence\n", len(c.Rows), percent(c.Confidence))
	b.WriteString("margin: what counts as no difference, the larger of --max-regression and what the A/A arms differ by\n")
	b.WriteString("p: benchstat's, by Mann and Whitney's test, of unpaired figures; it decides nothing\n")
	list := func(title string, items []string) {
		if len(items) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, s := range items {
			fmt.Fprintf(&b, "  - %s\n", plain(s))
		}
	}
	list("Only in A", c.OnlyA)
	list("Only in B", c.OnlyB)
	list("To mind", c.Warnings)
	_, err := io.WriteString(w, b.String())
	return err
}

func compareHead(c *bench.Comparison) []string {
	if c.Paired {
		return []string{fmt.Sprintf("%s in run %s, paired by block", c.Axis, c.A)}
	}
	return []string{
		fmt.Sprintf("A is run %s, B is run %s", c.A, c.B),
		"UNPAIRED: what changed on the machine between the two counts as their difference;",
		"two builds are better compared in one run, by --vary server-bin=A,B",
	}
}

// compareAnswer says what the gate says, and why.
func compareAnswer(c *bench.Comparison) []string {
	if n := len(c.Violations); n > 0 {
		return []string{fmt.Sprintf("REGRESSION: %d violations in B: what its clients were told does not hold; the first: %s.", n, c.Violations[0])}
	}
	most := percent(c.MaxRegression)
	switch c.Gate {
	case bench.GateRegression:
		return append([]string{fmt.Sprintf("REGRESSION: %s.", countGate(c, bench.GateRegression))}, named(c, bench.GateRegression)...)
	case bench.GateInconclusive:
		return append([]string{fmt.Sprintf("INCONCLUSIVE: a loss of more than %s is neither shown nor ruled out in %s.", most, countGate(c, bench.GateInconclusive))},
			named(c, bench.GateInconclusive)...)
	case bench.GatePassed:
	}
	return []string{fmt.Sprintf("PASSED: a loss of more than %s is ruled out in %s.", most, countGate(c, bench.GatePassed))}
}

func countGate(c *bench.Comparison, g bench.Gate) string {
	n := 0
	for i := range c.Rows {
		if c.Rows[i].Gate == g {
			n++
		}
	}
	return fmt.Sprintf("%d of %d comparisons", n, len(c.Rows))
}

// Rows that are named beside the verdict at most.
const mostNamedRows = 5

// named says which rows make the verdict what it is.
func named(c *bench.Comparison, g bench.Gate) []string {
	var out []string
	for i := range c.Rows {
		r := &c.Rows[i]
		if r.Gate != g {
			continue
		}
		if len(out) == mostNamedRows {
			return append(out, "  and more, in the table")
		}
		why := r.Problem
		if why == "" {
			why = "B is at " + change(r.Ratio)
			if r.Margin > c.MaxRegression {
				why += fmt.Sprintf("; the A/A arm shows that this machine tells %s at best", percent(r.Margin))
			}
		}
		name := r.Variant
		if c.Axis != "" {
			// What has no other axis is called default.
			name = strings.TrimPrefix(name+" "+c.Axis+"="+r.SideB, "default ")
		}
		out = append(out, fmt.Sprintf("  %s, %s: %s", name, r.Metric, why))
	}
	return out
}

// change shows a ratio as a percentage with its interval.
func change(e bench.Estimate) string {
	signed := func(x float64) string { return fmt.Sprintf("%+.1f %%", 100*(x-1)) }
	switch {
	case e.N == 0:
		return absent
	case e.Confidence == 0:
		return signed(e.Center)
	}
	return fmt.Sprintf("%s (%s to %s)", signed(e.Center), signed(e.Lo), signed(e.Hi))
}

func compareLine(r *bench.Compared, axis bool) []string {
	figure := func(e bench.Estimate) string {
		if e.N == 0 {
			return absent
		}
		switch {
		case r.Metric == "ops/s":
			return count(e.Center)
		case r.Metric == bench.MetricBytes:
			return megabytes(e.Center) + " MB/s"
		case strings.HasSuffix(r.Metric, "-latency-ns"):
			return response(e.Center)
		}
		return latency(e.Center)
	}
	a, b := figure(r.A), figure(r.B)
	if axis {
		a, b = r.SideA+" "+a, r.SideB+" "+b
	}
	verdict := r.Verdict
	if r.Gate == bench.GateInconclusive && verdict == "same" {
		verdict = "same, but not within --max-regression"
	}
	if r.Gate == bench.GatePassed && verdict == "inconclusive" {
		verdict = "inconclusive, but no regression"
	}
	return []string{plain(r.Variant), r.Metric, plain(a), plain(b), change(r.Ratio), "±" + percent(r.Margin), fmt.Sprintf("%.3f", r.P), verdict}
}
