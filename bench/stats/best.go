package stats

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// BestSet is the answer to "which is best?".
type BestSet struct {
	// Members are the indices of the variants that cannot be told from the best.
	// With the given confidence the truly best one is among them.
	Members    []int
	Confidence float64
	// Blocks is the least number of blocks that two variants have in common.
	Blocks int
	// Warning is set when Blocks are too few, so that all variants are members.
	Warning string
}

// Best returns the variants that cannot be told from the best, by multiple
// comparisons with the best (Hsu) on logarithms, paired by block. values has a
// slice a variant. A variant is left out when some other is better than it by
// more than a critical value times the standard error of their difference. The
// confidence is that of the whole set, all comparisons taken together. Variants
// without any valid block are never members.
//
// Hsu pools the variance of all variants and takes Dunnett's critical value. That
// is not done here: variants of one experiment differ in noise by an order of
// magnitude, and a noisy one judged by the pooled variance is thrown out, or
// throws others out, by chance. So each pair is judged by its own differences.
// Then Dunnett's value no longer holds (a quiet best variant among five noisy ones
// was lost in 6.5 % of simulated experiments instead of 5 %, in a simulation that
// was not kept), and the critical value is Šidák's, which holds whatever the
// noise; it costs some power.
func Best(values [][]float64, better Direction, confidence float64) BestSet {
	set := BestSet{Confidence: confidence}
	var candidates []int
	for i, v := range values {
		if len(logRatios(v, v)) > 0 {
			candidates = append(candidates, i)
		}
	}
	if len(candidates) == 0 {
		set.Warning = Warning(0)
		return set
	}
	set.Blocks = fewestInCommon(values, candidates)
	if set.Blocks < MinBlocks && len(candidates) > 1 {
		set.Members, set.Warning = candidates, Warning(set.Blocks)
		return set
	}
	for _, i := range candidates {
		if !beaten(values, i, candidates, better, confidence) {
			set.Members = append(set.Members, i)
		}
	}
	if len(set.Members) == 0 {
		// Each is beaten by another, in the blocks that those two have in common.
		set.Members, set.Warning = candidates, "the comparisons contradict each other: too many blocks are missing"
	}
	return set
}

func fewestInCommon(values [][]float64, candidates []int) int {
	n := math.MaxInt
	for _, i := range candidates {
		for _, j := range candidates {
			n = min(n, len(logRatios(values[i], values[j])))
		}
	}
	return n
}

// beaten tells whether another candidate is surely better than i.
func beaten(values [][]float64, i int, candidates []int, better Direction, confidence float64) bool {
	for _, j := range candidates {
		if j == i {
			continue
		}
		d := logRatios(values[i], values[j])
		if better == LowerIsBetter {
			d = logRatios(values[j], values[i])
		}
		c := sidakQuantile(len(candidates)-1, len(d)-1, confidence)
		if stat.Mean(d, nil)+c*standardError(d) < 0 {
			return true
		}
	}
	return false
}

// sidakQuantile is the one-sided critical value that, with the given probability
// at least, none of that many t statistics exceeds.
func sidakQuantile(comparisons, degrees int, confidence float64) float64 {
	each := math.Pow(confidence, 1/float64(comparisons))
	return distuv.StudentsT{Sigma: 1, Nu: float64(degrees)}.Quantile(each)
}
