package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"raftlab/bench"
)

// plotted is one figure of one variant, ready to be drawn.
type plotted struct {
	v      *bench.VariantSummary
	e      bench.Estimate
	series int
	x      float64
	hollow bool // p99 beside p50
	thin   bool // too few samples
	what   string
}

// frame starts a panel with its axes.
func (c *chart) frame(id string, p chartPanel, y scale, format func(float64) string, yLabel string) panel {
	out := panel{
		ID: id, Title: p.title, W: int(c.width), H: panelH, XTicks: c.xTicks(), XLabel: c.xLabel(), YLabel: yLabel,
		Plot: newRect(padLeft, padTop, c.width-padRight, panelH-padBottom),
	}
	if y.log {
		out.YLabel += ", log scale"
	}
	for _, v := range y.ticks() {
		out.YTicks = append(out.YTicks, tick{At: px(y.at(v)), Label: format(v)})
	}
	return out
}

// plot draws figures: a line a series, whiskers for intervals, a marker each.
func (c *chart) plot(out *panel, y scale, points []plotted, format func(float64) string) {
	n := len(c.series)
	for s := range n {
		for _, hollow := range []bool{false, true} {
			var path [][2]float64
			for _, xv := range c.xs {
				if xv == "" {
					continue // "not set" is no quantity, so nothing leads from it
				}
				for _, p := range points {
					if p.series == s && p.hollow == hollow && c.xOf(p.v.Variant) == xv && p.v.Viable && p.e.Center > 0 {
						path = append(path, [2]float64{p.x, y.at(p.e.Center)})
					}
				}
			}
			if len(path) > 1 && c.l.numeric {
				class := "ln " + colour(s)
				if hollow {
					class += " dash"
				}
				out.Lines = append(out.Lines, line{Class: class, D: polyline(path)})
			}
		}
	}
	bottom := float64(panelH - padBottom)
	for _, p := range points {
		class := colour(p.series)
		name := p.v.Variant.ID + " " + c.name(p.v.Variant)
		switch {
		case p.v.Trials == 0 && p.v.Viable:
			continue
		case !p.v.Viable:
			out.Marks = append(out.Marks, mark{Class: "mx " + class, D: cross(p.x, bottom-8), Title: name + ": cannot do the work. " + p.v.Problem})
			continue
		case p.e.Center <= 0:
			continue
		}
		if p.e.Hi > p.e.Lo {
			class := class
			if p.thin {
				class += " thin"
			}
			out.Whiskers = append(out.Whiskers, whisker{
				Class: class, X: px(p.x), Top: px(y.at(p.e.Hi)), Bottom: px(y.at(max(p.e.Lo, 0))),
				Left: px(p.x - whiskerCap), Right: px(p.x + whiskerCap),
			})
		}
		text := fmt.Sprintf("%s: %s%s", name, p.what, format(p.e.Center))
		if p.e.Hi > p.e.Lo {
			text += fmt.Sprintf(", %s to %s with %s confidence", format(p.e.Lo), format(p.e.Hi), percent(p.e.Confidence))
		}
		classes := "mk " + class
		if p.hollow {
			classes += " hollow"
		}
		if p.thin {
			classes += " thin"
			text += " (too few samples)"
		}
		if c.bestIDs[p.v.Variant.ID] && !p.hollow {
			text += ". Among the best"
			out.Marks = append(out.Marks, mark{Class: "halo", D: shape(0, p.x, y.at(p.e.Center), markRadius+4)})
		}
		out.Marks = append(out.Marks, mark{Class: classes, D: shape(p.series, p.x, y.at(p.e.Center), markRadius), Title: text, ID: p.v.Variant.ID})
	}
}

// figures collects what a panel plots. pick returns the estimate.
func (c *chart) figures(p chartPanel, pick func(*bench.VariantSummary) bench.Estimate) []plotted {
	var out []plotted
	present := map[int]bool{}
	for _, v := range p.variants {
		present[slices.Index(c.series, key(v.Variant, c.l.series))] = true
	}
	var order []int
	for s := range c.series {
		if present[s] {
			order = append(order, s)
		}
	}
	for _, v := range p.variants {
		s := slices.Index(c.series, key(v.Variant, c.l.series))
		shift := (float64(slices.Index(order, s)) - float64(len(order)-1)/2) * dodge
		out = append(out, plotted{v: v, e: pick(v), series: s, x: c.xScale(c.xOf(v.Variant)) + shift})
	}
	return out
}

// extent is the least and greatest positive figure.
func extent(points []plotted) (lo, hi float64) {
	lo = math.Inf(1)
	for _, p := range points {
		if !p.v.Viable || p.e.Center <= 0 {
			continue
		}
		lo, hi = min(lo, p.e.Center), max(hi, p.e.Center, p.e.Hi)
		if p.e.Lo > 0 {
			lo = min(lo, p.e.Lo)
		}
	}
	return lo, hi
}

// throughput makes one panel for each value of the panel axes. scaleNote says
// how far the panels can be compared by eye.
func (c *chart) throughput() (panels []panel, scaleNote string) {
	type prepared struct {
		points []plotted
		lo, hi float64
	}
	all := make([]prepared, len(c.panels))
	useLog := false
	for i, p := range c.panels {
		points := c.figures(p, func(v *bench.VariantSummary) bench.Estimate { return v.OpsPerS })
		lo, hi := extent(points)
		useLog = useLog || hi/lo > logSpan
		for _, v := range p.variants {
			// A ceiling far above would press the figures to the ground.
			for _, share := range v.Ceilings {
				if v.Viable && share.OpsPerS < 6*hi {
					hi = max(hi, share.OpsPerS)
				}
			}
		}
		all[i] = prepared{points, lo, hi}
	}
	least, most, lowTop := math.Inf(1), 0.0, math.Inf(1)
	for _, a := range all {
		if a.hi > 0 {
			least, most, lowTop = min(least, a.lo), max(most, a.hi), min(lowTop, a.hi)
		}
	}
	share := most/lowTop <= sharedRatio
	if useLog {
		share = most/least <= sharedDecade
	}
	top, bottom := float64(padTop), float64(panelH-padBottom)
	for i, p := range c.panels {
		lo, hi := all[i].lo, all[i].hi
		if share {
			lo, hi = least, most
		}
		y := linearScale(hi*1.04, bottom, top)
		if useLog {
			y = logScale(lo, hi, bottom, top)
		}
		out := c.frame(fmt.Sprintf("tp%d", i), p, y, count, "operations a second")
		c.ceilingLines(&out, p, y)
		c.plot(&out, y, all[i].points, count)
		out.Desc = c.describe(all[i].points, func(p plotted) string { return count(p.e.Center) + " ops/s" })
		panels = append(panels, out)
	}
	return panels, describeScale(len(panels), share, useLog)
}

func describeScale(n int, share, useLog bool) string {
	kind := "from zero"
	if useLog {
		kind = "logarithmic"
	}
	switch {
	case n < 2:
		return "The scale is " + kind + "."
	case share:
		return "All panels have the same scale, " + kind + "."
	default:
		return "Each panel has its own scale, " + kind + "."
	}
}

// ceilingLines draws what each kind of ceiling reached with the same load: one
// neutral line when all series share it, else one in each series' colour.
func (c *chart) ceilingLines(out *panel, p chartPanel, y scale) {
	for _, target := range bench.CeilingTargets {
		c.ceilingLine(out, p, y, target)
		out.Notes = append(out.Notes, c.ceilingNotes(p, target)...)
	}
}

func (c *chart) ceilingLine(out *panel, p chartPanel, y scale, target string) {
	bySeries := map[int]map[string]float64{}
	at := map[string]string{} // the ceiling's ID by x
	shared := true
	for _, v := range p.variants {
		share := ceiling(v, target)
		if share == nil {
			continue
		}
		x, s := c.xOf(v.Variant), slices.Index(c.series, key(v.Variant, c.l.series))
		if bySeries[s] == nil {
			bySeries[s] = map[string]float64{}
		}
		bySeries[s][x] = share.OpsPerS
		if old, ok := at[x]; ok && old != share.Variant {
			shared = false
		}
		at[x] = share.Variant
	}
	shared = shared || len(bySeries) == 1
	for s := range c.series {
		at := bySeries[s]
		if at == nil {
			continue
		}
		var path [][2]float64
		for _, xv := range c.xs {
			if v, ok := at[xv]; ok && v <= y.hi {
				path = append(path, [2]float64{c.xScale(xv), y.at(v)})
			}
		}
		class := "ceil " + target
		if !shared {
			class += " " + colour(s)
		}
		if len(path) > 0 {
			// A short run-out on both sides keeps one point visible as a line.
			first, last := path[0], path[len(path)-1]
			path = append([][2]float64{{first[0] - 16, first[1]}}, path...)
			path = append(path, [2]float64{last[0] + 16, last[1]})
			out.Lines = append(out.Lines, line{Class: class, D: polyline(path)})
		}
		if shared {
			break
		}
	}
}

// ceiling is a variant's share of its ceiling of that kind, nil when there is none.
func ceiling(v *bench.VariantSummary, target string) *bench.CeilingShare {
	for i := range v.Ceilings {
		if v.Ceilings[i].Target == target {
			return &v.Ceilings[i]
		}
	}
	return nil
}

// ceilingNotes names the fraction and the absolute rate for each variant that
// has a ceiling of that kind.
func (c *chart) ceilingNotes(p chartPanel, target string) []string {
	var parts []string
	lo, hi := math.Inf(1), 0.0
	for _, xv := range c.xs {
		for _, v := range p.variants {
			share := ceiling(v, target)
			if c.xOf(v.Variant) != xv || share == nil || !v.Viable {
				continue
			}
			name := label(v.Variant, slices.Concat(c.l.series, c.l.x))
			if name == "" {
				name = v.Variant.ID
			}
			parts = append(parts, fmt.Sprintf("%s: %s of %s ops/s", name, percent(share.Fraction.Center), count(share.OpsPerS)))
			lo, hi = min(lo, share.Fraction.Center), max(hi, share.Fraction.Center)
		}
	}
	switch {
	case len(parts) == 0:
		return nil
	case len(parts) > 6:
		return []string{fmt.Sprintf("Of %s: %s to %s; the table has each, with the absolute rate.", target, percent(lo), percent(hi))}
	}
	return append([]string{"Share of " + target + ", and its rate:"}, parts...)
}

// latencies makes the panels of p50 and p99.
func (c *chart) latencies() (panels []panel, scaleNote string) {
	sets := make([][]plotted, len(c.panels))
	least, most := math.Inf(1), 0.0
	for i, p := range c.panels {
		p50 := c.figures(p, func(v *bench.VariantSummary) bench.Estimate { return v.P50Ns })
		p99 := c.figures(p, func(v *bench.VariantSummary) bench.Estimate { return v.P99Ns })
		for j := range p99 {
			p50[j].what, p99[j].what = "p50 ", "p99 "
			p99[j].hollow = true
			p50[j].thin = !enough(c.perRun[p50[j].v.Variant.ID], 0.5)
			p99[j].thin = !enough(c.perRun[p99[j].v.Variant.ID], 0.99)
		}
		p99 = slices.DeleteFunc(p99, func(p plotted) bool { return !p.v.Viable }) // one cross is enough
		sets[i] = slices.Concat(p99, p50)
		lo, hi := extent(sets[i])
		least, most = min(least, lo), max(most, hi)
	}
	share := most/least <= sharedDecade
	for i, p := range c.panels {
		lo, hi := extent(sets[i])
		if share {
			lo, hi = least, most
		}
		y := logScale(lo, hi, float64(panelH-padBottom), float64(padTop))
		out := c.frame(fmt.Sprintf("lt%d", i), p, y, latency, "response time")
		c.plot(&out, y, sets[i], latency)
		out.Desc = c.describe(sets[i], func(p plotted) string { return p.what + latency(p.e.Center) })
		panels = append(panels, out)
	}
	return panels, describeScale(len(panels), share, true)
}

// describe lists a panel's figures for those who do not see it.
func (c *chart) describe(points []plotted, text func(plotted) string) string {
	var parts []string
	for _, p := range points {
		switch {
		case !p.v.Viable:
			parts = append(parts, c.name(p.v.Variant)+": cannot do the work")
		case p.e.Center > 0:
			parts = append(parts, c.name(p.v.Variant)+": "+text(p))
		}
	}
	return strings.Join(parts, "; ")
}

// name is a variant in words: its values of the axes that vary.
func (c *chart) name(v bench.Variant) string { return variantName(c.d, v) }
