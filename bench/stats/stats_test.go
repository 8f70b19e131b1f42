package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/perf/benchmath"
	"pgregory.net/rapid"
)

func near(a, b, tolerance float64) bool { return math.Abs(a-b) <= tolerance*max(1, math.Abs(b)) }

func TestMedianInterval(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		values []float64
		want   Estimate
	}{
		{nil, Estimate{}},
		{[]float64{nan}, Estimate{}},
		{[]float64{5}, Estimate{Center: 5, N: 1}},
		{[]float64{3, 1, 2}, Estimate{Center: 2, N: 3}},
		{[]float64{3, 1, 2, 10}, Estimate{2.5, 1, 10, 0.875, 4}},
		{[]float64{3, 1, nan, 2, 10, 4, math.Inf(1)}, Estimate{3, 1, 10, 0.9375, 5}},
		{[]float64{6, 5, 4, 3, 2, 1}, Estimate{3.5, 1, 6, 0.96875, 6}},
		// Order statistics 2 and 9 of 10: 1 - 2*(1+10)/1024.
		{[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Estimate{5.5, 2, 9, 1 - 22.0/1024, 10}},
	} {
		got := MedianInterval(tt.values, 0.95)
		if !near(got.Confidence, tt.want.Confidence, 1e-12) {
			t.Errorf("%v: confidence %v, want %v", tt.values, got.Confidence, tt.want.Confidence)
		}
		if got.Confidence = tt.want.Confidence; got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.values, got, tt.want)
		}
	}
}

// TestMedianIntervalIsBenchstats: the same numbers as benchstat prints.
func TestMedianIntervalIsBenchstats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e9, 1e9), 6, 40).Draw(t, "values")
		before := slices.Clone(values)
		got := MedianInterval(values, 0.95)
		if !slices.Equal(before, values) {
			t.Fatal("the sample was changed")
		}
		s := benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &benchmath.DefaultThresholds), 0.95)
		if want := (Estimate{s.Center, s.Lo, s.Hi, s.Confidence, len(before)}); got != want {
			t.Fatalf("%+v, benchstat has %+v", got, want)
		}
	})
}

func TestPairedRatio(t *testing.T) {
	e := math.E
	// Logs of the ratios are 1, 2, 3, 4: mean 2.5, s = 1.290994, t(3, 97.5 %) = 3.182446.
	got := PairedRatio([]float64{e, 2 * e * e, 3 * e * e * e, e * e * e * e}, []float64{1, 2, 3, 1}, 0.95)
	half := 3.182446 * 1.290994 / 2
	if !near(got.Center, math.Exp(2.5), 1e-9) || !near(got.Lo, math.Exp(2.5-half), 1e-5) || !near(got.Hi, math.Exp(2.5+half), 1e-5) ||
		got.N != 4 || got.Confidence != 0.95 {
		t.Errorf("got %+v", got)
	}
	nan := math.NaN()
	got = PairedRatio([]float64{2, nan, 2, 0, 2, 9}, []float64{1, 1, 1, 1, 1, math.Inf(1), 5}, 0.95)
	if got != (Estimate{Center: 2, N: 3}) {
		t.Errorf("3 blocks in common: %+v", got)
	}
	if got = PairedRatio(nil, []float64{1}, 0.95); got != (Estimate{}) {
		t.Errorf("none in common: %+v", got)
	}
}

// TestPairedRatioProperties: a block's factor cancels, swapping inverts.
func TestPairedRatioProperties(t *testing.T) {
	figure := rapid.Float64Range(1e-3, 1e9)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(4, 12).Draw(t, "n")
		a, b := rapid.SliceOfN(figure, n, n).Draw(t, "a"), rapid.SliceOfN(figure, n, n).Draw(t, "b")
		r, back := PairedRatio(a, b, 0.95), PairedRatio(b, a, 0.95)
		if !near(math.Log(r.Center), -math.Log(back.Center), 1e-9) || !near(math.Log(r.Lo), -math.Log(back.Hi), 1e-9) {
			t.Fatalf("%+v and %+v", r, back)
		}
		if r.Lo > r.Center || r.Hi < r.Center {
			t.Fatalf("%+v", r)
		}
		for i := range n {
			f := rapid.Float64Range(0.01, 100).Draw(t, "factor")
			a[i] *= f
			b[i] *= f
		}
		if again := PairedRatio(a, b, 0.95); !near(math.Log(again.Center), math.Log(r.Center), 1e-9) ||
			!near(math.Log(again.Hi), math.Log(r.Hi), 1e-6) {
			t.Fatalf("a slow block changed %+v to %+v", r, again)
		}
	})
}

func TestMargin(t *testing.T) {
	aa := Estimate{Center: 1.01, Lo: 0.97, Hi: 1.05, Confidence: 0.95, N: 5}
	half := math.Sqrt(1.05/0.97) - 1
	for _, tt := range []struct {
		asked float64
		aa    Estimate
		want  float64
	}{
		{0.02, aa, half},
		{0.1, aa, 0.1},
		{0.02, Estimate{Center: 3, N: 3}, 0.02},
	} {
		if got := Margin(tt.asked, tt.aa); !near(got, tt.want, 1e-12) {
			t.Errorf("%v: got %v, want %v", tt, got, tt.want)
		}
	}
}

func TestDecide(t *testing.T) {
	of := func(lo, center, hi float64) Estimate { return Estimate{center, lo, hi, 0.95, 5} }
	for _, tt := range []struct {
		ratio       Estimate
		more, fewer Verdict // higher is better, lower is better
	}{
		{of(1.1, 1.2, 1.3), Better, Worse},
		{of(0.7, 0.8, 0.9), Worse, Better},
		{of(0.99, 1, 1.01), Same, Same},
		{of(1.001, 1.005, 1.01), Same, Same}, // real, but nothing
		{of(0.9, 1.1, 1.3), Inconclusive, Inconclusive},
		{of(1.001, 1.015, 1.03), Inconclusive, Inconclusive}, // real, perhaps worth a word
		{of(1.001, 1.05, 1.1), Better, Worse},
		{Estimate{Center: 5, N: 3}, Inconclusive, Inconclusive},
		{Estimate{}, Inconclusive, Inconclusive},
	} {
		if got := Decide(tt.ratio, 0.02, HigherIsBetter); got != tt.more {
			t.Errorf("%+v: %s, want %s", tt.ratio, got, tt.more)
		}
		if got := Decide(tt.ratio, 0.02, LowerIsBetter); got != tt.fewer {
			t.Errorf("%+v, lower is better: %s, want %s", tt.ratio, got, tt.fewer)
		}
	}
}

func TestWarning(t *testing.T) {
	if w := Warning(3); w != "3 valid blocks are too few to conclude anything: at least 4 are needed" {
		t.Error(w)
	}
	if w := Warning(4); w != "" {
		t.Error(w)
	}
}

// TestCriticalValues against tables of Student's t.
func TestCriticalValues(t *testing.T) {
	for _, tt := range []struct {
		comparisons, degrees int
		confidence, want     float64
	}{
		{1, 3, 0.95, 2.3534},
		{1, 4, 0.95, 2.1318},
		{1, 10, 0.95, 1.8125},
		{2, 4, 0.9801, 3.7469},   // 0.99 each
		{3, 5, 0.985075, 4.0321}, // 0.995 each
	} {
		if got := sidakQuantile(tt.comparisons, tt.degrees, tt.confidence); math.Abs(got-tt.want) > 1e-3 {
			t.Errorf("%+v: got %.4f", tt, got)
		}
	}
	for _, tt := range []struct {
		degrees int
		want    float64
	}{{3, 3.1824}, {4, 2.7764}, {9, 2.2622}, {30, 2.0423}} {
		if got := studentQuantile(tt.degrees, 0.95); math.Abs(got-tt.want) > 1e-4 {
			t.Errorf("t(%d): %.4f, want %.4f", tt.degrees, got, tt.want)
		}
	}
}

func TestBest(t *testing.T) {
	nan := math.NaN()
	fast := []float64{100, 101, 99, 100, 102}
	near := []float64{99, 101, 100, 101, 100}
	slow := []float64{50, 52, 49, 51, 50}
	for _, tt := range []struct {
		name   string
		values [][]float64
		better Direction
		want   BestSet
	}{
		{"none", nil, HigherIsBetter, BestSet{Confidence: 0.95, Warning: Warning(0)}},
		{"one", [][]float64{slow}, HigherIsBetter, BestSet{Members: []int{0}, Confidence: 0.95, Blocks: 5}},
		{"two alike", [][]float64{slow, fast, near}, HigherIsBetter, BestSet{Members: []int{1, 2}, Confidence: 0.95, Blocks: 5}},
		{"least", [][]float64{slow, fast, near}, LowerIsBetter, BestSet{Members: []int{0}, Confidence: 0.95, Blocks: 5}},
		{"equal", [][]float64{fast, fast}, HigherIsBetter, BestSet{Members: []int{0, 1}, Confidence: 0.95, Blocks: 5}},
		{"three blocks", [][]float64{slow[:3], fast}, HigherIsBetter, BestSet{Members: []int{0, 1}, Confidence: 0.95, Blocks: 3, Warning: Warning(3)}},
		{"one without trials", [][]float64{slow, fast, {nan, nan, nan, nan, nan}}, HigherIsBetter, BestSet{Members: []int{1}, Confidence: 0.95, Blocks: 5}},
		{"a missing block", [][]float64{{50, nan, 49, 51, 50}, fast}, HigherIsBetter, BestSet{Members: []int{1}, Confidence: 0.95, Blocks: 4}},
	} {
		got := Best(tt.values, tt.better, 0.95)
		if !slices.Equal(got.Members, tt.want.Members) || got.Confidence != tt.want.Confidence || got.Blocks != tt.want.Blocks ||
			got.Warning != tt.want.Warning {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestBestKeepsItsConfidence: in experiments whose truth is known, the best
// variant is left out in at most 5 % of them, equal noise or not; and variants
// far from the best are always left out.
func TestBestKeepsItsConfidence(t *testing.T) {
	const experiments, blocks = 1000, 5
	for _, tt := range []struct {
		name  string
		noise []float64 // of each variant, relative
	}{
		{"equal noise", []float64{0.03, 0.03, 0.03, 0.03, 0.03, 0.03}},
		{"the best is noisy", []float64{0.2, 0.01, 0.01, 0.01, 0.01, 0.01}},
		{"the others are noisy", []float64{0.01, 0.2, 0.1, 0.05, 0.2, 0.03}},
	} {
		r := rand.New(rand.NewPCG(1, 2))
		missed, hopeless := 0, 0
		for range experiments {
			values := make([][]float64, len(tt.noise)+1)
			for range blocks {
				machine := math.Exp(0.1 * r.NormFloat64()) // busy or not, for all
				for i, noise := range tt.noise {
					truth := 1000.0 // variant 0 is the best, by nothing: the worst case
					values[i] = append(values[i], truth*machine*math.Exp(noise*r.NormFloat64()))
				}
				last := len(tt.noise)
				values[last] = append(values[last], 100*machine)
			}
			set := Best(values, HigherIsBetter, 0.95)
			if !slices.Contains(set.Members, 0) {
				missed++
			}
			if slices.Contains(set.Members, len(tt.noise)) {
				hopeless++
			}
		}
		if rate := float64(missed) / experiments; rate > 0.064 { // 0.05 and two standard errors
			t.Errorf("%s: the best was left out in %.1f %% of experiments", tt.name, 100*rate)
		}
		if rate := float64(hopeless) / experiments; rate > 0.05 {
			t.Errorf("%s: one at a tenth of the best was kept in %.1f %%", tt.name, 100*rate)
		}
	}
}

func TestBestIsNeverEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		variants, blocks := rapid.IntRange(1, 5).Draw(t, "variants"), rapid.IntRange(1, 7).Draw(t, "blocks")
		values := make([][]float64, variants)
		for i := range values {
			values[i] = rapid.SliceOfN(rapid.Float64Range(1, 1e6), blocks, blocks).Draw(t, "figures")
		}
		for range rapid.IntRange(0, 8).Draw(t, "holes") {
			values[rapid.IntRange(0, variants-1).Draw(t, "variant")][rapid.IntRange(0, blocks-1).Draw(t, "block")] = math.NaN()
		}
		set := Best(values, Direction(rapid.Bool().Draw(t, "higher")), 0.95)
		alive := slices.ContainsFunc(values, func(v []float64) bool { return len(logRatios(v, v)) > 0 })
		if alive == (len(set.Members) == 0) || !slices.IsSorted(set.Members) {
			t.Fatalf("%+v", set)
		}
	})
}
