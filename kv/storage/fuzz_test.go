package storage_test

import (
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"raftlab/kv/storage"
)

// openAny opens a folder with a file of any content. It is refused, or it goes
// on; nothing panics and no length it claims is believed.
func openAny(t *testing.T, f *folder, size int) {
	t.Helper()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	d, err := storage.Open(f.o)
	runtime.ReadMemStats(&m1)
	if n := m1.TotalAlloc - m0.TotalAlloc; n > uint64(1<<20+500*size) {
		t.Fatalf("%d bytes allocated for a file of %d", n, size)
	}
	if err != nil {
		if !strings.HasPrefix(err.Error(), "/d") {
			t.Fatalf("the error does not begin with a path: %v", err)
		}
		return
	}
	got, err := recovered(d)
	if err != nil {
		t.Fatal(err)
	}
	if got.commit > got.last() {
		t.Fatalf("commit past the end: %v", &got)
	}
	if got.term+1 == 0 || got.last()+1 == 0 {
		return // the fuzzer's terms and indexes
	}
	m := message(got.last()+1, 1, got.term+1, got.term+1, 0, got.commit)
	write(t, d, m)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	want := got.apply(m)
	d = open(t, f.o)
	if again, err := recovered(d); err != nil || !again.equal(&want) {
		t.Fatalf("%v, %v; want %v", &again, err, &want)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// What follows the header of a segment is of any content. Sealed, its checksums
// are right.
func FuzzJournal(f *testing.F) {
	content := one(f).content(journal1)[40:]
	f.Add(content, false)
	f.Add(content, true)
	f.Add(content[:len(content)-3], true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		x := one(t)
		d := open(t, x.o)
		incarnation := d.Incarnation()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		header := x.content(journal1)[:40:40]
		if seal {
			x.put(journal1, storage.Seal(data, incarnation))
		} else {
			x.put(journal1, append(header, data...))
		}
		openAny(t, x, len(data))
	})
}

// A snapshot file is of any content, or sealed around any metadata.
func FuzzSnapshot(f *testing.F) {
	whole := snapshots(f).content(snap3)
	metadata, err := proto.Marshal(&raftpb.SnapshotMetadata{Index: new(uint64(3)), Term: new(uint64(1))})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, []byte(nil), false)
	f.Add([]byte("state at 3"), metadata, true)
	f.Fuzz(func(t *testing.T, data, metadata []byte, seal bool) {
		x := snapshots(t)
		if seal {
			data = storage.SealSnapshot(data, metadata)
		}
		x.put(snap3, data)
		openAny(t, x, len(data))
	})
}
