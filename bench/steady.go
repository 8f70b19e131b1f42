package bench

import (
	"fmt"
	"math"

	"raftlab/bench/load"
	"raftlab/bench/stats"
)

// notSteady warns of a trial; SteadyWhy has its figures, so that the same warning
// of many trials is said once.
const notSteady = "not steady: the figures depend on when the window was"

// judgeSteady tells whether a trial's window was in a steady state. It warns of
// one that was not, and leaves it valid: a comparison within a block may hold all
// the same.
func (t *Trial) judgeSteady(rec *load.Recording) {
	what, values := steadySeries(rec)
	verdict, drift := stats.SteadyState(values)
	if len(t.Events) > 0 {
		verdict = stats.Unsure // what was done to the cluster is meant to show
	}
	t.Steady, t.Drift = string(verdict), (*Estimate)(&drift)
	t.SteadyWhy = steadySentence(verdict, drift, what, len(t.Events))
	if verdict == stats.Unsteady {
		t.warn(notSteady)
	}
}

// steadySeries is what should be level in a window, a value an interval. Of what
// is sent by a clock the throughput always is.
func steadySeries(rec *load.Recording) (what string, values []float64) {
	what = "throughput"
	if rec.Config.Rate > 0 {
		what = "median latency"
	}
	for _, iv := range rec.Intervals {
		// The last may be cut short by the window's end.
		if iv.Drain || iv.Length < rec.Config.Interval/2 {
			continue
		}
		switch {
		case rec.Config.Rate == 0:
			values = append(values, float64(iv.Operations)/iv.Length.Seconds())
		case iv.Operations > 0:
			values = append(values, float64(iv.P50))
		default:
			values = append(values, math.NaN())
		}
	}
	return what, values
}

func steadySentence(verdict stats.Steadiness, drift stats.Estimate, what string, events int) string {
	change := fmt.Sprintf("%s drifted by %+.0f %% (%+.0f to %+.0f %%) over the window", what, 100*drift.Center, 100*drift.Lo, 100*drift.Hi)
	switch {
	case events > 0:
		return "not judged: something was done to the cluster in the window"
	case drift.N < stats.MinSteady:
		return fmt.Sprintf("not judged: %d intervals are too few, at least %d are needed", drift.N, stats.MinSteady)
	case !drift.HasInterval():
		return "not judged: most intervals are empty"
	case verdict == stats.Unsteady:
		return change
	case verdict == stats.Steady:
		return fmt.Sprintf("%s: less than %.0f %% for sure", change, 100*stats.DriftSeen)
	}
	return change + ": too noisy to tell"
}

// auditSteady says how many trials of a run were not steady.
func auditSteady(trials []Trial) []string {
	count := map[stats.Steadiness]int{}
	all := 0
	for i := range trials {
		if s := trials[i].Steady; s != "" {
			count[stats.Steadiness(s)]++
			all++
		}
	}
	if count[stats.Unsteady] == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d of %d trials were not in a steady state, and of %d it is not known; a longer warm-up or window may help",
		count[stats.Unsteady], all, count[stats.Unsure])}
}
