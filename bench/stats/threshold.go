package stats

import "math"

// Threshold searches the level at which trials cease to succeed, such as the rate
// above which an objective is missed, from trials at levels that it chooses itself.
//
// A trial at level x succeeds with a probability that falls along a logistic curve
// in log x, is a half at the threshold, and keeps away from 1 and 0 by lapse, since
// a stall of the machine fails any trial. Threshold and steepness are unknown; both
// have a flat prior, on grids over their logarithms, and each trial sharpens it by
// Bayes' rule. The next level is the one after which the variance of the threshold is
// expected to be least. docs/decisions/0008-objective.md says why, and
// TestThresholdCovers how often the interval is right.
//
// A Threshold is used by one goroutine at a time.
type Threshold struct {
	lo, hi float64
	levels []float64   // logarithms of possible thresholds, rising
	weight [][]float64 // of the posterior, by level and spread; they sum to 1
	trials int
}

const (
	// thresholdSteps is the size of the grid of levels.
	thresholdSteps = 250
	// candidates are how many levels are considered for the next trial.
	candidates = 16
	// Thresholds outside of what may be tried are possible too, so far.
	belowLowest, aboveHighest = 4.0, 1.5
	// lapse is how often a trial says the opposite of what its level deserves.
	lapse = 0.03
)

// spreads are the widths, in log x, of the curve along which success falls.
var spreads = []float64{0.01, 0.03, 0.1, 0.3}

// NewThreshold searches between two levels, 0 < lo < hi.
func NewThreshold(lo, hi float64) *Threshold {
	t := &Threshold{lo: lo, hi: hi}
	from, to := math.Log(lo/belowLowest), math.Log(hi*aboveHighest)
	for i := range thresholdSteps {
		t.levels = append(t.levels, from+(to-from)*float64(i)/(thresholdSteps-1))
		row := make([]float64, len(spreads))
		for j := range row {
			row[j] = 1 / float64(thresholdSteps*len(spreads))
		}
		t.weight = append(t.weight, row)
	}
	return t
}

// success is the probability that a trial succeeds at x, by logarithms.
func success(x, threshold, spread float64) float64 {
	return lapse + (1-2*lapse)/(1+math.Exp((x-threshold)/spread))
}

// Next is the level to try next.
func (t *Threshold) Next() float64 {
	lo, hi := math.Log(t.lo), math.Log(t.hi)
	// What is far outside of the interval tells nothing new.
	from := min(max(math.Log(t.quantile(0.01)), lo), hi)
	to := min(max(math.Log(t.quantile(0.99)), lo), hi)
	best, least := from, math.Inf(1)
	for c := range candidates {
		x := from + (to-from)*(float64(c)+0.5)/candidates
		if v := t.expectedVariance(x); v < least {
			best, least = x, v
		}
	}
	return min(max(math.Exp(best), t.lo), t.hi)
}

// expectedVariance of the threshold's logarithm after a trial at x.
func (t *Threshold) expectedVariance(x float64) float64 {
	var met, missed moments
	for i, row := range t.weight {
		for j, w := range row {
			if w < 1e-9 { // all of them together are nothing
				continue
			}
			p := success(x, t.levels[i], spreads[j])
			met.add(t.levels[i], w*p)
			missed.add(t.levels[i], w*(1-p))
		}
	}
	return met.spread() + missed.spread()
}

// moments are weighted sums of powers.
type moments struct{ zero, one, two float64 }

func (m *moments) add(x, w float64) {
	m.zero += w
	m.one += w * x
	m.two += w * x * x
}

// spread is the variance times the weight.
func (m *moments) spread() float64 {
	if m.zero == 0 {
		return 0
	}
	return m.two - m.one*m.one/m.zero
}

// Observe takes in a trial.
func (t *Threshold) Observe(level float64, succeeded bool) {
	t.trials++
	total := 0.0
	for i, row := range t.weight {
		for j := range row {
			p := success(math.Log(level), t.levels[i], spreads[j])
			if !succeeded {
				p = 1 - p
			}
			row[j] *= p
			total += row[j]
		}
	}
	for _, row := range t.weight {
		for j := range row {
			row[j] /= total
		}
	}
}

// Estimate is the threshold with its equal-tailed credible interval. N is the
// number of trials; without any there is no interval. It may lie outside of what
// may be tried, which then is all that is known.
func (t *Threshold) Estimate(confidence float64) Estimate {
	e := Estimate{Center: t.quantile(0.5), N: t.trials}
	if t.trials > 0 {
		e.Lo, e.Hi, e.Confidence = t.quantile((1-confidence)/2), t.quantile((1+confidence)/2), confidence
	}
	return e
}

// quantile of the threshold, whatever the spread.
func (t *Threshold) quantile(q float64) float64 {
	step := t.levels[1] - t.levels[0]
	sum := 0.0
	for i, row := range t.weight {
		mass := 0.0
		for _, w := range row {
			mass += w
		}
		if sum+mass >= q && mass > 0 {
			// A grid point stands for the step around it.
			return math.Exp(t.levels[i] + step*((q-sum)/mass-0.5))
		}
		sum += mass
	}
	return math.Exp(t.levels[len(t.levels)-1])
}
