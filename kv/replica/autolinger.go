package replica

import (
	"math"
	"time"
)

// autoLinger finds out by itself how long commands should wait for others. What
// it moves is the pace, the shortest time from one proposal to the next while
// any is in flight; a command lingers for what is left of it.
//
// A pace limits rounds as a fixed linger does, but does not cost a lone command
// anything: with nothing in flight the cluster is idle, waiting would gain
// nothing, and the proposal goes at once. So it does when the batch is full. At
// rates well below one command a pace hardly any command finds another round in
// flight that recently, and no arrival rate has to be estimated.
//
// The right pace is about what a round costs where it costs most (messages,
// wake-ups, acknowledgements), which nothing here can see: the loop is only one
// of the places. What can be seen is that rounds get in each other's way:
//
//	excess = commit latency - commit latency of an undisturbed round
//	pace   = trim * excess, at most maxPace commit latencies
//
// The first latency is a moving average, the second the least of the last one to
// two seconds. When rounds come faster than they can be done they queue, the
// excess grows, the pace with it, and the queue dissolves: the law is stable for
// every trim, and settles where a command waits about as long here as it would
// have in queues down the way, with the difference that commands that wait here
// share a round. It needs no scale of its own: an excess of 100 µs makes the
// same pace when links take 5 ms as when they take nothing.
//
// How large trim should be depends on what the excess is made of. Where all
// stages share a core, one round in flight is best (trim large, the commit
// becomes the clock, as with nagle); where a round is long because its commands
// take their time, waiting makes it longer still (trim small). So trim is found
// by trial: alternately a little above and a little below, in the order ABBA so
// that a drifting load favours neither, and moved towards the side where
// commands took less time from their coming to their commit. That time is the
// thing wanted: of an open load it is the latency, and in a closed loop it is
// the inverse of the throughput. The step is proportional to the difference, so
// that at the best value, and where it does not matter, trim rests.
//
// What was tried instead: a window of rounds in flight, steered as TCP Vegas and
// FAST do, is excellent without link delay and sends bursts with it; subtracting
// what the size of a batch explains, by regression, fails when all batches have
// one size.
type autoLinger struct {
	caps
	last    time.Time // of the last proposal
	pace    time.Duration
	latency float64 // moving average, ns

	least, before float64 // latency in this window, and in the one before
	window        time.Time

	trim  float64
	trial trial
}

const (
	latencyGain   = 1.0 / 8
	latencyWindow = time.Second
	// Beyond the commit latency, so that a commit which is a little late still
	// comes before the pace has passed.
	maxPace  = 1.5
	minTrim  = 1.0 / 4
	maxTrim  = 4
	trimGain = 3
	trimStep = 0.1 // the most that trim changes by in one trial, as a logarithm
)

func newAutoLinger(limits caps) *autoLinger { return &autoLinger{caps: limits, trim: 1} }

func (a *autoLinger) Next(q QueueView, now time.Time) (int, time.Duration) {
	if q.InFlight > 0 && !a.full(&q) {
		if left := a.pace - now.Sub(a.last); left > 0 {
			a.trial.waited = true
			return 0, left
		}
	}
	a.last = now
	a.trial.inFlight = q.InFlight + 1
	return a.take(&q), 0
}

func (a *autoLinger) Observe(f Feedback) {
	a.measure(float64(f.CommitLatency), f.Committed)
	undisturbed := min(a.least, a.before)
	if better, ended := a.trial.observe(f, undisturbed); ended {
		step := max(-trimStep, min(trimGain*better, trimStep))
		a.trim = max(minTrim, min(a.trim*math.Exp(step), maxTrim))
	}
	pace := a.trim * a.trial.factor() * (a.latency - undisturbed)
	a.pace = time.Duration(min(pace, maxPace*a.latency))
}

// measure takes in one commit latency.
func (a *autoLinger) measure(latency float64, now time.Time) {
	switch {
	case a.window.IsZero():
		a.latency, a.least, a.before, a.window = latency, latency, latency, now
	case now.Sub(a.window) > latencyWindow:
		a.before, a.least, a.window = a.least, latency, now
	}
	a.least = min(a.least, latency)
	a.latency += (latency - a.latency) * latencyGain
}

// trial compares two settings, A above and B below, by how long commands take.
type trial struct {
	inFlight int  // rounds that were begun under the setting before
	waited   bool // whether the settings made any difference
	phase    int  // in abba
	settle   int  // rounds not to be counted yet
	rounds   int  // counted in this phase
	latency  [2]float64
	commands [2]float64
}

const (
	trialRounds = 32 // counted in one phase, and as many before to settle
	trialSpread = 1.15
)

// abba says which setting a phase has: 1 is above.
var abba = [...]int{1, 0, 0, 1}

// factor is what the present phase multiplies the setting by.
func (t *trial) factor() float64 {
	if abba[t.phase] == 1 {
		return trialSpread
	}
	return 1 / trialSpread
}

// observe counts a round. When a trial has ended it says which setting was
// better and by how much, from -1 (below) to 1 (above), relative to the time that
// settings can change: what commands take beyond the given least.
func (t *trial) observe(f Feedback, least float64) (better float64, ended bool) {
	t.inFlight = max(0, t.inFlight-1)
	if t.settle > 0 {
		t.settle--
		return 0, false
	}
	setting := abba[t.phase]
	t.latency[setting] += float64(f.Waited) + float64(f.Commands)*float64(f.CommitLatency)
	t.commands[setting] += float64(f.Commands)
	if t.rounds++; t.rounds < trialRounds {
		return 0, false
	}
	t.rounds, t.settle = 0, t.inFlight+trialRounds
	if t.phase++; t.phase < len(abba) {
		return 0, false
	}
	above := t.latency[1]/t.commands[1] - least
	below := t.latency[0]/t.commands[0] - least
	if t.waited && above+below > 0 {
		better = (below - above) / (below + above)
	}
	*t = trial{inFlight: t.inFlight, settle: t.settle}
	return better, true
}
