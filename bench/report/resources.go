package report

import (
	"slices"
	"strings"

	"raftlab/bench"
)

// resources is what each process used, by variant.
type resources struct {
	Groups []resourceGroup
	Scale  string // what the longest bar stands for
	Legend []seriesKey
}

// resourceGroup is the variants that ran as the same processes: a table of all
// would be mostly empty.
type resourceGroup struct {
	Processes []string
	Rows      []resourceRow
}

type resourceRow struct {
	ID, Name string
	Bar      []barPart
	CPU      []string // microseconds an operation
	RSS      []string
	Allocs   []string // an operation
}

type barPart struct{ Class, X, W, Title string }

const barWidth = 180.0

// resources takes the median over valid measured trials of each figure.
func (d *Data) resources() *resources {
	var names []string
	for _, t := range d.Run.Trials {
		for name := range t.Processes {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	slices.SortStableFunc(names, func(a, b string) int { return processRank(a) - processRank(b) })

	out, longest := &resources{}, 0.0
	bars := map[string][]float64{} // CPU by variant, in the order of names
	for _, s := range d.Summary.Variants {
		used := d.usage(s.Variant.ID)
		r := resourceRow{ID: s.Variant.ID, Name: variantName(d, s.Variant)}
		var ran []string
		sum := 0.0
		for _, name := range names {
			u, ok := used[name]
			cpu := median(u.cpu)
			bars[r.ID] = append(bars[r.ID], cpu)
			if !ok {
				continue
			}
			sum += cpu
			ran = append(ran, name)
			r.CPU = append(r.CPU, count(cpu))
			r.RSS = append(r.RSS, orAbsent(median(u.rss), memory))
			r.Allocs = append(r.Allocs, orAbsent(median(u.allocs), count))
		}
		if len(ran) == 0 {
			continue
		}
		longest = max(longest, sum)
		i := slices.IndexFunc(out.Groups, func(g resourceGroup) bool { return slices.Equal(g.Processes, ran) })
		if i < 0 {
			i = len(out.Groups)
			out.Groups = append(out.Groups, resourceGroup{Processes: ran})
		}
		out.Groups[i].Rows = append(out.Groups[i].Rows, r)
	}
	if len(out.Groups) == 0 {
		return nil
	}
	for _, g := range out.Groups {
		for i := range g.Rows {
			g.Rows[i].Bar = bar(names, bars[g.Rows[i].ID], longest)
		}
	}
	for j, name := range names {
		out.Legend = append(out.Legend, seriesKey{Class: colour(j), D: shape(1, 8, 7, markRadius), Label: name})
	}
	out.Scale = latency(longest * 1e3)
	return out
}

// usage has one value for each valid measured trial.
type usage struct{ cpu, rss, allocs []float64 }

func (d *Data) usage(variant string) map[string]usage {
	out := map[string]usage{}
	for _, t := range d.Run.Trials {
		if t.Variant != variant || t.Kind != bench.TrialMeasured || !t.Valid || t.Operations == 0 {
			continue
		}
		ops := float64(t.Operations)
		for name, p := range t.Processes {
			if p.Unavailable {
				continue
			}
			u := out[name]
			u.cpu = append(u.cpu, p.CPUS*1e6/ops)
			u.rss = append(u.rss, float64(p.RSSBytes))
			u.allocs = append(u.allocs, float64(p.AllocCount)/ops)
			out[name] = u
		}
	}
	return out
}

// bar stacks the processes' CPU time, in pixels.
func bar(names []string, cpus []float64, longest float64) []barPart {
	var out []barPart
	at := 0.0
	for j, cpu := range cpus {
		w := cpu / max(longest, 1e-9) * barWidth
		if w > 0 {
			out = append(out, barPart{Class: colour(j), X: px(at), W: px(w), Title: names[j] + " " + digits3(cpu) + " µs"})
		}
		at += w
	}
	return out
}

func processRank(name string) int {
	switch {
	case strings.HasPrefix(name, "node"):
		return 0
	case name == "generator":
		return 2
	case slices.Contains(bench.CeilingTargets, name):
		return 3
	case strings.HasPrefix(name, "follower"):
		return 4
	}
	return 1
}

func orAbsent(v float64, format func(float64) string) string {
	if v <= 0 {
		return absent
	}
	return format(v)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
