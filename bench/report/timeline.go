package report

import (
	"fmt"
	"math"

	"raftlab/bench"
)

const (
	timeW, timeH = 300, 172
	timeLeft     = 48
	timeRight    = 10
	rateTop      = 10
	rateBottom   = 68
	tailTop      = 86
	tailBottom   = 146
)

// timelines makes one small chart for each variant with a time series: above
// operations a second, below p50 and p99, a line for each block.
func (c *chart) timelines() []panel {
	var out []panel
	for _, s := range c.d.Summary.Variants {
		if p, ok := c.timeline(s.Variant, len(out)); ok {
			out = append(out, p)
		}
	}
	return out
}

func (c *chart) timeline(v bench.Variant, n int) (panel, bool) {
	var trials []bench.Trial
	end, top, lo, hi := 0.0, 0.0, math.Inf(1), 0.0
	for _, t := range c.d.Run.Trials {
		if t.Variant != v.ID || t.Kind != bench.TrialMeasured || len(t.Series) < 2 {
			continue
		}
		trials = append(trials, t)
		widths := intervals(t)
		for i, p := range t.Series {
			end = max(end, p.OffsetS+widths[i])
			top = max(top, float64(p.Operations)/widths[i])
			if p.P50Ns > 0 {
				lo = min(lo, float64(p.P50Ns))
			}
			hi = max(hi, float64(p.P99Ns))
		}
	}
	if len(trials) == 0 || end <= 0 || top <= 0 || hi <= 0 {
		return panel{}, false
	}
	x := scale{lo: 0, hi: end, from: timeLeft, to: timeW - timeRight}
	rate := linearScale(top, rateBottom, rateTop)
	tail := logScale(lo, hi, tailBottom, tailTop)
	p := panel{
		ID: fmt.Sprintf("tl%d", n), Title: v.ID + " " + variantName(c.d, v), W: timeW, H: timeH,
		Plot: newRect(timeLeft, rateTop, timeW-timeRight, tailBottom), Notes: planned(v),
		Desc: fmt.Sprintf("%d blocks over %s; at most %s operations a second, p99 up to %s",
			len(trials), seconds(end), count(top), latency(hi)),
	}
	for _, t := range []float64{0, end / 2, end} {
		p.XTicks = append(p.XTicks, tick{At: px(x.at(t)), Label: digits3(t) + " s"})
	}
	p.YTicks = append(p.YTicks,
		tick{At: px(rate.at(0)), Label: "0"}, tick{At: px(rate.at(rate.hi)), Label: count(rate.hi)})
	ticks := tail.ticks()
	if len(ticks) > 2 {
		ticks = []float64{ticks[0], ticks[len(ticks)-1]}
	}
	for _, t := range ticks {
		p.YTicks = append(p.YTicks, tick{At: px(tail.at(t)), Label: latency(t)})
	}
	for _, t := range trials {
		for _, e := range t.Events {
			at := x.at(min(e.OffsetS, end))
			p.Lines = append(p.Lines, line{"event", polyline([][2]float64{{at, rateTop}, {at, tailBottom}})})
			p.Desc += fmt.Sprintf("; block %d: %s at %.2f s", t.Block, e.What, e.OffsetS)
		}
		widths := intervals(t)
		var ops, p50, p99 [][2]float64
		for i, pt := range t.Series {
			at := x.at(pt.OffsetS + widths[i]/2)
			ops = append(ops, [2]float64{at, rate.at(float64(pt.Operations) / widths[i])})
			if pt.P50Ns > 0 {
				p50 = append(p50, [2]float64{at, tail.at(float64(pt.P50Ns))})
				p99 = append(p99, [2]float64{at, tail.at(float64(pt.P99Ns))})
			}
		}
		bad := ""
		if !t.Valid {
			bad = " bad"
		}
		p.Lines = append(p.Lines, line{"tm c1" + bad, polyline(ops)}, line{"tm c1" + bad, polyline(p50)}, line{"tm c2 dash" + bad, polyline(p99)})
	}
	return p, true
}

// intervals returns the length of each point's interval; the last one ends with
// the window, but is never taken to be longer than the one before.
func intervals(t bench.Trial) []float64 {
	out := make([]float64, len(t.Series))
	for i := range t.Series {
		end := t.WindowS
		if i+1 < len(t.Series) {
			end = t.Series[i+1].OffsetS
		}
		out[i] = end - t.Series[i].OffsetS
		if i > 0 && i+1 == len(t.Series) && (out[i] <= 0 || out[i] > out[i-1]) {
			out[i] = out[i-1]
		}
		if out[i] <= 0 {
			out[i] = max(t.WindowS/float64(len(t.Series)), 1e-3)
		}
	}
	return out
}
