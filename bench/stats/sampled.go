package stats

import "gonum.org/v1/gonum/stat/distuv"

// Sampled returns the interval about a count of samples that were taken at random
// points of time, as a profiler's are: Garwood's exact one for Poisson counts. It
// says what sampling alone leaves open; N is the count, not a number of blocks.
func Sampled(count int64, confidence float64) Estimate {
	n, tail := float64(count), (1-confidence)/2
	e := Estimate{Center: n, Confidence: confidence, N: int(count)}
	if count > 0 {
		e.Lo = distuv.ChiSquared{K: 2 * n}.Quantile(tail) / 2
	}
	e.Hi = distuv.ChiSquared{K: 2*n + 2}.Quantile(1-tail) / 2
	return e
}
