package stats

import "gonum.org/v1/gonum/stat"

// Mean returns the arithmetic mean of a variant's figures and its t-interval. It is
// for figures that are parts of another: their means add up to its mean, medians do
// not. Values that are not finite are left out.
func Mean(values []float64, confidence float64) Estimate {
	var finite []float64
	for _, v := range values {
		if !notFinite(v) {
			finite = append(finite, v)
		}
	}
	n := len(finite)
	if n == 0 {
		return Estimate{}
	}
	e := Estimate{Center: stat.Mean(finite, nil), N: n}
	if n < MinBlocks {
		return e
	}
	half := studentQuantile(n-1, confidence) * standardError(finite)
	e.Lo, e.Hi, e.Confidence = e.Center-half, e.Center+half, confidence
	return e
}

// Difference returns by how much a variant's figures exceed another's: the mean of
// the differences within each block, and its t-interval. Blocks in which either is
// missing are left out.
func Difference(a, b []float64, confidence float64) Estimate {
	var differences []float64
	for i, x := range a {
		if i < len(b) {
			differences = append(differences, x-b[i])
		}
	}
	return Mean(differences, confidence)
}
