package kv

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// View is a store at one applied index. It does not change, and any number of
// goroutines may use it. Holding it costs the memory of what was overwritten
// since.
type View struct {
	copying    sync.Mutex // a copy marks the tree that it copies
	tree       tree
	sessions   sessions
	state      State
	membership *kvv1.Membership
}

func (v *View) copy() (tree, sessions) {
	v.copying.Lock()
	defer v.copying.Unlock()
	return v.tree.copy(), v.sessions.copy()
}

// State returns the state that the view shows.
func (v *View) State() State { return v.state }

// Membership returns the view's membership: never nil, and read-only.
func (v *View) Membership() *kvv1.Membership { return v.membership }

// Len returns the number of keys.
func (v *View) Len() int { return v.tree.size() }

// Scan visits the keys from start (inclusive) to end (exclusive; nil is no
// bound) in order, until visit returns false.
func (v *View) Scan(start, end []byte, visit func(Item) bool) {
	v.tree.ascend(start, func(r *record) bool {
		if end != nil && bytes.Compare(r.head, end) >= 0 {
			return false
		}
		return visit(r.item())
	})
}

// Hash returns a SHA-256 over the revision, every item with its revisions, and
// the sessions.
// Nodes that applied the same entries have the same hash, whatever snapshots
// they came by.
func (v *View) Hash() [sha256.Size]byte {
	h := sha256.New()
	// Lengths before the bytes: no two states have the same input.
	var head [5 * 8]byte
	binary.LittleEndian.PutUint64(head[:], v.state.Revision)
	h.Write(head[:8])
	v.tree.scan(func(r *record) bool {
		binary.LittleEndian.PutUint64(head[:], uint64(len(r.head)))
		binary.LittleEndian.PutUint64(head[8:], uint64(len(r.value())))
		binary.LittleEndian.PutUint64(head[16:], r.create)
		binary.LittleEndian.PutUint64(head[24:], r.mod)
		binary.LittleEndian.PutUint64(head[32:], r.number)
		h.Write(head[:])
		h.Write(r.head)
		h.Write(r.value())
		return true
	})
	v.sessions.hash(h)
	return [sha256.Size]byte(h.Sum(nil))
}
