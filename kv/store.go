package kv

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Item is a key with its value and revisions. Its slices alias the store, which
// never changes them: they stay valid, and must not be changed.
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
	mu         sync.RWMutex
	tree       tree
	revision   uint64
	index      uint64
	term       uint64
	membership *kvv1.Membership // replaced, never changed
	sessions   sessions
	view       *View // of the present state, if one was taken

	// Of the applying goroutine.
	decoder entryDecoder
	undo    []change
}

// A change of one key: the records before and after, if there is one.
// A zero change changed nothing.
type change struct{ before, after record }

func (c change) happened() bool { return c.before.exists() || c.after.exists() }

// NewStore returns an empty store at revision 1 and index 0.
func NewStore() *Store {
	return &Store{tree: newTree(), revision: firstRevision, membership: &kvv1.Membership{}}
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
		if index > s.index {
			s.index, s.term = index, term
		}
		return results, nil
	}
	if index <= s.index {
		return results, fmt.Errorf("entry %d: the store is at %d already", index, s.index)
	}
	defer s.decoder.release()
	if err := s.decoder.reset(data); err != nil {
		return results, fmt.Errorf("entry %d: %w", index, err)
	}
	s.sessions.advance(s.decoder.header.Clock)
	for {
		c, err := s.decoder.next()
		if err != nil {
			return results, fmt.Errorf("entry %d: %w", index, err)
		}
		if c == nil {
			s.index, s.term = index, term
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
	if ch := s.step(c, s.revision+1, r); ch.happened() {
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
		if ch := s.step(&c.Steps[i], s.revision+1, step); ch.happened() {
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
		if ch.before.exists() {
			s.tree.set(ch.before)
		} else {
			s.tree.remove(ch.after.head)
		}
	}
	for i := range r.Steps[:len(r.Steps)-1] {
		if c.Steps[i].Kind != KindGet {
			r.Steps[i] = Result{Found: r.Steps[i].Found}
		}
	}
}

// step does one operation; revision is what it writes if it changes something.
func (s *Store) step(c *Command, revision uint64, r *Result) change {
	switch c.Kind {
	case KindPut:
		return s.put(c, revision, r)
	case KindDelete:
		before, found := s.tree.remove(c.Key)
		r.Found, r.Succeeded = found, true
		return change{before: before}
	case KindCompareAndSwap:
		before, found := s.tree.get(c.Key)
		if found == c.ExpectAbsent || found && !bytes.Equal(before.value(), c.Expect) {
			r.show(before, found)
			return change{}
		}
		return s.put(c, revision, r)
	case KindGet:
		r.show(s.tree.get(c.Key))
		r.Succeeded = true
		return change{}
	case KindBatch, KindOpenSession, KindKeepSession, KindCloseSession:
	}
	panic(fmt.Sprintf("kv: step of kind %d passed the decoder", c.Kind))
}

func (s *Store) put(c *Command, revision uint64, r *Result) change {
	after := newRecord(c.Key, c.Value, s.decoder.size)
	before, found := s.tree.set(after)
	r.CreateRevision, r.ModRevision, r.Version = revision, revision, 1
	if found {
		r.CreateRevision, r.Version = before.createRevision(), before.version()+1
	}
	after.setMeta(r.CreateRevision, r.ModRevision, r.Version)
	r.Succeeded = true
	return change{before: before, after: after}
}

// show fills in what a read of the key found.
func (r *Result) show(rec record, found bool) {
	if !found {
		return
	}
	r.Found, r.Value = true, rec.value()
	r.Version, r.CreateRevision, r.ModRevision = rec.version(), rec.createRevision(), rec.modRevision()
}

// SetMembership applies the configuration change at index: m is the membership
// from there on. The store keeps m; it must not be changed any more.
func (s *Store) SetMembership(index, term uint64, m *kvv1.Membership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
	s.index, s.term, s.membership = index, term, m
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
	return State{Revision: s.revision, Index: s.index, Term: s.term, Keys: uint64(s.tree.size())}
}

// Get reads one key, and the state of the store that it was read from.
func (s *Store) Get(key []byte) (Item, State, bool) {
	s.mu.RLock()
	rec, found := s.tree.get(key)
	state := s.state()
	s.mu.RUnlock()
	if !found {
		return Item{}, state, false
	}
	return rec.item(), state, true
}

// View returns the present state, which later writes leave alone. Its cost does
// not depend on the number of keys, but each write after it copies the tree
// nodes that it meets for the first time.
func (s *Store) View() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		s.view = &View{tree: s.tree.copy(), state: s.state(), membership: s.membership, sessions: s.sessions.copy()}
	}
	return s.view
}

// Restore replaces everything by what v shows. Views taken before stay as they
// were.
func (s *Store) Restore(v *View) {
	tree, sessions := v.copy()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree, s.view, s.membership = tree, nil, v.membership
	s.sessions = sessions
	s.revision, s.index, s.term = v.state.Revision, v.state.Index, v.state.Term
}
