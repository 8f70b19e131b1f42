package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"raftlab/bench"
)

// goSettings are the settings of the best variant of one answer, or of several
// answers that come to the same, as Go code to copy.
type goSettings struct {
	Where, ID, Name string
	Best            int     // how many cannot be told from the best, this one included
	Confidence      float64 // of that; 0 when nothing can be concluded
	Code            string
}

// goSettings lists them in the order of the answers. A run whose
// cluster was not ours has none; settings that cannot be read say why instead.
func (d *Data) goSettings() []goSettings {
	var all []goSettings
	for _, a := range d.Summary.Answers {
		if len(a.Best) == 0 {
			continue
		}
		i := slices.IndexFunc(d.Run.Variants, func(v bench.Variant) bool { return v.ID == a.Best[0] })
		if i < 0 {
			continue
		}
		v := d.Run.Variants[i]
		code, err := bench.GoCode(&v)
		if err != nil {
			code = fmt.Sprintf("// There is no code:\n// %s\n", plain(err.Error()))
		}
		if code == "" {
			continue
		}
		_, body, _ := strings.Cut(code, "\n") // after the line that names the variant
		same := func(s goSettings) bool { _, other, _ := strings.Cut(s.Code, "\n"); return other == body }
		if at := slices.IndexFunc(all, same); at >= 0 {
			all[at].Where += "; " + d.place(a.Where)
			continue
		}
		all = append(all, goSettings{d.place(a.Where), v.ID, variantName(d, withoutAxes(v, a.Where)), len(a.Best), a.Confidence, code})
	}
	return all
}

// Title says whose settings they are and how sure that is.
func (s goSettings) Title() string {
	title := s.ID + " " + s.Name
	if s.Where != "" {
		title = s.Where + ": " + title
	}
	switch {
	case s.Best > 1 && s.Confidence == 0:
		title += ", whose median is the best so far; nothing can be concluded yet"
	case s.Best > 1:
		title += fmt.Sprintf(", one of %d that cannot be told from the best", s.Best)
	}
	return title
}

// Go writes the settings of the best variants as Go code, a file for each answer
// that differs.
func (d *Data) Go(w io.Writer) error {
	settings := d.goSettings()
	if len(settings) == 0 {
		_, err := io.WriteString(w, "// No settings: the run has no best variant, or its cluster is not raftbench's own.\n")
		return err
	}
	for i, s := range settings {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "// %s\n\n%s", plain(s.Title()), s.Code); err != nil {
			return err
		}
	}
	return nil
}

// writeGoMarkdown shows the code after all else.
func (d *Data) writeGoMarkdown(b *strings.Builder) {
	settings := d.goSettings()
	if len(settings) == 0 {
		return
	}
	b.WriteString("\n## The best settings as Go code\n")
	for _, s := range settings {
		fmt.Fprintf(b, "\n%s\n\n```go\n%s```\n", md(s.Title()), strings.ReplaceAll(s.Code, "```", "` ` `"))
	}
}
