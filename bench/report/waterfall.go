package report

import (
	"fmt"
	"slices"
	"strings"

	"raftlab/bench"
)

// waterfall is a write of one variant by stage: one chart for those around the
// median, one for those around the 99th percentile.
type waterfall struct {
	ID, Title string
	Best      bool
	Charts    []fall
}

// fall is one chart: bars from left to right, each beginning where the one before
// ended, and below commit what goes on meanwhile.
type fall struct {
	ID, Title, Desc string
	Thin            string // why the figures are grey; empty when they carry
	W, H            int
	Top, Bottom     string
	TickY           string
	XTicks          []tick
	Rows            []fallRow
}

type fallRow struct {
	Label, Figure     string
	Class             string // of the bar
	Title             string
	LabelX, LabelY    string
	FigureX           string
	X, Y, Width, High string // of the bar; Width empty for none
}

// Size of a chart and of what stands beside its bars.
const (
	fallW                 = 380
	fallLabels            = 118.0 // pixels left of the bars
	fallFigures           = 100.0 // and right of them
	fallTop               = 8.0
	fallRowHigh, fallThin = 17.0, 14.0
	fallAxis              = 20
	mostWaterfalls        = 6
)

// stageRow is how a stage is shown.
type stageRow struct {
	name, label, class string
	column             string // of a table
	meaning            string
}

// stageRows are in the order in which a write goes through them.
var stageRows = []stageRow{
	{"queue", "queue", "c5", "queue", "taken in by the leader until proposed"},
	{"commit", "commit", "c1", "commit", "proposed until the leader knows of its commit"},
	{"apply", "apply", "c3", "apply", "committed until the leader's store has it"},
	{"answer", "answer", "c4", "answer", "applied until the waiter is told"},
	{bench.StageOutside, "outside", "rest", "outside", "the client, gRPC and the handler: what the client measured less the stages"},
}

// meanwhile is what goes on within commit and has a histogram.
type meanwhile struct {
	label, meaning string
	histogram      string
	follower       bool
}

var (
	leaderLog    = meanwhile{"leader's log", "the leader's own log takes the entry", "stage_append_nanos", false}
	fragments    = meanwhile{"fragments", "from an entry's first fragment until it is whole, on followers", "reassembly_nanos", true}
	followerStep = meanwhile{"follower: taken in", "come in until raft has taken it in, on followers", "stage_step_nanos", true}
	followerLog  = meanwhile{"follower: log", "taken in by raft until in the log and acknowledged, on followers", "stage_durable_nanos", true}
)

// of finds it in a variant's summary.
func (m meanwhile) of(s *bench.StageSummary) (bench.DistributionSummary, bool) {
	from := s.OnLeader
	if m.follower {
		from = s.OnFollowers
	}
	d, ok := from[m.histogram]
	return d, ok
}

// percentiles that waterfalls are drawn for.
var waterfallBands = []struct {
	id, title string
	quantile  float64
	of        func(bench.StageTime) bench.Estimate
	own       func(bench.DistributionSummary) bench.Estimate
	ownWords  string
}{
	{"p50", "around the median", 0.5, func(t bench.StageTime) bench.Estimate { return t.P50 }, func(d bench.DistributionSummary) bench.Estimate { return d.P50 }, "own median"},
	{"p99", "around the 99th percentile", 0.99, func(t bench.StageTime) bench.Estimate { return t.P99 }, func(d bench.DistributionSummary) bench.Estimate { return d.P99 }, "own 99th percentile"},
}

// oneMeasuredIn is how many writes stand behind one that was measured.
const oneMeasuredIn = 8

// staged are the variants with waterfalls: the best of each answer in turn, and
// baselines.
func (d *Data) staged() []*bench.VariantSummary {
	var out []*bench.VariantSummary
	add := func(id string) {
		for i := range d.Summary.Variants {
			v := &d.Summary.Variants[i]
			if v.Variant.ID == id && len(out) < mostWaterfalls && v.Stages != nil && len(v.Stages.Writes) > 0 && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	for _, a := range d.Summary.Answers {
		if len(a.Best) > 0 {
			add(a.Best[0])
		}
		for _, v := range d.Summary.Variants {
			if v.Variant.Baseline && d.place(v.Variant.Params) == d.place(a.Where) {
				add(v.Variant.ID)
			}
		}
	}
	for _, v := range measured(d.Summary.Variants) {
		if len(out) < 2 {
			add(v.ID)
		}
	}
	return out
}

// waterfalls draws them, all to the same scales.
func (d *Data) waterfalls() []waterfall {
	chosen := d.staged()
	longest := make([]float64, len(waterfallBands))
	for _, v := range chosen {
		for i, band := range waterfallBands {
			total := 0.0
			for _, t := range v.Stages.Writes {
				total += max(0, band.of(t).Center)
			}
			longest[i] = max(longest[i], total)
		}
	}
	best := d.best()
	var out []waterfall
	for _, v := range chosen {
		w := waterfall{ID: v.Variant.ID, Title: variantName(d, v.Variant), Best: best[v.Variant.ID]}
		for i := range waterfallBands {
			w.Charts = append(w.Charts, newFall(v, i, linearScale(longest[i], fallLabels, fallW-fallFigures)))
		}
		out = append(out, w)
	}
	return out
}

// drawing is a fall while it is drawn.
type drawing struct {
	*fall
	v    *bench.VariantSummary
	x    scale
	band int
	y    float64
	said []string
}

func newFall(v *bench.VariantSummary, band int, x scale) fall {
	of := waterfallBands[band]
	f := fall{ID: "fall-" + v.Variant.ID + "-" + of.id, Title: of.title, W: fallW, Top: px(fallTop)}
	if !enough(float64(v.Stages.Samples)/oneMeasuredIn, of.quantile) {
		f.Thin = "too few writes were measured"
	}
	d := drawing{fall: &f, v: v, x: x, band: band, y: fallTop}
	at := 0.0
	for _, s := range stageRows {
		i := slices.IndexFunc(v.Stages.Writes, func(t bench.StageTime) bool { return t.Stage == s.name })
		if i < 0 {
			continue
		}
		e := of.of(v.Stages.Writes[i])
		d.row(fallRow{Label: s.label, Class: s.class, Title: s.meaning}, e, fallRowHigh, at, e.Center)
		if s.name == "commit" {
			d.meanwhile(s.class+" meanwhile", at)
		}
		at += max(0, e.Center)
	}
	for _, t := range x.ticks() {
		label := "0"
		if t > 0 {
			label = latency(t)
		}
		f.XTicks = append(f.XTicks, tick{At: px(x.at(t)), Label: label})
	}
	f.Bottom, f.TickY, f.H = px(d.y), px(d.y+14), int(d.y)+fallAxis
	f.Desc = strings.Join(d.said, ", ")
	return f
}

// row adds a bar of a length that begins somewhere, and says what it is.
func (d *drawing) row(r fallRow, e bench.Estimate, high, from, length float64) {
	r.Figure = figureOf(e)
	r.Title = r.Label + ", " + r.Title + ": " + span(e)
	r.LabelX, r.FigureX = px(fallLabels-6), px(fallW-fallFigures+6)
	r.LabelY = px(d.y + high/2 + 3.5)
	if d.Thin != "" {
		r.Class += " thin"
	}
	if length > 0 {
		r.X, r.Width = px(d.x.at(from)), px(max(1, d.x.at(from+length)-d.x.at(from)))
		r.Y, r.High = px(d.y+2), px(high-4)
	}
	d.Rows = append(d.Rows, r)
	d.said = append(d.said, r.Label+" "+r.Figure)
	d.y += high
}

// meanwhile adds what goes on from when commit began: the leader's log and, at the
// same time, the way to the followers, their work, and the way back. Nobody knows
// how the way divides into there and back: both are drawn as its halves.
func (d *drawing) meanwhile(class string, began float64) {
	of, s := waterfallBands[d.band], d.v.Stages
	own := func(m meanwhile, from float64) (length float64) {
		found, ok := m.of(s)
		if !ok {
			return 0
		}
		e := of.own(found)
		if m == fragments { // they end when the entry is there
			from = max(began, from-e.Center)
		}
		d.row(fallRow{Label: m.label, Class: class, Title: m.meaning + ", " + of.ownWords}, e, fallThin, from, e.Center)
		return e.Center
	}
	own(leaderLog, began)
	if s.Way == nil {
		return
	}
	way := of.of(*s.Way)
	half := max(0, way.Center) / 2
	const meaning = "network, gRPC, queues and the leader's loop: commit less what followers do; drawn as two halves, figure of both"
	d.row(fallRow{Label: "way there + back", Class: class, Title: meaning}, way, fallThin, began, half)
	at := began + half
	own(fragments, at)
	at += own(followerStep, at)
	at += own(followerLog, at)
	d.row(fallRow{Label: "… back", Class: class, Title: meaning}, way, fallThin, at, half)
	d.Rows[len(d.Rows)-1].Figure = ""
}

// figureOf is a time with its interval.
func figureOf(e bench.Estimate) string {
	if e.N == 0 {
		return absent
	}
	half := halfWidth(e)
	if len(half) > len("±999 %") {
		half = "±>10×"
	}
	return strings.TrimSpace(signedLatency(e.Center) + " " + half)
}

// span is a time with both sides of its interval.
func span(e bench.Estimate) string {
	if e.Hi <= e.Lo {
		return signedLatency(e.Center)
	}
	return fmt.Sprintf("%s (%s to %s)", signedLatency(e.Center), signedLatency(e.Lo), signedLatency(e.Hi))
}

// signedLatency is a time that may be negative, as a difference of percentiles of what is
// not the same may be.
func signedLatency(ns float64) string {
	if ns < 0 {
		return "−" + latency(-ns)
	}
	return latency(ns)
}
