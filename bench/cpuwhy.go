package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"raftlab/bench/stats"
)

// cpuNanosPerOp is the figure of the CPU time of all processes together.
const cpuNanosPerOp = "cpu-ns/op"

// layerZ is how many standard errors a layer has to differ by to be named, of the
// ten that are looked at (Bonferroni, 95 %).
const layerZ = 2.81

// cpuWhy says how much less or more CPU time the best one's operations cost than
// another's, by the blocks, and which layers that is in, by the profiles; nothing
// where the blocks bear no difference out.
func (s *summarizer) cpuWhy(best, other *VariantSummary) string {
	b, o := s.blocks[best.Variant.ID].figures[cpuNanosPerOp], s.blocks[other.Variant.ID].figures[cpuNanosPerOp]
	d := stats.Difference(o, b, confidence)
	if !d.HasInterval() || d.Lo <= 0 && d.Hi >= 0 {
		return ""
	}
	sentence := fmt.Sprintf("CPU: an operation takes nodes and generator %s with %s, %s with %s: %s.",
		meanTime(stats.Mean(b, confidence).Center), s.nameOf(best), meanTime(stats.Mean(o, confidence).Center), s.nameOf(other),
		moreTime(d.Center, d.Lo, d.Hi))
	return sentence + layersWhy(layersThatDiffer(s.profiled(best), s.profiled(other), d.Center > 0), d.Center)
}

// layersWhy names the layers that a difference of nanoseconds is in.
func layersWhy(differing []layerDifference, of float64) string {
	var parts []string
	named := 0.0
	for _, l := range differing {
		parts = append(parts, fmt.Sprintf("%s (%s)", l.layer, moreTime(l.nanos, l.nanos, l.nanos)))
		named += l.nanos
	}
	layers := joinWords(parts)
	switch {
	case len(parts) == 0:
		return ""
	case isMost(named, of):
		return " By their profiles most of it is " + layers + "."
	case len(parts) == 1:
		return fmt.Sprintf(" By their profiles the largest part that is sure, %s, is %s.", percent(named/of), layers)
	}
	return fmt.Sprintf(" By their profiles the largest parts that are sure, together %s, are %s.", percent(named/of), layers)
}

// moreTime words a difference of nanoseconds, with its interval if that has a width.
func moreTime(center, lo, hi float64) string {
	word := "more"
	if center < 0 {
		word, center, lo, hi = "less", -center, -hi, -lo
	}
	if lo == hi {
		return meanTime(center) + " " + word
	}
	return fmt.Sprintf("%s %s (%s to %s)", meanTime(center), word, meanTime(lo), meanTime(hi))
}

// profiled is a variant's CPU time by layer, all processes together.
func (s *summarizer) profiled(v *VariantSummary) map[Layer]Estimate {
	for i := range s.run.Trials {
		if t := &s.run.Trials[i]; t.Variant == v.Variant.ID && t.Kind == TrialProfile {
			_, byLayer := t.CPUOf(func(string) bool { return true })
			return byLayer
		}
	}
	return nil
}

// CPUOf adds up the CPU time of a profile trial's processes that are picked, in
// microseconds an operation. Samples of different processes stand for about the
// same time each, which the intervals take for granted.
func (t *Trial) CPUOf(pick func(process string) bool) (total Estimate, byLayer map[Layer]Estimate) {
	byLayer = map[Layer]Estimate{}
	for process, layers := range t.CPU {
		if !pick(process) {
			continue
		}
		for _, l := range layers {
			byLayer[l.Layer] = addSampled(byLayer[l.Layer], l.UsPerOp)
			total = addSampled(total, l.UsPerOp)
		}
	}
	return total, byLayer
}

func addSampled(a, b Estimate) Estimate {
	sum := stats.Sampled(int64(a.N+b.N), confidence)
	each := (a.Center + b.Center) / max(sum.Center, 1)
	return Estimate{Center: sum.Center * each, Lo: sum.Lo * each, Hi: sum.Hi * each, Confidence: sum.Confidence, N: sum.N}
}

type layerDifference struct {
	layer Layer
	nanos float64 // an operation, other less best
}

// Layers that a sentence names at most.
const mostLayersNamed = 2

// layersThatDiffer are those in which the difference goes the given way and is more
// than sampling explains, the largest first.
func layersThatDiffer(best, other map[Layer]Estimate, more bool) []layerDifference {
	var found []layerDifference
	for _, l := range layers {
		b, o := best[l.Layer], other[l.Layer]
		// A count of samples has its own size as variance.
		variance := b.Center*b.Center/float64(max(b.N, 1)) + o.Center*o.Center/float64(max(o.N, 1))
		d := o.Center - b.Center
		if (d > 0) == more && math.Abs(d) > layerZ*math.Sqrt(variance) {
			found = append(found, layerDifference{l.Layer, d * float64(time.Microsecond)})
		}
	}
	slices.SortStableFunc(found, func(a, b layerDifference) int { return cmp.Compare(math.Abs(b.nanos), math.Abs(a.nanos)) })
	return found[:min(len(found), mostLayersNamed)]
}

// cpuPerOp is the CPU time of all processes of a trial, in nanoseconds an
// operation; false where one could not be asked, or the generator alone.
func cpuPerOp(t *Trial) (float64, bool) {
	if !t.asked() {
		return 0, false
	}
	sum := 0.0
	for _, p := range t.Processes {
		sum += p.CPUS
	}
	return sum * 1e9 / float64(max(t.Operations, 1)), sum > 0
}
