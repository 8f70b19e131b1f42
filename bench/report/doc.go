// Package report turns a recorded run into something to read: a table for the
// terminal, Markdown, CSV, and one self-contained HTML page that loads nothing.
//
// A run folder becomes a [Data], and a Data becomes any of the forms:
//
//	d, err := report.Load("profiles/2026-01-31-quick-1f0c")
//	err = d.Text(os.Stdout)       // or Markdown, CSV, HTML
//	err = d.Save()                // report.html and report.md in the run folder
//	err = report.Index(w, "profiles", runs) // one page that links several
//
// Load tolerates a run that was cut short: what is missing is named in the
// report instead of failing it.
//
// Nothing is known here about particular experiments. Charts come from the
// axes of the run (layout.go): one axis becomes x, some become the series of a
// panel, the rest one panel each. Read on in this order: data.go and
// spectrum.go (what is read), layout.go (which axis goes where), panel.go and
// throughput.go, timeline.go (geometry, pure), table.go and facts.go (figures and
// words that every form shares), resources.go, chosen.go (which variants are shown
// in depth) with cpu.go, flame.go, flamepage.go, heatmap.go and usage.go,
// page.go (what the HTML shows), and the .gohtml, .css and .js files
// (how).
//
// The HTML is written by html/template from plain strings and numbers, never
// from ready-made markup, so names in a run cannot become code.
package report
