package report

import (
	"slices"
	"strings"

	"raftlab/bench"
)

// cpuCost is the CPU time of operations by layer; each figure with the interval
// that sampling leaves open.
type cpuCost struct {
	total   bench.Estimate
	byLayer map[bench.Layer]bench.Estimate
}

// profileTrial is the trial of a variant that profiles were taken in, nil for none.
func (d *Data) profileTrial(variant string) *bench.Trial {
	for i := range d.Run.Trials {
		if t := &d.Run.Trials[i]; t.Variant == variant && t.Kind == bench.TrialProfile && t.Operations > 0 {
			return t
		}
	}
	return nil
}

// cpuOf adds up the processes of a trial that are picked.
func cpuOf(t *bench.Trial, pick func(process string) bool) cpuCost {
	total, byLayer := t.CPUOf(pick)
	return cpuCost{total, byLayer}
}

func isGenerator(process string) bool { return process == "generator" }

func isNotGenerator(process string) bool { return process != "generator" }

// profiled are the variants with CPU time by layer, in the order of the matrix.
func (d *Data) profiled() []bench.Variant {
	var out []bench.Variant
	for _, v := range d.Run.Variants {
		if t := d.profileTrial(v.ID); t != nil && len(t.CPU) > 0 {
			out = append(out, v)
		}
	}
	return out
}

// layersSeen are the layers of these variants' processes that took any time.
func (d *Data) layersSeen(variants []bench.Variant, pick func(process string) bool) []bench.LayerInfo {
	seen := map[bench.Layer]bool{}
	for _, v := range variants {
		for layer, e := range cpuOf(d.profileTrial(v.ID), pick).byLayer {
			seen[layer] = seen[layer] || e.N > 0
		}
	}
	return slices.DeleteFunc(bench.Layers(), func(l bench.LayerInfo) bool { return !seen[l.Layer] })
}

// cpuTable has the CPU time an operation of these variants: by layer all nodes
// together, then the generator. Nil when nothing was profiled.
func (d *Data) cpuTable(variants []bench.Variant) *table {
	if len(variants) == 0 {
		return nil
	}
	best := d.best()
	t := &table{Columns: []column{{Name: "variant"}}}
	add := func(name, title string) {
		t.Columns = append(t.Columns, column{Name: name, Title: title, Numeric: true})
	}
	seen := d.layersSeen(variants, isNotGenerator)
	add("nodes", "CPU time of all nodes together")
	add("generator", "CPU time of the load generator with its client")
	for _, l := range seen {
		add(string(l.Layer), l.Sentence+"; of the nodes")
	}
	for _, v := range variants {
		trial := d.profileTrial(v.ID)
		nodes, generator := cpuOf(trial, isNotGenerator), cpuOf(trial, isGenerator)
		r := row{ID: v.ID, Best: best[v.ID], Baseline: v.Baseline, Role: v.Role, Cells: []cell{text(variantName(d, v))}}
		r.Cells = append(r.Cells, sampledCell(nodes.total), sampledCell(generator.total))
		for _, l := range seen {
			r.Cells = append(r.Cells, sampledCell(nodes.byLayer[l.Layer]))
		}
		t.Rows = append(t.Rows, r)
	}
	return t
}

// sampledCell shows microseconds with their interval, which is far from even about
// few samples.
func sampledCell(e bench.Estimate) cell {
	if e.N == 0 {
		return cell{Text: absent, Sort: 0, Title: "not sampled once"}
	}
	return cell{Text: digits3(e.Center), Sort: e.Center, Note: "(" + digits3(e.Lo) + "–" + digits3(e.Hi) + ")", Title: count(float64(e.N)) + " samples"}
}

// Words that every form of the CPU table needs.
const (
	cpuTitle  = "Where the CPU goes"
	costTitle = "What an operation costs beside time"
	cpuNote   = "Microseconds of CPU time an operation: of all nodes, of the generator, and the nodes' by layer. The system's count is shared out by one profile of each variant; the interval is what its samples leave open (95 %), and trials differ by more. " +
		"In one process, what the Go runtime does for all counts with the nodes."
)

// cpuSection is what the HTML shows of it: the table of all variants with a bar
// each, and a card for each of the chosen.
type cpuSection struct {
	Note   string
	Legend []layerKey
	Table  *table
	Bars   [][]barPart // one a row of the table, nodes and generator
	Scale  string      // what the longest bar stands for
	Cards  []cpuCard
}

type layerKey struct{ Class, Label, Sentence string }

// cpuCard is one variant's CPU time by process and layer.
type cpuCard struct {
	ID, Name  string
	Processes []cpuProcess
	Rows      []cpuRow
	Scale     string
}

type cpuProcess struct {
	Name  string
	Total cell
	Bar   []barPart
}

type cpuRow struct {
	Class, Layer string
	Cells        []cell // one a process
}

// Widths of bars, in pixels.
const (
	cpuBarWidth     = 200.0
	cpuCardBarWidth = 300.0
)

func (d *Data) cpuSection() *cpuSection {
	variants := d.profiled()
	if len(variants) == 0 {
		return nil
	}
	s := &cpuSection{Note: cpuNote, Table: d.cpuTable(variants)}
	for _, l := range d.layersSeen(variants, func(string) bool { return true }) {
		s.Legend = append(s.Legend, layerKey{layerClass(l.Layer), string(l.Layer), l.Sentence})
	}
	longest := 0.0
	for _, v := range variants {
		longest = max(longest, cpuOf(d.profileTrial(v.ID), isNotGenerator).total.Center)
	}
	s.Scale = latency(longest * 1e3)
	for _, v := range variants {
		s.Bars = append(s.Bars, layerBar(cpuOf(d.profileTrial(v.ID), isNotGenerator), longest, cpuBarWidth))
	}
	for _, id := range d.chosen() {
		if slices.ContainsFunc(variants, func(v bench.Variant) bool { return v.ID == id }) {
			s.Cards = append(s.Cards, d.cpuCard(d.variant(id)))
		}
	}
	return s
}

func (d *Data) cpuCard(v bench.Variant) cpuCard {
	trial := d.profileTrial(v.ID)
	names := sortedKeys(trial.CPU)
	slices.SortStableFunc(names, func(a, b string) int { return processRank(a) - processRank(b) })
	card := cpuCard{ID: v.ID, Name: variantName(d, v)}
	var costs []cpuCost
	longest := 0.0
	for _, name := range names {
		c := cpuOf(trial, func(process string) bool { return process == name })
		costs = append(costs, c)
		longest = max(longest, c.total.Center)
	}
	card.Scale = latency(longest * 1e3)
	for i, name := range names {
		if name == "process" {
			name = "shared"
		}
		card.Processes = append(card.Processes, cpuProcess{
			Name: name, Total: sampledCell(costs[i].total),
			Bar: layerBar(costs[i], longest, cpuCardBarWidth),
		})
	}
	for _, l := range d.layersSeen([]bench.Variant{v}, func(string) bool { return true }) {
		r := cpuRow{Class: layerClass(l.Layer), Layer: string(l.Layer)}
		for _, c := range costs {
			r.Cells = append(r.Cells, sampledCell(c.byLayer[l.Layer]))
		}
		card.Rows = append(card.Rows, r)
	}
	return card
}

// layerBar stacks the layers' time, in pixels.
func layerBar(c cpuCost, longest, width float64) []barPart {
	var out []barPart
	at := 0.0
	for _, l := range bench.Layers() {
		e := c.byLayer[l.Layer]
		w := e.Center / max(longest, 1e-9) * width
		if w > 0 {
			out = append(out, barPart{Class: layerClass(l.Layer), X: px(at), W: px(w), Title: string(l.Layer) + " " + digits3(e.Center) + " µs"})
		}
		at += w
	}
	return out
}

// layerClass is the colour of a layer: l0 to l9, in the order of the layers.
func layerClass(l bench.Layer) string {
	i := slices.IndexFunc(bench.Layers(), func(x bench.LayerInfo) bool { return x.Layer == l })
	if i < 0 {
		return "lx"
	}
	return "l" + string(rune('0'+i))
}

// costTable has what operations cost beside time; nil when nothing is known.
func (d *Data) costTable() *table {
	var units []bench.CostInfo
	for _, c := range bench.Costs() {
		if slices.ContainsFunc(d.Summary.Variants, func(v bench.VariantSummary) bool { return v.Costs[c.Unit].N > 0 }) {
			units = append(units, c)
		}
	}
	if len(units) == 0 {
		return nil
	}
	best := d.best()
	t := &table{Columns: []column{{Name: "variant"}}}
	for _, c := range units {
		t.Columns = append(t.Columns, column{Name: c.Unit, Title: c.Sentence, Numeric: true})
	}
	for _, v := range d.Summary.Variants {
		if len(v.Costs) == 0 {
			continue
		}
		r := row{ID: v.Variant.ID, Best: best[v.Variant.ID], Role: v.Variant.Role, Cells: []cell{text(variantName(d, v.Variant))}}
		for _, u := range units {
			e, ok := v.Costs[u.Unit]
			c := cell{Text: absent, Sort: -1}
			if ok && e.N > 0 {
				c = cell{Text: count(e.Center), Sort: e.Center, Note: halfWidth(e)}
				if strings.HasSuffix(u.Unit, "B/op") {
					c.Text = memory(e.Center)
				}
			}
			r.Cells = append(r.Cells, c)
		}
		t.Rows = append(t.Rows, r)
	}
	return t
}
