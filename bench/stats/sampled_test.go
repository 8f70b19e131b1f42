package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Garwood's table for 95 %.
func TestSampledIsGarwoods(t *testing.T) {
	for _, c := range []struct {
		n      int64
		lo, hi float64
	}{{0, 0, 3.689}, {1, 0.025, 5.572}, {10, 4.795, 18.390}, {100, 81.364, 121.627}} {
		e := Sampled(c.n, 0.95)
		if math.Abs(e.Lo-c.lo) > 0.001 || math.Abs(e.Hi-c.hi) > 0.001 || e.Center != float64(c.n) || e.N != int(c.n) {
			t.Errorf("%d samples: %+v, want %v to %v", c.n, e, c.lo, c.hi)
		}
	}
}

// The interval holds what was sampled at least as often as it says.
func TestSampledCovers(t *testing.T) {
	const share, takes, times = 0.04, 500, 4000 // expects 20 samples
	r := rand.New(rand.NewPCG(5, 1))
	held := 0
	for range times {
		var n int64
		for range takes {
			if r.Float64() < share {
				n++
			}
		}
		if e := Sampled(n, 0.95); e.Lo <= share*takes && share*takes <= e.Hi {
			held++
		}
	}
	if f := float64(held) / times; f < 0.95 {
		t.Errorf("held the truth %.1f %% of the time (seed 5)", 100*f)
	}
}
