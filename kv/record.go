package kv

import (
	"bytes"
	"math"
	"slices"
)

// A record is one key of the store with its value and revisions.
//
// Its head is the key, with the value behind it, up to the capacity: one piece of
// memory. A large value is not copied there but shared with the log entry that
// brought it: at a megabyte, the copy and its memory cost more than all else that
// applying does.
//
// A record may be written again only by the store that made it, while that is
// locked, and only as long as no view shows it: while the record's epoch is the
// store's. Then a small value of the same size is overwritten where it is, and a
// put allocates nothing. So who reads a live record copies small values, and may
// keep the others.
type record struct {
	epoch               uint64 // of the store, when the record was made
	create, mod, number uint64 // create revision, mod revision, version
	head                []byte
	large               *[]byte // the value, if it is not in the head
}

const (
	// shareFrom is the size of values from which they are shared with their entry,
	// if they are at least half of it: what a value keeps alive is then at most twice
	// its own size.
	shareFrom = 256 << 10

	// overwriteTo is the size of values up to which they are overwritten in place, and
	// copied by who reads them.
	overwriteTo = 1 << 10
)

// notShared is the size of an entry that no value is half of.
const notShared = math.MaxInt

// newRecord makes a record of a key and a value that lies in an entry of so many
// bytes, which nobody changes; it copies what it does not share.
func newRecord(key, value []byte, entry int) *record {
	r := &record{head: key}
	r.replaceValue(value, entry)
	return r
}

// setValue gives a record that may be written another value.
func (r *record) setValue(value []byte, entry int) {
	if old := r.value(); len(old) == len(value) && len(old) <= overwriteTo {
		copy(old, value)
		return
	}
	r.replaceValue(value, entry)
}

// replaceValue leaves the bytes that the record had before as they are.
func (r *record) replaceValue(value []byte, entry int) {
	key := r.head
	if len(value) >= shareFrom && 2*len(value) >= entry {
		shared := slices.Clip(value)
		r.head, r.large = make([]byte, len(key)), &shared
	} else {
		r.head, r.large = make([]byte, len(key), len(key)+len(value)), nil
		copy(r.value(), value)
	}
	copy(r.head, key)
}

// key returns the key, which never changes; an append to it copies it.
func (r *record) key() []byte { return slices.Clip(r.head) }

// value returns the value, which the next put may overwrite.
func (r *record) value() []byte {
	if r.large != nil {
		return *r.large
	}
	return r.head[len(r.head):cap(r.head)]
}

// item shows a record of a view; an append to its slices copies them.
func (r *record) item() Item {
	return Item{Key: r.key(), Value: r.value(), Version: r.number, CreateRevision: r.create, ModRevision: r.mod}
}

// kept returns the value such that no put changes it: a copy where puts overwrite.
func (r *record) kept() []byte {
	if v := r.value(); len(v) > overwriteTo {
		return v
	}
	return bytes.Clone(r.value())
}
