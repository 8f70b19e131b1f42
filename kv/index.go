package kv

import (
	"bytes"
	"hash/maphash"
	"math"
)

// index finds the record of a key without a search of the tree, by the key's hash.
// At 100,000 keys nearly each step of a search is a cache miss and a branch that is
// guessed wrong, one after the other; the misses of a probe overlap with those of
// the next command. docs/decisions/0004 has what that brings.
//
// Every key of the tree is in the index, or its hash is crowded.
type index struct {
	hasher
	records map[uint64]*record
}

// hasher makes hashes of keys.
type hasher struct {
	seed maphash.Seed
	mask uint64 // less than all bits in tests only
}

func newHasher() hasher { return hasher{maphash.MakeSeed(), math.MaxUint64} }

func (h hasher) hash(key []byte) uint64 { return maphash.Bytes(h.seed, key) & h.mask }

// crowded stands where several keys had the same hash. Only the tree tells them
// apart, from then on.
var crowded = new(record)

// newIndex returns the index of a tree.
func newIndex(h hasher, t tree) index {
	x := index{h, make(map[uint64]*record, t.size())}
	t.scan(func(r *record) bool {
		x.set(r)
		return true
	})
	return x
}

// get returns the record of a key, nil if there is none, or crowded.
func (x *index) get(key []byte) *record {
	r := x.records[x.hash(key)]
	if r == nil || r == crowded || bytes.Equal(r.head, key) {
		return r
	}
	return nil
}

// set stores a record, in the place of the one with its key.
func (x *index) set(r *record) {
	h := x.hash(r.head)
	if old := x.records[h]; old == crowded || old != nil && !bytes.Equal(old.head, r.head) {
		r = crowded
	}
	x.records[h] = r
}

func (x *index) remove(key []byte) {
	if r := x.get(key); r != nil && r != crowded {
		delete(x.records, x.hash(key))
	}
}

// ahead is how many commands are looked ahead.
const ahead = 16

// touch brings what get will read of these keys, ahead of them at most, into the
// cache: each loop's misses do not depend on each other, so the processor has many
// under way at once, where one get after the other waits for three in a row. The sum
// only keeps the loads from being left out.
func (x *index) touch(keys [][]byte) (sum int) {
	if len(keys) < 2 {
		return 0
	}
	var records [ahead]*record
	for i, key := range keys {
		records[i] = x.records[x.hash(key)]
	}
	for _, r := range records {
		if r != nil {
			sum += len(r.head)
		}
	}
	for _, r := range records {
		if r != nil && len(r.head) > 0 {
			sum += int(r.head[0])
		}
	}
	return sum
}
