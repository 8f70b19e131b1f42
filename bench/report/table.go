package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"raftlab/bench"
)

// cell is one figure of a table, for every form of it.
type cell struct {
	Text string
	Note string  // the interval, such as ±3 %, or what the figure is compared with
	Sort float64 // NaN when the text is what sorts
	// Thin figures have fewer samples than they need.
	Thin  bool
	Title string
	Class string
}

// Value is what the page's script sorts by; empty for text.
func (c cell) Value() string {
	if math.IsNaN(c.Sort) {
		return ""
	}
	return fmt.Sprintf("%g", c.Sort)
}

type column struct {
	Name, Title string
	Numeric     bool
	Axis        bool
}

// row is one variant.
type row struct {
	ID       string
	Best     bool
	Baseline bool
	Role     string
	Problem  string // why it could not do the work
	Cells    []cell // one a column
}

// table has the figures of all variants, in the order of the matrix, ceilings
// after what is measured.
type table struct {
	Columns []column
	Rows    []row
	// HasBest, HasThin and HasInterval say which marks need explaining.
	HasBest, HasThin, HasInterval bool
}

func text(s string) cell { return cell{Text: s, Sort: math.NaN()} }

// tableAxes are the axes whose value differs between variants.
func tableAxes(d *Data) []string {
	var all []bench.Variant
	for _, v := range d.Summary.Variants {
		all = append(all, v.Variant)
	}
	axes := slices.Clone(d.Run.Experiment.Axes)
	for _, v := range all { // ceilings may add one, such as wire
		for _, a := range sortedKeys(v.Params) {
			if !slices.Contains(axes, a) {
				axes = append(axes, a)
			}
		}
	}
	return slices.DeleteFunc(axes, func(a string) bool { return len(valuesOf(all, a)) < 2 })
}

// variantName is a variant in words: its values of the axes that vary.
func variantName(d *Data, v bench.Variant) string {
	name := label(v, tableAxes(d))
	if name == "" {
		name = v.Name
	}
	switch v.Role {
	case bench.RoleAA:
		name += " (A/A)"
	case bench.RoleCeiling:
		name += " (ceiling)"
	}
	return name
}

// valueBytes is the size of a variant's values, 0 when it is not known.
func valueBytes(v bench.Variant) float64 {
	s := v.Params["value-size"]
	if s == "" {
		s = v.Config["value-size"]
	}
	n, _ := number(s)
	return n
}

// largeValues says whether bytes a second tell more than operations do.
func (d *Data) largeValues() bool {
	return slices.ContainsFunc(d.Summary.Variants, func(v bench.VariantSummary) bool { return hasLargeValues(&v) })
}

// hasLargeValues judges values of many sizes by what was moved.
func hasLargeValues(v *bench.VariantSummary) bool {
	const large = 4096
	return valueBytes(v.Variant) >= large || v.BytesPerS.Center >= large*v.OpsPerS.Center && v.OpsPerS.Center > 0
}

// best are the variants to mark as among the best of their answer. Where
// nothing could be concluded no variant is marked: it would be all of them.
func (d *Data) best() map[string]bool {
	best := map[string]bool{}
	for _, a := range d.Summary.Answers {
		if a.Confidence <= 0 {
			continue
		}
		for _, id := range a.Best {
			best[id] = true
		}
	}
	return best
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func newTable(d *Data) *table {
	axes := tableAxes(d)
	big := d.largeValues()
	ceilings, verdicts := ceilingTargets(d), false
	best := d.best()
	for _, v := range d.Summary.Variants {
		verdicts = verdicts || v.Verdict != ""
	}
	t := &table{}
	for _, a := range axes {
		t.Columns = append(t.Columns, column{Name: a, Axis: true})
	}
	add := func(name, title string) {
		t.Columns = append(t.Columns, column{Name: name, Title: title, Numeric: true})
	}
	add("ops/s", "operations acknowledged a second; median over blocks and its interval")
	if big {
		add("MB/s", "bytes of values acknowledged a second")
	}
	for _, p := range []string{"p50", "p90", "p99", "p99.9"} {
		add(p, p+" of the response time; median over blocks of each trial's own")
	}
	add("max", "slowest operation; median over blocks")
	if joins(d) {
		add("catch-up", "how long a node that joined took to have all data; median over the blocks in which it had before the window ended")
	}
	if outages(d) {
		add("no service", "longest time between two answers at an event; median over blocks")
		add("recovered", "how long after an event service was as before; median over the blocks in which it was in time")
	}
	add("errors", "operations that failed or had no answer, all blocks")
	for _, target := range ceilings {
		add("of "+target, "throughput over that of target "+target+" with the same load")
	}
	if verdicts {
		add("vs baseline", d.comparedBy()+" over the baseline's, paired by block")
	}

	ordered := slices.Clone(d.Summary.Variants)
	slices.SortStableFunc(ordered, func(a, b bench.VariantSummary) int { return roleRank(a.Variant.Role) - roleRank(b.Variant.Role) })
	for _, v := range ordered {
		r := row{ID: v.Variant.ID, Role: v.Variant.Role, Baseline: v.Variant.Baseline, Best: best[v.Variant.ID]}
		for _, a := range axes {
			c := text(v.Variant.Params[a])
			if n, ok := number(c.Text); ok {
				c.Sort = n
			}
			r.Cells = append(r.Cells, c)
		}
		if !v.Viable {
			r.Problem = cmp.Or(v.Problem, "could not do the work")
			if v.Trials > 0 {
				r.Problem += fmt.Sprintf("; figures are of %d blocks in which it could", v.Trials)
			}
		}
		r.Cells = append(r.Cells, figures(d, &v, big, ceilings, verdicts)...)
		for _, c := range r.Cells {
			t.HasThin = t.HasThin || c.Thin
			t.HasInterval = t.HasInterval || c.Note != ""
		}
		t.HasBest = t.HasBest || r.Best
		t.Rows = append(t.Rows, r)
	}
	return t
}

// comparedBy is what verdicts compare.
func (d *Data) comparedBy() string {
	metric := d.Run.Experiment.Metric
	if metric == bench.MetricAuto {
		return "throughput, or p99 where a rate is given,"
	}
	metric = strings.Replace(metric, "ops/s", "throughput", 1)
	return strings.TrimSuffix(strings.Replace(metric, bench.MetricBytes, "bytes a second", 1), "-latency-ns")
}

// joins tells whether a node caught up in any window.
func joins(d *Data) bool {
	return slices.ContainsFunc(d.Summary.Variants, func(v bench.VariantSummary) bool { return v.CatchUpS.N > 0 })
}

// ceilingTargets are the kinds of ceilings that any variant has.
func ceilingTargets(d *Data) []string {
	var kinds []string
	for _, target := range bench.CeilingTargets {
		has := func(v bench.VariantSummary) bool { return ceiling(&v, target) != nil }
		if slices.ContainsFunc(d.Summary.Variants, has) {
			kinds = append(kinds, target)
		}
	}
	return kinds
}

func roleRank(role string) int {
	switch role {
	case bench.RoleAA:
		return 1
	case bench.RoleCeiling:
		return 2
	}
	return 0
}

// figures are the cells after the axes.
func figures(d *Data, v *bench.VariantSummary, big bool, ceilings []string, verdicts bool) []cell {
	var out []cell
	none := cell{Text: absent, Sort: -1}
	// Intervals stand beside few figures, or the table could not be taken in; the
	// others have theirs in the title.
	estimate := func(e bench.Estimate, format func(float64) string, thin, interval bool) {
		if v.Trials == 0 || (e.Center == 0 && e.N == 0) {
			out = append(out, none)
			return
		}
		c := cell{Text: format(e.Center), Sort: e.Center, Thin: thin}
		if half := halfWidth(e); half != "" {
			if interval {
				c.Note = half
			}
			c.Title = fmt.Sprintf("%s to %s, %s confidence, %d blocks", format(e.Lo), format(e.Hi), percent(e.Confidence), e.N)
		}
		if thin {
			c.Title = strings.TrimPrefix(c.Title+"; too few samples", "; ")
		}
		out = append(out, c)
	}
	n := d.samplesPerTrial(v)
	estimate(v.OpsPerS, count, false, true)
	if big {
		estimate(v.BytesPerS, megabytes, false, false)
	}
	estimate(v.P50Ns, response, !enough(n, 0.5), false)
	estimate(v.P90Ns, response, !enough(n, 0.9), false)
	estimate(v.P99Ns, response, !enough(n, 0.99), true)
	estimate(v.P999Ns, response, !enough(n, 0.999), false)
	estimate(v.MaxNs, response, false, false)
	if joins(d) {
		estimate(v.CatchUpS, func(s float64) string { return latency(s * 1e9) }, false, true)
	}
	if outages(d) {
		estimate(v.OutageNs, latency, false, true)
		estimate(v.RecoverNs, recovery, false, true)
		unrecovered(v, &out[len(out)-1])
	}
	out = append(out, cell{Text: count(float64(v.Errors)), Sort: float64(v.Errors), Title: errorsATrial(v.ErrorsATrial), Class: map[bool]string{true: "bad"}[v.Errors > 0]})
	for _, target := range ceilings {
		if share := ceiling(v, target); share != nil && v.Viable {
			estimate(share.Fraction, percent, false, false)
			c := &out[len(out)-1]
			c.Note = "of " + count(share.OpsPerS)
		} else {
			out = append(out, none)
		}
	}
	if verdicts {
		switch {
		case v.Variant.Baseline:
			out = append(out, cell{Text: "baseline", Sort: 1})
		case v.Verdict == "" || !v.Viable:
			out = append(out, none)
		default:
			c := cell{Text: v.Verdict, Sort: v.Ratio.Center, Class: "verdict " + v.Verdict}
			if v.Ratio.Center > 0 {
				c.Note = "×" + digits3(v.Ratio.Center)
			}
			if v.Ratio.Hi > v.Ratio.Lo {
				c.Title = fmt.Sprintf("×%s to ×%s, %s confidence", digits3(v.Ratio.Lo), digits3(v.Ratio.Hi), percent(v.Ratio.Confidence))
			}
			out = append(out, c)
		}
	}
	return out
}

// halfWidth is the wider side of an interval, relative to its centre; empty
// when there is no interval.
func halfWidth(e bench.Estimate) string {
	if e.Hi <= e.Lo || e.Center <= 0 {
		return ""
	}
	return "±" + percent(max(e.Hi-e.Center, e.Center-e.Lo)/e.Center)
}
