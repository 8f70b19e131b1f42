package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Objective is a limit on a latency. A run with one looks for the highest rate at
// which each variant meets it.
type Objective struct {
	// Metric is one of Metrics, but not ops/s.
	Metric string `json:"metric"`
	// LimitNs is what the metric has to stay below.
	LimitNs int64 `json:"limit_ns"`
	// LowestRate is the lowest that is tried: that whose window has the operations
	// that the metric needs.
	LowestRate float64 `json:"lowest_rate"`
	// Rounds are the most trials of a variant, that of the closed loop not counted.
	Rounds int `json:"rounds"`
	// Precision ends the search of a variant earlier: 0.05 is an interval of 5 % on
	// either side.
	Precision float64 `json:"precision"`
	// Rates are what was found.
	Rates []RateFound `json:"rates"`
}

const (
	// objectiveRounds and objectiveWindow are the defaults.
	objectiveRounds = 20
	objectiveWindow = 2 * time.Second
	// objectivePrecision: more than that no machine repeats.
	objectivePrecision = 0.05
)

// ParseObjective reads p99<10ms. Errors are *UsageError.
func ParseObjective(text string) (*Objective, error) {
	fail := func(problem string) (*Objective, error) {
		return nil, usagef("objective %q %s", text, problem)
	}
	name, limit, ok := strings.Cut(text, "<")
	name, limit = strings.TrimSpace(name), strings.TrimSpace(strings.TrimPrefix(limit, "="))
	switch {
	case strings.HasPrefix(strings.TrimSpace(text), "ops/s"):
		return fail("limits throughput, which is what is looked for; limit a latency, such as p99<10ms")
	case !ok:
		return fail("is not a latency, < and a duration, such as p99<10ms")
	}
	metric := strings.TrimSuffix(name, "-latency-ns") + "-latency-ns"
	if !slices.Contains(Metrics, metric) {
		return fail("does not limit one of p50, p90, p99, p99.9 or max")
	}
	d, err := time.ParseDuration(limit)
	if err != nil || d <= 0 || d > time.Minute {
		return fail("has a limit that is not a duration from 1ns to 1m, such as 10ms")
	}
	return &Objective{Metric: metric, LimitNs: int64(d), Rounds: objectiveRounds, Precision: objectivePrecision, Rates: []RateFound{}}, nil
}

// String is the objective as it is written.
func (o *Objective) String() string {
	return strings.TrimSuffix(o.Metric, "-latency-ns") + "<" + time.Duration(o.LimitNs).String()
}

// quantile that the metric is; 1 for the maximum.
func (o *Objective) quantile() float64 {
	return map[string]float64{
		"p50-latency-ns": 0.5, "p90-latency-ns": 0.9, "p99-latency-ns": 0.99, "p99.9-latency-ns": 0.999, "max-latency-ns": 1,
	}[o.Metric]
}

// Prepare makes an experiment one that the search can do: rates are the search's
// own, and what a rate is compared with falls away. Windows of less than two seconds
// are made that long, unless the caller asked for them.
func (o *Objective) Prepare(e *Experiment, windowAsked, roundsAsked bool) error {
	for _, f := range []Field{{"rate", "auto"}, {rateShareKey, "auto"}, {"think-time", "0s"}} {
		if err := e.Set(f.Key, f.Value); err != nil {
			return err
		}
	}
	e.Searched = true
	e.Baseline, e.Judge, e.Ceilings = nil, nil, nil
	e.Metric = o.Metric
	e.Measure.Profile = 0
	if !windowAsked {
		e.Measure.Duration = max(e.Measure.Duration, objectiveWindow)
	}
	if roundsAsked {
		o.Rounds = e.Measure.Blocks
	}
	e.Measure.Blocks = o.Rounds
	least := 10.0 // operations; a maximum needs no certain number
	if q := o.quantile(); q < 1 {
		least = 10 / (1 - q)
	}
	o.LowestRate = roundRate(least / e.Measure.Duration.Seconds())
	return nil
}

// met tells whether a trial met the objective; an error says why it tells nothing.
// What could not be sent in time took longer than any limit, and so did what failed,
// as percentiles have it.
func (o *Objective) met(t *Trial) (bool, error) {
	switch {
	case t.WindowS == 0 && t.Problem != "":
		return false, errors.New(t.Problem)
	case len(t.Violations) > 0:
		return false, errors.New("acknowledged writes were lost")
	case !t.Viable:
		return false, nil
	case !t.Valid && !t.Late:
		return false, errors.New(t.Problem)
	case t.Operations == 0:
		return false, nil
	}
	return t.Figure(o.Metric) < float64(o.LimitNs), nil
}

// late tells whether a trial missed the objective by the generator's fault: without
// what it was late, it would have met it.
func (o *Objective) late(t *Trial) bool {
	return t.Viable && t.Late && latencyOf(t.Service["all"], o.Metric) < float64(o.LimitNs)
}

// Figure is the trial's value of a metric, of Metrics.
func (t *Trial) Figure(metric string) float64 {
	if metric == "ops/s" {
		return t.OpsPerS
	}
	return latencyOf(t.Response["all"], metric)
}

// latencyOf is a percentile by its metric.
func latencyOf(l Latency, metric string) float64 {
	switch metric {
	case "p50-latency-ns":
		return float64(l.P50Ns)
	case "p90-latency-ns":
		return float64(l.P90Ns)
	case "p99-latency-ns":
		return float64(l.P99Ns)
	case "p99.9-latency-ns":
		return float64(l.P999Ns)
	}
	return float64(l.MaxNs)
}

// SearchBudget is the most trials that a search does, and the time they take.
func SearchBudget(m *Matrix, measure Measure, o *Objective) (trials int, d time.Duration) {
	for i := range m.Variants {
		d += time.Duration(o.Rounds+1) * estimate(&m.Variants[i], job{kind: TrialSearch}, measure)
	}
	return len(m.Variants) * (o.Rounds + 1), d.Round(time.Second)
}

// describeLimit says what is met: p99 below 10ms.
func (o *Objective) describeLimit() string {
	return fmt.Sprintf("%s below %v", strings.TrimSuffix(o.Metric, "-latency-ns"), time.Duration(o.LimitNs))
}
