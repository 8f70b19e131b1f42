package replica

import (
	"fmt"
	"io"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

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

	transfers map[uint64]snapshotTransfer // by peer
}

// snapshotTransfer is a snapshot on its way to a peer, or one whose sending
// failed and that is worth resuming.
type snapshotTransfer struct {
	index  uint64
	failed uint64 // tick; 0 while it is on its way
}

// Snapshot implements raft.Storage.
func (s *snapshotLog) Snapshot() (*raftpb.Snapshot, error) {
	if !s.usable() {
		s.wanted = true
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	s.idle = 0
	return s.meta, nil
}

// usable says whether a follower could go on from the view by the log.
func (s *snapshotLog) usable() bool {
	first, err := s.FirstIndex()
	// A snapshot from before the last configuration change may lack the node it
	// is for, which then ignores it silently (trap 18).
	return err == nil && s.view != nil && s.view.State().Index+1 >= first && s.view.State().Index >= s.core.confIndex
}

// inUse says whether the view is on its way to a peer or worth resuming. Then no
// other takes its place: a peer that has half of it would have to begin anew.
func (s *snapshotLog) inUse() bool {
	if s.view == nil {
		return false
	}
	for _, t := range s.transfers {
		if t.index == s.view.State().Index {
			return true
		}
	}
	return false
}

// sending notes a MsgSnap that raft sends.
func (s *snapshotLog) sending(m *raftpb.Message) {
	s.transfers[m.GetTo()] = snapshotTransfer{index: m.GetSnapshot().GetMetadata().GetIndex()}
}

// sent notes how sending to a peer ended.
func (s *snapshotLog) sent(id uint64, ok bool) {
	t, known := s.transfers[id]
	if ok || !known || s.core.cfg.SnapshotKeep <= 0 {
		delete(s.transfers, id)
		return
	}
	t.failed = s.core.ticks + 1 // never 0
	s.transfers[id] = t
}

// expire gives up on transfers that were not begun again for too long.
func (s *snapshotLog) expire() {
	keep := uint64(s.core.cfg.SnapshotKeep / max(1, s.core.cfg.Tick))
	for id, t := range s.transfers {
		if t.failed > 0 && s.core.ticks-(t.failed-1) > keep {
			delete(s.transfers, id)
		}
	}
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
// have been overwritten since. One in use is kept as long as the log still
// follows on it, which bounds what has been overwritten by the log's hard caps.
func (s *snapshotLog) tick() {
	s.expire()
	switch {
	case s.view == nil:
		return
	case s.inUse() && s.usable():
		s.idle = 0
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
	if keep := s.inUse() && s.usable(); state.Index > 0 && !keep {
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

// SnapshotSink takes in the snapshot that a MsgSnap describes, be it in several
// attempts. It is used by one goroutine at a time.
type SnapshotSink struct {
	replica *Replica
	meta    *raftpb.SnapshotMetadata
	decoder *kv.SnapshotDecoder
}

// AcceptSnapshot begins taking in the snapshot that a MsgSnap describes.
func (r *Replica) AcceptSnapshot(m *raftpb.Message) (*SnapshotSink, error) {
	if m.GetSnapshot().GetMetadata().GetIndex() == 0 {
		return nil, fmt.Errorf("snapshot without an index")
	}
	return &SnapshotSink{replica: r, meta: m.GetSnapshot().GetMetadata(), decoder: kv.NewSnapshotDecoder()}, nil
}

// Write takes the next bytes, of any length.
func (s *SnapshotSink) Write(p []byte) (int, error) { return s.decoder.Write(p) }

// Needed tells whether the snapshot would bring this node forward: raft takes
// none that it has committed as much as. Any goroutine may call it.
func (s *SnapshotSink) Needed() bool { return s.replica.commit.Load() < s.meta.GetIndex() }

// Commit verifies the snapshot and hands it to raft, with the MsgSnap of whoever
// brought the last of it.
func (s *SnapshotSink) Commit(m *raftpb.Message) error {
	view, err := s.decoder.Finish()
	if err != nil {
		return err
	}
	meta := m.GetSnapshot().GetMetadata()
	if state := view.State(); state.Index != meta.GetIndex() || state.Term != meta.GetTerm() {
		return fmt.Errorf("snapshot is of index %d term %d, announced as index %d term %d",
			state.Index, state.Term, meta.GetIndex(), meta.GetTerm())
	}
	// Raft takes its configuration from the one, the store its membership from the
	// other.
	if own := ConfState(view.Membership()); !proto.Equal(own, meta.GetConfState()) {
		return fmt.Errorf("snapshot at index %d has configuration {%v}, announced as {%v}", meta.GetIndex(), own, meta.GetConfState())
	}
	// By what it shows: two leaders may send theirs at the same time, and raft
	// takes the better one.
	s.replica.mu.Lock()
	s.replica.incoming[pointOf(meta)] = view
	s.replica.mu.Unlock()
	s.replica.Step(m)
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
