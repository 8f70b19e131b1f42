package load

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Never is when an operation returned whose outcome is unknown.
const Never = time.Duration(math.MaxInt64)

// MostAccesses is how many operations on a sampled key are recorded.
const MostAccesses = 1000

// Access is one operation on a sampled key, as its client saw it. Times are from
// the window's start, and negative in the warm-up.
type Access struct {
	Client int
	Kind   Kind
	Call   time.Duration
	// Return is Never when the operation failed: a write may have been applied, then or
	// at any later time.
	Return time.Duration
	// Revision is the mod revision that the answer told; 0 without one, and for a get
	// that did not find the key.
	Revision uint64
	Found    bool
	// Value is HashValue of what was written or found; 0 when the target told none.
	Value uint64
}

// History is all that happened to a sampled key, in the order of the calls as far
// as one client's go.
type History struct {
	Key      int
	Accesses []Access
	// Cut is when the first operation was called that is not in Accesses, since those
	// are MostAccesses; Never when they are all.
	Cut time.Duration
}

// HashValue tells values apart (FNV-1a); it is never 0.
func HashValue(value []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range value {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return max(h, 1)
}

// sampler records what happens to some keys, evenly spread over all. Any
// goroutine; nil samples nothing.
type sampler struct {
	stride int // every so many keys is one of them
	keys   []sampledKey
}

type sampledKey struct {
	once     sync.Once // makes accesses
	accesses []Access  // each written by the client that took it
	taken    atomic.Int64
	cut      atomic.Int64
}

func newSampler(sample, keys int) *sampler {
	if sample == 0 {
		return nil
	}
	s := &sampler{stride: max(1, keys/sample), keys: make([]sampledKey, min(sample, keys))}
	for i := range s.keys {
		s.keys[i].cut.Store(int64(Never))
	}
	return s
}

// begin takes a place for each operation of a message on a sampled key; nil for
// others. It allocates once a key.
func (s *sampler) begin(places []*Access, index []int, call time.Duration) {
	for i, key := range index {
		places[i] = nil
		if key%s.stride != 0 || key/s.stride >= len(s.keys) {
			continue
		}
		k := &s.keys[key/s.stride]
		k.once.Do(func() { k.accesses = make([]Access, MostAccesses) })
		if at := k.taken.Add(1) - 1; at < MostAccesses {
			places[i] = &k.accesses[at]
			places[i].Call, places[i].Return = call, Never
			continue
		}
		for old := k.cut.Load(); int64(call) < old && !k.cut.CompareAndSwap(old, int64(call)); old = k.cut.Load() {
		}
	}
}

// end fills in what became of a message whose places begin took.
func (s *sampler) end(places []*Access, client int, ops []Op, results []Result, failed error, returned time.Duration) {
	for i, a := range places {
		if a == nil {
			continue
		}
		r := &results[i]
		a.Client, a.Kind = client, ops[i].Kind
		value := ops[i].Value
		if a.Kind == Get {
			value = r.Value
		}
		if a.Kind == Put || len(value) > 0 {
			a.Value = HashValue(value)
		}
		if failed == nil && r.Err == nil {
			a.Return, a.Revision, a.Found = returned, r.ModRevision, r.Found
		}
	}
}

// histories returns those of all sampled keys that anything happened to. Call it
// when all clients have ended.
func (s *sampler) histories() []History {
	if s == nil {
		return nil
	}
	var all []History
	for i := range s.keys {
		k := &s.keys[i]
		if n := min(k.taken.Load(), MostAccesses); n > 0 {
			all = append(all, History{Key: i * s.stride, Accesses: k.accesses[:n], Cut: time.Duration(k.cut.Load())})
		}
	}
	return all
}
