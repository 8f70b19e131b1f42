package storage

import (
	"errors"
	"io"
	"log"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

func entry(index, term uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryNormal.Enum(), Data: data}
}

func entries(first, n, term uint64) []*raftpb.Entry {
	es := make([]*raftpb.Entry, n)
	for i := range es {
		es[i] = entry(first+uint64(i), term, make([]byte, 10))
	}
	return es
}

// A twin is the log as a map, every answer computed from it.
type twin struct {
	entries    map[uint64]*raftpb.Entry
	base, last uint64
	term       uint64
	restored   *raftpb.ConfState
	hard       *raftpb.HardState
	handed     [][]*raftpb.Entry // slices that Entries returned, and copies of
	handedThen [][]*raftpb.Entry // them made at that time
}

func (w *twin) termOf(i uint64) (uint64, error) {
	switch {
	case i < w.base:
		return 0, raft.ErrCompacted
	case i == w.base:
		return w.term, nil
	case i > w.last:
		return 0, raft.ErrUnavailable
	}
	return w.entries[i].GetTerm(), nil
}

func (w *twin) slice(lo, hi, maxSize uint64) []*raftpb.Entry {
	var es []*raftpb.Entry
	size := 0
	for i := lo; i < hi; i++ {
		size += proto.Size(w.entries[i])
		if len(es) > 0 && uint64(size) > maxSize {
			break
		}
		es = append(es, w.entries[i])
	}
	return es
}

func TestMemoryIsTwin(t *testing.T) {
	anyData := rapid.SliceOfN(rapid.Byte(), 0, 300)
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory()
		w := &twin{entries: map[uint64]*raftpb.Entry{}, restored: &raftpb.ConfState{}}
		term := uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				term += rapid.Uint64Range(0, 1).Draw(t, "terms")
				// At the end mostly; sometimes over a suffix, or what is compacted.
				first := w.last + 1 - min(w.last, rapid.SampledFrom([]uint64{0, 0, 0, 1, 5, 50}).Draw(t, "back"))
				var es []*raftpb.Entry
				for i := range rapid.Uint64Range(0, 20).Draw(t, "n") {
					es = append(es, entry(first+i, term, anyData.Draw(t, "data")))
				}
				var hs *raftpb.HardState
				if rapid.Bool().Draw(t, "hard state") {
					hs = &raftpb.HardState{Term: new(term), Commit: new(w.last)}
					w.hard = hs
				}
				if err := m.Append(es, hs); err != nil {
					t.Fatal(err)
				}
				for _, e := range es {
					if i := e.GetIndex(); i > w.base {
						w.entries[i], w.last = e, i
					}
				}
			},
			"gap": func(t *rapid.T) {
				es := entries(w.last+2, 2, term)
				if err := m.Append(es, &raftpb.HardState{Term: new(uint64(math.MaxUint64))}); err == nil {
					t.Fatal("a gap was accepted")
				}
			},
			"compact": func(t *rapid.T) {
				index := rapid.Uint64Range(w.base-min(w.base, 2), w.last+2).Draw(t, "index")
				want := error(nil)
				switch {
				case index <= w.base:
					want = raft.ErrCompacted
				case index > w.last:
					want = raft.ErrUnavailable
				}
				if err := m.Compact(index); !errors.Is(err, want) {
					t.Fatalf("Compact(%d) of [%d, %d]: %v, want %v", index, w.base+1, w.last, err, want)
				}
				if want == nil {
					w.base, w.term = index, w.entries[index].GetTerm()
				}
			},
			"restore": func(t *rapid.T) {
				term++
				w.base += rapid.Uint64Range(1, 100).Draw(t, "ahead")
				w.last, w.term = w.base, term
				w.restored = &raftpb.ConfState{Voters: []uint64{w.base}}
				if err := m.Restore(&raftpb.SnapshotMetadata{Index: new(w.base), Term: new(term), ConfState: w.restored}); err != nil {
					t.Fatal(err)
				}
			},
			"entries": func(t *rapid.T) {
				if w.last == w.base {
					t.Skip("an empty log")
				}
				lo := rapid.Uint64Range(w.base+1, w.last).Draw(t, "lo")
				hi := rapid.Uint64Range(lo, w.last+1).Draw(t, "hi")
				maxSize := rapid.SampledFrom([]uint64{0, 100, 1000, math.MaxUint64}).Draw(t, "max size")
				if rapid.Bool().Draw(t, "exact") {
					maxSize = 0
					for i := lo; i < hi; i++ {
						maxSize += uint64(proto.Size(w.entries[i]))
					}
				}
				got, err := m.Entries(lo, hi, maxSize)
				if err != nil {
					t.Fatal(err)
				}
				if want := w.slice(lo, hi, maxSize); !slices.Equal(got, want) {
					t.Fatalf("Entries(%d, %d, %d): %d entries, want %d", lo, hi, maxSize, len(got), len(want))
				}
				w.handed, w.handedThen = append(w.handed, got), append(w.handedThen, slices.Clone(got))
				_ = append(got, entry(999, 999, nil)) // the caller may
			},
			"": func(t *rapid.T) {
				first, _ := m.FirstIndex()
				last, _ := m.LastIndex()
				if first != w.base+1 || last != w.last {
					t.Fatalf("log [%d, %d], want [%d, %d]", first, last, w.base+1, w.last)
				}
				var bytes uint64
				for i := w.base + 1; i <= w.last; i++ {
					bytes += uint64(len(w.entries[i].GetData()))
				}
				if m.Bytes() != bytes {
					t.Fatalf("%d bytes, want %d", m.Bytes(), bytes)
				}
				for i := w.base - min(w.base, 2); i <= w.last+2; i++ {
					got, err := m.Term(i)
					want, wantErr := w.termOf(i)
					if got != want || !errors.Is(err, wantErr) {
						t.Fatalf("Term(%d) = %d, %v; want %d, %v", i, got, err, want, wantErr)
					}
				}
				if w.last > w.base {
					all, err := m.Entries(w.base+1, w.last+1, math.MaxUint64)
					if err != nil || !slices.Equal(all, w.slice(w.base+1, w.last+1, math.MaxUint64)) {
						t.Fatalf("all entries: %d, %v", len(all), err)
					}
				}
				hs, cs, err := m.InitialState()
				if err != nil || hs != w.hard || cs == nil || !proto.Equal(cs, w.restored) {
					t.Fatalf("initial state %v, %v, %v; want %v, %v", hs, cs, err, w.hard, w.restored)
				}
				for i := range w.handed {
					if !slices.Equal(w.handed[i], w.handedThen[i]) {
						t.Fatalf("a slice that was handed out changed")
					}
				}
				checkRetained(t, m)
			},
		})
	})
}

// checkRetained holds Compact to its promise about memory: the array keeps at
// most a quarter as many entries, and as much data, as are live.
func checkRetained(t *rapid.T, m *Memory) {
	if 4*m.dead > uint64(len(m.entries)) || 4*m.deadBytes > m.bytes {
		t.Fatalf("%d entries and %d bytes kept for %d and %d", m.dead, m.deadBytes, len(m.entries), m.bytes)
	}
}

// Compaction one by one moves the log rarely, whether entries carry data or not.
func TestCompactIsAmortised(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 100)} {
		m := NewMemory()
		var es []*raftpb.Entry
		for i := range uint64(10_000) {
			es = append(es, entry(i+1, 1, data))
		}
		if err := m.Append(es, nil); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for i := range uint64(5000) {
			before := &m.entries[1]
			if err := m.Compact(i + 1); err != nil {
				t.Fatal(err)
			}
			if before != &m.entries[0] {
				moved++
			}
		}
		if moved > 5 {
			t.Errorf("entries of %d bytes: the log moved %d times", len(data), moved)
		}
	}
}

// The boundaries that raft's Storage promises, beside raft's own storage.
func TestBoundaries(t *testing.T) {
	m, own := NewMemory(), raft.NewMemoryStorage()
	es := entries(1, 10, 3)
	if err := errors.Join(m.Append(es, nil), own.Append(es), m.Compact(4), own.Compact(4)); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(13) {
		got, err := m.Term(i)
		want, wantErr := own.Term(i)
		if got != want || !errors.Is(err, wantErr) {
			t.Errorf("Term(%d) = %d, %v; raft's own %d, %v", i, got, err, want, wantErr)
		}
	}
	for lo := range uint64(11) {
		for hi := lo; hi <= 11; hi++ {
			for _, maxSize := range []uint64{0, 50, math.MaxUint64} {
				got, err := m.Entries(lo, hi, maxSize)
				want, wantErr := own.Entries(lo, hi, maxSize)
				if !slices.Equal(got, want) || !errors.Is(err, wantErr) {
					t.Errorf("Entries(%d, %d, %d) = %d entries, %v; raft's own %d, %v", lo, hi, maxSize, len(got), err, len(want), wantErr)
				}
			}
		}
	}
	if _, err := m.Entries(9, 12, math.MaxUint64); !errors.Is(err, raft.ErrUnavailable) {
		t.Errorf("Entries past the end: %v", err)
	}
	if _, err := m.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("Snapshot: %v", err)
	}
	for _, index := range []uint64{0, 4} {
		if err := m.Compact(index); !errors.Is(err, raft.ErrCompacted) {
			t.Errorf("Compact(%d): %v", index, err)
		}
	}
	if err := m.Compact(11); !errors.Is(err, raft.ErrUnavailable) {
		t.Errorf("Compact(11): %v", err)
	}
	// Nothing of these is left after a refused append.
	if err := m.Append([]*raftpb.Entry{entry(11, 3, nil), entry(13, 3, nil)}, nil); err == nil {
		t.Error("entries out of sequence were accepted")
	}
	if last, _ := m.LastIndex(); last != 10 {
		t.Errorf("last index %d", last)
	}
}

func TestNewMemoryIsEmpty(t *testing.T) {
	m := NewMemory()
	first, _ := m.FirstIndex()
	last, _ := m.LastIndex()
	term, err := m.Term(0)
	if first != 1 || last != 0 || term != 0 || err != nil || m.Bytes() != 0 {
		t.Fatalf("first %d, last %d, term %d, %v", first, last, term, err)
	}
	hs, cs, err := m.InitialState()
	if !raft.IsEmptyHardState(hs) || cs == nil || err != nil {
		t.Fatalf("%v, %v, %v", hs, cs, err)
	}
	// An empty hard state changes nothing.
	want := &raftpb.HardState{Term: new(uint64(2))}
	if err := errors.Join(m.Append(nil, want), m.Append(nil, &raftpb.HardState{}), m.Append(nil, nil)); err != nil {
		t.Fatal(err)
	}
	if hs, _, _ := m.InitialState(); !proto.Equal(hs, want) {
		t.Fatal(cmp.Diff(want, hs, protocmp.Transform()))
	}
}

func TestEncodedSizeIsProtoSize(t *testing.T) {
	for _, e := range []*raftpb.Entry{
		{},
		entry(0, 0, nil), entry(1, 1, []byte{}), entry(300, 1<<40, make([]byte, 127)), entry(math.MaxUint64, 7, make([]byte, 1<<20)),
		{Type: raftpb.EntryConfChangeV2.Enum(), Data: make([]byte, 128)},
	} {
		if got, want := encodedSize(e), uint64(proto.Size(e)); got != want {
			t.Errorf("%d bytes, proto.Size says %d", got, want)
		}
	}
}

// A raft node elects itself, commits, compacts and goes on over this log.
func TestRawNodeOverMemory(t *testing.T) {
	m := NewMemory()
	if err := m.Restore(&raftpb.SnapshotMetadata{Index: new(uint64(5)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{1}}}); err != nil {
		t.Fatal(err)
	}
	node, err := raft.NewRawNode(&raft.Config{
		ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: m, Applied: 5, MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 16,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Campaign(); err != nil {
		t.Fatal(err)
	}
	var applied uint64
	for i := range 200 {
		if node.Status().RaftState == raft.StateLeader {
			if err := node.Propose([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		for node.HasReady() {
			rd := node.Ready()
			if err := m.Append(rd.Entries, rd.HardState); err != nil {
				t.Fatal(err)
			}
			for _, e := range rd.CommittedEntries {
				applied = e.GetIndex()
			}
			node.Advance(rd)
		}
		if applied > 5 && i%10 == 9 {
			if err := m.Compact(applied - 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, _ := m.FirstIndex()
	if applied < 200 || first < 190 {
		t.Fatalf("applied %d, first index %d", applied, first)
	}
}

// A steady log: append a message's worth, compact to a bounded length.
func BenchmarkAppendCompact(b *testing.B) {
	for _, c := range []struct {
		name       string
		keep, each uint64
	}{{"keep=10000/entries=1", 10000, 1}, {"keep=10000/entries=64", 10000, 64}, {"keep=100000/entries=64", 100000, 64}} {
		b.Run(c.name, func(b *testing.B) {
			m := NewMemory()
			if err := m.Append(entries(1, c.keep, 1), nil); err != nil {
				b.Fatal(err)
			}
			// The entries are raft's cost, not the log's: these are used over and over.
			es := entries(0, c.each, 1)
			next := c.keep + 1
			b.ReportAllocs()
			for b.Loop() {
				for _, e := range es {
					*e.Index = next
					next++
				}
				if err := m.Append(es, nil); err != nil {
					b.Fatal(err)
				}
				if err := m.Compact(next - 1 - c.keep); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(c.each)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
