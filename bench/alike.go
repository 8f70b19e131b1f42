package bench

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"raftlab/bench/stats"
)

// Figures of what a trial used.
const (
	coresUsed = "cores-used" // CPU time of all processes a second
	linkUsed  = "link-used"  // share of link-rate on the links from the leader
)

// pool are the values of a figure in all trials of several variants. Its range is
// the whole one: an interval would take the variants for one population.
type pool struct {
	values []float64
	thin   bool // a variant has too few for anything to be said
}

func (p *pool) add(blocks []float64) {
	known := slices.DeleteFunc(slices.Clone(blocks), math.IsNaN)
	p.values, p.thin = append(p.values, known...), p.thin || len(known) < stats.MinBlocks
}

func (p *pool) tells() bool { return len(p.values) > 0 && !p.thin }

func (p *pool) median() float64 { return stats.MedianInterval(p.values, confidence).Center }

// within words the range.
func (p *pool) within(format func(float64) string) string {
	return format(slices.Min(p.values)) + " to " + format(slices.Max(p.values))
}

// over words the range and how many trials it is of.
func (p *pool) over(format func(float64) string) string {
	return fmt.Sprintf("%s over %d trials", p.within(format), len(p.values))
}

// stagesAlike names the stage that is the largest of a write with each of the
// variants; nothing when that is not the same one. who says whose it is.
func (s *summarizer) stagesAlike(who string, variants []*VariantSummary, metric string) string {
	var wholes, shares, parts pool
	stage, part, which := "", "", ""
	for i, v := range variants {
		a := s.account(v, metric)
		largest, inside := largestOf(a.stages), largestOf(a.within)
		if i == 0 {
			stage, part, which = largest.words, inside.words, a.which
		}
		if largest.words != stage {
			return ""
		}
		if inside.words != part {
			part = ""
		}
		whole := total(a.stages)
		wholes.add(whole)
		share := slices.Clone(largest.blocks[:min(len(whole), len(largest.blocks))])
		for block := range share {
			// Writes that are measured may take longer than all do on average.
			share[block] = min(share[block]/whole[block], 1)
		}
		shares.add(share)
		parts.add(inside.blocks)
	}
	if !wholes.tells() || !shares.tells() {
		return ""
	}
	sentence := fmt.Sprintf("Stages: %s%s %s (%s). The largest part, %s (%s), is spent %s.", who, which,
		meanTime(wholes.median()), wholes.over(meanTime), percent(shares.median()), shares.within(percent), stage)
	if stage == stageWords["commit"] && part != "" && parts.tells() {
		sentence += fmt.Sprintf(" Meanwhile %s takes %s (%s).", part, meanTime(parts.median()), parts.within(meanTime))
	}
	return sentence
}

// largestOf is the one that takes longest on average; without words for none.
func largestOf(all []timed) timed {
	var largest timed
	longest := 0.0
	for _, t := range all {
		if mean := stats.Mean(t.blocks, confidence); mean.N > 0 && mean.Center > longest {
			largest, longest = t, mean.Center
		}
	}
	return largest
}

// cpuAlike says how much of the cores all processes use.
func (s *summarizer) cpuAlike(who string, variants []*VariantSummary) string {
	cores := s.run.Environment.Cores
	used := s.pool(variants, coresUsed)
	if cores <= 0 || !used.tells() {
		return ""
	}
	format := func(x float64) string { return fmt.Sprintf("%.2f", x) }
	return fmt.Sprintf("CPU: %snodes and generator use %s of %d cores (%s).", who, format(used.median()), cores, used.over(format))
}

// linkAlike says how full the links from the leader are, where they have a rate.
func (s *summarizer) linkAlike(who string, variants []*VariantSummary) string {
	used, rate := s.pool(variants, linkUsed), variants[0].Variant.Config["link-rate"]
	other := func(v *VariantSummary) bool { return v.Variant.Config["link-rate"] != rate }
	if !used.tells() || slices.ContainsFunc(variants, other) {
		return ""
	}
	return fmt.Sprintf("Link: %sthe leader's links carry %s of %s (%s).", who, percent(used.median()), rate, used.over(percent))
}

func (s *summarizer) pool(variants []*VariantSummary, figure string) pool {
	var p pool
	for _, v := range variants {
		p.add(s.blocks[v.Variant.ID].figures[figure])
	}
	return p
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// linkRate is what all links from a node can carry together, in bytes a second; 0
// for no limit.
func (v *Variant) linkRate() float64 {
	s := DefaultSettings()
	if v.Config["link-rate"] == "" || s.Set("link-rate", v.Config["link-rate"]) != nil {
		return 0
	}
	nodes, err := strconv.Atoi(v.Config["nodes"])
	if err != nil {
		return 0
	}
	return float64(s.Node.LinkRate) * float64(nodes-1)
}

// carried is how many bytes a second travelled from the leader to the others, ok if
// that is known. Counters are of all nodes, so the leader's part is told by the
// sizes of frames: what followers answer travels on links of its own.
func (t *Trial) carried() (bytes float64, ok bool) {
	const frames = "frame_bytes"
	if t.Stages == nil || t.WindowS <= 0 {
		return 0, false
	}
	leader, followers := t.Stages.OnLeader[frames].sum(), t.Stages.OnFollowers[frames].sum()
	if leader == 0 {
		return 0, false
	}
	sent, ok := t.Counters[wireBytes]
	return float64(sent) * leader / (leader + followers) / t.WindowS, ok
}

func (d Distribution) sum() float64 { return float64(d.Count) * d.Mean }
