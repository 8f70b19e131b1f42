package report

import (
	"fmt"
	"io"
	"path/filepath"

	"raftlab/bench"
)

// indexEntry is one run on the index page.
type indexEntry struct {
	Name, Question, Incomplete string
	Answers                    []answer
	HTML, Markdown, Record     string // links
	Facts                      []fact
}

// Index writes a page that links the reports of several runs and says their
// answers. It links relative to dir, the folder the page will lie in.
func Index(w io.Writer, dir string, runs []*Data) error {
	var entries []indexEntry
	base, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("report: index: %w", err)
	}
	for _, d := range runs {
		folder, err := filepath.Abs(d.Dir)
		if err != nil {
			return fmt.Errorf("report: index: %w", err)
		}
		rel, err := filepath.Rel(base, folder)
		if err != nil {
			return fmt.Errorf("report: index: %w", err)
		}
		link := func(name string) string { return "./" + filepath.ToSlash(filepath.Join(rel, name)) }
		p := newPage(d)
		entries = append(entries, indexEntry{
			Name: p.Name, Question: p.Question, Incomplete: p.Incomplete, Answers: p.Answers, Facts: p.Facts,
			HTML: link(HTMLFile), Markdown: link(MarkdownFile), Record: link(bench.RunFile),
		})
	}
	return pages.ExecuteTemplate(w, "index.gohtml", entries)
}
