package replica

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

// told is what this node, as the leader of a term, has told others, and so the
// most that they can have confirmed. Raft takes a follower's word for more (trap
// 14): of reads that nobody asked for it panics, and while a majority claims
// entries that there are not it commits nothing.
type told struct {
	term  uint64
	index uint64 // of the last entry, or snapshot, that any of them was sent
	reads uint64 // number, by raft's count in the term, of the last read they were asked about
}

// note takes note of a message that leaves.
func (t *told) note(m *raftpb.Message) {
	switch m.GetType() { //nolint:exhaustive // the rest is not confirmed by others
	case raftpb.MsgApp:
		t.in(m.GetTerm()).index = max(t.index, m.GetIndex()+uint64(len(m.GetEntries())))
	case raftpb.MsgSnap:
		t.in(m.GetTerm()).index = max(t.index, m.GetSnapshot().GetMetadata().GetIndex())
	case raftpb.MsgHeartbeat:
		if context := m.GetContext(); len(context) >= 8 {
			t.in(m.GetTerm()).reads = binary.LittleEndian.Uint64(context)
		}
	}
}

func (t *told) in(term uint64) *told {
	if t.term != term {
		*t = told{term: term}
	}
	return t
}

// confirms tells that a message may be believed: one of an earlier term raft
// ignores, any other confirms no more than was told.
func (t *told) confirms(m *raftpb.Message) bool {
	if m.GetTerm() < t.term {
		return true
	}
	most := told{}
	if m.GetTerm() == t.term {
		most = *t
	}
	switch m.GetType() { //nolint:exhaustive // the rest confirms nothing
	case raftpb.MsgAppResp:
		return m.GetReject() || m.GetIndex() <= most.index
	case raftpb.MsgHeartbeatResp:
		context := m.GetContext()
		return len(context) < 8 || binary.LittleEndian.Uint64(context) <= most.reads
	}
	return true
}
