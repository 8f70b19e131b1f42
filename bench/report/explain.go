package report

import (
	"fmt"
	"slices"
	"strings"

	"raftlab/bench"
)

// What explains the figures, in the plain forms: CPU time by layer and what else
// operations cost.

// explainText adds them for the variants that are shown in depth.
func (d *Data) explainText(b *strings.Builder) {
	chosen := d.chosen()
	others := func(v bench.Variant) bool { return !slices.Contains(chosen, v.ID) }
	if t := d.cpuTable(slices.DeleteFunc(d.profiled(), others)); t != nil {
		fmt.Fprintf(b, "\n%s (µs an operation: nodes, generator, and the nodes' by layer; from one profile each)\n", cpuTitle)
		t.narrow()
		for _, r := range t.Rows {
			for i := range r.Cells[2:] { // of layers the intervals are in the other forms
				r.Cells[2+i].Note = ""
			}
		}
		t.writeText(b)
	}
	if t := d.costTable(); t != nil {
		t.Rows = slices.DeleteFunc(t.Rows, func(r row) bool { return !slices.Contains(chosen, r.ID) })
		fmt.Fprintf(b, "\n%s\n", costTitle)
		t.narrow()
		t.writeText(b)
	}
}

// explainMarkdown adds them for all variants.
func (d *Data) explainMarkdown(b *strings.Builder) {
	if t := d.cpuTable(d.profiled()); t != nil {
		fmt.Fprintf(b, "\n## %s\n\n%s\n\n", cpuTitle, md(cpuNote))
		t.writeMarkdown(b)
	}
	if t := d.costTable(); t != nil {
		fmt.Fprintf(b, "\n## %s\n\n", costTitle)
		t.writeMarkdown(b)
	}
}

// narrow drops the variants' names: a terminal has them above, by ID.
func (t *table) narrow() {
	t.Columns = t.Columns[1:]
	for i := range t.Rows {
		t.Rows[i].Cells = t.Rows[i].Cells[1:]
	}
}
