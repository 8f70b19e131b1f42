package kv

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// decode feeds data in pieces of the given size.
func decode(data []byte, piece int) (*View, error) {
	d := NewSnapshotDecoder()
	for len(data) > 0 {
		n := min(piece, len(data))
		if _, err := d.Write(data[:n]); err != nil {
			return nil, err
		}
		data = data[n:]
	}
	return d.Finish()
}

// sample is a store whose snapshot has several records, one of them of a single
// item above the batch size.
func sample(t testing.TB) *Store {
	t.Helper()
	s := NewStore()
	for i := range 700 {
		apply(t, s, put(fmt.Sprintf("key-%04d", i*3%700), strings.Repeat("v", i)))
	}
	apply(t, s, put("key-0300x", strings.Repeat("x", 3*snapshotBatch)), put("", "the empty key"), put("empty", ""))
	s.SetMembership(s.State().Index+1, 3, &kvv1.Membership{
		ClusterId: 1, Voters: []uint64{1, 2, 3}, Nodes: []*kvv1.Member{{Id: 1, Address: "127.0.0.1:1", PeerAddress: "127.0.0.1:2"}},
	})
	return s
}

func snapshotOf(t testing.TB, v *View) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := WriteSnapshot(&buf, v); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// The records are what the stock decoder reads, about 64 KiB each, in order.
func TestSnapshotIsProto(t *testing.T) {
	view := sample(t).View()
	data := snapshotOf(t, view)
	var records []*kvv1.SnapshotRecord
	for r := bufio.NewReader(bytes.NewReader(data)); ; {
		m := &kvv1.SnapshotRecord{}
		if err := (protodelim.UnmarshalOptions{MaxSize: -1}).UnmarshalFrom(r, m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		records = append(records, m)
	}
	h := records[0].GetHeader()
	if h.GetFormat() != 1 || h.GetRevision() != view.State().Revision || h.GetIndex() != view.State().Index ||
		h.GetTerm() != 3 || h.GetKeys() != uint64(view.Len()) || !proto.Equal(h.GetMembership(), view.Membership()) {
		t.Fatalf("header %v", h)
	}
	want := collect(view, nil, nil)
	for i, r := range records[1 : len(records)-1] {
		items := r.GetItems().GetItems()
		if len(items) == 0 || proto.Size(r) > snapshotBatch+16 && len(items) > 1 {
			t.Errorf("record %d has %d items in %d bytes", i, len(items), proto.Size(r))
		}
		for _, got := range items {
			w := want[0]
			want = want[1:]
			if !bytes.Equal(got.GetKey(), w.Key) || !bytes.Equal(got.GetValue(), w.Value) || got.GetVersion() != w.Version ||
				got.GetCreateRevision() != w.CreateRevision || got.GetModRevision() != w.ModRevision {
				t.Fatalf("item %q, want %q", got.GetKey(), w.Key)
			}
		}
	}
	trailer := records[len(records)-1].GetTrailer()
	size := proto.Size(records[len(records)-1])
	body := data[:len(data)-size-protowire.SizeVarint(uint64(size))]
	if sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)); len(want) > 0 || trailer.GetCrc32C() != sum || trailer.GetKeys() != uint64(view.Len()) {
		t.Fatalf("trailer %v, crc %08x, %d items missing", trailer, sum, len(want))
	}
	if len(records) < 6 {
		t.Fatalf("only %d records", len(records))
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	for name, s := range map[string]*Store{"empty": NewStore(), "sample": sample(t)} {
		view := s.View()
		data := snapshotOf(t, view)
		for _, piece := range []int{1, 7, 4096, 1 << 20} {
			got, err := decode(data, piece)
			if err != nil {
				t.Fatalf("%s in pieces of %d: %v", name, piece, err)
			}
			if got.State() != view.State() || got.Hash() != view.Hash() || !proto.Equal(got.Membership(), view.Membership()) {
				t.Fatalf("%s in pieces of %d: state %+v, want %+v, or another hash or membership", name, piece, got.State(), view.State())
			}
			if again := snapshotOf(t, got); !bytes.Equal(again, data) {
				t.Fatalf("%s: a snapshot of the snapshot has other bytes", name)
			}
		}
	}
}

// Writes while a snapshot is read out do not show in it.
func TestSnapshotDuringWrites(t *testing.T) {
	s := sample(t)
	view := s.View()
	want := view.Hash()
	d := NewSnapshotDecoder()
	n := 0
	if err := WriteSnapshot(writerFunc(func(p []byte) (int, error) {
		n++
		apply(t, s, put(fmt.Sprintf("key-%04d", n), "changed"), Command{Kind: KindDelete, Key: fmt.Appendf(nil, "key-%04d", 699-n)})
		return d.Write(p)
	}), view); err != nil {
		t.Fatal(err)
	}
	got, err := d.Finish()
	if err != nil || got.Hash() != want || s.View().Hash() == want {
		t.Fatalf("err %v, snapshot unchanged %v, store changed %v", err, got.Hash() == want, s.View().Hash() != want)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestWriteSnapshotErrors(t *testing.T) {
	view := sample(t).View()
	records := 0
	if err := WriteSnapshot(writerFunc(func(p []byte) (int, error) { records++; return len(p), nil }), view); err != nil {
		t.Fatal(err)
	}
	for fail := range records {
		n := 0
		err := WriteSnapshot(writerFunc(func(p []byte) (int, error) {
			if n++; n > fail {
				return 0, io.ErrClosedPipe
			}
			return len(p), nil
		}), view)
		if !errors.Is(err, io.ErrClosedPipe) || n != fail+1 {
			t.Fatalf("record %d failed: error %v after %d writes", fail, err, n)
		}
	}
	s := NewStore()
	apply(t, s, Command{Kind: KindPut, Key: []byte("k"), Value: make([]byte, MaxItemSize)})
	if err := WriteSnapshot(io.Discard, s.View()); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("item above the cap: %v", err)
	}
}

// A snapshot with one item of the largest size is carried.
func TestSnapshotLargestItem(t *testing.T) {
	s := NewStore()
	apply(t, s, Command{Kind: KindPut, Key: []byte("k"), Value: make([]byte, MaxItemSize-1)})
	got, err := decode(snapshotOf(t, s.View()), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if got.State() != s.State() {
		t.Fatalf("state %+v", got.State())
	}
}

// A forged snapshot: records of the stock encoder, with a right checksum.
func forge(t testing.TB, records ...*kvv1.SnapshotRecord) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, r := range records {
		if tr := r.GetTrailer(); tr != nil && tr.GetCrc32C() == 0 {
			tr.Crc32C = crc32.Checksum(buf.Bytes(), castagnoli)
		}
		if _, err := protodelim.MarshalTo(&buf, r); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func headerRecord(format uint32, keys uint64) *kvv1.SnapshotRecord {
	return &kvv1.SnapshotRecord{Record: &kvv1.SnapshotRecord_Header{Header: &kvv1.SnapshotHeader{Format: format, Index: 5, Term: 1, Revision: 9, Keys: keys}}}
}

func itemsRecord(items ...*kvv1.KeyValue) *kvv1.SnapshotRecord {
	return &kvv1.SnapshotRecord{Record: &kvv1.SnapshotRecord_Items{Items: &kvv1.SnapshotItems{Items: items}}}
}

func trailerRecord(keys uint64, crc uint32) *kvv1.SnapshotRecord {
	return &kvv1.SnapshotRecord{Record: &kvv1.SnapshotRecord_Trailer{Trailer: &kvv1.SnapshotTrailer{Keys: keys, Crc32C: crc}}}
}

func item(key string, version, create, mod uint64) *kvv1.KeyValue {
	return &kvv1.KeyValue{Key: []byte(key), Value: []byte("v"), Version: version, CreateRevision: create, ModRevision: mod}
}

func TestSnapshotDecoderRefuses(t *testing.T) {
	a, b := item("a", 1, 2, 2), item("b", 1, 3, 9)
	good := forge(t, headerRecord(1, 2), itemsRecord(a, b), trailerRecord(2, 0))
	if _, err := decode(good, 1); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	flipped := bytes.Clone(good)
	flipped[bytes.IndexByte(flipped, 'v')] ^= 1
	both := append(headerBytes(t), 2<<3|2, 0) // header and items in one record
	for _, c := range []struct {
		name string
		data []byte
		want error
		says string
	}{
		{"nothing", nil, ErrTruncated, "after 0 keys"},
		{"half", good[:len(good)/2], ErrTruncated, ""},
		{"no trailer", forge(t, headerRecord(1, 2), itemsRecord(a, b)), ErrTruncated, "after 2 keys"},
		{"flipped bit", flipped, ErrChecksum, ""},
		{"wrong checksum", forge(t, headerRecord(1, 0), trailerRecord(0, 0xbad)), ErrChecksum, "00000bad"},
		{"newer format", forge(t, headerRecord(2, 0), trailerRecord(0, 0)), ErrFormat, "2, this program knows 1"},
		{"no format", forge(t, headerRecord(0, 0), trailerRecord(0, 0)), ErrFormat, ""},
		{"header's count", forge(t, headerRecord(1, 3), itemsRecord(a, b), trailerRecord(2, 0)), ErrKeyCount, "header says 3, trailer 2, items are 2"},
		{"trailer's count", forge(t, headerRecord(1, 2), itemsRecord(a, b), trailerRecord(1, 0)), ErrKeyCount, ""},
		{"unordered", forge(t, headerRecord(1, 2), itemsRecord(b, a), trailerRecord(2, 0)), ErrOrder, "key 2"},
		{"unordered records", forge(t, headerRecord(1, 2), itemsRecord(b), itemsRecord(a), trailerRecord(2, 0)), ErrOrder, ""},
		{"twice the same", forge(t, headerRecord(1, 2), itemsRecord(a, a), trailerRecord(2, 0)), ErrOrder, ""},
		{"no version", forge(t, headerRecord(1, 1), itemsRecord(item("a", 0, 2, 2)), trailerRecord(1, 0)), ErrMalformed, "version 0"},
		{"created after modified", forge(t, headerRecord(1, 1), itemsRecord(item("a", 1, 4, 3)), trailerRecord(1, 0)), ErrMalformed, ""},
		{"modified in the future", forge(t, headerRecord(1, 1), itemsRecord(item("a", 1, 2, 10)), trailerRecord(1, 0)), ErrMalformed, ""},
		{"items first", forge(t, itemsRecord(a)), ErrMalformed, "header"},
		{"second header", forge(t, headerRecord(1, 0), headerRecord(1, 0)), ErrMalformed, "header"},
		{"after the trailer", append(bytes.Clone(good), good...), ErrMalformed, "after the trailer"},
		{"a byte after the trailer", append(bytes.Clone(good), 5), ErrMalformed, "after the trailer"},
		{"unknown record", append(forge(t, headerRecord(1, 0)), 2, 9<<3|2, 0), ErrMalformed, "unknown kind"},
		{"two fields in one", binary.AppendUvarint(nil, uint64(len(both))), nil, ""},
		{"empty record", []byte{0}, ErrMalformed, "empty"},
		{"endless length", bytes.Repeat([]byte{0xff}, 11), ErrMalformed, "length"},
		{"huge record", []byte{0xff, 0xff, 0xff, 0xff, 0x0f}, ErrTooLarge, "at most"},
	} {
		if c.name == "two fields in one" {
			c.data, c.want, c.says = append(c.data, both...), ErrMalformed, "more than one"
		}
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 1 << 20} {
				v, err := decode(c.data, piece)
				if v != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("in pieces of %d: %v; want %v saying %q", piece, err, c.want, c.says)
				}
			}
		})
	}
}

func headerBytes(t testing.TB) []byte {
	t.Helper()
	b, err := proto.Marshal(headerRecord(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Records of many small messages are not decoded: those would take a hundred times
// their bytes.
func TestSnapshotBombs(t *testing.T) {
	many := func(field protowire.Number, inner ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), bytes.Join(inner, nil))
	}
	record := func(field protowire.Number, body []byte) []byte {
		framed := many(field, body)
		return append(protowire.AppendVarint(nil, uint64(len(framed))), framed...)
	}
	steps := bytes.Repeat([]byte{10<<3 | 2, 0}, 1<<20)
	nested := []byte{}
	for range 1000 {
		nested = many(10, nested)
	}
	header := headerBytes(t)
	header = append(protowire.AppendVarint(nil, uint64(len(header))), header...)
	for name, data := range map[string][]byte{
		"nodes":          record(1, many(4, bytes.Repeat([]byte{1<<3 | 2, 0}, 1<<20))),
		"answers":        slices.Concat(header, record(4, bytes.Repeat([]byte{5<<3 | 2, 0}, 1<<20))),
		"results":        slices.Concat(header, record(4, many(5, bytes.Repeat([]byte{2<<3 | 2, 0}, 1<<20)))),
		"steps":          slices.Concat(header, record(4, many(5, many(2, steps)))),
		"steps of a few": slices.Concat(header, record(4, bytes.Repeat(many(5, many(2, steps[:1<<16])), 32))),
		"steps of steps": slices.Concat(header, record(4, many(5, many(2, nested)))),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := NewSnapshotDecoder().Write(data)
		runtime.ReadMemStats(&after)
		if bytes := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrTooLarge) || bytes > 1<<20 {
			t.Errorf("%s: %v, %d bytes allocated for %d", name, err, bytes, len(data))
		}
	}
}

// The first error stays, whatever is written after it.
func TestSnapshotDecoderErrorStays(t *testing.T) {
	d := NewSnapshotDecoder()
	if _, err := d.Write([]byte{0}); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	if n, err := d.Write(snapshotOf(t, NewStore().View())); n != 0 || !errors.Is(err, ErrMalformed) {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := d.Finish(); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	d = NewSnapshotDecoder()
	if _, err := d.Write(snapshotOf(t, NewStore().View())); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Finish(); err == nil {
		t.Fatal("finished twice: two views would share a tree")
	}
}

// Arbitrary bytes: no panic; and what is accepted is a snapshot that can be
// written and read again, however the bytes were split.
func FuzzSnapshotDecoder(f *testing.F) {
	s := NewStore()
	apply(f, s, put("a", "1"), put("b", "2"), put("a", "3"))
	s.SetMembership(2, 1, &kvv1.Membership{ClusterId: 1, Voters: []uint64{1}})
	f.Add(snapshotOf(f, s.View()), 3)
	f.Add(snapshotOf(f, NewStore().View()), 1)
	f.Add(forge(f, headerRecord(1, 2), itemsRecord(item("a", 1, 2, 2)), itemsRecord(item("b", 1, 3, 3)), trailerRecord(2, 0)), 100)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		// Mostly the checksum would refuse a changed snapshot: put a right one in.
		if n := len(data); n > 9 {
			fixed := bytes.Clone(data)
			binary.LittleEndian.PutUint32(fixed[n-4:], crc32.Checksum(fixed[:n-min(n, 10)], castagnoli))
			fuzzDecode(t, fixed, piece)
		}
		fuzzDecode(t, data, piece)
	})
}

func fuzzDecode(t *testing.T, data []byte, piece int) {
	v, err := decode(data, max(piece, 1))
	whole, wholeErr := decode(data, max(len(data), 1))
	if fmt.Sprint(err) != fmt.Sprint(wholeErr) {
		t.Fatalf("in pieces: %v; whole: %v", err, wholeErr)
	}
	if err != nil {
		return
	}
	again, err := decode(snapshotOf(t, v), 1<<20)
	if err != nil || again.Hash() != v.Hash() || again.State() != v.State() || whole.Hash() != v.Hash() {
		t.Fatalf("written again: %v", err)
	}
}

// A snapshot can be resumed from another node's, so the bytes of a state must
// not tell by what way a node came to it: all entries, or a snapshot of any
// point and the rest, or that more than once.
func TestSnapshotBytesAreOfTheStateOnly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, other := NewStore(), NewStore()
		var ids []uint64
		clock := int64(1000)
		entry := func(commands ...Command) []Result {
			applyAt(t, other, clock, commands...)
			return applyAt(t, one, clock, commands...)
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			clock += rapid.Int64Range(0, 20).Draw(rt, "clock")
			switch rapid.IntRange(0, 5).Draw(rt, "action") {
			case 0:
				other = restored(t, other)
			case 1:
				other.View() // the tree is shared from now on
			case 2:
				ids = append(ids, entry(Command{Kind: KindOpenSession, SessionTTL: rapid.Int64Range(0, 200).Draw(rt, "ttl")})[0].SessionID)
			case 3:
				large := bytes.Repeat([]byte{'x'}, snapshotBatch/3)
				entry(Command{Kind: KindPut, Key: fewKeys.Draw(rt, "key"), Value: large})
			default:
				commands := rapid.SliceOfN(fewCommands, 1, 5).Draw(rt, "commands")
				if len(ids) > 0 {
					sequence := uint64(rapid.IntRange(1, 20).Draw(rt, "sequence"))
					commands[0] = inSession(commands[0], rapid.SampledFrom(ids).Draw(rt, "session"), sequence, rapid.Uint64Range(0, sequence).Draw(rt, "acknowledged"))
				}
				entry(commands...)
			}
			if rapid.Bool().Draw(rt, "membership") {
				m := &kvv1.Membership{ClusterId: 1, Voters: []uint64{1, rapid.Uint64Range(2, 9).Draw(rt, "voter")}}
				for _, s := range []*Store{one, other} {
					s.SetMembership(s.State().Index+1, 3, m)
				}
			}
			if !bytes.Equal(snapshotOf(t, one.View()), snapshotOf(t, other.View())) {
				rt.Fatalf("the snapshots of index %d differ", one.State().Index)
			}
		}
	})
}
