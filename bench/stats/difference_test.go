package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestDifference(t *testing.T) {
	nan := math.NaN()
	// By hand: differences 2, 4, 6, 8 have mean 5 and standard error 2.582/2; t of 3
	// degrees is 3.182.
	e := Difference([]float64{12, 14, nan, 16, 18, 1}, []float64{10, 10, 10, 10, 10}, 0.95)
	if half := 3.182446 * 2.581989 / 2; e.Center != 5 || e.N != 4 || e.Confidence != 0.95 ||
		math.Abs(e.Lo-5+half) > 1e-5 || math.Abs(e.Hi-5-half) > 1e-5 {
		t.Errorf("%+v", e)
	}
	if e := Mean([]float64{1, nan, 3, math.Inf(1), 5}, 0.95); e.Center != 3 || e.N != 3 || e.HasInterval() {
		t.Errorf("three blocks have an interval: %+v", e)
	}
	if e := Difference([]float64{nan}, []float64{1}, 0.95); e != (Estimate{}) {
		t.Errorf("of nothing: %+v", e)
	}
}

// The interval holds the truth as often as it says.
func TestMeanCovers(t *testing.T) {
	const seed, runs = 7, 4000
	r := rand.New(rand.NewPCG(seed, 0))
	held := 0
	for range runs {
		values := make([]float64, 5)
		for i := range values {
			values[i] = 3 + r.NormFloat64()
		}
		if e := Mean(values, 0.95); e.Lo <= 3 && 3 <= e.Hi {
			held++
		}
	}
	if share := float64(held) / runs; share < 0.94 || share > 0.96 {
		t.Errorf("seed %d: held in %.3f of the runs", seed, share)
	}
}
