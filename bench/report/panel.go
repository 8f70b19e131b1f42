package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"raftlab/bench"
)

// panel is one small chart: geometry in pixels of its own view box, and what a
// screen reader says. The template only draws it.
type panel struct {
	ID, Title, Desc string
	W, H            int
	Plot            rect
	XTicks, YTicks  []tick
	XLabel, YLabel  string
	Lines           []line
	Whiskers        []whisker
	Marks           []mark
	Notes           []string // sentences below the chart
}

// rect is where a panel plots, with the places of the labels around it.
type rect struct {
	Left, Right, Top, Bottom, Mid string
	TickX, TickY, LabelY          string
}

func newRect(left, top, right, bottom float64) rect {
	return rect{
		Left: px(left), Right: px(right), Top: px(top), Bottom: px(bottom), Mid: px((left + right) / 2),
		TickX: px(left - 5), TickY: px(bottom + 16), LabelY: px(bottom + 34),
	}
}

type tick struct {
	At, Label string
}

type line struct{ Class, D string }

type whisker struct{ Class, X, Top, Bottom, Left, Right string }

// mark is a shape; ID is the variant whose figure it shows, if it shows one.
type mark struct{ Class, D, Title, ID string }

// seriesKey is one entry of a legend.
type seriesKey struct {
	Class, D, Label string
}

// Size of a small multiple and the room its labels take.
const (
	panelW, panelWideW        = 380, 460 // wide when there are only one or two
	panelH                    = 250
	padLeft, padRight         = 58, 14
	padTop, padBottom         = 28, 38
	dodge                     = 7.0 // pixels between series at one x
	markRadius                = 4.2
	whiskerCap                = 3.0
	logSpan                   = 25 // values further apart than this get a log scale
	sharedRatio, sharedDecade = 2, 1e5
)

// chart is the variants of a run, laid out.
type chart struct {
	d       *Data
	l       layout
	xs      []string // values along x, in order
	series  []string // keys, in the order of the matrix
	labels  map[string]string
	width   float64 // of a panel
	panels  []chartPanel
	byID    map[string]*bench.VariantSummary
	bestIDs map[string]bool
	perRun  map[string]float64 // samples a trial, by variant
}

type chartPanel struct {
	title    string
	variants []*bench.VariantSummary
}

// measured is what charts show: ceilings are lines beside it, and the A/A arm
// is told as noise.
func measured(vs []bench.VariantSummary) []bench.Variant {
	var out []bench.Variant
	for _, v := range vs {
		if v.Variant.Role == bench.RoleMeasured || v.Variant.Role == "" {
			out = append(out, v.Variant)
		}
	}
	return out
}

func newChart(d *Data) *chart {
	variants := measured(d.Summary.Variants)
	info := d.Run.Experiment
	c := &chart{
		d: d, l: chooseLayout(info.Axes, info.AnswerBy, variants), labels: map[string]string{},
		byID: map[string]*bench.VariantSummary{}, bestIDs: d.best(), perRun: map[string]float64{},
	}
	var values []string
	for _, v := range variants {
		if x := c.xOf(v); !slices.Contains(values, x) {
			values = append(values, x)
		}
	}
	c.xs = orderX(values, c.l.numeric)
	for i := range d.Summary.Variants {
		v := &d.Summary.Variants[i]
		c.byID[v.Variant.ID] = v
		c.perRun[v.Variant.ID] = d.samplesPerTrial(v)
	}
	index := map[string]int{}
	for _, v := range variants {
		p := key(v, c.l.panels)
		i, ok := index[p]
		if !ok {
			i = len(c.panels)
			index[p] = i
			c.panels = append(c.panels, chartPanel{title: label(v, c.l.panels)})
		}
		c.panels[i].variants = append(c.panels[i].variants, c.byID[v.ID])
		if s := key(v, c.l.series); !slices.Contains(c.series, s) {
			c.series = append(c.series, s)
			c.labels[s] = label(v, c.l.series)
		}
	}
	c.width = panelW
	if len(c.panels) <= 2 {
		c.width = panelWideW
	}
	return c
}

// samplesPerTrial is the number of operations behind each trial's percentiles,
// the least over the trials.
func (d *Data) samplesPerTrial(v *bench.VariantSummary) float64 {
	least := math.Inf(1)
	for _, t := range d.Run.Trials {
		if t.Variant == v.Variant.ID && t.Kind == bench.TrialMeasured && t.Valid && t.Viable {
			least = min(least, float64(t.Operations))
		}
	}
	if math.IsInf(least, 1) {
		return float64(v.Samples) / float64(max(v.Trials, 1))
	}
	return least
}

// xOf is a variant's value along x.
func (c *chart) xOf(v bench.Variant) string {
	for _, a := range c.l.x {
		if s := v.Params[a]; s != "" {
			return s
		}
	}
	return ""
}

// xScale places values by size where that keeps them apart, else evenly.
func (c *chart) xScale(value string) float64 {
	const inset = 0.11
	left, right := float64(padLeft), c.width-padRight
	left, right = left+inset*(right-left), right-inset*(right-left)
	if len(c.xs) == 1 {
		return (left + right) / 2
	}
	even := func(i int) float64 { return left + (right-left)*float64(i)/float64(len(c.xs)-1) }
	i := slices.Index(c.xs, value)
	if !c.l.numeric {
		return even(i)
	}
	var numbers []float64
	first := -1
	for j, s := range c.xs {
		if v, ok := number(s); ok && s != "" {
			if v <= 0 {
				return even(i)
			}
			if first < 0 {
				first = j
			}
			numbers = append(numbers, v)
		}
	}
	last := first + len(numbers) - 1
	if first < 0 || i < first || i > last || numbers[0] == numbers[len(numbers)-1] {
		return even(i)
	}
	s := scale{lo: numbers[0], hi: numbers[len(numbers)-1], from: even(first), to: even(last), log: true}
	for j := 1; j < len(numbers); j++ {
		if s.at(numbers[j])-s.at(numbers[j-1]) < 34 {
			return even(i)
		}
	}
	return s.at(numbers[i-first])
}

func (c *chart) xLabel() string { return strings.Join(c.l.x, " or ") }

func (c *chart) xTicks() []tick {
	var out []tick
	for _, s := range c.xs {
		name := s
		if s == "" {
			name = "not set"
		}
		if len(c.xs) > 5 && len(name) > 9 {
			name = name[:8] + "…"
		}
		out = append(out, tick{At: px(c.xScale(s)), Label: name})
	}
	return out
}

// legend lists the series, unless there is only one without a name.
func (c *chart) legend() []seriesKey {
	var out []seriesKey
	for i, s := range c.series {
		name := c.labels[s]
		if name == "" {
			if len(c.series) == 1 {
				return nil
			}
			name = strings.Join(c.l.series, ", ") + " not set"
		}
		out = append(out, seriesKey{Class: colour(i), D: shape(i, 8, 7, markRadius), Label: name})
	}
	return out
}

func colour(i int) string { return fmt.Sprintf("c%d", i%maxSeries+1) }

// shape draws the marker of series i about a point, so that colour is never
// the only thing that tells series apart.
func shape(i int, x, y, r float64) string {
	p := func(points ...float64) string {
		var b strings.Builder
		for k := 0; k < len(points); k += 2 {
			op := "L"
			if k == 0 {
				op = "M"
			}
			b.WriteString(op + px(x+points[k]*r) + " " + px(y+points[k+1]*r))
		}
		return b.String() + "Z"
	}
	switch i % maxSeries {
	case 0: // circle
		return fmt.Sprintf("M%s %sa%s %s 0 1 0 %s 0a%s %s 0 1 0 -%s 0Z",
			px(x-r), px(y), px(r), px(r), px(2*r), px(r), px(r), px(2*r))
	case 1: // square
		return p(-.9, -.9, .9, -.9, .9, .9, -.9, .9)
	case 2: // diamond
		return p(0, -1.25, 1.25, 0, 0, 1.25, -1.25, 0)
	case 3: // triangle
		return p(0, -1.2, 1.15, .9, -1.15, .9)
	case 4: // triangle, point down
		return p(0, 1.2, 1.15, -.9, -1.15, -.9)
	default: // hourglass
		return p(-1.1, -1.15, 1.1, -1.15, -1.1, 1.15, 1.1, 1.15)
	}
}

// cross marks what could not do the work.
func cross(x, y float64) string {
	return fmt.Sprintf("M%s %sl7 7m0 -7l-7 7", px(x-3.5), px(y-3.5))
}

// polyline joins points, straight.
func polyline(points [][2]float64) string {
	var b strings.Builder
	for i, p := range points {
		op := "L"
		if i == 0 {
			op = "M"
		}
		b.WriteString(op + px(p[0]) + " " + px(p[1]))
	}
	return b.String()
}
