package stats

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// searched simulates a search: trials succeed along a logistic curve about the
// truth, or not at all as they should, by lapse.
func searched(random *rand.Rand, truth, spread, lapse float64, trials int) *Threshold {
	t := NewThreshold(500, 20000)
	for range trials {
		level := t.Next()
		p := 1 / (1 + math.Exp((math.Log(level)-math.Log(truth))/spread))
		if random.Float64() < lapse {
			p = 0
		}
		t.Observe(level, random.Float64() < p)
	}
	return t
}

// TestThresholdCovers: of thresholds that are known, sharp or not, with machines
// that fail a trial now and then, the 95 % interval holds nearly as often for each kind
// and in 94 % altogether, and gets narrow.
func TestThresholdCovers(t *testing.T) {
	const rounds, trials = 60, 20
	random := rand.New(rand.NewPCG(5, 6))
	all, kinds := 0, 0
	for _, spread := range []float64{0.005, 0.02, 0.05, 0.1, 0.2} {
		for _, lapse := range []float64{0, 0.05} {
			held, width := 0, 0.0
			for range rounds {
				truth := 700 * math.Exp(3*random.Float64())
				e := searched(random, truth, spread, lapse, trials).Estimate(0.95)
				if e.Lo <= truth && truth <= e.Hi {
					held++
				}
				width += math.Log(e.Hi/e.Lo) / 2 / rounds
			}
			share := float64(held) / rounds
			t.Logf("spread %v, lapse %v: holds in %.1f %%, half-width %.1f %% on average", spread, lapse, 100*share, 100*width)
			if share < 0.88 {
				t.Errorf("spread %v, lapse %v: the interval holds in %.1f %%", spread, lapse, 100*share)
			}
			if most := 0.06 + 1.5*spread + 2*lapse; width > most {
				t.Errorf("spread %v, lapse %v: half-width %.1f %%, at most %.1f %% expected", spread, lapse, 100*width, 100*most)
			}
			all, kinds = all+held, kinds+1
		}
	}
	if share := float64(all) / float64(kinds*rounds); share < 0.94 {
		t.Errorf("the interval holds in %.1f %%", 100*share)
	}
}

// TestThresholdOutside: what no level that may be tried reaches, or all do, is known
// to lie outside.
func TestThresholdOutside(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	if e := searched(random, 1, 0.05, 0, 20).Estimate(0.95); e.Hi >= 500 {
		t.Errorf("never met, yet %+v", e)
	}
	if e := searched(random, 1e9, 0.05, 0, 20).Estimate(0.95); e.Lo <= 20000 {
		t.Errorf("always met, yet %+v", e)
	}
	if e := NewThreshold(500, 20000).Estimate(0.95); e.HasInterval() {
		t.Errorf("nothing tried, yet %+v", e)
	}
}

func TestThresholdProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Float64Range(1, 1e4).Draw(t, "lo")
		hi := lo * rapid.Float64Range(1.1, 1000).Draw(t, "factor")
		s := NewThreshold(lo, hi)
		for range rapid.IntRange(1, 8).Draw(t, "trials") {
			next := s.Next()
			if next < lo || next > hi {
				t.Fatalf("tries %v, outside of %v to %v", next, lo, hi)
			}
			before := s.Estimate(0.95)
			success := rapid.Bool().Draw(t, "success")
			s.Observe(next, success)
			e := s.Estimate(0.95)
			if !(e.Lo <= e.Center && e.Center <= e.Hi) {
				t.Fatalf("%+v", e)
			}
			// What succeeds moves the threshold up, what fails down.
			if success && e.Center < before.Center*(1-1e-9) || !success && e.Center > before.Center*(1+1e-9) {
				t.Fatalf("success %v at %v moved %+v to %+v", success, next, before, e)
			}
		}
	})
}
