package stats

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// series makes values around 1000 that drift by so much over the whole and have
// noise, of which each value repeats a share of the one before.
func series(r *rand.Rand, n int, drift, noise, repeats float64) []float64 {
	values := make([]float64, n)
	last := r.NormFloat64() // as spread as those that follow
	for i := range values {
		last = repeats*last + math.Sqrt(1-repeats*repeats)*r.NormFloat64()
		values[i] = 1000 * (1 + drift*(float64(i)+0.5)/float64(n)) * math.Max(0, 1+noise*last)
	}
	return values
}

// verdicts counts, as shares, the verdicts on many series.
func verdicts(simulations int, draw func(r *rand.Rand) []float64) map[Steadiness]float64 {
	r := rand.New(rand.NewPCG(1, 2))
	shares := map[Steadiness]float64{}
	for range simulations {
		s, _ := SteadyState(draw(r))
		shares[s] += 1 / float64(simulations)
	}
	return shares
}

// TestSteadyStateFalseAlarms: the rate that SteadyState states, with three
// standard deviations of a simulated share.
func TestSteadyStateFalseAlarms(t *testing.T) {
	const simulations = 4000
	for _, tt := range []struct {
		n              int
		noise, repeats float64
		most           float64
	}{
		{8, 0.3, 0, 0.05},
		{10, 0.3, 0, 0.05},
		{20, 0.3, 0, 0.05},
		{60, 0.3, 0, 0.05},
		{10, 0.1, 0, 0.05},
		{10, 0.03, 0, 0.005}, // a drift of 10 % is far beyond this noise
		{60, 0.1, 0, 0.02},
		{20, 0.3, 0.5, 0.20},
		{60, 0.3, 0.5, 0.12}, // pooled
		{10, 0.05, 0.5, 0.12},
	} {
		got := verdicts(simulations, func(r *rand.Rand) []float64 { return series(r, tt.n, 0, tt.noise, tt.repeats) })
		t.Logf("%d values, noise %v, repeating %v: %v", tt.n, tt.noise, tt.repeats, got)
		if slack := 3 * math.Sqrt(tt.most*(1-tt.most)/simulations); got[Unsteady] > tt.most+slack {
			t.Errorf("%d values, noise %v, repeating %v: %.1f %% false alarms, want at most %v %%",
				tt.n, tt.noise, tt.repeats, 100*got[Unsteady], 100*tt.most)
		}
	}
}

// TestSteadyStateFindsDrift of 20 %, up or down, wherever noise allows it, and
// never calls it steady.
func TestSteadyStateFindsDrift(t *testing.T) {
	const simulations = 2000
	for _, tt := range []struct {
		n            int
		drift, noise float64
		least        float64
	}{
		{10, -0.2, 0.03, 0.97},
		{10, 0.25, 0.03, 0.97}, // from 0.8 to 1 of the end
		{20, -0.2, 0.05, 0.95},
		{60, -0.2, 0.05, 0.99},
		{600, -0.2, 0.10, 0.99},
		{10, -0.2, 0.3, 0},
	} {
		got := verdicts(simulations, func(r *rand.Rand) []float64 { return series(r, tt.n, tt.drift, tt.noise, 0) })
		t.Logf("%d values drift by %v in noise %v: %v", tt.n, tt.drift, tt.noise, got)
		if got[Unsteady] < tt.least {
			t.Errorf("%d values drift by %v in noise %v: found in %.1f %%", tt.n, tt.drift, tt.noise, 100*got[Unsteady])
		}
		if got[Steady] > 0.05 {
			t.Errorf("%d values drift by %v in noise %v: called steady in %.1f %%", tt.n, tt.drift, tt.noise, 100*got[Steady])
		}
	}
}

func TestSteadyState(t *testing.T) {
	const n = 20
	line := func(f func(i int) float64) []float64 {
		values := make([]float64, n)
		for i := range values {
			values[i] = 1000*f(i) + float64(i%3) // a wobble of a tenth of a percent
		}
		return values
	}
	nan := math.NaN()
	for _, tt := range []struct {
		name   string
		values []float64
		want   Steadiness
		drift  float64
	}{
		{"level", line(func(int) float64 { return 1 }), Steady, 0},
		{"a drift too small to matter", line(func(i int) float64 { return 1 - 0.05*float64(i)/n }), Steady, -0.05},
		{"down by a fifth", line(func(i int) float64 { return 1 - 0.2*float64(i)/n }), Unsteady, -0.22},
		{"up by a half", line(func(i int) float64 { return 1 + 0.5*float64(i)/n }), Unsteady, 0.4},
		{"a step", line(func(i int) float64 { return 1 - 0.2*float64(i/(n/2)) }), Unsteady, -0.25},
		{"one stall", line(func(i int) float64 { return map[bool]float64{true: 0, false: 1}[i == 15] }), Steady, 0},
		{"a slow start of one", line(func(i int) float64 { return map[bool]float64{true: 0.3, false: 1}[i == 0] }), Steady, 0},
		{"seven", line(func(int) float64 { return 1 })[:7], Unsure, 0},
		{"nothing", nil, Unsure, 0},
		{"all idle", make([]float64, n), Unsure, 0},
		{"gaps", []float64{nan, 10, 10, nan, 10, 10, 10, math.Inf(1), 10, 10, 10}, Steady, 0},
		{"too many gaps", []float64{nan, 10, 10, nan, 10, 10, 10, nan, 10, 10}, Unsure, 0},
	} {
		got, e := SteadyState(tt.values)
		if got != tt.want || math.Abs(e.Center-tt.drift) > 0.03 {
			t.Errorf("%s: %s, drift %+v; want %s, %v", tt.name, got, e, tt.want, tt.drift)
		}
		if e.Center < e.Lo && e.HasInterval() || e.Center > e.Hi && e.HasInterval() {
			t.Errorf("%s: the drift is outside of its interval: %+v", tt.name, e)
		}
	}
}

// The unit does not matter, and what runs backwards drifts the other way.
func TestSteadyStateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(1, 1000), 0, 50).Draw(t, "values")
		scale := rapid.Float64Range(0.01, 100).Draw(t, "scale")
		verdict, e := SteadyState(values)
		scaled, mirrored := make([]float64, len(values)), make([]float64, len(values))
		for i, v := range values {
			scaled[i], mirrored[len(values)-1-i] = v*scale, v
		}
		near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-6*(1+math.Abs(a)) }
		if s, x := SteadyState(scaled); s != verdict || !near(x.Center, e.Center) {
			t.Fatalf("%s %+v, scaled %s %+v", verdict, e, s, x)
		}
		if len(values) > mostSteady {
			return // pools differ
		}
		if s, x := SteadyState(mirrored); s != verdict || !near(x.Center, -e.Center) || !near(x.Lo, -e.Hi) {
			t.Fatalf("%s %+v, mirrored %s %+v", verdict, e, s, x)
		}
	})
}
