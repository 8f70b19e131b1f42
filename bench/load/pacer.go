package load

import (
	"math"
	"sync/atomic"
	"time"
)

// pacer is the schedule of an open loop: message j is due at offset(j) from the
// start, for ever, however late the messages before it were. Clients take the
// next due message from one shared counter, so a slow target leaves messages due
// but not sent, and their delay is measured.
type pacer struct {
	gap  float64 // nanoseconds between messages
	next atomic.Uint64
}

func newPacer(opsPerSecond float64, opsPerMessage int) *pacer {
	return &pacer{gap: 1e9 * float64(opsPerMessage) / opsPerSecond}
}

// take gives the caller the next message; it returns when that is due.
func (p *pacer) take() time.Duration { return p.offset(p.next.Add(1) - 1) }

func (p *pacer) offset(j uint64) time.Duration {
	ns := float64(j) * p.gap
	if ns >= math.MaxInt64 { // a rate of one in three centuries
		return math.MaxInt64
	}
	return time.Duration(ns)
}

// due counts the messages that are due from one offset to before another.
func (p *pacer) due(from, to time.Duration) uint64 { return p.before(to) - p.before(from) }

// before counts the messages that are due before an offset.
func (p *pacer) before(at time.Duration) uint64 {
	j := uint64(float64(at) / p.gap)
	for j > 0 && p.offset(j-1) >= at { // rounding, a step at most
		j--
	}
	for p.offset(j) < at {
		j++
	}
	return j
}
