package report

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"raftlab/bench"
)

// readUsage reads what processes used over time. A run made in memory, or whose
// file was removed, has none.
func readUsage(root *os.Root) ([]bench.TrialUsage, error) {
	f, err := root.Open(bench.SeriesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	usage, err := bench.ReadUsage(f)
	return usage, errors.Join(err, f.Close())
}

// Size of a chart of what processes used: three strips, one above the other.
const (
	usageW, usageH        = 380, 238
	usageLeft, usageRight = 58, 10
	usageStrip, usageGap  = 58, 14
	usageTop              = 8
)

// usageCharts are what the processes of the chosen variants used over time.
type usageCharts struct {
	Legend []seriesKey
	Panels []panel
}

// strips are drawn from the top: CPU, memory, goroutines.
var usageStrips = []struct {
	name   string
	of     func(bench.ProcessPoint) float64
	format func(float64) string
}{
	{"cores", func(p bench.ProcessPoint) float64 { return p.CPUs }, digits3},
	{"memory", func(p bench.ProcessPoint) float64 { return float64(p.RSSBytes) }, memory},
	{"goroutines", func(p bench.ProcessPoint) float64 { return float64(p.Goroutines) }, count},
}

func (d *Data) usageCharts() *usageCharts {
	var names []string
	for _, id := range d.chosen() {
		for _, t := range d.usageOf(id) {
			for _, p := range t.Points {
				for name := range p.Processes {
					if !slices.Contains(names, name) {
						names = append(names, name)
					}
				}
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	slices.SortStableFunc(names, func(a, b string) int { return processRank(a) - processRank(b) })
	out := &usageCharts{}
	for j, name := range names {
		out.Legend = append(out.Legend, seriesKey{Class: colour(j), D: shape(1, 8, 7, markRadius), Label: name})
	}
	for _, id := range d.chosen() {
		if p, ok := d.usageChart(id, names, len(out.Panels)); ok {
			out.Panels = append(out.Panels, p)
		}
	}
	return out
}

// usageOf are a variant's measured trials.
func (d *Data) usageOf(variant string) []bench.TrialUsage {
	var out []bench.TrialUsage
	for _, t := range d.Usage {
		if t.Variant == variant && t.Kind == bench.TrialMeasured && len(t.Points) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// usageChart draws a line for each process and block.
func (d *Data) usageChart(variant string, names []string, n int) (panel, bool) {
	trials := d.usageOf(variant)
	end := 0.0
	most := make([]float64, len(usageStrips))
	for _, t := range trials {
		for _, p := range t.Points {
			end = max(end, p.OffsetS)
			for _, process := range p.Processes {
				for i, s := range usageStrips {
					most[i] = max(most[i], s.of(process))
				}
			}
		}
	}
	if end <= 0 {
		return panel{}, false
	}
	bottom := float64(usageTop + len(usageStrips)*(usageStrip+usageGap) - usageGap)
	x := scale{lo: 0, hi: end, from: usageLeft, to: usageW - usageRight}
	p := panel{
		ID: fmt.Sprintf("us%d", n), Title: variant + " " + variantName(d, d.variant(variant)), W: usageW, H: usageH,
		Plot: newRect(usageLeft, usageTop, usageW-usageRight, bottom),
	}
	var words []string
	for i, s := range usageStrips {
		from := float64(usageTop + i*(usageStrip+usageGap))
		y := scale{lo: 0, hi: max(most[i]*1.05, 1e-9), from: from + usageStrip, to: from}
		p.YTicks = append(p.YTicks, tick{At: px(y.at(0)), Label: "0"}, tick{At: px(y.at(most[i])), Label: s.format(most[i])})
		words = append(words, fmt.Sprintf("%s up to %s", s.name, s.format(most[i])))
		p.Marks = append(p.Marks, mark{Title: s.name, D: px(from + usageStrip - 4)})
		for j, name := range names {
			for _, t := range trials {
				var points [][2]float64
				for _, pt := range t.Points {
					if process, ok := pt.Processes[name]; ok {
						points = append(points, [2]float64{x.at(pt.OffsetS), y.at(s.of(process))})
					}
				}
				if len(points) == 1 { // a point alone is a short line
					points = append(points, [2]float64{points[0][0] + 2, points[0][1]})
				}
				p.Lines = append(p.Lines, line{"tm " + colour(j), polyline(points)})
			}
		}
	}
	for _, t := range []float64{0, end / 2, end} {
		p.XTicks = append(p.XTicks, tick{At: px(x.at(t)), Label: digits3(t) + " s"})
	}
	p.Desc = fmt.Sprintf("%d blocks over %s; a process' %s", len(trials), seconds(end), strings.Join(words, ", "))
	return p, true
}
