package stats

import (
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// UnpairedRatio returns how many times the baseline's figures a variant's are,
// when the two were not measured in the same blocks: the ratio of the geometric
// means, and Welch's t-interval of its logarithm, which does not take the two to
// be equally noisy. What changed on the machine between the two is in the ratio and
// not in the interval. N is the lesser number of figures.
func UnpairedRatio(variant, baseline []float64, confidence float64) Estimate {
	a, b := logs(variant), logs(baseline)
	n := min(len(a), len(b))
	if n == 0 {
		return Estimate{}
	}
	difference := stat.Mean(a, nil) - stat.Mean(b, nil)
	e := Estimate{Center: math.Exp(difference), N: n}
	if n < MinBlocks {
		return e
	}
	half := welchQuantile(a, b, confidence) * math.Hypot(standardError(a), standardError(b))
	e.Lo, e.Hi, e.Confidence = math.Exp(difference-half), math.Exp(difference+half), confidence
	return e
}

// welchQuantile is the critical value with the degrees of freedom of Welch and
// Satterthwaite.
func welchQuantile(a, b []float64, confidence float64) float64 {
	va, vb := math.Pow(standardError(a), 2), math.Pow(standardError(b), 2)
	degrees := float64(min(len(a), len(b)) - 1)
	if va+vb > 0 {
		degrees = (va + vb) * (va + vb) / (va*va/float64(len(a)-1) + vb*vb/float64(len(b)-1))
	}
	return distuv.StudentsT{Sigma: 1, Nu: degrees}.Quantile((1 + confidence) / 2)
}

// logs are the logarithms of what is positive and finite.
func logs(values []float64) []float64 {
	var out []float64
	for _, x := range values {
		if x > 0 && !notFinite(x) {
			out = append(out, math.Log(x))
		}
	}
	return out
}

// MannWhitney is the p-value that benchstat prints for two samples: how probable
// it is that samples from one distribution differ in rank as much as these. Values
// that are not finite are left out; it is 1 when either sample is then empty.
func MannWhitney(a, b []float64) float64 {
	sample := func(values []float64) *benchmath.Sample {
		return benchmath.NewSample(slices.DeleteFunc(slices.Clone(values), notFinite), &benchmath.DefaultThresholds)
	}
	return benchmath.AssumeNothing.Compare(sample(a), sample(b)).P
}

// Each is the confidence that each of n intervals needs for all of them to hold at
// once with the given confidence, however they depend on each other (Šidák, 1967).
func Each(confidence float64, n int) float64 {
	return math.Pow(confidence, 1/float64(max(n, 1)))
}
