package stats

import (
	"math"

	"gonum.org/v1/gonum/stat"
)

// Judgement says how near an adaptive variant comes to the best of several fixed
// ones in one figure.
type Judgement struct {
	// Best and Worst are the indices of the fixed variants with the best and the
	// worst geometric mean over the blocks that all of them have; -1 when they have
	// none in common.
	Best, Worst int
	// Spread is how many times better the best is than the worst, never less than
	// 1 at its centre: 1.15 means that the choice is worth 15 %.
	Spread Estimate
	// Judged is false when the choice is worth too little for the adaptive variant to
	// be praised or blamed for its own.
	Judged bool
	// Ratio is the adaptive variant's figures over those of the best fixed one,
	// which in each block is the one that is best by all other blocks.
	Ratio Estimate
	// Verdict is empty when nothing is judged.
	Verdict Nearness
}

// Nearness is the verdict on an adaptive variant.
type Nearness string

// Nearnesses.
const (
	Within  Nearness = "within"  // surely no further from the best than asked
	Beyond  Nearness = "beyond"  // surely further
	Unknown Nearness = "unclear" // neither is sure
)

// Judge compares an adaptive variant with fixed ones, where the best of them is
// at least spread better than the worst (0.15 is 15 %). It is within when the
// whole interval of its ratio to the best, paired by block, is at most within
// worse than 1 (0.05 is 5 %), beyond when the whole interval is worse than that.
//
// What the adaptive variant meets in a block is the fixed one that is best by all
// the other blocks: what somebody would run with who had measured them, and chosen.
// Were it the best by the same block too, its luck there would count as merit. The
// best of six that are all alike, each with 5 % noise, looks 3 % better than it is
// over four blocks (TestJudgeIsFair). Where the choice is not the same for every
// block, the blocks share what it was made by, and the interval is widened for that
// (Nadeau and Bengio, Inference for the Generalization Error, 2003).
func Judge(adaptive []float64, fixed [][]float64, better Direction, within, spread, confidence float64) Judgement {
	j := Judgement{Best: -1, Worst: -1}
	j.Best, j.Worst = extremes(fixed, better, noBlock)
	if j.Best < 0 {
		return j
	}
	high, low := fixed[j.Best], fixed[j.Worst]
	if better == LowerIsBetter {
		high, low = low, high
	}
	j.Spread = PairedRatio(high, low, confidence)
	j.Ratio = againstChosen(adaptive, fixed, better, j.Best, confidence)
	if j.Judged = j.Spread.Center >= 1+spread; !j.Judged {
		return j
	}
	worse := j.Ratio // how many times worse than the best
	if better == HigherIsBetter {
		worse.Lo, worse.Hi = 1/j.Ratio.Hi, 1/j.Ratio.Lo
	}
	limit := 1 + within
	if better == HigherIsBetter {
		limit = 1 / (1 - within) // 5 % less throughput, not 5 % more time
	}
	switch {
	case !j.Ratio.HasInterval():
		j.Verdict = Unknown
	case worse.Hi <= limit:
		j.Verdict = Within
	case worse.Lo > limit:
		j.Verdict = Beyond
	default:
		j.Verdict = Unknown
	}
	return j
}

// noBlock leaves none out.
const noBlock = -1

// againstChosen is the ratio to, block by block, the variant that is best by the
// other blocks, or to best when there are none.
func againstChosen(adaptive []float64, fixed [][]float64, better Direction, best int, confidence float64) Estimate {
	figures := make([]float64, len(adaptive))
	same := true
	for b := range figures {
		choice, _ := extremes(fixed, better, b)
		if choice < 0 {
			choice = best
		}
		same = same && choice == best
		if figures[b] = math.NaN(); b < len(fixed[choice]) {
			figures[b] = fixed[choice][b]
		}
	}
	e := PairedRatio(adaptive, figures, confidence)
	if e.HasInterval() && !same {
		// The variance of a mean is 1/n of one value's; what n-1 share adds 1/(n-1).
		n := float64(e.N)
		half := math.Log(e.Hi/e.Center) * math.Sqrt(1+n/(n-1))
		e.Lo, e.Hi = e.Center*math.Exp(-half), e.Center*math.Exp(half)
	}
	return e
}

// extremes returns the variants with the best and the worst level, -1 when none
// has any.
func extremes(values [][]float64, better Direction, without int) (best, worst int) {
	best, worst = -1, -1
	level := levels(values, without)
	for i, x := range level {
		if notFinite(x) {
			continue
		}
		if better == LowerIsBetter {
			level[i] = -x
		}
		if best < 0 || level[i] > level[best] {
			best = i
		}
		if worst < 0 || level[i] < level[worst] {
			worst = i
		}
	}
	return best, worst
}

// levels are the means of the variants' logarithms over the blocks in which all
// of those that have any figure have one, but for the block that is left out; NaN
// for those that have none.
func levels(values [][]float64, without int) []float64 {
	some := make([]bool, len(values))
	blocks := 0
	for i, v := range values {
		some[i] = len(logRatios(v, v)) > 0
		blocks = max(blocks, len(v))
	}
	logs := make([][]float64, len(values))
	for block := range blocks {
		row := make([]float64, len(values))
		complete := block != without
		for i, v := range values {
			if !some[i] {
				continue
			}
			if block >= len(v) || notFinite(v[block]) || v[block] <= 0 {
				complete = false
				break
			}
			row[i] = math.Log(v[block])
		}
		for i := range values {
			if complete && some[i] {
				logs[i] = append(logs[i], row[i])
			}
		}
	}
	level := make([]float64, len(values))
	for i := range values {
		level[i] = stat.Mean(logs[i], nil) // NaN of nothing
	}
	return level
}
