package replica

import (
	"fmt"
	"io"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// snapshotLog is the log with snapshots made on demand. A view of the store
// costs nothing to make but must be made in the apply queue, so the first time
// that raft asks it hears "temporarily unavailable" and asks again (trap 15).
// What raft gets is metadata only (trap 5).
type snapshotLog struct {
	Log
	core *Core

	view   *kv.View
	meta   *raftpb.Snapshot
	idle   int // ticks since raft last used it
	wanted bool
	making bool
	done   []func(kv.State) // admin calls that wait for a view
}

// Snapshot implements raft.Storage.
func (s *snapshotLog) Snapshot() (*raftpb.Snapshot, error) {
	first, err := s.FirstIndex()
	if err != nil {
		return nil, err
	}
	// A snapshot from before the last configuration change may lack the node it
	// is for, which then ignores it silently (trap 18).
	if s.view == nil || s.view.State().Index+1 < first || s.view.State().Index < s.core.confIndex {
		s.wanted = true
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	s.idle = 0
	return s.meta, nil
}

// due says, once for each demand, that a view has to be made.
func (s *snapshotLog) due() bool {
	if !s.wanted || s.making {
		return false
	}
	s.making = true
	return true
}

// tick lets go of a view that nobody asked for lately: it holds on to keys that
// have been overwritten since.
func (s *snapshotLog) tick() {
	if s.view == nil {
		return
	}
	if s.idle++; s.idle > 2*s.core.cfg.ElectionTicks {
		s.view, s.meta = nil, nil
	}
}

// Viewed takes a view that the effects asked for.
func (c *Core) Viewed(v *kv.View) {
	s := c.snap
	s.making, s.wanted = false, false
	state := v.State()
	if state.Index > 0 {
		s.view, s.idle = v, 0
		s.meta = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(state.Index), Term: new(state.Term), ConfState: ConfState(v.Membership()),
		}}
		c.count.SnapshotsTaken++
	}
	if len(s.done) > 0 {
		c.compactAll()
		for _, done := range s.done {
			done(state)
		}
		s.done = nil
	}
}

// TakeSnapshot makes a view of the store, compacts the log up to it as far as
// live followers allow, and calls done.
func (c *Core) TakeSnapshot(done func(kv.State)) {
	c.snap.wanted = true
	c.snap.done = append(c.snap.done, done)
}

// ConfState returns the raft part of a membership.
func ConfState(m *kvv1.Membership) *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: m.GetVoters(), Learners: m.GetLearners(),
		VotersOutgoing: m.GetVotersOutgoing(), LearnersNext: m.GetLearnersNext(),
		AutoLeave: new(m.GetAutoLeave()),
	}
}

// OpenSnapshot opens the state that a MsgSnap of this node describes: its
// records, made as they are read. Any goroutine may call it; the reader belongs
// to the caller, who closes it.
func (r *Replica) OpenSnapshot(m *raftpb.Message) (io.ReadCloser, error) {
	index := m.GetSnapshot().GetMetadata().GetIndex()
	r.mu.Lock()
	view := r.view
	r.mu.Unlock()
	if view == nil || view.State().Index != index {
		return nil, fmt.Errorf("snapshot at index %d is not there any more", index)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(kv.WriteSnapshot(pw, view)) }()
	return pr, nil
}

// SnapshotSink takes in the snapshot of one MsgSnap. It is used by one goroutine.
type SnapshotSink struct {
	replica *Replica
	message *raftpb.Message
	decoder *kv.SnapshotDecoder
}

// AcceptSnapshot begins taking in the snapshot that a MsgSnap describes.
func (r *Replica) AcceptSnapshot(m *raftpb.Message) (*SnapshotSink, error) {
	if m.GetSnapshot().GetMetadata().GetIndex() == 0 {
		return nil, fmt.Errorf("snapshot without an index")
	}
	return &SnapshotSink{replica: r, message: m, decoder: kv.NewSnapshotDecoder()}, nil
}

// Write takes the next bytes, of any length.
func (s *SnapshotSink) Write(p []byte) (int, error) { return s.decoder.Write(p) }

// Commit verifies the snapshot and hands it to raft.
func (s *SnapshotSink) Commit() error {
	view, err := s.decoder.Finish()
	if err != nil {
		return err
	}
	meta := s.message.GetSnapshot().GetMetadata()
	if state := view.State(); state.Index != meta.GetIndex() || state.Term != meta.GetTerm() {
		return fmt.Errorf("snapshot is of index %d term %d, announced as index %d term %d",
			state.Index, state.Term, meta.GetIndex(), meta.GetTerm())
	}
	// By what it shows: two leaders may send theirs at the same time, and raft
	// takes the better one.
	s.replica.mu.Lock()
	s.replica.incoming[pointOf(meta)] = view
	s.replica.mu.Unlock()
	s.replica.Step(s.message)
	// Raft takes or ignores it before the call after the next; an ignored one
	// would hold on to its memory.
	s.replica.call(func(*Core) { s.replica.call(func(*Core) { s.replica.dropIncoming(meta, view) }) })
	return nil
}

// snapshotPoint is what a snapshot shows: the state at an index of a term is the
// same on all nodes.
type snapshotPoint struct{ index, term uint64 }

func pointOf(meta *raftpb.SnapshotMetadata) snapshotPoint {
	return snapshotPoint{meta.GetIndex(), meta.GetTerm()}
}

func (r *Replica) dropIncoming(meta *raftpb.SnapshotMetadata, view *kv.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.incoming[pointOf(meta)] == view {
		delete(r.incoming, pointOf(meta))
	}
}

// Abort drops what was written.
func (s *SnapshotSink) Abort() { s.decoder = nil }

// takeIncoming returns the snapshot that was taken in for these metadata.
func (r *Replica) takeIncoming(meta *raftpb.SnapshotMetadata) (*kv.View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	view := r.incoming[pointOf(meta)]
	if view == nil {
		return nil, fmt.Errorf("raft installs a snapshot at index %d that was not taken in", meta.GetIndex())
	}
	delete(r.incoming, pointOf(meta))
	return view, nil
}
