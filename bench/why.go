package bench

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"raftlab/bench/stats"
)

// why says what makes the best of a cell better than the variant that it is
// compared with or, where nothing does, what those that are best have in common;
// nothing where the blocks bear nothing out.
func (s *summarizer) why(a *Answer, cell []*VariantSummary) []string {
	switch {
	case len(a.Best) == 0:
		return nil
	case a.Metric == MetricOutage, a.Metric == MetricRecover:
		return nil // of what an event did the averages of a window tell nothing
	case a.Metric == MetricBytes:
		return nil // operations of different sizes are not the same work
	}
	var best []*VariantSummary
	for _, id := range a.Best {
		best = append(best, cell[slices.IndexFunc(cell, func(v *VariantSummary) bool { return v.Variant.ID == id })])
	}
	var sentences []string
	add := func(sentence string) {
		if sentence != "" {
			sentences = append(sentences, sentence)
		}
	}
	who, other := "", s.contrast(a, cell)
	if other != nil {
		who = "with the best, "
		add(stageWhy(s.account(best[0], a.Metric), s.account(other, a.Metric)))
		add(s.cpuWhy(best[0], other))
	}
	if len(sentences) == 0 && (other == nil || len(best) > 1) {
		add(s.stagesAlike(who, best, a.Metric))
		add(s.cpuAlike(who, best))
	}
	add(s.linkAlike(who, best))
	return sentences
}

// contrast is what the best is compared with: the baseline, unless it is among the
// best or has no figure, else the worst; nil where there is none.
func (s *summarizer) contrast(a *Answer, cell []*VariantSummary) *VariantSummary {
	var others []*VariantSummary
	for _, v := range cell {
		if v.Viable && v.Trials > 0 && !slices.Contains(a.Best, v.Variant.ID) {
			others = append(others, v)
		}
	}
	if len(others) == 0 || len(a.Best) == 0 {
		return nil
	}
	if i := slices.IndexFunc(others, func(v *VariantSummary) bool { return v.Variant.Baseline }); i >= 0 {
		return others[i]
	}
	return slices.MaxFunc(others, func(x, y *VariantSummary) int { return s.compare(x, y, a.Metric) })
}

// account is what the writes of a variant consist of, by block, in nanoseconds.
type account struct {
	name   string
	which  string // of the writes, in words
	stages []timed
	// within are what goes on inside commit: they are measured by themselves and
	// partly at the same time.
	within []timed
}

type timed struct {
	words  string
	blocks []float64
}

// account takes the means of all writes, or of those around a percentile where one
// decides: then what happens within commit is not known of the same writes.
func (s *summarizer) account(v *VariantSummary, metric string) account {
	b := s.blocks[v.Variant.ID]
	of, a := ofMean, account{name: s.nameOf(v), which: "a write takes on average"}
	switch metric {
	case "p50-latency-ns":
		of, a.which = ofP50, "a write around the median takes"
	case "p90-latency-ns", "p99-latency-ns", "p99.9-latency-ns", "max-latency-ns":
		of, a.which = ofP99, "a write around the 99th percentile takes"
	}
	for _, stage := range b.stages.writes {
		a.stages = append(a.stages, timed{stageWords[stage], b.figures[writeFigure(stage, of)]})
	}
	if of == ofMean {
		for _, w := range withinCommit {
			a.within = append(a.within, timed{w.words, b.figures[w.figure]})
		}
	}
	return a
}

// stageWords say what each stage of a write is.
var stageWords = map[string]string{
	"queue":      "waiting to be proposed",
	"commit":     "from the proposal until the leader knows of its commit",
	"apply":      "from the commit until it is applied",
	"answer":     "telling those who wait",
	StageOutside: "outside the stages: client, RPC, handler",
}

var withinCommit = []struct{ figure, words string }{
	{leaderFigure("stage_append_nanos", ofMean), "the leader's own log"},
	{writeFigure(StageWay, ofMean), "the way to the followers and back"},
	{followerFigure("reassembly_nanos", ofMean), "the arrival of an entry's fragments"},
	{followerFigure("stage_step_nanos", ofMean), "the wait for the followers' raft"},
	{followerFigure("stage_durable_nanos", ofMean), "the followers' log"},
}

// stageWhy names the stage in which another variant's writes surely lose, and the
// most of such, against the best one's, if the blocks bear out that they lose at
// all. Several stages are looked at, so each interval is as wide as all of them
// together need (Bonferroni).
func stageWhy(best, other account) string {
	d := stats.Difference(total(other.stages), total(best.stages), confidence)
	if !d.HasInterval() || d.Lo <= 0 {
		return ""
	}
	stage, lost := most(best.stages, other.stages)
	if stage == "" {
		return ""
	}
	much := "Most"
	if !isMost(lost.Center, d.Center) {
		much = "The largest part that is sure, " + percent(lost.Center/d.Center) + ","
	}
	sentence := fmt.Sprintf("Stages: %s %s with %s, %s with %s. %s is lost %s: %s (%s to %s).",
		best.which, meanTime(totalOf(best)), best.name, meanTime(totalOf(other)), other.name,
		much, stage, meanTime(lost.Center), meanTime(lost.Lo), meanTime(lost.Hi))
	if stage != stageWords["commit"] {
		return sentence
	}
	if part, longer := most(best.within, other.within); part != "" {
		sentence += fmt.Sprintf(" Meanwhile %s takes %s longer (%s to %s).",
			part, meanTime(longer.Center), meanTime(longer.Lo), meanTime(longer.Hi))
	}
	return sentence
}

// most is the part that surely takes longer and by the most; "" for none.
func most(best, other []timed) (words string, by stats.Estimate) {
	var found []timed
	var longer []stats.Estimate
	each := 1 - (1-confidence)/float64(max(1, len(best)))
	for _, b := range best {
		i := slices.IndexFunc(other, func(o timed) bool { return o.words == b.words })
		if i < 0 {
			continue
		}
		if d := stats.Difference(other[i].blocks, b.blocks, each); d.HasInterval() && d.Lo > 0 {
			found, longer = append(found, b), append(longer, d)
		}
	}
	if len(found) == 0 {
		return "", stats.Estimate{}
	}
	by = slices.MaxFunc(longer, func(x, y stats.Estimate) int { return cmp.Compare(x.Center, y.Center) })
	return found[slices.Index(longer, by)].words, by
}

// isMost tells whether a part is more than half of a difference. What surely
// differs by the most may be less, beside much of which nothing is sure.
func isMost(part, of float64) bool { return part/of > 0.5 }

// total is the sum of all stages by block.
func total(stages []timed) []float64 {
	var sums []float64
	for i, s := range stages {
		if i == 0 {
			sums = slices.Clone(s.blocks)
			continue
		}
		sums = sums[:min(len(sums), len(s.blocks))]
		for block := range sums {
			sums[block] += s.blocks[block]
		}
	}
	return sums
}

func totalOf(a account) float64 { return stats.Mean(total(a.stages), confidence).Center }

func meanTime(nanos float64) string { return round(time.Duration(nanos)).String() }
