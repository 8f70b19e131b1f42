package load

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// pacer is the schedule of an open loop: each message is due at its offset from the
// start, however late the messages before it were. Clients take the next due message
// from one schedule, so a slow target leaves messages due but not sent, and their
// delay is measured.
type pacer interface {
	// take gives the caller the next message; it returns when that is due.
	take() time.Duration
	// due counts the messages that are due from one offset to before another.
	due(from, to time.Duration) uint64
}

func newPacer(c *Config) pacer {
	gap := 1e9 * float64(c.OpsPerMessage) / c.Rate
	if c.Arrivals == Poisson {
		return newPoisson(gap, c.Seed)
	}
	return &constant{gap: gap}
}

// constant has message j due at offset(j), for ever.
type constant struct {
	gap  float64 // nanoseconds between messages
	next atomic.Uint64
}

func (p *constant) take() time.Duration { return p.offset(p.next.Add(1) - 1) }

func (p *constant) offset(j uint64) time.Duration { return offset(float64(j) * p.gap) }

func (p *constant) due(from, to time.Duration) uint64 { return p.before(to) - p.before(from) }

// before counts the messages that are due before an offset.
func (p *constant) before(at time.Duration) uint64 {
	j := uint64(float64(at) / p.gap)
	for j > 0 && p.offset(j-1) >= at { // rounding, a step at most
		j--
	}
	for p.offset(j) < at {
		j++
	}
	return j
}

// poisson has messages due as those of many clients are who do not know of each
// other. A process a client at its share of the rate would add up to the same, and
// need no lock; but then a message waits for its client though others are free, and
// the delay is the generator's.
type poisson struct {
	first process // as it was when nothing had been taken
	mu    sync.Mutex
	rest  process
}

func newPoisson(gap float64, seed uint64) *poisson {
	p := process{gap: gap, random: newRandom(seed, arrivalStream)}
	return &poisson{first: p, rest: p}
}

func (p *poisson) take() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rest.next()
}

// due goes through the schedule again, some nanoseconds a message.
func (p *poisson) due(from, to time.Duration) uint64 {
	var n uint64
	again := p.first
	for at := again.next(); at < to; at = again.next() {
		if at >= from {
			n++
		}
	}
	return n
}

// process is a Poisson process: the gaps are exponential and independent. It is a
// function of the seed, and of the rate its scale alone, so that two rates have the
// same bursts.
type process struct {
	gap    float64 // mean, in nanoseconds
	at     float64 // of the last arrival
	random random
}

// arrivalStream is none of a client's.
const arrivalStream = math.MaxUint64

func (p *process) next() time.Duration {
	p.at -= p.gap * math.Log(1-p.random.float())
	return offset(p.at)
}

// offset of so many nanoseconds; a rate of one in three centuries has more than fit.
func offset(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(ns)
}
