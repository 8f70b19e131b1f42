package report

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the report as GitHub shows it: answers, table, warnings, how
// to run it again.
func (d *Data) Markdown(w io.Writer) error {
	var b strings.Builder
	info := d.Run.Experiment
	fmt.Fprintf(&b, "# %s\n\n%s\n\n", md(info.Name), md(info.Question))
	if s := d.incomplete(); s != "" {
		fmt.Fprintf(&b, "> **Incomplete:** %s\n\n", md(s))
	}
	for _, s := range d.Run.Violations() {
		fmt.Fprintf(&b, "> **Violation:** %s\n\n", md(s))
	}
	b.WriteString("## Answer\n\n")
	for _, a := range d.answers() {
		if a.Where != "" {
			fmt.Fprintf(&b, "- **%s:** %s\n", md(a.Where), md(a.Sentence))
		} else {
			fmt.Fprintf(&b, "- %s\n", md(a.Sentence))
		}
		for _, s := range a.Why {
			fmt.Fprintf(&b, "  %s\n", md(s))
		}
	}
	if len(d.Summary.Answers) == 0 {
		b.WriteString("No answer: there is no valid trial to draw one from.\n")
	}
	if j := d.judged(); j != nil {
		fmt.Fprintf(&b, "\n## Judgement\n\n%s %s\n\n", md(j.Title), md(j.Total))
		for _, r := range j.Rows {
			fmt.Fprintf(&b, "- **%s** %s\n", md(r.Where), md(r.Sentence))
		}
	}

	d.ratesMarkdown(&b)
	if d.Run.Objective == nil { // a search has no figures of variants
		t := newTable(d)
		b.WriteString("\n## Variants\n\n")
		t.writeMarkdown(&b)
		b.WriteByte('\n')
		for _, s := range t.legend() {
			fmt.Fprintf(&b, "- %s\n", md(s))
		}
		for _, r := range t.Rows {
			if r.Problem != "" {
				fmt.Fprintf(&b, "- %s cannot do the work: %s\n", md(r.ID), md(r.Problem))
			}
		}
	}
	if s := d.closedLoop(); s != "" {
		fmt.Fprintf(&b, "- %s\n", md(s))
	}
	list := func(title string, items []string) {
		if len(items) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n", title)
		for _, s := range items {
			fmt.Fprintf(&b, "- %s\n", md(s))
		}
	}
	list("Stages of a write", d.stageLines())
	d.explainMarkdown(&b)
	list("Events", d.events())
	list("Warnings", d.warnings())
	list("Invalid trials", d.invalid())
	list("Skipped cells", d.skipped())
	list("Checked", d.checked())
	b.WriteString("\n## Where and how\n\n| | |\n|---|---|\n")
	for _, f := range d.environment() {
		fmt.Fprintf(&b, "| %s | %s |\n", md(f.Name), md(f.Value))
	}
	fmt.Fprintf(&b, "\n    %s\n", plain(d.command()))
	d.writeGoMarkdown(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeMarkdown writes it as a table of GitHub's.
func (t *table) writeMarkdown(b *strings.Builder) {
	b.WriteString("|  | id |")
	for _, c := range t.Columns {
		fmt.Fprintf(b, " %s |", md(c.Name))
	}
	b.WriteString("\n|---|---|")
	for _, c := range t.Columns {
		if c.Numeric {
			b.WriteString("--:|")
		} else {
			b.WriteString("---|")
		}
	}
	b.WriteByte('\n')
	for _, r := range t.Rows {
		mark := ""
		if r.Best {
			mark = "\\>"
		}
		fmt.Fprintf(b, "| %s | %s |", mark, md(r.ID))
		for _, c := range r.Cells {
			s := md(c.Text)
			if c.Thin {
				s += "\\*"
			}
			if c.Note != "" {
				s += " " + md(c.Note)
			}
			fmt.Fprintf(b, " %s |", s)
		}
		b.WriteByte('\n')
	}
}

// md escapes what Markdown or the HTML inside it would take for its own.
func md(s string) string {
	return mdEscaper.Replace(plain(s))
}

var mdEscaper = strings.NewReplacer(
	`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`,
	"<", "&lt;", ">", "&gt;", "&", "&amp;", "#", `\#`,
)
