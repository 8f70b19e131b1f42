package report

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"raftlab/bench"
)

// Heat is how a variant's response times were spread at each time of the window:
// all its valid trials laid over one another.
type Heat struct {
	Variant string // its ID
	Trials  int
	WindowS float64
	// Counts are operations by column of time and row of response time. Row r
	// begins at LowestNs times 10 to the power of r over heatPerDecade.
	Counts   [][]int64
	LowestNs float64
}

const (
	heatPerDecade  = 10 // rows
	mostHeatColumn = 100
)

// moment is an interval's histogram of response times.
type moment struct {
	offsetS, lengthS float64
	h                *hdrhistogram.Histogram
}

// readHeat reads the interval histograms of the variants that are shown in depth.
// Logs that cannot be read have been told of with the spectra.
func readHeat(root *os.Root, d *Data) []Heat {
	var out []Heat
	for _, id := range d.chosen() {
		var moments []moment
		trials := 0
		for _, t := range d.Run.Trials {
			if t.Variant != id || t.Kind != bench.TrialMeasured || !t.Valid || t.Hlog == "" {
				continue
			}
			if m, err := readMoments(root, t.Hlog); err == nil {
				moments = append(moments, m...)
				trials++
			}
		}
		if h, ok := newHeat(moments); ok {
			h.Variant, h.Trials = id, trials
			out = append(out, h)
		}
	}
	return out
}

func readMoments(root *os.Root, name string) ([]moment, error) {
	f, err := root.Open(filepath.FromSlash(name)) // root keeps it inside the run folder
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	// The library reads the window's start, and keeps it.
	start := math.NaN()
	if _, after, ok := bytes.Cut(raw, []byte("#[StartTime: ")); ok {
		if _, err := fmt.Sscanf(string(after[:min(len(after), 20)]), "%f", &start); err != nil {
			return nil, fmt.Errorf("start time: %w", err)
		}
	}
	log := hdrhistogram.NewHistogramLogReader(bytes.NewReader(raw))
	var moments []moment
	for {
		h, err := log.NextIntervalHistogram()
		if err != nil {
			return nil, err
		}
		if h == nil {
			return moments, nil
		}
		if !isResponse(h.Tag()) {
			continue
		}
		from, to := float64(h.StartTimeMs())/1e3, float64(h.EndTimeMs())/1e3
		if math.IsNaN(start) {
			start = from
		}
		moments = append(moments, moment{max(0, from-start), to - from, h})
	}
}

// newHeat lays the histograms over one another; false when they hold nothing or no
// time.
func newHeat(moments []moment) (Heat, bool) {
	heat := Heat{}
	lowest, highest, shortest := math.Inf(1), 0.0, math.Inf(1)
	counted := make([][]hdrhistogram.Bar, len(moments))
	for i, m := range moments {
		for _, b := range m.h.Distribution() {
			if b.Count > 0 { // hardly any, so they are kept without the rest
				counted[i] = append(counted[i], b)
			}
		}
		if len(counted[i]) == 0 || m.lengthS <= 0 {
			continue
		}
		lowest = min(lowest, float64(max(counted[i][0].From, 1)))
		highest = max(highest, float64(counted[i][len(counted[i])-1].To))
		// The last interval of a window may be a stub.
		heat.WindowS = max(heat.WindowS, m.offsetS+m.lengthS)
	}
	for _, m := range moments {
		if m.lengthS > heat.WindowS/1000 {
			shortest = min(shortest, m.lengthS)
		}
	}
	if highest == 0 || math.IsInf(shortest, 1) {
		return heat, false
	}
	row := func(ns float64) int { return int(math.Floor(math.Log10(ns) * heatPerDecade)) }
	bottom := row(lowest)
	rows := row(highest) - bottom + 1
	heat.LowestNs = math.Pow(10, float64(bottom)/heatPerDecade)
	columns := min(max(int(math.Round(heat.WindowS/shortest)), 1), mostHeatColumn)
	heat.Counts = make([][]int64, columns)
	for i := range heat.Counts {
		heat.Counts[i] = make([]int64, rows)
	}
	for i, m := range moments {
		column := int((m.offsetS + m.lengthS/2) / heat.WindowS * float64(columns))
		counts := heat.Counts[min(max(column, 0), columns-1)]
		for _, b := range counted[i] {
			counts[min(max(row(float64(max(b.From, 1)))-bottom, 0), rows-1)] += b.Count
		}
	}
	return heat, true
}

// Size of a heatmap, and the shades that counts are told apart by.
const (
	heatW, heatH        = 460, 220
	heatLeft, heatRight = 58, 10
	heatTop, heatBottom = 12, 184
	heatShades          = 6
	mostHeatLabels      = 5
	heatTickPixels      = 16.0
)

// heatmap is a Heat drawn: a path a shade.
type heatmap struct {
	panel
	Shades []heatShade
}

type heatShade struct{ Class, D, Label string }

func (d *Data) heatmaps() []heatmap {
	var out []heatmap
	for i := range d.Heat {
		h := &d.Heat[i]
		var events []bench.Event
		for _, t := range d.Run.Trials {
			if t.Variant == h.Variant && t.Kind == bench.TrialMeasured {
				events = append(events, t.Events...)
			}
		}
		out = append(out, h.draw(fmt.Sprintf("hm%d", i), h.Variant+" "+variantName(d, d.variant(h.Variant)), events))
	}
	return out
}

func (h *Heat) draw(id, title string, events []bench.Event) heatmap {
	columns, rows := len(h.Counts), len(h.Counts[0])
	top := int64(1)
	for _, c := range h.Counts {
		for _, n := range c {
			top = max(top, n)
		}
	}
	x := scale{lo: 0, hi: float64(columns), from: heatLeft, to: heatW - heatRight}
	y := scale{lo: h.LowestNs, hi: h.LowestNs * math.Pow(10, float64(rows)/heatPerDecade), from: heatBottom, to: heatTop, log: true}
	m := heatmap{panel: panel{
		ID: id, Title: title, W: heatW, H: heatH, Plot: newRect(heatLeft, heatTop, heatW-heatRight, heatBottom),
		Desc: h.describe(),
	}}
	paths := make([]strings.Builder, heatShades)
	cellW := px(x.at(1) - x.at(0))
	edge := func(row int) float64 { return y.at(h.LowestNs * math.Pow(10, float64(row)/heatPerDecade)) }
	for i, c := range h.Counts {
		for r, n := range c {
			if n > 0 {
				fmt.Fprintf(&paths[shade(n, top)], "M%s %sh%sV%sh-%sz", px(x.at(float64(i))), px(edge(r)), cellW, px(edge(r+1)), cellW)
			}
		}
	}
	from := int64(1)
	for s := range heatShades {
		to := from
		for to < top && shade(to+1, top) == s {
			to = nextOf(to, top, s)
		}
		if shade(from, top) != s {
			continue // there are fewer counts than shades
		}
		label := count(float64(from))
		if to > from {
			label += " to " + count(float64(to))
		}
		m.Shades = append(m.Shades, heatShade{fmt.Sprintf("h%d", s+1), paths[s].String(), label})
		from = to + 1
	}
	for _, e := range events {
		at := px(x.at(e.OffsetS / h.WindowS * float64(columns)))
		m.Marks = append(m.Marks, mark{Class: "event", D: fmt.Sprintf("M%s %dV%d", at, heatTop, heatBottom), Title: e.What})
	}
	for _, t := range []float64{0, 0.5, 1} {
		m.XTicks = append(m.XTicks, tick{At: px(x.at(t * float64(columns))), Label: digits3(t*h.WindowS) + " s"})
	}
	last := math.Inf(1)
	for _, v := range y.ticks() {
		if at := y.at(v); last-at >= heatTickPixels && len(m.YTicks) < mostHeatLabels {
			m.YTicks = append(m.YTicks, tick{At: px(at), Label: latency(v)})
			last = at
		}
	}
	return m
}

// shade is which of the shades a count has, from 0: by its logarithm, so that one
// slow operation is seen beside ten thousand fast ones.
func shade(n, top int64) int {
	if top <= 1 {
		return heatShades - 1
	}
	return min(int(math.Log(float64(n))/math.Log(float64(top))*heatShades), heatShades-1)
}

// nextOf returns the last count of a shade, of which n has one.
func nextOf(n, top int64, s int) int64 {
	lo, hi := n, top
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if shade(mid, top) <= s {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// describe says what the picture shows.
func (h *Heat) describe() string {
	slowest, at := 0, 0
	for i, c := range h.Counts {
		for r, n := range c {
			if n > 0 && r > slowest {
				slowest, at = r, i
			}
		}
	}
	ns := h.LowestNs * math.Pow(10, float64(slowest+1)/heatPerDecade)
	s := h.WindowS / float64(len(h.Counts))
	return fmt.Sprintf("%d trials over one another, columns of %s; the slowest operations took up to %s, at %s to %s",
		h.Trials, seconds(s), latency(ns), seconds(float64(at)*s), seconds(float64(at+1)*s))
}
