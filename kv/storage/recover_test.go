package storage_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"raftlab/kv/storage"
	"raftlab/kv/storage/storagetest"
)

const giveUp = ": remove the node, and add it again under a new id with an empty folder"

// A folder is one on a storagetest.Disk, whose Disk is closed.
type folder struct {
	t   testing.TB
	fs  *storagetest.Disk
	o   storage.Options
	log bytes.Buffer
}

func newFolder(t testing.TB) *folder {
	f := &folder{t: t, fs: storagetest.New()}
	handler := slog.NewTextHandler(&f.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	f.o = storage.Options{Dir: "/d", FS: f.fs, Node: 2, SegmentSize: 64 << 10, Logger: slog.New(handler)}
	return f
}

func (f *folder) use(fill func(d *storage.Disk)) {
	f.t.Helper()
	d := open(f.t, f.o)
	fill(d)
	if err := d.Close(); err != nil {
		f.t.Fatal(err)
	}
}

// one is a folder of one segment: its first record at 40, of 32 bytes, then
// three of an entry each, at 72, 120 and 160. The last ends at 200.
func one(t testing.TB) *folder {
	f := newFolder(t)
	f.use(func(d *storage.Disk) {
		write(t, d, message(1, 1, 1, 1, 1, 0), message(2, 1, 1, 0, 0, 0), message(3, 1, 1, 0, 0, 0))
	})
	return f
}

// three is a folder of three segments, with an entry in each of 48, 40 and 40
// bytes.
func three(t testing.TB) *folder {
	f := newFolder(t)
	f.o.SegmentSize = 100
	f.use(func(d *storage.Disk) {
		for i := range uint64(3) {
			write(t, d, message(i+1, 1, 1, 1, 1, 0))
		}
	})
	return f
}

// snapshots is a folder with snapshots of index 2 and 3, and entries up to 4.
func snapshots(t testing.TB) *folder {
	f := newFolder(t)
	f.use(func(d *storage.Disk) {
		write(t, d, message(1, 4, 1, 1, 1, 3))
		snapshot(t, d, 2, 1, "state at 2")
		snapshot(t, d, 3, 1, "state at 3")
	})
	return f
}

func (f *folder) path(name string) string { return filepath.Join(f.o.Dir, name) }

func (f *folder) change(name string, change func([]byte) []byte) {
	f.t.Helper()
	if err := f.fs.Change(f.path(name), change); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) put(name string, data []byte) {
	f.t.Helper()
	if err := f.fs.Put(f.path(name), data); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) remove(name string) {
	f.t.Helper()
	if err := f.fs.Remove(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) content(name string) []byte {
	f.t.Helper()
	var data []byte
	f.change(name, func(b []byte) []byte { data = b; return b })
	return data
}

const (
	journal1 = "journal-0000000001"
	journal2 = "journal-0000000002"
	journal3 = "journal-0000000003"
	snap2    = "snapshot-00000000000000000002"
	snap3    = "snapshot-00000000000000000003"
)

func cut(to int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:to] }
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 1; return b }
}

func zeros(n int) func([]byte) []byte {
	return func(b []byte) []byte { return append(b, make([]byte, n)...) }
}

func newer(b []byte) []byte { b[8] = 9; return b }

// What is wrong with a folder, and what Open makes of it: last and snapshot when
// it opens, with what it logs, or the error.
var recoveries = []struct {
	name           string
	folder         func(testing.TB) *folder
	damage         func(*folder)
	last, snapshot uint64
	log, err       string
}{
	{name: "nothing written", folder: func(t testing.TB) *folder { f := newFolder(t); f.use(func(*storage.Disk) {}); return f }},
	{name: "nothing wrong", folder: one, last: 3},
	{
		name: "torn last record", folder: one, damage: func(f *folder) { f.change(journal1, cut(195)) }, last: 2,
		log: `level=WARN msg="truncated 35 bytes at offset 160" file=/d/journal-0000000001 reason="a record of 16 bytes, but only 11 are left"`,
	},
	{
		name: "torn head", folder: one, damage: func(f *folder) { f.change(journal1, cut(170)) }, last: 2,
		log: `level=WARN msg="truncated 10 bytes at offset 160" file=/d/journal-0000000001 reason="10 bytes, less than the head of a record"`,
	},
	{
		name: "zeros ahead", folder: one, damage: func(f *folder) { f.change(journal1, zeros(4096)) }, last: 3,
	},
	{
		name: "zeros ahead, fewer than a head has", folder: one, damage: func(f *folder) { f.change(journal1, zeros(10)) }, last: 3,
	},
	{
		name: "what a spare held", folder: one, damage: func(f *folder) {
			f.change(journal1, func(b []byte) []byte { return append(b, older(f)[len(b):]...) })
		}, last: 3,
		log: `level=WARN msg="truncated 120 bytes at offset 200" file=/d/journal-0000000001 reason="checksum mismatch of a record's head"`,
	},
	{
		name: "last record damaged before what a spare held", folder: one, damage: func(f *folder) {
			f.change(journal1, func(b []byte) []byte { return append(b[:160], older(f)[160:]...) })
		}, last: 2,
		log: `level=WARN msg="truncated 160 bytes at offset 160" file=/d/journal-0000000001 reason="checksum mismatch of a record's head"`,
	},
	{
		name: "bit flip before what a spare held", folder: one, damage: func(f *folder) {
			f.change(journal1, func(b []byte) []byte { return append(flip(150)(b), older(f)[len(b):]...) })
		},
		err: "/d/journal-0000000001 is damaged at offset 120: checksum mismatch of a record, but a record at 160 says it was durable" + giveUp,
	},
	{
		name: "last record damaged, which nothing tells from torn", folder: one, damage: func(f *folder) { f.change(journal1, flip(190)) }, last: 2,
		log: `level=WARN msg="truncated 40 bytes at offset 160" file=/d/journal-0000000001 reason="checksum mismatch of a record"`,
	},
	{
		name: "segment without a header", folder: one, damage: func(f *folder) { f.put(journal2, make([]byte, 40)) },
		err: "/d/journal-0000000002 is damaged at offset 0: its header is not a journal's" + giveUp,
	},
	{
		name: "bit flip in a record", folder: one, damage: func(f *folder) { f.change(journal1, flip(150)) },
		err: "/d/journal-0000000001 is damaged at offset 120: checksum mismatch of a record, but a record at 160 says it was durable" + giveUp,
	},
	{
		name: "bit flip in a head", folder: one, damage: func(f *folder) { f.change(journal1, flip(121)) },
		err: "/d/journal-0000000001 is damaged at offset 120: checksum mismatch of a record's head, but a record at 160 says it was durable" + giveUp,
	},
	{
		name: "absurd length", folder: one, damage: func(f *folder) {
			f.change(journal1, func(b []byte) []byte { binary.LittleEndian.PutUint32(b[124:], 1<<31); return b })
		},
		err: "/d/journal-0000000001 is damaged at offset 120: checksum mismatch of a record's head, but a record at 160 says it was durable" + giveUp,
	},
	{
		name: "zeros in the middle", folder: one, damage: func(f *folder) {
			f.change(journal1, func(b []byte) []byte { clear(b[120:160]); return b })
		},
		err: "/d/journal-0000000001 is damaged at offset 120: zeros, but a record at 160 says it was durable" + giveUp,
	},
	{
		name: "bit flip in the first record", folder: one, damage: func(f *folder) { f.change(journal1, flip(50)) },
		err: "/d/journal-0000000001 is damaged at offset 40: checksum mismatch of a record's head" + giveUp,
	},
	{
		name: "bit flip in a segment's header", folder: one, damage: func(f *folder) { f.change(journal1, flip(20)) },
		err: "/d/journal-0000000001 is damaged at offset 0: checksum mismatch of its header" + giveUp,
	},
	{
		name: "newer segment", folder: one, damage: func(f *folder) { f.change(journal1, newer) },
		err: "/d/journal-0000000001 is damaged at offset 0: checksum mismatch of its header" + giveUp,
	},
	{
		name: "last record of a segment that is not the last", folder: three, damage: func(f *folder) { f.change(journal1, flip(110)) },
		err: "/d/journal-0000000001 is damaged at offset 72: checksum mismatch of a record, but a segment follows" + giveUp,
	},
	{
		name: "segment cut that is not the last", folder: three, damage: func(f *folder) { f.change(journal1, cut(100)) },
		err: "/d/journal-0000000001 is damaged at offset 100: the file has 100 bytes, the next one says 120" + giveUp,
	},
	{
		name: "segment with something behind", folder: three, damage: func(f *folder) {
			f.change(journal1, func(b []byte) []byte { return append(b[:120], older(f)[120:]...) })
		}, last: 3,
	},
	{
		name: "first segment missing", folder: three, damage: func(f *folder) { f.remove(journal1) },
		err: "/d is damaged: the journal begins after index 1 and no snapshot reaches there (there is none)" + giveUp,
	},
	{
		name: "segment missing", folder: three, damage: func(f *folder) { f.remove(journal2) },
		err: "/d/journal-0000000002 is missing: damaged" + giveUp,
	},
	{
		name: "last segment missing", folder: three, damage: func(f *folder) { f.remove(journal3) },
		err: "/d/journal-0000000003 is missing: damaged" + giveUp,
	},
	{
		name: "last segment empty, which was in use", folder: three, damage: func(f *folder) { f.change(journal3, cut(0)) },
		err: "/d/journal-0000000003 is damaged at offset 0: its header is cut off after 0 bytes" + giveUp,
	},
	{
		name: "no journal", folder: one, damage: func(f *folder) { f.remove(journal1) },
		err: "/d is damaged: it has no journal" + giveUp,
	},
	{
		name: "segment under another number", folder: one, damage: func(f *folder) { f.put(journal2, f.content(journal1)) },
		err: "/d/journal-0000000002: it is segment 1 by its header" + giveUp,
	},
	{
		name: "segment of another folder", folder: one, damage: func(f *folder) { f.put(journal1, one(f.t).content(journal1)) },
		err: "/d/journal-0000000001: it was copied here from another data folder: choose a folder of its own for each node",
	},
	{
		name: "foreign file", folder: one, damage: func(f *folder) { f.put("notes.txt", nil) },
		err: "/d/notes.txt is not part of a data folder: move it away, or choose another folder",
	},
	{
		name: "foreign file in a new folder", folder: newFolder, damage: func(f *folder) {
			if err := f.fs.Mkdir("/d"); err != nil {
				f.t.Fatal(err)
			}
			f.put("journal-1", nil)
		},
		err: "/d/journal-1 is not part of a data folder: move it away, or choose another folder",
	},
	{
		name: "lost+found", folder: one, damage: func(f *folder) { f.put("lost+found", nil) }, last: 3,
	},
	{
		name: "snapshots", folder: snapshots, last: 4, snapshot: 3,
	},
	{
		name: "snapshot truncated", folder: snapshots, damage: func(f *folder) { f.change(snap3, cut(30)) }, last: 4, snapshot: 2,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: truncated to 30 bytes: damaged"`,
	},
	{
		name: "end of a snapshot missing", folder: snapshots, damage: func(f *folder) { f.change(snap3, cut(60)) }, last: 4, snapshot: 2,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: truncated, its end is missing: damaged"`,
	},
	{
		name: "snapshot checksum", folder: snapshots, damage: func(f *folder) { f.change(snap3, flip(20)) }, last: 4, snapshot: 2,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: checksum mismatch of the data: damaged"`,
	},
	{
		name: "snapshot metadata", folder: snapshots, damage: func(f *folder) { f.change(snap3, flip(30)) }, last: 4, snapshot: 2,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: checksum mismatch of the metadata: damaged"`,
	},
	{
		name: "newer snapshot", folder: snapshots, damage: func(f *folder) { f.change(snap3, newer) }, last: 4, snapshot: 2,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: format 9, this program knows up to 1"`,
	},
	{
		name: "snapshot under another index", folder: snapshots, damage: func(f *folder) { f.change(snap3, func([]byte) []byte { return f2(f, snap2) }) }, last: 4, snapshot: 2,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: it is of index 2: damaged"`,
	},
	{
		name: "all snapshots damaged, the journal whole", folder: snapshots, damage: func(f *folder) {
			f.change(snap2, flip(20))
			f.change(snap3, flip(20))
		}, last: 4,
		log: `level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000003: checksum mismatch of the data: damaged"` + "\n" +
			`level=WARN msg="fell back to an older snapshot or the whole journal" fault="/d/snapshot-00000000000000000002: checksum mismatch of the data: damaged"`,
	},
	{
		name: "snapshot damaged at which the log restarted", folder: func(t testing.TB) *folder {
			f := newFolder(t)
			f.use(func(d *storage.Disk) {
				snapshot(t, d, 3, 1, "state at 3")
				write(t, d, restart(3, 1))
			})
			return f
		}, damage: func(f *folder) { f.change(snap3, flip(20)) },
		err: "/d is damaged: the journal begins after index 3 and no snapshot reaches there (/d/snapshot-00000000000000000003: checksum mismatch of the data: damaged)" + giveUp,
	},
	{
		name: "snapshot newer at which the log restarted", folder: func(t testing.TB) *folder {
			f := newFolder(t)
			f.use(func(d *storage.Disk) {
				snapshot(t, d, 3, 1, "state at 3")
				write(t, d, restart(3, 1))
			})
			return f
		}, damage: func(f *folder) { f.change(snap3, newer) },
		err: "/d is damaged: the journal begins after index 3 and no snapshot reaches there (/d/snapshot-00000000000000000003: format 9, this program knows up to 1)" + giveUp,
	},
	{
		name: "crash before the log restarted at a snapshot", folder: func(t testing.TB) *folder {
			f := one(t)
			f.use(func(d *storage.Disk) { snapshot(t, d, 9, 4, "state at 9") })
			return f
		}, last: 9, snapshot: 9,
		log: `level=INFO msg="raised the log to the newest snapshot" dir=/d index=9 restart=true`,
	},
	{
		name: "leftover files", folder: one, damage: func(f *folder) {
			f.put(snap3+".tmp", []byte("half"))
			f.put("IDENTITY.tmp", nil)
			f.put(journal2+".tmp", make([]byte, 40)) // not named yet, or a spare
		}, last: 3,
		log: "level=INFO msg=\"removed a leftover file\" file=/d/IDENTITY.tmp\nlevel=INFO msg=\"removed a leftover file\" file=/d/" + journal2 +
			".tmp\nlevel=INFO msg=\"removed a leftover file\" file=/d/" + snap3 + ".tmp",
	},
	{
		name: "identity missing", folder: one, damage: func(f *folder) { f.remove("IDENTITY") },
		err: "/d/IDENTITY is missing, but the folder is in use: damaged" + giveUp,
	},
	{
		name: "identity damaged", folder: one, damage: func(f *folder) { f.change("IDENTITY", func([]byte) []byte { return []byte("{") }) },
		err: "/d/IDENTITY is damaged: unexpected end of JSON input" + giveUp,
	},
	{
		name: "identity changed", folder: one, damage: func(f *folder) {
			f.change("IDENTITY", func(b []byte) []byte { return bytes.Replace(b, []byte(`"node":2`), []byte(`"node":3`), 1) })
		},
		err: "/d/IDENTITY is damaged: checksum mismatch" + giveUp,
	},
	{
		name: "identity huge", folder: one, damage: func(f *folder) { f.change("IDENTITY", func([]byte) []byte { return make([]byte, 1<<20) }) },
		err: "/d/IDENTITY is damaged: 1048576 bytes, at most 4096 expected",
	},
	{
		name: "newer format", folder: one, damage: func(f *folder) {
			f.change("IDENTITY", func(b []byte) []byte { return bytes.Replace(b, []byte(`"format":1`), []byte(`"format":2`), 1) })
		},
		err: "/d/IDENTITY has format 2, this program knows up to 1: use a newer program",
	},
	{
		name: "another node's", folder: one, damage: func(f *folder) { f.o.Node = 5 },
		err: "/d belongs to node 2, started as node 5: start it as node 2, or choose another folder",
	},
	{
		name: "locked", folder: one, damage: func(f *folder) {
			d := open(f.t, f.o)
			f.t.Cleanup(func() { _ = d.Close() })
		},
		err: "data folder /d is locked by another process: stop the other node, or choose another folder",
	},
	{
		name: "not writable", folder: one, damage: func(f *folder) {
			f.fs.Before = func(op storagetest.Op) error {
				if op.Kind == "lock" {
					return fs.ErrPermission
				}
				return nil
			}
		},
		err: "data folder /d is not writable: lock /d/LOCK: permission denied: let this user write there, or choose another folder",
	},
	{
		name: "no such parent, and none can be made", folder: newFolder, damage: func(f *folder) {
			f.o.Dir = "/a/b"
			f.fs.Before = func(op storagetest.Op) error {
				if op == (storagetest.Op{Kind: "mkdir", Name: "/a"}) {
					return fs.ErrPermission
				}
				return nil
			}
		},
		err: "data folder /a/b can't be created: mkdir /a: permission denied: let this user write there, or choose another folder",
	},
}

// older is a segment as one, of another folder and longer: 320 bytes.
func older(f *folder) []byte {
	other := one(f.t)
	other.use(func(d *storage.Disk) {
		for i := range uint64(3) {
			write(f.t, d, message(i+4, 1, 1, 0, 0, 0))
		}
	})
	return other.content(journal1)
}

func f2(f *folder, name string) []byte {
	other := snapshots(f.t)
	return other.content(name)
}

func TestRecovery(t *testing.T) {
	for _, c := range recoveries {
		t.Run(c.name, func(t *testing.T) {
			f := c.folder(t)
			if c.damage != nil {
				c.damage(f)
			}
			f.log.Reset()
			before := f.fs.Crash(100, nil)
			var m0, m1 runtime.MemStats
			runtime.ReadMemStats(&m0)
			d, err := storage.Open(f.o)
			runtime.ReadMemStats(&m1)
			if allocated := m1.TotalAlloc - m0.TotalAlloc; allocated > 1<<20 {
				t.Errorf("Open allocated %d bytes", allocated)
			}
			if c.err != "" {
				checkRefused(t, f, before, err, c.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(f.log.String()); got != c.log {
				t.Errorf("logged\n%s\nwant\n%s", got, c.log)
			}
			m, r, err := d.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if r != nil {
				defer func() { _ = r.Close() }()
			}
			if last, _ := d.Log().LastIndex(); last != c.last || m.GetIndex() != c.snapshot {
				t.Errorf("last index %d, snapshot %d; want %d, %d", last, m.GetIndex(), c.last, c.snapshot)
			}
			write(t, d, message(c.last+1, 2, 9, 9, 0, c.last))
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			// It goes on, and a torn tail is not reported twice.
			f.log.Reset()
			f.use(func(d *storage.Disk) {
				if last, _ := d.Log().LastIndex(); last != c.last+2 {
					t.Errorf("last index %d after going on from %d", last, c.last)
				}
			})
			if strings.Contains(f.log.String(), `msg="truncated`) {
				t.Errorf("again: %s", &f.log)
			}
		})
	}
}

// checkRefused: the error is as wanted, and the folder as it was.
func checkRefused(t *testing.T, f *folder, before *storagetest.Disk, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Fatalf("error\n%v\nwant\n%s", err, want)
	}
	if f.log.Len() > 0 {
		t.Errorf("logged %s", &f.log)
	}
	f.fs.Before = nil
	was, err := before.List(f.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	is, errIs := f.fs.List(f.o.Dir)
	if err := errors.Join(err, errIs); err != nil {
		t.Fatal(err)
	}
	isLock := func(name string) bool { return name == "LOCK" }
	if !slices.Equal(slices.DeleteFunc(slices.Clone(was), isLock), slices.DeleteFunc(is, isLock)) {
		t.Fatalf("the folder held %v, now %v", was, is)
	}
	for _, name := range was {
		var a, b []byte
		if err := errors.Join(before.Change(f.path(name), func(data []byte) []byte { a = data; return data }),
			f.fs.Change(f.path(name), func(data []byte) []byte { b = data; return data })); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s was changed", name)
		}
	}
}
