package kv

import (
	"bytes"
	"encoding/binary"

	"github.com/tidwall/btree"
)

// tree is the ordered map of records. Each slot of a node carries the first 16
// bytes of its key beside the record, so that a search of keys that differ there
// reads nodes only: a look at each record on the way is a cache miss, and those
// were two thirds of what applying cost at 100,000 keys.
type tree struct{ slots *btree.BTreeG[slot] }

type slot struct {
	high, low uint64 // the key's first 16 bytes, big endian, padded with zeros
	record
}

func newTree() tree {
	return tree{btree.NewBTreeGOptions(slotLess, btree.Options{NoLocks: true})}
}

const slotPrefix = 16

func slotOf(r record) slot {
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
	case len(a.head) <= slotPrefix && len(b.head) <= slotPrefix:
		// One is the other with zeros appended.
		return len(a.head) < len(b.head)
	}
	return bytes.Compare(a.head, b.head) < 0
}

// set stores a record and returns the one that it replaces.
func (t tree) set(r record) (before record, found bool) {
	s, found := t.slots.Set(slotOf(r))
	return s.record, found
}

func (t tree) get(key []byte) (record, bool) {
	s, found := t.slots.Get(slotOf(record{head: key}))
	return s.record, found
}

func (t tree) remove(key []byte) (record, bool) {
	s, found := t.slots.Delete(slotOf(record{head: key}))
	return s.record, found
}

// load appends a record whose key is the greatest.
func (t tree) load(r record) { t.slots.Load(slotOf(r)) }

func (t tree) size() int { return t.slots.Len() }

// copy takes constant time; both trees copy the nodes that they change from
// then on.
func (t tree) copy() tree { return tree{t.slots.Copy()} }

// ascend visits the records from a key on, in order, until visit returns false.
func (t tree) ascend(from []byte, visit func(record) bool) {
	t.slots.Ascend(slotOf(record{head: from}), func(s slot) bool { return visit(s.record) })
}

func (t tree) scan(visit func(record) bool) {
	t.slots.Scan(func(s slot) bool { return visit(s.record) })
}
