package storage_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"raftlab/kv/storage"
	"raftlab/kv/storage/storagetest"
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

// Twin: the log after a reopen is what storage.Memory makes of the same calls.
func TestDiskIsMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := storage.Options{Dir: "/d", FS: storagetest.New(), Node: 1, SegmentSize: rapid.Int64Range(1, 2000).Draw(t, "segment size")}
		o.Sync = rapid.SampledFrom([]string{storage.SyncAlways, storage.SyncBatched, storage.SyncNever}).Draw(t, "sync")
		d, err := storage.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		twin := storage.NewMemory()
		hard := &raftpb.HardState{}
		saved := uint64(0) // index of the newest snapshot
		save := func(m *raftpb.SnapshotMetadata) {
			f, err := d.NewSnapshot(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(rapid.SliceOf(rapid.Byte()).Draw(t, "state")); err != nil {
				t.Fatal(err)
			}
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			saved = m.GetIndex()
		}
		do := func(m *raftpb.Message) {
			if err := d.Write([]*raftpb.Message{m}); err != nil {
				t.Fatal(err)
			}
			if m.Snapshot != nil {
				if err := twin.Restore(m.Snapshot.Metadata); err != nil {
					t.Fatal(err)
				}
			}
			hard = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
			if err := twin.Append(m.Entries, hard); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				last, _ := twin.LastIndex()
				first := rapid.Uint64Range(max(hard.GetCommit(), saved)+1, last+1).Draw(t, "first")
				term := hard.GetTerm() + 1
				n := rapid.Uint64Range(1, 20).Draw(t, "n")
				do(message(first, n, term, term, 0, rapid.Uint64Range(max(hard.GetCommit(), saved), first+n-1).Draw(t, "commit")))
			},
			"snapshot": func(t *rapid.T) {
				if index := hard.GetCommit(); index > saved {
					term, err := twin.Term(index)
					if err != nil {
						t.Fatal(err)
					}
					save(meta(index, term))
				}
			},
			"restart": func(t *rapid.T) {
				last, _ := twin.LastIndex()
				index, term := last+rapid.Uint64Range(1, 5).Draw(t, "ahead"), hard.GetTerm()+1
				save(meta(index, term))
				do(restart(index, term))
			},
			"release": func(t *rapid.T) {
				if err := d.Release(saved); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) {
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				if d, err = storage.Open(o); err != nil {
					t.Fatal(err)
				}
				if first, _ := twin.FirstIndex(); saved >= first {
					if err := twin.Compact(saved); err != nil {
						t.Fatal(err)
					}
				}
				sameLog(t, d.Log(), twin)
			},
		})
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func sameLog(t *rapid.T, got, want *storage.Memory) {
	first, _ := got.FirstIndex()
	last, _ := got.LastIndex()
	wantFirst, _ := want.FirstIndex()
	wantLast, _ := want.LastIndex()
	if first != wantFirst || last != wantLast || got.Bytes() != want.Bytes() {
		t.Fatalf("log [%d, %d] of %d bytes, want [%d, %d] of %d", first, last, got.Bytes(), wantFirst, wantLast, want.Bytes())
	}
	gotTerm, err := got.Term(first - 1)
	wantTerm, wantErr := want.Term(first - 1)
	if gotTerm != wantTerm || err != nil || wantErr != nil {
		t.Fatalf("term %d, %v before the log, want %d, %v", gotTerm, err, wantTerm, wantErr)
	}
	if last >= first {
		es, err := got.Entries(first, last+1, 1<<40)
		wantEs, wantErr := want.Entries(first, last+1, 1<<40)
		if err := errors.Join(err, wantErr); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantEs, es, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	}
	hs, _, _ := got.InitialState()
	wantHs, _, _ := want.InitialState()
	if hs.GetTerm() != wantHs.GetTerm() || hs.GetVote() != wantHs.GetVote() || hs.GetCommit() != wantHs.GetCommit() {
		t.Fatalf("hard state %v, want %v", hs, wantHs)
	}
}

// What was cut off as torn does not come back when something as long is written
// in place of its beginning. That ends with a page and with a segment, so that no
// zeros are written behind it.
func TestCutOffStaysOff(t *testing.T) {
	f := newFolder(t)
	f.o.Sync = storage.SyncBatched
	fill := message(2, 1, 1, 0, 0, 0)
	f.use(func(d *storage.Disk) {
		write(t, d, message(1, 1, 1, 1, 1, 0))
		const end, framing = 120, 24 + 16 // of the first record, and with an entry of this length
		fill.Entries[0].Data = make([]byte, 4096-end-framing)
		write(t, d, fill, message(3, 1, 1, 0, 0, 0)) // one fsync: neither tells of the other
	})
	if n := len(f.content(journal1)); n != 4096+40 {
		t.Fatalf("%d bytes: entry 3 does not begin with a page", n)
	}
	f.change(journal1, flip(150)) // in the record of entry 2
	f.o.SegmentSize = 4096
	d := open(t, f.o)
	if last, _ := d.Log().LastIndex(); last != 1 {
		t.Fatalf("last index %d after the cut", last)
	}
	write(t, d, fill)
	f.fs.Kill()
	f.use(func(d *storage.Disk) {
		if last, _ := d.Log().LastIndex(); last != 2 {
			t.Fatalf("last index %d: what was cut off is there again", last)
		}
	})
}

// Most fsyncs overwrite: a segment grows ahead of what is written to it, unless
// the policy is never.
func TestSegmentsGrowAhead(t *testing.T) {
	for _, policy := range []string{storage.SyncAlways, storage.SyncBatched, storage.SyncNever} {
		f := newFolder(t)
		f.o.Sync = policy
		f.o.SegmentSize = 0
		grown := 0
		f.use(func(d *storage.Disk) {
			size := len(f.content(journal1))
			for i := range uint64(200) {
				write(t, d, message(i+1, 1, 1, 1, 1, 0))
				if now := len(f.content(journal1)); now != size {
					size = now
					grown++
				}
			}
			if s := d.Stats(); s.JournalBytes != uint64(size) || s.Bytes > 10000 {
				t.Errorf("%s: %d bytes in the journal, the file has %d; %d written", policy, s.JournalBytes, size, s.Bytes)
			}
		})
		if want := map[bool]int{true: 200, false: 1}[policy == storage.SyncNever]; grown != want {
			t.Errorf("%s: the file grew %d times, want %d", policy, grown, want)
		}
		if size := len(f.content(journal1)); size > 10000 {
			t.Errorf("%s: %d bytes after Close", policy, size)
		}
	}
}

// In a steady state segments that were released are written over, and nothing
// grows. None of it is left by a Close.
func TestReleasedSegmentsAreWrittenOver(t *testing.T) {
	f := newFolder(t)
	f.o.Sync, f.o.SegmentSize = storage.SyncBatched, 16<<10
	created, index := 0, uint64(0)
	f.fs.Before = func(op storagetest.Op) error {
		if op.Kind == "create" && strings.Contains(op.Name, "journal-") {
			created++
		}
		return nil
	}
	files := func() (names []string, bytes uint64) {
		all, err := f.fs.List(f.o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range all {
			if strings.HasPrefix(name, "journal-") {
				names, bytes = append(names, name), bytes+uint64(len(f.content(name)))
			}
		}
		return names, bytes
	}
	f.use(func(d *storage.Disk) {
		var size uint64
		for round := range 40 {
			for range 50 { // of about 1 KiB: three segments and a bit
				index++
				m := message(index, 1, 1, 1, 0, index)
				m.Entries[0].Data = make([]byte, 1000)
				write(t, d, m)
			}
			snapshot(t, d, index, 1, "state")
			if err := d.Release(index); err != nil {
				t.Fatal(err)
			}
			names, bytes := files()
			if s := d.Stats(); s.JournalBytes != bytes {
				t.Fatalf("%d bytes in the journal by the counter, %d in %v", s.JournalBytes, bytes, names)
			}
			if round == 10 {
				created, size = 0, bytes
			}
			if round > 10 && (created > 0 || bytes > size+4<<10) {
				t.Fatalf("round %d: %d files created, %d bytes in %v, which were %d", round, created, bytes, names, size)
			}
		}
	})
	if names, _ := files(); slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".tmp") }) {
		t.Errorf("left %v", names)
	}
	f.log.Reset()
	f.use(func(d *storage.Disk) { want(t, d, index+1, index, 1, 0, index, index) })
	if f.log.Len() > 0 {
		t.Errorf("logged %s", &f.log)
	}
}

// Snapshots, releases and status come from other goroutines than Write.
func TestConcurrentUse(t *testing.T) {
	d := open(t, storage.Options{Dir: t.TempDir(), Node: 1, Sync: storage.SyncBatched, SegmentSize: 4 << 10})
	const n = 300
	done := make(chan struct{})
	var others sync.WaitGroup
	var written atomic.Uint64
	others.Go(func() {
		for last := uint64(0); last < n; {
			if index := written.Load(); index > last {
				last = index
				snapshot(t, d, last, 1, "state")
				if err := d.Release(last); err != nil {
					t.Error(err)
					return
				}
			} else {
				runtime.Gosched()
			}
		}
	})
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if s := d.Stats(); s.Segments == 0 {
				t.Error("no segment")
				return
			}
			_, r, err := d.Snapshot()
			if err == nil && r != nil {
				_, err = io.Copy(io.Discard, r)
				err = errors.Join(err, r.Close())
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range uint64(n) {
		write(t, d, message(i+1, 1, 1, 1, 1, i+1))
		written.Store(i + 1)
	}
	close(done)
	others.Wait()
	s := d.Stats()
	if s.Appends != n || s.Fsyncs < n || s.FsyncTime == 0 || s.FsyncMax > s.FsyncTime || s.Segments > 2 || s.Snapshots == 0 ||
		s.SnapshotBytes == 0 || s.Bytes == 0 {
		t.Errorf("%+v", s)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// Two handles of one folder are one too many, in the same process too.
func TestLockOfTheOS(t *testing.T) {
	o := storage.Options{Dir: t.TempDir(), Node: 1}
	d := open(t, o)
	if _, err := storage.Open(o); !errors.Is(err, storage.ErrLocked) {
		t.Fatalf("second Open: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, o)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFolderThatIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := storage.Open(storage.Options{Dir: path, Node: 1})
	want := "data folder " + path + " is not writable: open " + path + "/LOCK: not a directory: let this user write there, or choose another folder"
	if err == nil || err.Error() != want {
		t.Fatalf("%v, want %q", err, want)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		o    storage.Options
		want string
	}{
		{storage.Options{Node: 1}, "data folder: no path"},
		{storage.Options{Dir: "x"}, "data folder: node 0"},
		{storage.Options{Dir: "x", Node: 1, Sync: "often"}, `sync "often": not always, batched or never`},
		{storage.Options{Dir: "x", Node: 1, SegmentSize: -1}, "segment size -1 is negative"},
	} {
		if _, err := storage.Open(c.o); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestSnapshotFileMisuse(t *testing.T) {
	d := open(t, storage.Options{Dir: t.TempDir(), Node: 1})
	defer func() { _ = d.Close() }()
	snapshot(t, d, 5, 1, "state")
	if _, err := d.NewSnapshot(meta(4, 1)); err == nil || err.Error() != "snapshot of index 4 is older than the newest, of index 5" {
		t.Errorf("older: %v", err)
	}
	if _, err := d.NewSnapshot(meta(0, 1)); err == nil {
		t.Error("index 0 was accepted")
	}
	s, err := d.NewSnapshot(meta(5, 1)) // the same again is fine
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.NewSnapshot(meta(9, 1)); err == nil || err.Error() != "another snapshot is being written" {
		t.Errorf("a second one: %v", err)
	}
	if err := errors.Join(s.Commit(), s.Abort()); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err == nil {
		t.Error("committed twice")
	}
	err = d.Write([]*raftpb.Message{restart(9, 1)})
	if err == nil || !strings.HasSuffix(err.Error(), ": log restarts at index 9, of which no snapshot was committed") {
		t.Errorf("restart without a snapshot: %v", err)
	}
	if again := d.Write(nil); again == nil || again.Error() != err.Error() {
		t.Errorf("later: %v", again)
	}
}

func TestClusterID(t *testing.T) {
	o := storage.Options{Dir: t.TempDir(), Node: 1}
	d := open(t, o)
	if err := errors.Join(d.SetClusterID(7), d.SetClusterID(7), d.Close()); err != nil {
		t.Fatal(err)
	}
	d = open(t, o)
	defer func() { _ = d.Close() }()
	if d.ClusterID() != 7 {
		t.Fatalf("cluster %d", d.ClusterID())
	}
	if err, want := d.SetClusterID(8), o.Dir+" belongs to cluster 7, not 8: choose another folder"; err == nil || err.Error() != want {
		t.Fatalf("%v, want %q", err, want)
	}
}

// One message of one entry.
func BenchmarkWrite(b *testing.B) {
	for _, policy := range []string{storage.SyncAlways, storage.SyncBatched, storage.SyncNever} {
		for _, size := range []int{256, 4 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("sync=%s/bytes=%d", policy, size), func(b *testing.B) {
				d := open(b, storage.Options{Dir: b.TempDir(), Node: 1, Sync: policy})
				m := message(1, 1, 1, 0, 0, 0)
				m.Entries[0].Data = make([]byte, size)
				messages := []*raftpb.Message{m}
				snapshot(b, d, 1<<40, 1, "state") // so that segments can go
				snapshot(b, d, 1<<40+1, 1, "state")
				b.SetBytes(int64(size))
				b.ReportAllocs()
				index := uint64(0)
				for b.Loop() {
					index++
					*m.Entries[0].Index = index
					if err := d.Write(messages); err != nil {
						b.Fatal(err)
					}
					if index%64 == 0 {
						if err := d.Release(index); err != nil {
							b.Fatal(err)
						}
					}
				}
				c := d.Stats()
				b.ReportMetric(float64(c.Bytes)/float64(index)/float64(size), "written/byte")
				b.ReportMetric(float64(c.Fsyncs)/float64(index), "fsyncs/op")
				if err := d.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
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

// Release lets go of no more than the older of two snapshots covers: the newer
// one may turn out to be damaged, and then the node comes back by the older.
func TestReleaseReachesBackToTheOlderSnapshot(t *testing.T) {
	o := storage.Options{Dir: t.TempDir(), Sync: storage.SyncNever, Node: 1, SegmentSize: 1}
	d := open(t, o)
	for i := range uint64(10) {
		write(t, d, message(i+1, 1, 1, 1, 0, i+1))
	}
	if err := errors.Join(d.Release(5), d.Close()); err != nil { // too early: there is no snapshot
		t.Fatal(err)
	}
	d = open(t, o)
	want(t, d, 1, 10, 1, 0, 10, 0)
	snapshot(t, d, 3, 1, "state at 3")
	snapshot(t, d, 6, 1, "state at 6")
	if err := d.Release(6); err != nil {
		t.Fatal(err)
	}
	if spares, _ := filepath.Glob(filepath.Join(o.Dir, "*.tmp")); len(spares) > 0 {
		t.Errorf("spares without a sync: %v", spares)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, o)
	want(t, d, 7, 10, 1, 0, 10, 6)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	newest := filepath.Join(o.Dir, fmt.Sprintf("snapshot-%020d", 6))
	damaged, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2]++
	if err := os.WriteFile(newest, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, o)
	want(t, d, 4, 10, 1, 0, 10, 3)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
