package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"raftlab/bench/load"
)

// What counts as recovered: the first recoverySpan after the event in which at
// least recoveryRate of the operations a second before it were acknowledged, and in
// whose operations p99 is at most recoveryTail times that of the worst such span
// before. The worst, since a busy machine has bad moments without any event.
const (
	recoverySpan = 250 * time.Millisecond
	recoveryRate = 0.9
	recoveryTail = 1.5
)

// RecoveryStep is the resolution of the time to recover.
const RecoveryStep = 10 * time.Millisecond

// Most messages of a trial of which each completion is kept, to find its gaps: 100 MB.
const maxCompletions = 4 << 20

// service is what a trial's window shows of service over time.
type service struct {
	byEnd, byDue []load.Completion
	// Of the time before the first event: operations a second, and the p99 of the
	// worst span that has any; 0 when none has, or that time is less than a span.
	rate, tail float64
}

// newService makes one of the completions of a window in which nothing happened
// until an offset.
func newService(byEnd []load.Completion, until time.Duration) *service {
	s := &service{byEnd: byEnd, byDue: slices.Clone(byEnd)}
	slices.SortFunc(s.byDue, func(a, b load.Completion) int { return cmp.Compare(a.Due, b.Due) })
	if until < recoverySpan {
		return s
	}
	s.rate = s.completed(0, until) / until.Seconds()
	for t := time.Duration(0); t+recoverySpan <= until; t += RecoveryStep {
		if p99 := s.p99(t, t+recoverySpan); !math.IsInf(p99, 1) {
			s.tail = max(s.tail, p99)
		}
	}
	return s
}

// outage is the longest time between two answers, of those that lie in part
// between two offsets: nobody was served in it. In an open loop operations are due
// all the while. Time that no answer ends counts as far as the second offset.
func (s *service) outage(from, to time.Duration) time.Duration {
	var longest, last time.Duration
	for _, c := range s.byEnd {
		if last >= to {
			break
		}
		if c.End > from {
			longest = max(longest, c.End-last)
		}
		last = c.End
	}
	return max(longest, to-last)
}

// recovery is how long after from service was as before, ok if it was before to.
func (s *service) recovery(from, to time.Duration) (d time.Duration, ok bool) {
	if s.rate == 0 || s.tail == 0 {
		return 0, false
	}
	for t := from; t+recoverySpan <= to; t += RecoveryStep {
		if s.completed(t, t+recoverySpan)/recoverySpan.Seconds() >= recoveryRate*s.rate &&
			s.p99(t, t+recoverySpan) <= recoveryTail*s.tail {
			return t - from, true
		}
	}
	return 0, false
}

// completed is the number of operations that were acknowledged between two offsets.
func (s *service) completed(from, to time.Duration) float64 {
	n := 0
	i, _ := slices.BinarySearchFunc(s.byEnd, from, func(c load.Completion, t time.Duration) int { return cmp.Compare(c.End, t) })
	for ; i < len(s.byEnd) && s.byEnd[i].End < to; i++ {
		n += s.byEnd[i].Operations
	}
	return float64(n)
}

// p99 is that of the response times, in nanoseconds, of the messages that were due
// between two offsets; infinite when there are none.
func (s *service) p99(from, to time.Duration) float64 {
	var all []time.Duration
	i, _ := slices.BinarySearchFunc(s.byDue, from, func(c load.Completion, t time.Duration) int { return cmp.Compare(c.Due, t) })
	for ; i < len(s.byDue) && s.byDue[i].Due < to; i++ {
		all = append(all, s.byDue[i].Response())
	}
	if len(all) == 0 {
		return math.Inf(1)
	}
	slices.Sort(all)
	return float64(all[(99*len(all)+99)/100-1])
}

// measureImpact puts in a trial what its events did to service: at each event as
// far as the next one, and for the trial what the worst of them did. A trial
// without events has the longest time between two answers in its window, for
// comparison.
func measureImpact(t *Trial, completions []load.Completion) {
	if len(completions) == 0 {
		return
	}
	window := time.Duration(t.WindowS * float64(time.Second))
	var planned []*Event
	for i := range t.Events {
		if t.Events[i].Do != "" {
			planned = append(planned, &t.Events[i])
		}
	}
	if len(planned) == 0 {
		t.OutageNs = int64(newService(completions, window).outage(0, window))
		return
	}
	at := func(e *Event) time.Duration { return max(0, time.Duration(e.OffsetS*float64(time.Second))) }
	s := newService(completions, at(planned[0]))
	var worst time.Duration
	recovered := true
	for i, e := range planned {
		to := window
		if i+1 < len(planned) {
			to = at(planned[i+1])
		}
		outage := s.outage(at(e), to)
		recovery, ok := s.recovery(at(e), to)
		e.OutageNs = int64(outage)
		if ok {
			e.RecoverNs = new(int64(recovery))
		}
		t.OutageNs = max(t.OutageNs, e.OutageNs)
		worst, recovered = max(worst, recovery), recovered && ok
	}
	if recovered {
		t.RecoverNs = new(int64(worst))
	}
}

// recovery is the trial's time to recover, false if it did not in time. What is back
// at once took some time below the resolution, which counts for it: ratios are made of
// these figures, and of nothing there are none.
func (t *Trial) recovery() (time.Duration, bool) {
	if t.RecoverNs == nil {
		return 0, false
	}
	return max(time.Duration(*t.RecoverNs), RecoveryStep), true
}

// addImpact takes in what a trial's events did to service.
func (b *blocks) addImpact(t *Trial) {
	b.set(failedOps, t.Block, float64(t.Failed()))
	if t.OutageNs > 0 {
		b.set(MetricOutage, t.Block, float64(t.OutageNs))
	}
	recovered, ok := t.recovery()
	switch {
	case ok:
		b.set(MetricRecover, t.Block, float64(recovered))
	case t.OutageNs > 0 && slices.ContainsFunc(t.Events, func(e Event) bool { return e.Do != "" }):
		b.unrecovered++
	}
}

// lateForLatency warns where a generator was late enough to show in latencies,
// which are not what decides.
const lateForLatency = "the generator was late by more than latencies allow; the time without service is judged by itself"

// outageDecides tells whether the experiment is about time without service rather
// than latency.
func (b *rig) outageDecides() bool {
	metric := b.r.Experiment.Metric
	return metric == MetricOutage || metric == MetricRecover
}

// auditOutage tells what is wrong when the generator was late by a good part of
// the time without service that it found; empty when it was not.
func auditOutage(lagP99, outage time.Duration) string {
	if float64(lagP99) <= lagShare*float64(outage) {
		return ""
	}
	return fmt.Sprintf("the generator fell behind its schedule: lag p99 %v is more than %.0f %% of the time without service %v", lagP99, 100*lagShare, outage)
}
