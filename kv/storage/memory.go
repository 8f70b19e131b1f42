package storage

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// Memory is a raft log and hard state in memory. It satisfies replica.Log, and
// all of its methods are for the raft goroutine alone: it has no lock.
//
// Entries are shared with raft and with whoever was handed them, so neither
// they nor a slot that was handed out is ever written again: a conflicting
// suffix is written to a new array. Invariant: entries[i] has the index
// base+1+i.
type Memory struct {
	entries []*raftpb.Entry
	base    uint64 // index before the first entry: compacted, or the snapshot's
	term    uint64 // of base
	bytes   uint64 // of the data of entries

	// Compacted entries that the array under entries still holds.
	dead      uint64
	deadBytes uint64

	hardState *raftpb.HardState // nil before the first
	confState *raftpb.ConfState // of the last snapshot restored
}

// NewMemory returns an empty log: its first index is 1, the term before it 0.
func NewMemory() *Memory { return &Memory{confState: &raftpb.ConfState{}} }

// InitialState returns the hard state, nil before the first, and the
// configuration of the last snapshot restored, empty before the first.
func (m *Memory) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return m.hardState, m.confState, nil
}

func (m *Memory) last() uint64 { return m.base + uint64(len(m.entries)) }

// FirstIndex returns the index after the last that was compacted.
func (m *Memory) FirstIndex() (uint64, error) { return m.base + 1, nil }

// LastIndex returns the index of the last entry, or FirstIndex-1 if there are
// none.
func (m *Memory) LastIndex() (uint64, error) { return m.last(), nil }

// Bytes returns the size of the data of all entries.
func (m *Memory) Bytes() uint64 { return m.bytes }

// Term returns the term of index i, from FirstIndex-1 to LastIndex; before that
// raft.ErrCompacted, after it raft.ErrUnavailable.
func (m *Memory) Term(i uint64) (uint64, error) {
	switch {
	case i < m.base:
		return 0, raft.ErrCompacted
	case i == m.base:
		return m.term, nil
	case i > m.last():
		return 0, raft.ErrUnavailable
	}
	return m.entries[i-m.base-1].GetTerm(), nil
}

// Entries returns the entries of [lo, hi), or as many of them as have at most
// maxSize encoded bytes, and at least one. The slice stays as it is, whatever
// becomes of the log; appending to it copies it. raft.ErrCompacted if lo is
// before FirstIndex, raft.ErrUnavailable if hi is past the end.
func (m *Memory) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= m.base {
		return nil, raft.ErrCompacted
	}
	if lo > hi || hi > m.last()+1 {
		return nil, raft.ErrUnavailable
	}
	from, to := lo-m.base-1, hi-m.base-1
	return limit(m.entries[from:to:to], maxSize), nil
}

// Snapshot always returns raft.ErrSnapshotTemporarilyUnavailable: what a
// snapshot is, only the replica knows, and it puts its own answer before this.
func (m *Memory) Snapshot() (*raftpb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

// limit shortens entries to at most maxSize encoded bytes, but not below one,
// and to their own capacity.
func limit(entries []*raftpb.Entry, maxSize uint64) []*raftpb.Entry {
	var size uint64
	for i, e := range entries {
		size += encodedSize(e)
		if size > maxSize && i > 0 {
			return entries[:i:i]
		}
	}
	return entries
}

// encodedSize is proto.Size, which is a third of raft's cost when it walks every
// entry by reflection.
func encodedSize(e *raftpb.Entry) uint64 {
	n := 0
	if e.Type != nil {
		n += 1 + protowire.SizeVarint(uint64(e.GetType()))
	}
	if e.Term != nil {
		n += 1 + protowire.SizeVarint(e.GetTerm())
	}
	if e.Index != nil {
		n += 1 + protowire.SizeVarint(e.GetIndex())
	}
	if e.Data != nil {
		n += 1 + protowire.SizeBytes(len(e.GetData()))
	}
	return uint64(n)
}

// Append adds entries, in place of those at their indexes and after, and keeps
// the hard state unless it is nil or empty. It keeps the entries and hs; they
// must not be changed any more. Entries that would leave a gap, or are out of
// sequence, are an error and nothing is changed; those before FirstIndex are
// left out.
func (m *Memory) Append(entries []*raftpb.Entry, hs *raftpb.HardState) error {
	if err := m.append(entries); err != nil {
		return err
	}
	if !raft.IsEmptyHardState(hs) {
		m.hardState = hs
	}
	return nil
}

func (m *Memory) append(entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].GetIndex()
	if first > m.last()+1 {
		return fmt.Errorf("append of entries from %d leaves a gap: the last is %d", first, m.last())
	}
	var size uint64
	for i, e := range entries {
		if want := first + uint64(i); e.GetIndex() != want {
			return fmt.Errorf("append of entries from %d: %d where %d should be", first, e.GetIndex(), want)
		}
		if e.GetIndex() > m.base {
			size += uint64(len(e.GetData()))
		}
	}
	if first <= m.base {
		entries = entries[min(m.base+1-first, uint64(len(entries))):]
		first = m.base + 1
		if len(entries) == 0 {
			return nil
		}
	}
	if keep := first - m.base - 1; keep < uint64(len(m.entries)) {
		for _, e := range m.entries[keep:] {
			m.bytes -= uint64(len(e.GetData()))
		}
		m.entries = m.entries[:keep:keep] // the append below copies
	}
	if len(m.entries)+len(entries) > cap(m.entries) {
		m.dead, m.deadBytes = 0, 0 // a new array, of the live ones only
	}
	m.entries = append(m.entries, entries...)
	m.bytes += size
	return nil
}

// Restore drops the log in favour of a snapshot: the log is empty after it, and
// FirstIndex is the index after the snapshot's, whose term stays known.
func (m *Memory) Restore(meta *raftpb.SnapshotMetadata) error {
	m.entries, m.bytes, m.dead, m.deadBytes = nil, 0, 0, 0
	m.base, m.term = meta.GetIndex(), meta.GetTerm()
	m.confState = meta.GetConfState()
	if m.confState == nil {
		m.confState = &raftpb.ConfState{}
	}
	return nil
}

// Compact drops the entries up to and including index: raft.ErrCompacted if
// they are gone already, raft.ErrUnavailable if the log does not reach index.
// The slots of dropped entries may have been handed out, so they are not
// cleared; instead the live ones move to a new array once those dropped hold more
// than a quarter of what the live ones do.
func (m *Memory) Compact(index uint64) error {
	if index <= m.base {
		return raft.ErrCompacted
	}
	if index > m.last() {
		return raft.ErrUnavailable
	}
	n := index - m.base
	m.term = m.entries[n-1].GetTerm()
	for _, e := range m.entries[:n] {
		m.deadBytes += uint64(len(e.GetData()))
		m.bytes -= uint64(len(e.GetData()))
	}
	m.dead += n
	m.entries, m.base = m.entries[n:], index
	if 4*m.dead > uint64(len(m.entries)) || 4*m.deadBytes > m.bytes {
		// With room to grow, or the next append would move them once more.
		live := make([]*raftpb.Entry, len(m.entries), len(m.entries)+len(m.entries)/2)
		copy(live, m.entries)
		m.entries, m.dead, m.deadBytes = live, 0, 0
	}
	return nil
}
