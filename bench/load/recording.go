package load

import (
	"time"

	"google.golang.org/grpc/codes"
)

// Recording is what a run of load measured. It is not changed once Run returned.
type Recording struct {
	Config Config
	// Start and End bound the measured window. Complete is false when the run
	// was stopped before the window's planned end, or the drain's.
	Start, End time.Time
	Complete   bool
	// Drained is how long after End the last operation that counts was completed;
	// 0 in a closed loop.
	Drained time.Duration

	// Operations were acknowledged and count; see the package's documentation
	// for which do.
	Operations uint64
	// Missing are the gets among them that found no key.
	Missing uint64
	// ValueBytes is the size of the values that they wrote or found.
	ValueBytes uint64
	// Errors is the sum of ErrorsByCode, whose keys are gRPC code names such as
	// Unavailable.
	Errors       uint64
	ErrorsByCode map[string]uint64
	// Unfinished operations had no answer when the drain ended; in an open loop those
	// that were due in the window, sent or not.
	Unfinished uint64
	// Warmup counts the operations acknowledged before the window.
	Warmup uint64

	// Acked has, by key index, the highest mod revision that any acknowledged
	// operation showed, warm-up and drain included; 0 for none. Whatever happens
	// later, the store must show at least that.
	Acked []uint64

	Intervals []Interval

	// Completions are the messages behind Operations, in the order in which they were
	// answered. They are empty when Config.Completions is too few for them.
	Completions []Completion
	// Histories are of the sampled keys to which anything happened, warm-up and drain
	// included.
	Histories []History

	counts *counts
	lines  []byte // the interval lines of the .hlog
}

// Interval is one point of the time series.
type Interval struct {
	// Offset of the interval's start from the window's start: negative in the
	// warm-up.
	Offset time.Duration
	Length time.Duration
	// Warmup intervals are told while running only and have no percentiles.
	Warmup bool
	// Drain intervals lie after the window, in open loops only.
	Drain bool

	Operations, Errors uint64
	// Response times of all kinds; 0 without operations.
	P50, P99, Max time.Duration
}

// Response returns the response times of one kind of operation.
func (r *Recording) Response(k Kind) *Histogram { return r.counts.response[k] }

// Service returns the service times of one kind of operation, which in a closed
// loop without think time are the response times.
func (r *Recording) Service(k Kind) *Histogram {
	if h := r.counts.service[k]; h != nil {
		return h
	}
	return r.counts.response[k]
}

// ResponseAll merges the response times of all kinds into a new histogram.
func (r *Recording) ResponseAll() *Histogram { return merged(r.Response) }

// ServiceAll merges the service times of all kinds into a new histogram.
func (r *Recording) ServiceAll() *Histogram { return merged(r.Service) }

// Delay returns how late operations were sent; empty in a closed loop without
// think time.
func (r *Recording) Delay() *Histogram {
	if r.counts.delay == nil {
		return NewHistogram()
	}
	return r.counts.delay
}

// Lag returns how late messages were sent by a client that was free in time: the
// generator's own fault. One value a message; empty as Delay is.
func (r *Recording) Lag() *Histogram {
	if r.counts.lag == nil {
		return NewHistogram()
	}
	return r.counts.lag
}

// Window is the length of the measured window.
func (r *Recording) Window() time.Duration { return r.End.Sub(r.Start) }

// OpsPerSecond is the rate of acknowledged operations, over the window and the
// drain after it: an overloaded open loop does not show the rate that it asked for.
func (r *Recording) OpsPerSecond() float64 {
	if r.Operations == 0 {
		return 0
	}
	return float64(r.Operations) / seconds(r.Window()+r.Drained)
}

func merged(of func(Kind) *Histogram) *Histogram {
	all := NewHistogram()
	for _, k := range Kinds() {
		all.Add(of(k))
	}
	return all
}

// finish puts the totals of a run's counts in its recording.
func (r *Recording) finish(rec *recorder) {
	c := r.counts
	r.Operations = c.total()
	r.Missing = c.missing
	r.Warmup = c.warm
	r.ValueBytes = c.valueBytes
	r.ErrorsByCode = map[string]uint64{}
	for code, n := range c.errors {
		if n > 0 {
			r.ErrorsByCode[codes.Code(code).String()] = n
			r.Errors += n
		}
	}
	r.Histories = rec.sampler.histories()
	if completions, all := rec.completions(); all {
		r.Completions = completions
	}
	r.Acked = make([]uint64, len(rec.acked))
	for i := range rec.acked {
		r.Acked[i] = rec.acked[i].Load()
	}
}
