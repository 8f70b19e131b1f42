package stats

import "math"

// Direction says which way a figure is better.
type Direction bool

// Directions.
const (
	HigherIsBetter Direction = true
	LowerIsBetter  Direction = false
)

// Verdict compares a variant with the baseline.
type Verdict string

// Verdicts.
const (
	Better       Verdict = "better"
	Worse        Verdict = "worse"
	Same         Verdict = "same" // within the margin
	Inconclusive Verdict = "inconclusive"
)

// Margin is the least relative difference worth speaking of: the asked one, or
// the half-width of the interval of the A/A arm's ratio if that is wider, since
// this machine cannot tell what is below it. 0.02 is 2 %.
func Margin(asked float64, aa Estimate) float64 {
	if !aa.HasInterval() {
		return asked
	}
	return max(asked, math.Exp(math.Log(aa.Hi/aa.Lo)/2)-1)
}

// Decide makes a verdict of a ratio to the baseline.
//
//   - same: the whole interval is within 1/(1+margin) to 1+margin.
//   - better, worse: the interval is all on one side of 1 and its centre is
//     beyond the margin: a difference that is real, and large enough to matter.
//   - inconclusive: anything else, and whatever has no interval.
func Decide(ratio Estimate, margin float64, better Direction) Verdict {
	if !ratio.HasInterval() {
		return Inconclusive
	}
	if better == LowerIsBetter {
		ratio.Center, ratio.Lo, ratio.Hi = 1/ratio.Center, 1/ratio.Hi, 1/ratio.Lo
	}
	high, low := 1+margin, 1/(1+margin)
	switch {
	case ratio.Lo >= low && ratio.Hi <= high:
		return Same
	case ratio.Lo > 1 && ratio.Center > high:
		return Better
	case ratio.Hi < 1 && ratio.Center < low:
		return Worse
	}
	return Inconclusive
}
