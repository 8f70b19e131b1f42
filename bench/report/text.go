package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Text writes what a terminal shows: the answer first, then an aligned table,
// then what to mind. Control characters in names are replaced, so that a run
// from elsewhere cannot drive the terminal.
func (d *Data) Text(w io.Writer) error {
	var b strings.Builder
	info := d.Run.Experiment
	fmt.Fprintf(&b, "%s: %s\n", plain(info.Name), plain(info.Question))
	if s := d.incomplete(); s != "" {
		fmt.Fprintf(&b, "\nINCOMPLETE: %s\n", s)
	}
	for _, s := range d.Run.Violations() {
		fmt.Fprintf(&b, "\nVIOLATION: %s\n", plain(s))
	}
	b.WriteByte('\n')
	for _, a := range d.answers() {
		if a.Where != "" {
			fmt.Fprintf(&b, "  %s\n    ", plain(a.Where))
		} else {
			b.WriteString("  ")
		}
		fmt.Fprintf(&b, "%s\n", plain(a.Sentence))
		for _, s := range a.Why {
			fmt.Fprintf(&b, "    %s\n", plain(s))
		}
	}
	if len(d.Summary.Answers) == 0 {
		b.WriteString("  No answer: there is no valid trial to draw one from.\n")
	}
	b.WriteByte('\n')
	if j := d.judged(); j != nil {
		j.writeText(&b)
	}

	d.ratesText(&b)
	if d.Run.Objective == nil {
		t := newTable(d)
		t.writeText(&b)
		if notes := t.legend(); len(notes) > 0 {
			fmt.Fprintf(&b, "\n%s\n", strings.Join(notes, "\n"))
		}
	}
	if s := d.closedLoop(); s != "" {
		fmt.Fprintf(&b, "%s\n", s)
	}
	d.explainText(&b)
	list := func(title string, items []string) {
		if len(items) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, s := range items {
			fmt.Fprintf(&b, "  - %s\n", plain(s))
		}
	}
	list("Stages of a write", d.stageLines())
	list("Events", d.events())
	list("Warnings", d.warnings())
	list("Invalid trials, left out of the figures", d.invalid())
	list("Skipped cells", d.skipped())
	list("Checked", d.checked())
	if d.Dir != "" {
		fmt.Fprintf(&b, "\nRun folder: %s\n", plain(d.Dir))
	}
	fmt.Fprintf(&b, "Again:      %s\n", plain(d.command()))
	if len(d.goSettings()) > 0 && d.Dir != "" {
		fmt.Fprintf(&b, "As Go code: raftbench report %s --format go\n", plain(shellQuote(d.Dir)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// legend explains the marks of the plain table.
func (t *table) legend() []string {
	var out []string
	if t.HasBest {
		out = append(out, "> not distinguishable from the best")
	}
	if t.HasInterval {
		out = append(out, "± the wider side of the interval over blocks")
	}
	if t.HasThin {
		out = append(out, "* fewer than 10/(1-p) samples in a trial: do not lean on it")
	}
	return out
}

// columnsText are the table's columns for plain forms, figures and their notes
// side by side.
func (t *table) writeText(b *strings.Builder) {
	grid := make([][]string, 0, len(t.Rows)+1)
	right := []bool{false, false}
	head := []string{"", "id"}
	for _, c := range t.Columns {
		head = append(head, plain(c.Name))
		right = append(right, c.Numeric && c.Name != "vs baseline")
	}
	grid = append(grid, head)
	problems := make([]string, len(t.Rows)+1)
	for i, r := range t.Rows {
		line := []string{"", plain(r.ID)}
		if r.Best {
			line[0] = ">"
		}
		for _, c := range r.Cells {
			s := plain(c.Text)
			if s == "" {
				s = absent
			}
			if c.Thin {
				s += "*"
			}
			if c.Note != "" {
				s += " " + c.Note
			}
			line = append(line, s)
		}
		grid = append(grid, line)
		if r.Problem != "" {
			problems[i+1] = plain(r.Problem)
		}
	}
	for i, line := range alignGrid(grid, right) {
		b.WriteString(line + "\n")
		if problems[i] != "" {
			fmt.Fprintf(b, "       cannot do the work: %s\n", problems[i])
		}
	}
}

// alignGrid pads the cells of each column to one width; right tells which columns
// are aligned on the right.
func alignGrid(grid [][]string, right []bool) []string {
	width := make([]int, len(grid[0]))
	for _, line := range grid {
		for j, s := range line {
			width[j] = max(width[j], utf8.RuneCountInString(s))
		}
	}
	lines := make([]string, len(grid))
	for i, line := range grid {
		var out strings.Builder
		for j, s := range line {
			pad := strings.Repeat(" ", width[j]-utf8.RuneCountInString(s))
			if j > 0 {
				out.WriteString("  ")
			}
			if right[j] {
				out.WriteString(pad + s)
			} else {
				out.WriteString(s + pad)
			}
		}
		lines[i] = strings.TrimRight(out.String(), " ")
	}
	return lines
}

// plain makes a string safe to print: one line, no control characters.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
}
