package storage_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"

	"raftlab/kv/storage"
)

func open(t testing.TB, o storage.Options) *storage.Disk {
	t.Helper()
	d, err := storage.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// message is a MsgStorageAppend; first 0 means no entries, term 0 no hard state.
func message(first, n, entryTerm, term, vote, commit uint64) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgStorageAppend.Enum()}
	for i := range n {
		m.Entries = append(m.Entries, &raftpb.Entry{
			Index: new(first + i), Term: new(entryTerm), Type: raftpb.EntryNormal.Enum(), Data: []byte{byte(first + i), byte(entryTerm)},
		})
	}
	if term > 0 {
		m.Term, m.Vote, m.Commit = new(term), new(vote), new(commit)
	}
	return m
}

func meta(index, term uint64) *raftpb.SnapshotMetadata {
	return &raftpb.SnapshotMetadata{Index: new(index), Term: new(term), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}
}

func restart(index, term uint64) *raftpb.Message {
	m := message(0, 0, 0, term, 0, index)
	m.Snapshot = &raftpb.Snapshot{Metadata: meta(index, term)}
	return m
}

func write(t testing.TB, d *storage.Disk, messages ...*raftpb.Message) {
	t.Helper()
	if err := d.Write(messages); err != nil {
		t.Fatal(err)
	}
}

func snapshot(t testing.TB, d *storage.Disk, index, term uint64, data string) {
	t.Helper()
	s, err := d.NewSnapshot(meta(index, term))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s, data); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
}

// want checks the log's range, the hard state and the snapshot's index.
func want(t testing.TB, d *storage.Disk, first, last, term, vote, commit, snap uint64) {
	t.Helper()
	l := d.Log()
	gotFirst, _ := l.FirstIndex()
	gotLast, _ := l.LastIndex()
	hs, _, _ := l.InitialState()
	m, r, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if r != nil {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := []uint64{gotFirst, gotLast, hs.GetTerm(), hs.GetVote(), hs.GetCommit(), m.GetIndex()}
	if diff := cmp.Diff([]uint64{first, last, term, vote, commit, snap}, got); diff != "" {
		t.Fatalf("first, last, term, vote, commit, snapshot:\n%s", diff)
	}
}

func TestWriteAndReopen(t *testing.T) {
	for _, policy := range []string{storage.SyncAlways, storage.SyncBatched, storage.SyncNever} {
		t.Run(policy, func(t *testing.T) {
			o := storage.Options{Dir: filepath.Join(t.TempDir(), "a", "node"), Sync: policy, Node: 1, SegmentSize: 200}
			d := open(t, o)
			want(t, d, 1, 0, 0, 0, 0, 0)
			incarnation := d.Incarnation()
			write(t, d, message(1, 3, 1, 1, 2, 0), message(4, 2, 1, 0, 0, 0))
			write(t, d, message(0, 0, 0, 1, 2, 4))
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := d.Write(nil); !errors.Is(err, storage.ErrClosed) {
				t.Fatalf("Write after Close: %v", err)
			}

			d = open(t, o)
			want(t, d, 1, 5, 1, 2, 4, 0)
			if d.Incarnation() != incarnation || incarnation == 0 {
				t.Fatalf("incarnation %d, was %d", d.Incarnation(), incarnation)
			}
			write(t, d, message(5, 3, 2, 2, 3, 4)) // over a conflicting entry
			snapshot(t, d, 4, 1, "state at 4")
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}

			d = open(t, o)
			want(t, d, 5, 7, 2, 3, 4, 4)
			es, err := d.Log().Entries(5, 8, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(message(5, 3, 2, 0, 0, 0).Entries, es, protocmp.Transform()); diff != "" {
				t.Fatal(diff)
			}
			_, cs, _ := d.Log().InitialState()
			if diff := cmp.Diff(meta(4, 1).GetConfState(), cs, protocmp.Transform()); diff != "" {
				t.Fatal(diff)
			}
			m, r, err := d.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil {
				t.Fatal(err)
			}
			if string(data) != "state at 4" || m.GetTerm() != 1 {
				t.Fatalf("snapshot %v of %q", m, data)
			}
			snapshot(t, d, 20, 3, "state at 20")
			write(t, d, restart(20, 3), message(21, 1, 3, 0, 0, 0))
			if err := errors.Join(d.Release(20), d.Close()); err != nil {
				t.Fatal(err)
			}

			d = open(t, o)
			want(t, d, 21, 21, 3, 0, 20, 20)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			checkModes(t, o.Dir)
		})
	}
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
