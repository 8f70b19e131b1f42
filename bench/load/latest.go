package load

import "sync/atomic"

// latest draws keys near the newest, as YCSB's distribution of that name does:
// the further back a key is, the rarer, by zipf. Keys are written in turn, and
// over again after the last. A put of rank 0 writes the key after the newest,
// which is the newest then; other puts and all gets are of keys that are there.
//
// The newest is that of all clients together: which key a rank names depends on
// how far the others have come. That is what the distribution is about, and why
// its streams, alone of all, depend on time.
type latest struct {
	zipf   *zipf
	keys   uint64
	newest atomic.Uint64 // modulo keys
}

// newLatest begins where a preload ends: the last key is the newest.
func newLatest(keys int) *latest {
	l := &latest{zipf: newZipf(keys), keys: uint64(keys)}
	l.newest.Store(uint64(keys) - 1)
	return l
}

func (l *latest) key(kind Kind, r *random) uint64 {
	back := l.zipf.rank(r)
	if kind == Put {
		if back == 0 {
			return l.newest.Add(1) % l.keys
		}
		back--
	}
	// The newest is never below keys-1, nor back above it.
	return (l.newest.Load() - back) % l.keys
}
