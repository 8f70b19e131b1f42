package load

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc/codes"
)

// The range of every histogram, 221 KB each: too much to have them a client,
// so they are sharded by GOMAXPROCS.
const (
	lowest  = 1 // ns
	highest = int64(Longest)
	figures = 3
)

// Longest is the time beyond which latencies are not told apart.
const Longest = time.Minute

// Histogram counts latencies in nanoseconds.
type Histogram struct {
	*hdrhistogram.Histogram
	// Clamped counts the values beyond a minute, which are counted as a minute.
	Clamped uint64
}

// NewHistogram returns an empty histogram from 1 ns to 60 s with three digits.
func NewHistogram() *Histogram {
	return &Histogram{Histogram: hdrhistogram.New(lowest, highest, figures)}
}

// record counts n times d. No value is dropped.
func (h *Histogram) record(d time.Duration, n int64) {
	v := int64(d)
	if v < 0 || v > highest {
		v = max(0, min(v, highest))
		h.Clamped += uint64(n)
	}
	if err := h.RecordValues(v, n); err != nil {
		panic("load: value in range refused: " + err.Error())
	}
}

// Add adds the counts of another histogram.
func (h *Histogram) Add(from *Histogram) {
	if dropped := h.Merge(from.Histogram); dropped != 0 {
		panic("load: histograms of one range do not merge")
	}
	h.Clamped += from.Clamped
}

func (h *Histogram) reset() {
	h.Reset()
	h.Clamped = 0
}

// counts is what one shard, one interval or a whole window holds.
type counts struct {
	response [kinds]*Histogram
	// Open loops and think times only; nil otherwise, see doc.go.
	service    [kinds]*Histogram
	delay, lag *Histogram

	operations [kinds]uint64 // acknowledged
	missing    uint64        // gets that found nothing
	found      uint64
	valueBytes uint64
	messages   uint64 // that counted
	warm       uint64 // operations acknowledged before the window
	errors     [codes.Unauthenticated + 1]uint64
	warmErrors uint64
}

func newCounts(paced bool) *counts {
	c := &counts{}
	for k := range kinds {
		c.response[k] = NewHistogram()
		if paced {
			c.service[k] = NewHistogram()
		}
	}
	if paced {
		c.delay, c.lag = NewHistogram(), NewHistogram()
	}
	return c
}

// histograms calls visit with each pair of histograms of two counts.
func (c *counts) histograms(other *counts, visit func(mine, others *Histogram)) {
	for k := range kinds {
		visit(c.response[k], other.response[k])
		if c.service[k] != nil {
			visit(c.service[k], other.service[k])
		}
	}
	if c.delay != nil {
		visit(c.delay, other.delay)
		visit(c.lag, other.lag)
	}
}

// add adds other's counts; none is lost.
func (c *counts) add(other *counts) {
	c.histograms(other, (*Histogram).Add)
	for k := range kinds {
		c.operations[k] += other.operations[k]
	}
	for i := range c.errors {
		c.errors[i] += other.errors[i]
	}
	c.missing += other.missing
	c.found += other.found
	c.valueBytes += other.valueBytes
	c.messages += other.messages
	c.warm += other.warm
	c.warmErrors += other.warmErrors
}

func (c *counts) reset() {
	c.histograms(c, func(h, _ *Histogram) { h.reset() })
	*c = counts{response: c.response, service: c.service, delay: c.delay, lag: c.lag}
}

func (c *counts) total() uint64 {
	var n uint64
	for k := range kinds {
		n += c.operations[k]
	}
	return n
}

func (c *counts) failed() uint64 {
	var n uint64
	for _, e := range c.errors {
		n += e
	}
	return n
}

// outcome is one answered message.
type outcome struct {
	response, service, delay, lag time.Duration
	due, end                      time.Duration // from the window's start

	acknowledged [kinds]int64
	found        int64
	valueBytes   int64        // written or found
	errors       []codes.Code // of the operations that failed
}

// shard is what some of the clients record into.
type shard struct {
	mu     sync.Mutex
	active *counts
	spare  *counts // empty between two swaps
	// Of the whole window, not swapped.
	completions completions
	_           [64]byte
}

// recorder takes in outcomes from all clients.
type recorder struct {
	shards  []shard
	acked   []atomic.Uint64 // by key index
	sampler *sampler
}

func newRecorder(shards, keys int, paced bool) *recorder {
	r := &recorder{shards: make([]shard, shards), acked: make([]atomic.Uint64, keys)}
	for i := range r.shards {
		r.shards[i].active, r.shards[i].spare = newCounts(paced), newCounts(paced)
	}
	return r
}

// shard is where a client records.
func (r *recorder) shard(client int) *shard { return &r.shards[client%len(r.shards)] }

// count records a message that counts.
func (s *shard) count(o *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.active
	var n int64
	for k := range kinds {
		a := o.acknowledged[k]
		if a == 0 {
			continue
		}
		n += a
		c.response[k].record(o.response, a)
		if c.service[k] != nil {
			c.service[k].record(o.service, a)
		}
		c.operations[k] += uint64(a)
	}
	if c.delay != nil {
		if n > 0 {
			c.delay.record(o.delay, n)
		}
		c.lag.record(o.lag, 1)
	}
	c.found += uint64(o.found)
	c.valueBytes += uint64(o.valueBytes)
	c.missing += uint64(o.acknowledged[Get] - o.found)
	for _, code := range o.errors {
		c.errors[min(code, codes.Code(len(c.errors)-1))]++
	}
	c.messages++
	if n > 0 {
		s.completions.add(Completion{o.due, o.end, int(n)})
	}
}

// warm records a message of the warm-up.
func (s *shard) warm(o *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range kinds {
		s.active.warm += uint64(o.acknowledged[k])
	}
	s.active.warmErrors += uint64(len(o.errors))
}

// swap moves all that was recorded since the last swap into an empty counts.
// It holds each shard's lock for the exchange of two pointers only. One caller.
func (r *recorder) swap(into *counts) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		s.active, s.spare = s.spare, s.active
		s.mu.Unlock()
		into.add(s.spare)
		s.spare.reset()
	}
}

// acknowledge notes the revision that an acknowledged operation showed of a key.
func (r *recorder) acknowledge(key int, revision uint64) {
	a := &r.acked[key]
	for {
		old := a.Load()
		if revision <= old || a.CompareAndSwap(old, revision) {
			return
		}
	}
}

// seconds is a duration in seconds, never less than a nanosecond.
func seconds(d time.Duration) float64 { return math.Max(d.Seconds(), 1e-9) }
