package report

import (
	"fmt"
	"strings"

	"raftlab/bench/stats"
)

// judged is how an adaptive setting did, in every cell.
type judged struct {
	Title string // what is judged and by what
	Total string // how many of which verdict
	Rows  []judgedRow
}

type judgedRow struct {
	Where, Verdict, Sentence string
}

// judged returns nil where nothing was to be judged.
func (d *Data) judged() *judged {
	info := d.Run.Experiment.Judge
	if info == nil || len(d.Summary.Judgements) == 0 {
		return nil
	}
	var settings, limits []string
	for _, key := range sortedKeys(info.Adaptive) {
		settings = append(settings, key+"="+info.Adaptive[key])
	}
	for _, w := range info.Within {
		limits = append(limits, fmt.Sprintf("%s in %s", percent(w.Limit), strings.TrimSuffix(w.Metric, "-latency-ns")))
	}
	out := &judged{Title: fmt.Sprintf("Is %s within %s of the best fixed setting, where fixed ones differ by %s or more?",
		strings.Join(settings, " "), strings.Join(limits, " and "), percent(info.Spread))}
	tally := map[string]int{}
	for _, j := range d.Summary.Judgements {
		tally[j.Verdict]++
		verdict := j.Verdict
		if !j.Judged {
			verdict = "not judged"
		}
		out.Rows = append(out.Rows, judgedRow{Where: d.place(j.Where), Verdict: verdict, Sentence: j.Sentence})
	}
	within, beyond, unclear := tally[string(stats.Within)], tally[string(stats.Beyond)], tally[string(stats.Unknown)]
	total := within + beyond + unclear
	out.Total = fmt.Sprintf("Of %d comparisons %d are judged: %d within, %d beyond, %d unclear.", len(out.Rows), total, within, beyond, unclear)
	return out
}

// place says in words where an answer or a judgement holds.
func (d *Data) place(where map[string]string) string {
	var parts []string
	for _, axis := range d.Run.Experiment.AnswerBy {
		if v, ok := where[axis]; ok {
			parts = append(parts, axis+" "+axisValue(axis, v))
		}
	}
	return strings.Join(parts, " · ")
}

// axisValue writes an axis's value as the experiment does.
func axisValue(axis, value string) string {
	if axis == "rate" && value == "0" {
		return "closed loop"
	}
	return value
}

// writeText adds the judgements to a plain report.
func (j *judged) writeText(b *strings.Builder) {
	fmt.Fprintf(b, "  %s\n    %s\n", plain(j.Title), plain(j.Total))
	for _, r := range j.Rows {
		fmt.Fprintf(b, "    %s\n", plain(strings.TrimPrefix(r.Where+": "+r.Sentence, ": ")))
	}
	b.WriteByte('\n')
}
