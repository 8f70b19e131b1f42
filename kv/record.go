package kv

import (
	"encoding/binary"
	"math"
	"slices"
)

// A record is one key of the store with its value and revisions. What is small
// is a single allocation, the head: key, three fixed64, value. The head's length
// is that of the key and the rest hides behind it, up to its capacity, so that a
// bare key serves as the other operand of a comparison, without building a record
// for a search. A large value is not copied but shared with the log entry that
// brought it: at a megabyte, the copy and its memory cost more than all else that
// applying does.
//
// A record is written while the store is locked and never changed after. Its zero
// value is no record.
type record struct {
	head  []byte
	large *[]byte // the value, if it is not in the head
}

// Bytes of create revision, mod revision and version, little endian. Varints
// would be smaller, but could not be filled in after the tree was searched.
const recordMeta = 3 * 8

// shareFrom is the size of values from which they are shared with their entry,
// if they are at least half of it: what a value keeps alive is then at most twice
// its own size.
const shareFrom = 256 << 10

// notShared is the size of an entry that no value is half of.
const notShared = math.MaxInt

// newRecord makes a record of a key and a value that lies in an entry of so many
// bytes, which nobody changes; it copies what it does not share.
func newRecord(key, value []byte, entry int) record {
	if len(value) >= shareFrom && 2*len(value) >= entry {
		r := record{head: make([]byte, len(key), len(key)+recordMeta), large: new([]byte)}
		copy(r.head, key)
		*r.large = slices.Clip(value)
		return r
	}
	r := record{head: make([]byte, len(key), len(key)+recordMeta+len(value))}
	copy(r.head, key)
	copy(r.value(), value)
	return r
}

func (r record) exists() bool { return r.head != nil }

// key returns the key; an append to it copies it.
func (r record) key() []byte { return slices.Clip(r.head) }

func (r record) meta() []byte { return r.head[len(r.head) : len(r.head)+recordMeta] }

func (r record) setMeta(create, mod, version uint64) {
	m := r.meta()
	binary.LittleEndian.PutUint64(m, create)
	binary.LittleEndian.PutUint64(m[8:], mod)
	binary.LittleEndian.PutUint64(m[16:], version)
}

func (r record) createRevision() uint64 { return binary.LittleEndian.Uint64(r.meta()) }
func (r record) modRevision() uint64    { return binary.LittleEndian.Uint64(r.meta()[8:]) }
func (r record) version() uint64        { return binary.LittleEndian.Uint64(r.meta()[16:]) }

func (r record) value() []byte {
	if r.large != nil {
		return *r.large
	}
	return r.head[len(r.head)+recordMeta : cap(r.head)]
}

// item shows the record; an append to its slices copies them.
func (r record) item() Item {
	return Item{
		Key: r.key(), Value: r.value(),
		Version: r.version(), CreateRevision: r.createRevision(), ModRevision: r.modRevision(),
	}
}
