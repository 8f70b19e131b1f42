package kv

import (
	"encoding/binary"
	"slices"
)

// A record is one key of the store with its value and revisions in a single
// allocation: key, three fixed64, value. The slice's length is that of the key
// and the rest hides behind it, up to its capacity, so that a bare key serves
// as the other operand of a comparison, without building a record for a search.
//
// A record is written while the store is locked and never changed after.
type record []byte

// Bytes of create revision, mod revision and version, little endian. Varints
// would be smaller, but could not be filled in after the tree was searched.
const recordMeta = 3 * 8

func newRecord(key, value []byte) record {
	r := make(record, len(key), len(key)+recordMeta+len(value))
	copy(r, key)
	copy(r[len(key)+recordMeta:cap(r)], value)
	return r
}

func (r record) meta() []byte { return r[len(r) : len(r)+recordMeta] }

func (r record) setMeta(create, mod, version uint64) {
	m := r.meta()
	binary.LittleEndian.PutUint64(m, create)
	binary.LittleEndian.PutUint64(m[8:], mod)
	binary.LittleEndian.PutUint64(m[16:], version)
}

func (r record) createRevision() uint64 { return binary.LittleEndian.Uint64(r.meta()) }
func (r record) modRevision() uint64    { return binary.LittleEndian.Uint64(r.meta()[8:]) }
func (r record) version() uint64        { return binary.LittleEndian.Uint64(r.meta()[16:]) }

func (r record) value() []byte { return r[len(r)+recordMeta : cap(r)] }

// item shows the record; an append to its slices copies them.
func (r record) item() Item {
	return Item{
		Key: slices.Clip(r), Value: r.value(),
		Version: r.version(), CreateRevision: r.createRevision(), ModRevision: r.modRevision(),
	}
}
