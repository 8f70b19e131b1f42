package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"raftlab/bench"
)

// What is asked by rate: latency over the rate, to the knee or to an objective.

// rates are the panels of a run that asks for rates, one a variant; none for others.
func (d *Data) rates() []panel {
	var out []panel
	for i := range d.Summary.Knees {
		out = append(out, d.kneePanel(i, &d.Summary.Knees[i]))
	}
	if o := d.Run.Objective; o != nil {
		for i := range o.Rates {
			if p, ok := d.objectivePanel(len(out), o, &o.Rates[i]); ok {
				out = append(out, p)
			}
		}
	}
	return out
}

// axesOf says in words what tells a variant apart, or a knee.
func (d *Data) axesOf(params map[string]string) string {
	var parts []string
	for _, axis := range d.Run.Experiment.Axes {
		if v, ok := params[axis]; ok {
			parts = append(parts, axis+" "+v)
		}
	}
	return strings.Join(parts, " · ")
}

// rateNote says how to read the panels.
func (d *Data) rateNote() string {
	if o := d.Run.Objective; o != nil {
		return fmt.Sprintf("Each mark is one trial on a fresh cluster, driven by a clock: filled when it met %s, hollow when not. The dashed line is the limit, the upright one the rate at which half of the trials meet it, between the ends of its interval.", o)
	}
	return "Operations are sent by a clock. Filled with a solid line p50, hollow with a dashed line p99, over what was achieved. The upright line is the knee, the rate with the most throughput for its mean response time, between the ends of its interval over blocks."
}

// ratePanel is an empty panel over rates and latencies.
func ratePanel(id, title string, rateHi, latencyLo, latencyHi float64) (panel, scale, scale) {
	x := linearScale(rateHi*1.04, padLeft, panelWideW-padRight)
	y := logScale(latencyLo, latencyHi, panelH-padBottom, padTop)
	p := panel{
		ID: id, Title: title, W: panelWideW, H: panelH, Plot: newRect(padLeft, padTop, panelWideW-padRight, panelH-padBottom),
		XLabel: "operations a second", YLabel: "response time",
	}
	for _, v := range x.ticks() {
		p.XTicks = append(p.XTicks, tick{At: px(x.at(v)), Label: count(v)})
	}
	for _, v := range y.ticks() {
		p.YTicks = append(p.YTicks, tick{At: px(y.at(v)), Label: latency(v)})
	}
	return p, x, y
}

// upright draws a rate with its interval.
func (p *panel) upright(x scale, rate bench.Estimate) {
	draw := func(class string, at float64) {
		p.Lines = append(p.Lines, line{class, polyline([][2]float64{{x.at(at), padTop}, {x.at(at), panelH - padBottom}})})
	}
	draw("event", rate.Center)
	if rate.Confidence > 0 {
		draw("ceil", rate.Lo)
		draw("ceil", rate.Hi)
	}
}

func (d *Data) kneePanel(n int, k *bench.Knee) panel {
	lo, hi, most := math.Inf(1), 0.0, 0.0
	for _, pt := range k.Points {
		if pt.P50Ns.Center > 0 {
			lo, hi, most = min(lo, pt.P50Ns.Center), max(hi, pt.P99Ns.Center, pt.P99Ns.Hi), max(most, pt.OpsPerS.Center)
		}
	}
	p, x, y := ratePanel(fmt.Sprintf("kn%d", n), d.axesOf(k.Where), most, lo, hi)
	var p50, p99 [][2]float64
	var words []string
	for _, pt := range k.Points {
		name := fmt.Sprintf("%s, %s ops/s offered", pt.Variant, count(pt.Rate))
		if !pt.Viable {
			words = append(words, name+": the backlog grew without end")
			continue
		}
		if pt.P50Ns.Center <= 0 {
			continue
		}
		at := x.at(pt.OpsPerS.Center)
		for _, f := range []struct {
			name  string
			e     bench.Estimate
			class string
			path  *[][2]float64
		}{{"p99", pt.P99Ns, "mk c2 hollow", &p99}, {"p50", pt.P50Ns, "mk c1", &p50}} {
			if f.e.Hi > f.e.Lo {
				p.Whiskers = append(p.Whiskers, whisker{
					Class: f.class[3:5], X: px(at), Top: px(y.at(f.e.Hi)), Bottom: px(y.at(f.e.Lo)), Left: px(at - whiskerCap), Right: px(at + whiskerCap),
				})
			}
			text := fmt.Sprintf("%s, %s achieved: %s %s", name, count(pt.OpsPerS.Center), f.name, latency(f.e.Center))
			p.Marks = append(p.Marks, mark{Class: f.class, D: shape(0, at, y.at(f.e.Center), markRadius), Title: text})
			*f.path = append(*f.path, [2]float64{at, y.at(f.e.Center)})
		}
		words = append(words, fmt.Sprintf("%s: p50 %s, p99 %s", name, latency(pt.P50Ns.Center), latency(pt.P99Ns.Center)))
	}
	p.Lines = append(p.Lines, line{"tm c1", polyline(p50)}, line{"tm c2 dash", polyline(p99)})
	if k.Rate.N > 0 {
		p.upright(x, k.Rate)
	}
	p.Desc = strings.Join(append([]string{k.Sentence}, words...), "; ")
	return p
}

func (d *Data) objectivePanel(n int, o *bench.Objective, f *bench.RateFound) (panel, bool) {
	lo, hi, most := float64(o.LimitNs), float64(o.LimitNs), 0.0
	var trials []*bench.Trial
	for i := range d.Run.Trials {
		t := &d.Run.Trials[i]
		if t.Variant == f.Variant && t.Met != nil {
			trials = append(trials, t)
			most = max(most, t.Rate)
			if ns := t.Figure(o.Metric); ns > 0 {
				lo, hi = min(lo, ns), max(hi, ns)
			}
		}
	}
	if len(trials) == 0 {
		return panel{}, false
	}
	title := f.Variant
	for i := range d.Run.Variants {
		if v := &d.Run.Variants[i]; v.ID == f.Variant {
			title = d.axesOf(v.Params)
		}
	}
	p, x, y := ratePanel(fmt.Sprintf("ob%d", n), title, most, lo, hi)
	var words []string
	for _, t := range trials {
		ns := t.Figure(o.Metric)
		text := fmt.Sprintf("%s ops/s: %s", count(t.Rate), latency(ns))
		at, top := x.at(t.Rate), y.at(ns)
		m := mark{Class: "mk c2 hollow", D: shape(1, at, top, markRadius)}
		switch {
		case *t.Met:
			m = mark{Class: "mk c1", D: shape(0, at, top, markRadius)}
			text += ", met"
		case ns <= 0:
			m = mark{Class: "mx c2", D: cross(at, padTop+8)}
			text = fmt.Sprintf("%s ops/s: not followed, %s", count(t.Rate), t.Problem)
		default:
			text += ", missed"
		}
		m.Title = text
		p.Marks = append(p.Marks, m)
		words = append(words, text)
	}
	p.Lines = append(p.Lines, line{"ceil relay", polyline([][2]float64{{x.from, y.at(float64(o.LimitNs))}, {x.to, y.at(float64(o.LimitNs))}})})
	if f.Outcome == bench.RateIsFound {
		p.upright(x, f.Rate)
	}
	p.Notes = []string{f.Sentence}
	p.Desc = strings.Join(append([]string{f.Sentence}, words...), "; ")
	return p, true
}

// rateLines are the trials of a search, and the points of knees, for plain forms.
func (d *Data) rateLines() (head []string, lines [][]string) {
	if o := d.Run.Objective; o != nil {
		head = []string{"variant", "highest ops/s", "interval", "outcome", "trials", "closed loop"}
		for _, f := range o.Rates {
			name := f.Variant
			if i := slices.IndexFunc(d.Run.Variants, func(v bench.Variant) bool { return v.ID == f.Variant }); i >= 0 {
				name += " " + d.Run.Variants[i].Name
			}
			rate, interval := absent, absent
			if f.Outcome == bench.RateIsFound {
				rate, interval = count(f.Rate.Center), count(f.Rate.Lo)+" to "+count(f.Rate.Hi)
			}
			lines = append(lines, []string{name, rate, interval, string(f.Outcome), fmt.Sprint(f.Rate.N), count(f.ClosedLoop)})
		}
		return head, lines
	}
	head = []string{"knee", "ops/s", "interval", "kept up with"}
	for _, k := range d.Summary.Knees {
		interval, rate := absent, absent
		if k.Rate.N > 0 {
			rate = count(k.Rate.Center)
		}
		if k.Rate.Confidence > 0 {
			interval = fmt.Sprintf("%s to %s, %s confidence", count(k.Rate.Lo), count(k.Rate.Hi), percent(k.Rate.Confidence))
		}
		name := d.axesOf(k.Where)
		if name == "" {
			name = "all rates"
		}
		lines = append(lines, []string{name, rate, interval, count(k.Followed)})
	}
	return head, lines
}

// ratesText writes them as a terminal shows them.
func (d *Data) ratesText(b *strings.Builder) {
	head, lines := d.rateLines()
	if len(lines) == 0 {
		return
	}
	grid := [][]string{head}
	for _, line := range lines {
		for i := range line {
			line[i] = plain(line[i])
		}
		grid = append(grid, line)
	}
	for _, line := range alignGrid(grid, make([]bool, len(head))) {
		b.WriteString(line + "\n")
	}
	b.WriteByte('\n')
}

// ratesMarkdown writes them as a table.
func (d *Data) ratesMarkdown(b *strings.Builder) {
	head, lines := d.rateLines()
	if len(lines) == 0 {
		return
	}
	b.WriteString("\n## Rates\n\n| " + strings.Join(head, " | ") + " |\n" + strings.Repeat("|---", len(head)) + "|\n")
	for _, line := range lines {
		for i := range line {
			line[i] = md(line[i])
		}
		b.WriteString("| " + strings.Join(line, " | ") + " |\n")
	}
}
