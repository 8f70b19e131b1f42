package kv

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// toProto is the command as the generated code has it.
func toProto(c *Command) *kvv1.Command {
	m := &kvv1.Command{
		Kind: kvv1.CommandKind(c.Kind), Key: c.Key, Value: c.Value, Expect: c.Expect, ExpectAbsent: c.ExpectAbsent,
		SessionId: c.SessionID, SessionSequence: c.SessionSequence,
	}
	for i := range c.Steps {
		m.Steps = append(m.Steps, toProto(&c.Steps[i]))
	}
	return m
}

func clone(c *Command) Command {
	d := *c
	d.Key, d.Value, d.Expect = bytes.Clone(c.Key), bytes.Clone(c.Value), bytes.Clone(c.Expect)
	d.Steps = nil
	for i := range c.Steps {
		d.Steps = append(d.Steps, clone(&c.Steps[i]))
	}
	return d
}

var (
	anyBytes = rapid.SliceOfN(rapid.Byte(), 0, 200)
	anyStep  = rapid.Custom(func(t *rapid.T) Command {
		return Command{
			Kind: rapid.SampledFrom([]Kind{KindPut, KindDelete, KindCompareAndSwap, KindGet}).Draw(t, "kind"),
			Key:  anyBytes.Draw(t, "key"), Value: anyBytes.Draw(t, "value"), Expect: anyBytes.Draw(t, "expect"),
			ExpectAbsent: rapid.Bool().Draw(t, "absent"),
		}
	})
	anyCommand = rapid.Custom(func(t *rapid.T) Command {
		c := anyStep.Draw(t, "command")
		if c.Kind == KindGet {
			c.Kind, c.Steps = KindBatch, rapid.SliceOfN(anyStep, 0, 5).Draw(t, "steps")
		}
		c.SessionID, c.SessionSequence = rapid.Uint64().Draw(t, "session"), rapid.Uint64().Draw(t, "sequence")
		return c
	})
	anyHeader = rapid.Custom(func(t *rapid.T) EntryHeader {
		return EntryHeader{
			Node: rapid.Uint64().Draw(t, "node"), Incarnation: rapid.Uint64().Draw(t, "incarnation"),
			Sequence: rapid.Uint64().Draw(t, "sequence"), Clock: rapid.Int64().Draw(t, "clock"),
		}
	})
)

func encode(h EntryHeader, commands ...Command) []byte {
	data := AppendHeader(nil, h)
	for i := range commands {
		data = AppendCommand(data, &commands[i])
	}
	return data
}

// The hand-written codec against the generated one, both ways.
func TestEntryIsProto(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := anyHeader.Draw(t, "header")
		commands := rapid.SliceOfN(anyCommand, 0, 4).Draw(t, "commands")
		data := encode(h, commands...)

		want := &kvv1.Entry{Header: &kvv1.EntryHeader{
			Format: 1, Node: h.Node, Incarnation: h.Incarnation, Sequence: h.Sequence, ClockUnixNanos: uint64(h.Clock),
		}}
		size := HeaderSize
		for i := range commands {
			want.Commands = append(want.Commands, toProto(&commands[i]))
			size += CommandSize(&commands[i])
		}
		if len(data) != size {
			t.Fatalf("encoded %d bytes, sizes say %d", len(data), size)
		}
		var got kvv1.Entry
		if err := proto.Unmarshal(data, &got); err != nil {
			t.Fatalf("stock decoder: %v", err)
		}
		if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Fatalf("stock decoder sees another entry:\n%s", diff)
		}
		stock, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if h.Node != 0 && h.Incarnation != 0 && h.Sequence != 0 && h.Clock != 0 && !bytes.Equal(data, stock) {
			t.Fatalf("bytes differ from proto.Marshal:\n%x\n%x", data, stock)
		}

		var decoded []Command
		for _, input := range [][]byte{data, stock} {
			decoded = decoded[:0]
			header, err := DecodeEntry(input, func(c *Command) { decoded = append(decoded, clone(c)) })
			if err != nil || header != h {
				t.Fatalf("decoded header %+v, %v; want %+v", header, err, h)
			}
			if diff := cmp.Diff(commands, decoded, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("decoded commands:\n%s", diff)
			}
		}
		if header, err := DecodeHeader(data); err != nil || header != h {
			t.Fatalf("DecodeHeader: %+v, %v; want %+v", header, err, h)
		}
	})
}

func TestDecodeEntrySkipsUnknownFields(t *testing.T) {
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), []byte("from a newer program"))
	command := protowire.AppendBytes([]byte{tagCommandKind, byte(KindPut), tagCommandKey}, []byte("k"))
	header := AppendHeader(nil, EntryHeader{Node: 7})[2:]
	data := protowire.AppendBytes([]byte{tagEntryHeader}, slices.Concat(unknown, header, unknown))
	data = append(data, unknown...)
	data = protowire.AppendBytes(append(data, tagEntryCommand), slices.Concat(unknown, command, unknown))
	data = append(data, unknown...)
	var keys []string
	h, err := DecodeEntry(data, func(c *Command) { keys = append(keys, string(c.Key)) })
	if err != nil || h.Node != 7 || !slices.Equal(keys, []string{"k"}) {
		t.Fatalf("got %+v, %q, %v", h, keys, err)
	}
}

func TestDecodeEntryRefuses(t *testing.T) {
	header := AppendHeader(nil, EntryHeader{Node: 1})
	put := Command{Kind: KindPut, Key: []byte("k")}
	newer := bytes.Clone(header)
	newer[3] = 2
	old := proto.Clone(&kvv1.Entry{Header: &kvv1.EntryHeader{Node: 1}})
	noFormat, err := proto.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":              {nil, ErrMalformed},
		"no header":          {AppendCommand(nil, &put), ErrMalformed},
		"header cut short":   {header[:HeaderSize-1], ErrMalformed},
		"newer format":       {newer, ErrFormat},
		"no format":          {noFormat, ErrFormat},
		"two headers":        {slices.Concat(header, header), ErrMalformed},
		"command cut short":  {encode(EntryHeader{}, put)[:HeaderSize+3], ErrMalformed},
		"no kind":            {encode(EntryHeader{}, Command{Key: []byte("k")}), ErrMalformed},
		"unknown kind":       {encode(EntryHeader{}, Command{Kind: 9}), ErrMalformed},
		"get by itself":      {encode(EntryHeader{}, Command{Kind: KindGet}), ErrMalformed},
		"put with steps":     {encode(EntryHeader{}, Command{Kind: KindPut, Steps: []Command{put}}), ErrMalformed},
		"batch in a batch":   {encode(EntryHeader{}, Command{Kind: KindBatch, Steps: []Command{{Kind: KindBatch}}}), ErrMalformed},
		"session in a batch": {encode(EntryHeader{}, Command{Kind: KindBatch, Steps: []Command{{Kind: KindOpenSession}}}), ErrMalformed},
		"step with steps":    {encode(EntryHeader{}, Command{Kind: KindBatch, Steps: []Command{{Kind: KindPut, Steps: []Command{put}}}}), ErrMalformed},
		"length beyond data": {append(bytes.Clone(header), tagEntryCommand, 0xff, 0xff, 0xff, 0xff, 0x7f), ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeEntry(c.data, func(*Command) {})
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if results, err := NewStore().Apply(1, 1, c.data, nil); len(c.data) > 0 && (!errors.Is(err, c.want) || len(results) > 0) {
				t.Fatalf("Apply: %d results, error %v, want %v", len(results), err, c.want)
			}
		})
	}
}

// Decoding costs nothing beyond the visitor's closure, batches included.
func TestDecodeEntryAllocations(t *testing.T) {
	steps := make([]Command, 10)
	for i := range steps {
		steps[i] = Command{Kind: KindPut, Key: []byte("key"), Value: []byte("value")}
	}
	data := encode(EntryHeader{Node: 1}, slices.Concat(steps, []Command{{Kind: KindBatch, Steps: steps}})...)
	var d entryDecoder
	if n := testing.AllocsPerRun(100, func() {
		if err := d.reset(data); err != nil {
			t.Fatal(err)
		}
		for {
			c, err := d.next()
			if err != nil {
				t.Fatal(err)
			}
			if c == nil {
				break
			}
		}
		d.release()
	}); n != 0 {
		t.Fatalf("%v allocations an entry, want 0", n)
	}
}

// What DecodeEntry accepts, the stock decoder reads the same, and arbitrary
// bytes neither panic nor make it allocate out of proportion.
func FuzzDecodeEntry(f *testing.F) {
	put := Command{Kind: KindPut, Key: []byte("key"), Value: []byte("value"), SessionID: 1, SessionSequence: 300}
	f.Add(encode(EntryHeader{Node: 1, Incarnation: 2, Sequence: 3, Clock: -4}, put))
	f.Add(encode(EntryHeader{}, put, Command{Kind: KindBatch, Steps: []Command{put, {Kind: KindGet, Key: []byte("g")}, {Kind: KindDelete}}}))
	f.Add(encode(EntryHeader{}, Command{Kind: KindCompareAndSwap, Key: []byte("k"), ExpectAbsent: true}))
	f.Add(append(AppendHeader(nil, EntryHeader{}), tagEntryCommand, 0xff, 0xff, 0xff, 0xff, 0x7f))
	f.Add([]byte{tagEntryHeader, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var got []*kvv1.Command
		h, err := DecodeEntry(data, func(c *Command) { c2 := clone(c); got = append(got, toProto(&c2)) })
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<20+1000*uint64(len(data)) {
			t.Fatalf("%d bytes allocated for an entry of %d", spent, len(data))
		}
		header, headerErr := DecodeHeader(data)
		if headerErr == nil && header != h {
			t.Fatalf("DecodeHeader %+v, DecodeEntry %+v", header, h)
		}
		if err != nil {
			return
		}
		var want kvv1.Entry
		if err := proto.Unmarshal(data, &want); err != nil {
			t.Fatalf("accepted what the stock decoder refuses: %v", err)
		}
		discardUnknown(&want)
		if want.GetHeader().GetNode() != h.Node || want.GetHeader().GetSequence() != h.Sequence ||
			want.GetHeader().GetIncarnation() != h.Incarnation || int64(want.GetHeader().GetClockUnixNanos()) != h.Clock {
			t.Fatalf("header %+v, stock %v", h, want.GetHeader())
		}
		if diff := cmp.Diff(want.GetCommands(), got, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func discardUnknown(e *kvv1.Entry) {
	e.ProtoReflect().SetUnknown(nil)
	for _, c := range e.GetCommands() {
		c.ProtoReflect().SetUnknown(nil)
		for _, s := range c.GetSteps() {
			s.ProtoReflect().SetUnknown(nil)
		}
	}
}

// The keys ahead are those of the commands that come, and stop at what is no plain
// command, whatever the bytes are.
func TestKeysAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		commands := rapid.SliceOfN(fewCommands, 0, 2*ahead).Draw(t, "commands")
		data := encode(EntryHeader{Node: 1}, commands...)
		if rapid.Bool().Draw(t, "damaged") {
			data = data[:rapid.IntRange(HeaderSize, len(data)).Draw(t, "length")]
		}
		var d entryDecoder
		if err := d.reset(data); err != nil {
			t.Fatal(err)
		}
		keys := d.keysAhead(make([][]byte, 0, ahead))
		for i, key := range keys {
			if !bytes.Equal(key, commands[i].Key) {
				t.Fatalf("key %d is %q, of the command %q", i, key, commands[i].Key)
			}
		}
		plain := 0
		for plain < min(ahead, len(commands)) && commands[plain].Kind != KindBatch {
			plain++
		}
		if len(data) == len(encode(EntryHeader{Node: 1}, commands...)) && len(keys) != plain {
			t.Fatalf("%d keys, %d plain commands come first", len(keys), plain)
		}
	})
}
