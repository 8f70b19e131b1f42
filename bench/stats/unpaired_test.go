package stats

import (
	"math"
	"math/rand/v2"
	"testing"

	"golang.org/x/perf/benchmath"
	"pgregory.net/rapid"
)

func TestUnpairedRatio(t *testing.T) {
	exp := func(x ...float64) []float64 {
		for i := range x {
			x[i] = math.Exp(x[i])
		}
		return x
	}
	// Logs have means 2.5 and 1.2, variances 5/3 and 0.025, so standard errors
	// 0.645497 and 0.070711 and 3.059933 degrees of freedom: t = 3.147788.
	got := UnpairedRatio(exp(1, 2, 3, 4), exp(1, 1.1, 1.2, 1.3, 1.4), 0.95)
	half := 3.1478 * math.Hypot(0.645497, 0.0707107)
	if !near(math.Log(got.Center), 1.3, 1e-9) || !near(math.Log(got.Lo), 1.3-half, 1e-2) || !near(math.Log(got.Hi), 1.3+half, 1e-2) || got.N != 4 || got.Confidence != 0.95 {
		t.Errorf("%+v, half should be %v", got, half)
	}
	nan := math.NaN()
	if got = UnpairedRatio([]float64{2, nan, 2, 0, 2, math.Inf(1)}, []float64{1, 1, 1, 1, 1}, 0.95); got != (Estimate{Center: 2, N: 3}) {
		t.Errorf("three figures: %+v", got)
	}
	if got = UnpairedRatio([]float64{2, 2, 2, 2}, []float64{1, 1, 1, 1}, 0.95); got.Center != 2 || got.Lo != 2 || got.Hi != 2 {
		t.Errorf("without noise: %+v", got)
	}
	if got = UnpairedRatio(nil, []float64{1}, 0.95); got != (Estimate{}) {
		t.Errorf("nothing: %+v", got)
	}
}

// TestUnpairedRatioProperties: swapping inverts, order means nothing, a longer
// interval is surer.
func TestUnpairedRatioProperties(t *testing.T) {
	figure := rapid.Float64Range(1e-3, 1e9)
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOfN(figure, 4, 12).Draw(t, "a"), rapid.SliceOfN(figure, 4, 12).Draw(t, "b")
		r, back := UnpairedRatio(a, b, 0.95), UnpairedRatio(b, a, 0.95)
		if !near(math.Log(r.Center), -math.Log(back.Center), 1e-9) || !near(math.Log(r.Lo), -math.Log(back.Hi), 1e-9) {
			t.Fatalf("%+v and %+v", r, back)
		}
		a[0], a[1] = a[1], a[0]
		if again := UnpairedRatio(a, b, 0.95); !near(math.Log(again.Hi), math.Log(r.Hi), 1e-9) {
			t.Fatalf("the order of the figures changed %+v to %+v", r, again)
		}
		if wide := UnpairedRatio(a, b, 0.99); wide.Lo > r.Lo+1e-12*r.Lo || wide.Hi < r.Hi-1e-12*r.Hi {
			t.Fatalf("99 %%: %+v, 95 %%: %+v", wide, r)
		}
	})
}

// TestUnpairedRatioCovers: of figures whose truth is known, one side much noisier
// and with fewer of them, the interval misses the truth in about 5 %.
func TestUnpairedRatioCovers(t *testing.T) {
	const rounds = 4000
	random := rand.New(rand.NewPCG(3, 4))
	draw := func(n int, noise float64) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = math.Exp(noise * random.NormFloat64())
		}
		return v
	}
	missed := 0
	for range rounds {
		if e := UnpairedRatio(draw(6, 0.2), draw(12, 0.02), 0.95); e.Lo > 1 || e.Hi < 1 {
			missed++
		}
	}
	if share := float64(missed) / rounds; share < 0.04 || share > 0.06 {
		t.Errorf("missed in %.1f %%", 100*share)
	}
}

func TestMannWhitney(t *testing.T) {
	a, b := []float64{1, 2, 3, 4, math.NaN()}, []float64{5, 6, 7, 8}
	// All of one below all of the other: 2 of the 70 orders.
	if p := MannWhitney(a, b); !near(p, 2.0/70, 1e-12) {
		t.Errorf("p is %v", p)
	}
	if p := MannWhitney(nil, b); p != 1 {
		t.Errorf("of nothing p is %v", p)
	}
	rapid.Check(t, func(t *rapid.T) {
		figure := rapid.Float64Range(1, 1e6)
		x, y := rapid.SliceOfN(figure, 1, 20).Draw(t, "x"), rapid.SliceOfN(figure, 1, 20).Draw(t, "y")
		sample := func(v []float64) *benchmath.Sample { return benchmath.NewSample(v, &benchmath.DefaultThresholds) }
		if p, want := MannWhitney(x, y), benchmath.AssumeNothing.Compare(sample(x), sample(y)).P; p != want {
			t.Fatalf("p is %v, benchstat has %v", p, want)
		}
	})
}

func TestEach(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want float64
	}{{0, 0.95}, {1, 0.95}, {2, math.Sqrt(0.95)}, {10, 0.994884}} {
		if got := Each(0.95, tt.n); !near(got, tt.want, 1e-6) {
			t.Errorf("%d: %v, want %v", tt.n, got, tt.want)
		}
	}
}
