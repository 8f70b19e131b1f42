package stats

import (
	"fmt"
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// MinBlocks is the least number of blocks from which anything is concluded.
const MinBlocks = 4

// Estimate is a figure with an interval. Lo and Hi are 0 when there are too few
// blocks for one.
type Estimate struct {
	Center     float64
	Lo         float64
	Hi         float64
	Confidence float64 // of the interval; may be less than asked, 0 without one
	N          int     // blocks behind it
}

// HasInterval tells whether Lo and Hi mean anything.
func (e Estimate) HasInterval() bool { return e.Confidence > 0 }

// Warning says that blocks are too few to conclude anything; empty when not.
func Warning(blocks int) string {
	if blocks >= MinBlocks {
		return ""
	}
	return fmt.Sprintf("%d valid blocks are too few to conclude anything: at least %d are needed", blocks, MinBlocks)
}

// MedianInterval returns the median of a variant's figures and its interval
// by order statistics, without an assumption about the distribution. Where
// benchstat gives an interval it is benchstat's: Confidence, never less than asked, tells
// how sure it is. Where benchstat says infinity (below 6 blocks at 95 %), it is
// the whole range, at the lower confidence that has: 93.75 % for 5 blocks, 87.5 %
// for 4. Values that are not finite are left out.
func MedianInterval(values []float64, confidence float64) Estimate {
	values = slices.DeleteFunc(slices.Clone(values), notFinite)
	n := len(values)
	if n == 0 {
		return Estimate{}
	}
	thresholds := benchmath.DefaultThresholds
	sample := benchmath.NewSample(values, &thresholds)
	s := benchmath.AssumeNothing.Summary(sample, confidence)
	e := Estimate{Center: s.Center, N: n}
	switch {
	case !math.IsInf(s.Lo, 0) && !math.IsInf(s.Hi, 0):
		e.Lo, e.Hi, e.Confidence = s.Lo, s.Hi, s.Confidence
	case n >= MinBlocks:
		// All values on one side of the median: 2 * 0.5^n.
		e.Lo, e.Hi, e.Confidence = sample.Values[0], sample.Values[n-1], 1-math.Pow(0.5, float64(n-1))
	}
	return e
}

// PairedRatio returns how many times the baseline's figures a variant's are: the
// geometric mean of the ratios within each block, and a t-interval of its
// logarithm. Blocks in which either is missing or not positive are left out.
func PairedRatio(variant, baseline []float64, confidence float64) Estimate {
	logs := logRatios(variant, baseline)
	n := len(logs)
	if n == 0 {
		return Estimate{}
	}
	mean, half := stat.Mean(logs, nil), 0.0
	e := Estimate{Center: math.Exp(mean), N: n}
	if n < MinBlocks {
		return e
	}
	half = studentQuantile(n-1, confidence) * standardError(logs)
	e.Lo, e.Hi, e.Confidence = math.Exp(mean-half), math.Exp(mean+half), confidence
	return e
}

// logRatios returns log(a/b) for each block that has both.
func logRatios(a, b []float64) []float64 {
	var logs []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 && !notFinite(a[i]) && !notFinite(b[i]) {
			logs = append(logs, math.Log(a[i])-math.Log(b[i]))
		}
	}
	return logs
}

func standardError(x []float64) float64 { return stat.StdDev(x, nil) / math.Sqrt(float64(len(x))) }

// studentQuantile is how many standard errors a two-sided t-interval reaches.
func studentQuantile(degrees int, confidence float64) float64 {
	return distuv.StudentsT{Sigma: 1, Nu: float64(degrees)}.Quantile((1 + confidence) / 2)
}

func notFinite(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) }
