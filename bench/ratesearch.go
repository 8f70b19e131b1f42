package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"raftlab/bench/stats"
)

// RateFound is the highest rate at which a variant meets the objective.
type RateFound struct {
	Variant string      `json:"variant"`
	Outcome RateOutcome `json:"outcome"`
	// Rate, in operations a second, is that at which half of the trials meet it.
	Rate Estimate `json:"rate"`
	// ClosedLoop is the throughput without a rate, the scale of what is tried;
	// Highest is the highest rate that may be tried.
	ClosedLoop float64 `json:"closed_loop_ops_per_s"`
	Highest    float64 `json:"highest_rate"`
	// Late are the trials that missed it by the generator's fault: without its
	// lateness they would have met it, and the variant may bear more than Rate.
	Late int `json:"late"`
	// Sentence says it in words.
	Sentence string `json:"sentence"`
}

// RateOutcome says how a search ended.
type RateOutcome string

// Outcomes.
const (
	RateIsFound      RateOutcome = "found"
	RateAbove        RateOutcome = "above"        // met at the highest that was tried
	RateMissed       RateOutcome = "missed"       // missed at the lowest
	RateFailed       RateOutcome = "failed"       // it cannot do the work
	RateInconclusive RateOutcome = "inconclusive" // anything else, or not known well enough
)

const (
	// headroom above the closed loop's throughput, which is itself a noisy figure.
	headroom = 1.25
	// widest interval, to either side, that still is an answer.
	widest = 0.25
	// mostVoid trials that tell nothing before a variant is given up.
	mostVoid = 3
)

// pursuit is the state of a variant's search. It follows from the trials alone.
type pursuit struct {
	objective  *Objective
	threshold  *stats.Threshold // nil before the closed loop was measured
	closedLoop float64
	highest    float64
	trials     int
	void       int
	missed     int
	late       int    // of those missed
	problem    string // why it is given up, or the last trial told nothing
}

// pursue replays a variant's trials.
func pursue(run *Run, variant string) *pursuit {
	o := run.Objective
	p := &pursuit{objective: o}
	for i := range run.Trials {
		t := &run.Trials[i]
		if t.Variant != variant || t.Kind != TrialSearch {
			continue
		}
		met, err := o.met(t)
		switch {
		case err != nil, t.Rate == 0 && (!t.Viable || t.Operations == 0):
			p.void++
			p.problem = t.Problem
		case t.Rate == 0:
			p.closedLoop = t.OpsPerS
			p.highest = roundRate(max(headroom*t.OpsPerS, headroom*o.LowestRate))
			p.threshold = stats.NewThreshold(o.LowestRate, p.highest)
		case p.threshold != nil:
			p.threshold.Observe(t.Rate, met)
			p.trials++
			if !met {
				p.missed++
			}
			if !met && o.late(t) {
				p.late++
			}
		}
	}
	return p
}

// next is the rate to try next, 0 for a closed loop; false when there is enough.
func (p *pursuit) next() (rate float64, more bool) {
	switch {
	case p.void >= mostVoid, p.trials >= p.objective.Rounds:
		return 0, false
	case p.threshold == nil:
		return 0, true
	}
	e := p.threshold.Estimate(confidence)
	outside := e.HasInterval() && (e.Hi < p.objective.LowestRate || e.Lo > p.highest)
	if outside || e.HasInterval() && halfWidth(e) <= p.objective.Precision {
		return 0, false
	}
	return min(max(roundRate(p.threshold.Next()), p.objective.LowestRate), p.highest), true
}

// halfWidth of an interval, relative to its middle.
func halfWidth(e stats.Estimate) float64 { return math.Sqrt(e.Hi/e.Lo) - 1 }

// roundRate keeps three digits.
func roundRate(rate float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(rate))-2)
	if unit < 1 {
		return math.Round(rate/unit) / math.Round(1/unit)
	}
	return math.Round(rate/unit) * unit
}

// foundRates says what a run's trials found, for each variant.
func foundRates(run *Run) []RateFound {
	found := []RateFound{}
	for _, v := range measuredVariants(run) {
		found = append(found, pursue(run, v.ID).found(v, run.Experiment.MeasureS))
	}
	return found
}

// found is the answer for a variant whose windows are so long.
func (p *pursuit) found(v *Variant, windowS float64) RateFound {
	o := p.objective
	f := RateFound{Variant: v.ID, Outcome: RateInconclusive, ClosedLoop: p.closedLoop, Highest: p.highest, Late: p.late}
	if p.threshold == nil || p.trials == 0 {
		f.Sentence = "No rate was tried."
		if p.problem != "" {
			f.Sentence = "It cannot do the work: " + p.problem + "."
		}
		if p.void >= mostVoid {
			f.Outcome = RateFailed
		}
		return f
	}
	e := p.threshold.Estimate(confidence)
	f.Rate = Estimate(e)
	interval := fmt.Sprintf("%.0f %% interval %s to %s, %d trials", 100*confidence, thousands(roundRate(e.Lo)), thousands(roundRate(e.Hi)), p.trials)
	switch {
	case 2*p.late > p.missed:
		// The figure says how busy the machine was.
		f.Sentence = fmt.Sprintf("Nothing can be said: in %d of the %d trials that missed it the generator was late, on a machine too busy or too small for it (%s ops/s, %s).",
			p.late, p.missed, thousands(e.Center), interval)
		return f
	case e.Hi < o.LowestRate:
		f.Outcome = RateMissed
		f.Sentence = fmt.Sprintf("It is missed already at %s ops/s, the lowest rate of which a window of %v has operations enough (%d trials).",
			thousands(o.LowestRate), time.Duration(windowS*float64(time.Second)), p.trials)
	case e.Lo > p.highest:
		f.Outcome = RateAbove
		f.Sentence = fmt.Sprintf("It is met at %s ops/s, the highest rate that was tried, above what a closed loop reached (%s ops/s, %d trials).",
			thousands(p.highest), thousands(p.closedLoop), p.trials)
	case e.Lo < o.LowestRate:
		f.Sentence = fmt.Sprintf("Whether it is met at all is not sure: up to %s ops/s (%s; the lowest that was tried is %s).",
			thousands(e.Center), interval, thousands(o.LowestRate))
	case halfWidth(e) > widest:
		f.Sentence = fmt.Sprintf("The rate is not known well enough: %s ops/s (%s). More trials, by --blocks, narrow it.", thousands(e.Center), interval)
	default:
		f.Outcome = RateIsFound
		f.Sentence = fmt.Sprintf("It is met up to %s ops/s (%s), %.0f %% of the closed loop's %s.",
			thousands(roundRate(e.Center)), interval, 100*e.Center/p.closedLoop, thousands(roundRate(p.closedLoop)))
	}
	if p.late > 0 {
		f.Sentence += fmt.Sprintf(" In %d of the trials that missed it the generator was late: the servers alone may bear more.", p.late)
	}
	return f
}

// rateAnswers are the answers of a run that asks for rates, one a variant or knee;
// nil when it does not.
func (s *summarizer) rateAnswers(knees []Knee) []Answer {
	var answers []Answer
	if o := s.run.Objective; o != nil {
		variants := measuredVariants(s.run)
		for i, f := range foundRates(s.run) {
			answers = append(answers, Answer{
				Where: variants[i].Params, Metric: o.Metric, Best: []string{},
				Sentence: fmt.Sprintf("%s: %s", o.describeLimit(), f.Sentence), Confidence: f.Rate.Confidence,
			})
		}
		return answers
	}
	if slices.Contains(s.run.Experiment.Axes, rateShareKey) {
		for _, k := range knees {
			answers = append(answers, Answer{Where: k.Where, Metric: "ops/s", Best: []string{}, Sentence: k.Sentence, Confidence: k.Rate.Confidence})
		}
	}
	return answers
}

// search looks for each variant's rate, in rounds: one trial of each variant whose
// rate is not known well enough, in an order shuffled as that of a block.
func (r *runner) search(ctx context.Context) error {
	variants := r.Matrix.Variants
	for round := 0; ; round++ {
		var jobs []job
		for _, i := range Order(r.Seed, round, len(variants)) {
			if rate, more := pursue(r.run, variants[i].ID).next(); more {
				jobs = append(jobs, job{variant: i, block: round, kind: TrialSearch, rate: rate})
			}
		}
		if len(jobs) == 0 {
			r.run.TrialsPlanned = r.done
			return nil
		}
		r.jobs = slices.Concat(r.jobs[:r.done], jobs)
		for range max(0, r.Objective.Rounds-round) { // at most
			r.jobs = append(r.jobs, jobs...)
		}
		r.run.TrialsPlanned = len(r.jobs)
		for _, j := range jobs {
			if err := r.do(ctx, j); err != nil {
				return err
			}
		}
		r.run.Objective.Rates = foundRates(r.run)
	}
}

// judgeSearch completes a trial of a search.
func (r *runner) judgeSearch(t *Trial, j job) {
	t.Rate = j.rate
	if j.rate == 0 {
		return
	}
	if met, err := r.Objective.met(t); err == nil {
		t.Met = &met
	}
}

// How a search ended whose answer is not a rate.
var (
	ErrFailed       = errors.New("a variant cannot do the work; the report says why")
	ErrMissed       = errors.New("the objective is missed at the lowest rate")
	ErrInconclusive = errors.New("the search is inconclusive")
)

// SearchError is nil when each variant's rate is known, or above all that was
// tried; else ErrFailed, ErrMissed or ErrInconclusive, the first that holds for any.
func (r *Run) SearchError() error {
	if r.Objective == nil {
		return nil
	}
	outcome := func(o RateOutcome) func(RateFound) bool {
		return func(f RateFound) bool { return f.Outcome == o }
	}
	switch {
	case slices.ContainsFunc(r.Objective.Rates, outcome(RateFailed)):
		return ErrFailed
	case slices.ContainsFunc(r.Objective.Rates, outcome(RateMissed)):
		return ErrMissed
	case slices.ContainsFunc(r.Objective.Rates, outcome(RateInconclusive)):
		return ErrInconclusive
	}
	return nil
}
