package report

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"raftlab/bench"
)

// layout says what each axis of an experiment becomes in a chart.
type layout struct {
	// x holds the axis along the bottom; more than one when arms of the matrix
	// set the same quantity by different knobs (chunk-size or append-size),
	// never two of them in one variant. Empty when there is nothing to vary.
	x       []string
	numeric bool
	series  []string // axes told apart by colour and shape within a panel
	panels  []string // axes with one panel for each of their values
}

// most series that colours and shapes tell apart.
const maxSeries = 6

// chooseLayout gives every axis that varies a place. It looks only at the
// matrix, not at what was measured, so two runs of one experiment look alike.
func chooseLayout(axes, answerBy []string, variants []bench.Variant) layout {
	var l layout
	axes = slices.DeleteFunc(slices.Clone(axes), func(a string) bool { return len(valuesOf(variants, a)) < 2 })
	free := slices.DeleteFunc(slices.Clone(axes), func(a string) bool { return slices.Contains(answerBy, a) })
	for _, a := range axes {
		if slices.Contains(answerBy, a) {
			l.panels = append(l.panels, a)
		}
	}

	if x := chooseX(free, variants); x != "" {
		l.x, l.numeric = []string{x}, isNumeric(variants, x)
		for _, a := range free {
			if a != x && l.numeric && isNumeric(variants, a) && neverTogether(variants, l.x, a) {
				l.x = append(l.x, a)
			}
		}
	}
	free = slices.DeleteFunc(free, func(a string) bool {
		return slices.Contains(l.x, a) || (len(l.x) == 1 && determines(variants, l.x[0], a))
	})

	groups := glue(free, variants)
	best := math.Inf(1)
	var bestSeries, bestPanels []string
	for mask := range 1 << min(len(groups), 10) {
		var series, panels []string
		for i, g := range groups {
			if i < 10 && mask&(1<<i) != 0 {
				series = append(series, g...)
			} else {
				panels = append(panels, g...)
			}
		}
		if c := layoutCost(variants, slices.Concat(l.panels, panels), series, l.x); c < best {
			best, bestSeries, bestPanels = c, series, panels
		}
	}
	l.series = bestSeries
	l.panels = append(l.panels, bestPanels...)
	return l
}

// layoutCost is lower for charts that are easier to read: few panels, few
// series in each, and few different ceilings in one panel.
func layoutCost(variants []bench.Variant, panels, series, x []string) float64 {
	type cell struct{ panel, x string }
	seriesIn, ceilings := map[string]map[string]bool{}, map[cell]map[string]bool{}
	for _, v := range variants {
		p := key(v, panels)
		if seriesIn[p] == nil {
			seriesIn[p] = map[string]bool{}
		}
		seriesIn[p][key(v, series)] = true
		if c := (cell{p, key(v, x)}); len(v.Ceilings) > 0 {
			if ceilings[c] == nil {
				ceilings[c] = map[string]bool{}
			}
			ceilings[c][v.Ceilings[0]] = true // others differ where the first does
		}
	}
	most, extra := 0, map[string]int{}
	for _, s := range seriesIn {
		most = max(most, len(s))
	}
	for c, ids := range ceilings {
		extra[c.panel] = max(extra[c.panel], len(ids)-1)
	}
	cost := float64(len(seriesIn)) + 0.15*float64(most*most) + 10*float64(max(0, most-maxSeries))
	for _, n := range extra {
		cost += float64(n)
	}
	return cost
}

// chooseX takes the quantity with the most values, else the name with the most.
func chooseX(axes []string, variants []bench.Variant) string {
	best, bestScore := "", 0
	for _, a := range axes {
		score := len(valuesOf(variants, a))
		if isNumeric(variants, a) {
			score += 1000
		}
		if score > bestScore {
			best, bestScore = a, score
		}
	}
	return best
}

// glue puts axes that follow from another one beside it, such as ops-per-message
// that only one target sets.
func glue(axes []string, variants []bench.Variant) [][]string {
	var groups [][]string
	taken := map[string]bool{}
	ordered := slices.Clone(axes)
	slices.SortStableFunc(ordered, func(a, b string) int {
		return cmp.Compare(len(valuesOf(variants, b)), len(valuesOf(variants, a)))
	})
	for _, a := range ordered {
		if taken[a] {
			continue
		}
		group := []string{a}
		for _, b := range ordered {
			if b != a && !taken[b] && determines(variants, a, b) {
				group = append(group, b)
				taken[b] = true
			}
		}
		taken[a] = true
		groups = append(groups, group)
	}
	slices.SortStableFunc(groups, func(a, b []string) int {
		return cmp.Compare(slices.Index(axes, a[0]), slices.Index(axes, b[0]))
	})
	return groups
}

// determines says whether each value of a goes with one value of b only.
func determines(variants []bench.Variant, a, b string) bool {
	seen := map[string]string{}
	for _, v := range variants {
		if old, ok := seen[v.Params[a]]; ok && old != v.Params[b] {
			return false
		}
		seen[v.Params[a]] = v.Params[b]
	}
	return true
}

func neverTogether(variants []bench.Variant, axes []string, a string) bool {
	for _, v := range variants {
		for _, x := range axes {
			if v.Params[x] != "" && v.Params[a] != "" {
				return false
			}
		}
	}
	return true
}

// isNumeric says whether an axis is a quantity: at least two numbers, and at
// most one word among them, such as auto.
func isNumeric(variants []bench.Variant, axis string) bool {
	numbers, words := 0, 0
	for _, s := range valuesOf(variants, axis) {
		if _, ok := number(s); ok {
			numbers++
		} else if s != "" {
			words++
		}
	}
	return numbers >= 2 && words <= 1
}

// valuesOf lists the values of an axis in the order of the matrix; a variant
// that does not set it counts as "".
func valuesOf(variants []bench.Variant, axis string) []string {
	var out []string
	for _, v := range variants {
		if s := v.Params[axis]; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// key identifies a variant's values of some axes.
func key(v bench.Variant, axes []string) string {
	parts := make([]string, len(axes))
	for i, a := range axes {
		parts[i] = v.Params[a]
	}
	return strings.Join(parts, "\x00")
}

// label names a variant's values of some axes: values that speak for
// themselves stand alone, numbers get their axis' name.
func label(v bench.Variant, axes []string) string {
	var parts []string
	for _, a := range axes {
		s := v.Params[a]
		if s == "" {
			continue
		}
		if _, ok := number(s); ok || s == "auto" || s == "true" || s == "false" {
			s = a + " " + s
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " · ")
}

// orderX sorts values along x: unset first, then by quantity, then words.
// Words of an axis that is no quantity keep the order of the matrix.
func orderX(values []string, numeric bool) []string {
	if !numeric {
		return values
	}
	rank := func(s string) (int, float64) {
		if s == "" {
			return 0, 0
		}
		if v, ok := number(s); ok {
			return 1, v
		}
		return 2, 0
	}
	out := slices.Clone(values)
	slices.SortStableFunc(out, func(a, b string) int {
		ra, va := rank(a)
		rb, vb := rank(b)
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(va, vb))
	})
	return out
}
