package stats

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Steadiness is the verdict on a time series.
type Steadiness string

// Steadinesses.
const (
	Steady   Steadiness = "true"    // it drifted by less than DriftSeen
	Unsteady Steadiness = "false"   // it drifted, by more than DriftAllowed
	Unsure   Steadiness = "unknown" // too few or too noisy values to tell
)

const (
	// DriftAllowed is the drift over the whole series, relative to its median, up
	// to which one that is surely there does not matter.
	DriftAllowed = 0.10
	// DriftSeen is the drift that must have shown for a series to be called steady.
	DriftSeen = 0.20
	// MinSteady is the least number of values that anything is said of.
	MinSteady = 8
	// mostSteady is how many points a series is pooled into. Values near each other
	// in time are alike, which makes a trend of chance look sure; means of several
	// are less so.
	mostSteady = 20
)

// SteadyState tells whether a series of values at equal distances in time, such
// as the throughput of the intervals of a window, has a trend. The estimate is the
// drift from the beginning to the end, relative to the median: -0.2 is a fall by a
// fifth. Values that are not finite are left out.
//
// The drift is Theil and Sen's slope, the median of the slopes of all pairs, which
// a few odd values do not move. Its interval at 95 % is the one that Kendall's test
// of trend gives (Sen 1968): it excludes 0 when Mann and Kendall's test says that
// there is a trend. So at most 5 % of series without any trend, whose values do not
// depend on each other, are called unsteady; fewer where the noise is so small that
// DriftAllowed is beyond it. Where each value repeats half of the one before, up to
// 20 % are (TestSteadyStateFalseAlarms). It sees trends and steps,
// but neither a dip that recovers nor what swings.
func SteadyState(values []float64) (Steadiness, Estimate) {
	at, level := pool(values, mostSteady)
	n := len(level)
	if n < MinSteady {
		return Unsure, Estimate{N: n}
	}
	middle := median(slices.Sorted(slices.Values(level)))
	if middle <= 0 {
		return Unsure, Estimate{N: n}
	}
	e := sen(at, level, 0.95)
	scale := float64(len(values)) / middle
	e.Center, e.Lo, e.Hi = e.Center*scale, e.Lo*scale, e.Hi*scale
	switch {
	case !e.HasInterval():
		return Unsure, e
	case (e.Lo > 0 || e.Hi < 0) && math.Abs(e.Center) > DriftAllowed:
		return Unsteady, e
	case e.Lo > -DriftSeen && e.Hi < DriftSeen:
		return Steady, e
	}
	return Unsure, e
}

// pool makes at most n points, each the mean of values that follow each other,
// and tells where their middles are.
func pool(values []float64, n int) (at, level []float64) {
	n = min(n, len(values))
	for i := range n {
		from, to := i*len(values)/n, (i+1)*len(values)/n
		finite := slices.DeleteFunc(slices.Clone(values[from:to]), notFinite)
		if len(finite) > 0 {
			at = append(at, float64(from+to-1)/2)
			level = append(level, stat.Mean(finite, nil))
		}
	}
	return at, level
}

// sen is the slope of y over x with its interval.
func sen(x, y []float64, confidence float64) Estimate {
	var slopes []float64
	n := len(y)
	for i := range n {
		for j := i + 1; j < n; j++ {
			slopes = append(slopes, (y[j]-y[i])/(x[j]-x[i]))
		}
	}
	slices.Sort(slopes)
	pairs := len(slopes)
	e := Estimate{Center: median(slopes), N: n}
	// Kendall's S has this variance when there is no trend; ties, which make it
	// less, are left out of it: the interval is then too wide, not too narrow.
	deviation := math.Sqrt(float64(n*(n-1)*(2*n+5)) / 18)
	reach := distuv.UnitNormal.Quantile((1+confidence)/2) * deviation
	// Ranks from 0, rounded outwards.
	lo := int(math.Floor((float64(pairs)-reach)/2)) - 1
	if lo < 0 {
		return e
	}
	e.Lo, e.Hi, e.Confidence = slopes[lo], slopes[pairs-1-lo], confidence
	return e
}

func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
