package kv

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Item is a key with its value and revisions. Its slices may alias the store, which
// does not change them: they stay valid, and must not be changed.
type Item struct {
	Key, Value     []byte
	Version        uint64 // writes of the key since it was created
	CreateRevision uint64
	ModRevision    uint64
}

// State says how far a store has come.
type State struct {
	Revision uint64 // 1 plus the commands that changed something
	Index    uint64 // last applied raft index
	Term     uint64 // of the entry there
	Keys     uint64
}

// firstRevision is that of the empty store.
const firstRevision = 1

// Store is the state machine: an ordered map of keys to values. Entries are
// applied by one goroutine, in the order of the log; any goroutine may read.
type Store struct {
	hasher hasher // never changed

	mu sync.RWMutex
	// The same records, by order and by hash.
	tree  tree
	index index
	// Records of this epoch are shown by no view. It is no other store's.
	epoch      uint64
	revision   uint64
	applied    uint64           // index of the last entry
	term       uint64           // of it
	membership *kvv1.Membership // replaced, never changed
	sessions   sessions
	view       *View // of the present state, if one was taken

	// Of the applying goroutine.
	decoder entryDecoder
	undo    []change
	touched int // means nothing: see index.touch
}

// A change of one key: the records before and after, if there is one.
// A zero change changed nothing.
type change struct{ before, after *record }

func (c change) happened() bool { return c.before != nil || c.after != nil }

// epochs counts those of all stores of the process: a view may be restored in
// another store than the one that it was taken of.
var epochs atomic.Uint64

// NewStore returns an empty store at revision 1 and index 0.
func NewStore() *Store {
	return newStore(newHasher())
}

func newStore(h hasher) *Store {
	t := newTree()
	return &Store{
		hasher: h, tree: t, index: newIndex(h, t), epoch: epochs.Add(1),
		revision: firstRevision, membership: &kvv1.Membership{},
	}
}

// Apply applies a normal entry of the raft log and appends the result of each
// of its commands to results, in order. An entry without data only moves the
// index. data must not change any more, nor go back to a pool: the store shares
// large values with it. An error means that the entry cannot be decoded, or was applied
// already; the store may then hold a part of it and must not be used any more.
func (s *Store) Apply(index, term uint64, data []byte, results []Result) ([]Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
	if len(data) == 0 {
		if index > s.applied {
			s.applied, s.term = index, term
		}
		return results, nil
	}
	if index <= s.applied {
		return results, fmt.Errorf("entry %d: the store is at %d already", index, s.applied)
	}
	defer s.decoder.release()
	if err := s.decoder.reset(data); err != nil {
		return results, fmt.Errorf("entry %d: %w", index, err)
	}
	s.sessions.advance(s.decoder.header.Clock)
	var keys [ahead][]byte
	for n := 0; ; n++ {
		if n%ahead == 0 {
			s.touched += s.index.touch(s.decoder.keysAhead(keys[:0]))
		}
		c, err := s.decoder.next()
		if err != nil {
			return results, fmt.Errorf("entry %d: %w", index, err)
		}
		if c == nil {
			s.applied, s.term = index, term
			return results, nil
		}
		results = append(results, Result{})
		r := &results[len(results)-1]
		if c.SessionID != 0 || c.Kind == KindOpenSession {
			s.inSession(c, index, r)
		} else {
			s.command(c, index, r)
		}
	}
}

// command applies one command at the next revision, if it changes something.
func (s *Store) command(c *Command, index uint64, r *Result) {
	if c.Kind == KindBatch {
		s.batch(c, index, r)
		return
	}
	if ch := s.step(c, s.revision+1, r, false); ch.happened() {
		s.revision++
	}
	r.Revision, r.Index = s.revision, index
}

// batch applies the steps of a batch in order, each seeing those before it, or
// none of them when a compare-and-swap fails.
func (s *Store) batch(c *Command, index uint64, r *Result) {
	r.Succeeded = true
	r.Steps = make([]Result, 0, len(c.Steps))
	s.undo = s.undo[:0]
	for i := range c.Steps {
		r.Steps = append(r.Steps, Result{})
		step := &r.Steps[i]
		if ch := s.step(&c.Steps[i], s.revision+1, step, true); ch.happened() {
			s.undo = append(s.undo, ch)
		}
		if !step.Succeeded {
			r.Succeeded = false
			break
		}
	}
	switch {
	case !r.Succeeded:
		s.rollback(c, r)
	case len(s.undo) > 0:
		s.revision++
	}
	clear(s.undo) // lets go of the records
	r.Revision, r.Index = s.revision, index
	for i := range r.Steps {
		r.Steps[i].Revision, r.Steps[i].Index = s.revision, index
	}
}

// rollback undoes the writes of a batch, latest first, and says so in their
// results. What its reads and the failed swap saw stays.
func (s *Store) rollback(c *Command, r *Result) {
	for _, ch := range slices.Backward(s.undo) {
		if ch.before != nil {
			s.set(ch.before)
		} else {
			s.remove(ch.after.head)
		}
	}
	for i := range r.Steps[:len(r.Steps)-1] {
		if c.Steps[i].Kind != KindGet {
			r.Steps[i] = Result{Found: r.Steps[i].Found}
		}
	}
}

// find returns the record of a key, nil if there is none.
func (s *Store) find(key []byte) *record {
	r := s.index.get(key)
	if r == crowded {
		return s.tree.get(key)
	}
	return r
}

func (s *Store) set(r *record) {
	s.tree.set(r)
	s.index.set(r)
}

func (s *Store) remove(key []byte) {
	s.tree.remove(key)
	s.index.remove(key)
}

// step does one operation; revision is what it writes if it changes something.
// With undoable, the record before the change stays as it was.
func (s *Store) step(c *Command, revision uint64, r *Result, undoable bool) change {
	before := s.find(c.Key)
	switch c.Kind {
	case KindPut:
		return s.put(c, revision, r, before, undoable)
	case KindDelete:
		r.Found, r.Succeeded = before != nil, true
		if before != nil {
			s.remove(c.Key)
		}
		return change{before: before}
	case KindCompareAndSwap:
		if before == nil != c.ExpectAbsent || before != nil && !bytes.Equal(before.value(), c.Expect) {
			r.show(before)
			return change{}
		}
		return s.put(c, revision, r, before, undoable)
	case KindGet:
		r.show(before)
		r.Succeeded = true
		return change{}
	case KindBatch, KindOpenSession, KindKeepSession, KindCloseSession:
	}
	panic(fmt.Sprintf("kv: step of kind %d passed the decoder", c.Kind))
}

// put writes a key that has the record before, nil for none.
func (s *Store) put(c *Command, revision uint64, r *Result, before *record, undoable bool) change {
	after := before
	if before != nil && before.epoch == s.epoch && !undoable {
		after.setValue(c.Value, s.decoder.size)
		after.number++
	} else {
		after = newRecord(c.Key, c.Value, s.decoder.size)
		after.epoch, after.create, after.number = s.epoch, revision, 1
		if before != nil {
			after.create, after.number = before.create, before.number+1
		}
		s.set(after)
	}
	after.mod = revision
	r.CreateRevision, r.ModRevision, r.Version = after.create, after.mod, after.number
	r.Succeeded = true
	return change{before: before, after: after}
}

// show fills in what a read of the key found; nil is nothing.
func (r *Result) show(rec *record) {
	if rec == nil {
		return
	}
	r.Found, r.Value = true, rec.kept()
	r.Version, r.CreateRevision, r.ModRevision = rec.number, rec.create, rec.mod
}

// SetMembership applies the configuration change at index: m is the membership
// from there on. The store keeps m; it must not be changed any more.
func (s *Store) SetMembership(index, term uint64, m *kvv1.Membership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
	s.applied, s.term, s.membership = index, term, m
}

// Membership returns the present membership: never nil, and read-only.
func (s *Store) Membership() *kvv1.Membership {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.membership
}

// State returns how far the store has come.
func (s *Store) State() State {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state()
}

func (s *Store) state() State {
	return State{Revision: s.revision, Index: s.applied, Term: s.term, Keys: uint64(s.tree.size())}
}

// Get reads one key, and the state of the store that it was read from.
func (s *Store) Get(key []byte) (Item, State, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	rec := s.find(key)
	if rec == nil {
		return Item{}, s.state(), false
	}
	item := rec.item()
	item.Value = rec.kept()
	return item, s.state(), true
}

// View returns the present state, which later writes leave alone. Its cost does
// not depend on the number of keys, but the first write of each key after it makes
// a new record, and copies the tree nodes on the way that no write copied before.
func (s *Store) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		s.view = &View{tree: s.tree.copy(), state: s.state(), membership: s.membership, sessions: s.sessions.copy()}
		s.epoch = epochs.Add(1)
	}
	return s.view
}

// Restore replaces everything by what v shows. It takes a time that grows with the
// number of keys, but keeps nobody waiting for more than a moment. Views taken before
// stay as they were.
func (s *Store) Restore(v *View) {
	tree, sessions := v.copy()
	index := newIndex(s.hasher, tree)
	s.mu.Lock()
	defer s.mu.Unlock()
	// None of its records is of the present epoch, whosever view it is.
	s.tree, s.index = tree, index
	s.view, s.membership = nil, v.membership
	s.sessions = sessions
	s.revision, s.applied, s.term = v.state.Revision, v.state.Index, v.state.Term
}
