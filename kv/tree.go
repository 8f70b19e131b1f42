package kv

import (
	"bytes"
	"encoding/binary"

	"github.com/tidwall/btree"
)

// tree is the ordered map of records. Each slot of a node carries the first 16
// bytes of its key beside the record, so that a search of keys that differ there
// reads nodes only: a look at each record on the way is a cache miss.
type tree struct{ slots *btree.BTreeG[slot] }

type slot struct {
	high, low uint64 // the key's first 16 bytes, big endian, padded with zeros
	record    *record
}

func newTree() tree {
	return tree{btree.NewBTreeGOptions(slotLess, btree.Options{NoLocks: true})}
}

const slotPrefix = 16

func slotOf(r *record) slot {
	if len(r.head) >= slotPrefix {
		return slot{binary.BigEndian.Uint64(r.head), binary.BigEndian.Uint64(r.head[8:]), r}
	}
	var prefix [slotPrefix]byte
	copy(prefix[:], r.head)
	return slot{binary.BigEndian.Uint64(prefix[:]), binary.BigEndian.Uint64(prefix[8:]), r}
}

func slotLess(a, b slot) bool {
	switch {
	case a.high != b.high:
		return a.high < b.high
	case a.low != b.low:
		return a.low < b.low
	}
	if x, y := len(a.record.head), len(b.record.head); x <= slotPrefix && y <= slotPrefix {
		// One is the other with zeros appended.
		return x < y
	}
	return bytes.Compare(a.record.head, b.record.head) < 0
}

// set stores a record, in the place of the one with its key.
func (t tree) set(r *record) { t.slots.Set(slotOf(r)) }

// get returns nil when there is none.
func (t tree) get(key []byte) *record {
	s, _ := t.slots.Get(slotOf(&record{head: key}))
	return s.record
}

func (t tree) remove(key []byte) { t.slots.Delete(slotOf(&record{head: key})) }

// load appends a record whose key is the greatest.
func (t tree) load(r *record) { t.slots.Load(slotOf(r)) }

func (t tree) size() int { return t.slots.Len() }

// copy takes constant time; both trees copy the nodes that they change from
// then on.
func (t tree) copy() tree { return tree{t.slots.Copy()} }

// ascend visits the records from a key on, in order, until visit returns false.
func (t tree) ascend(from []byte, visit func(*record) bool) {
	t.slots.Ascend(slotOf(&record{head: from}), func(s slot) bool { return visit(s.record) })
}

func (t tree) scan(visit func(*record) bool) {
	t.slots.Scan(func(s slot) bool { return visit(s.record) })
}
