package transport

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

var strategies = []string{ChunkNone, ChunkRaft, ChunkCount, ChunkReactive, ChunkBounded, ChunkFragment}

func chunker(t testing.TB, name string) Chunker {
	t.Helper()
	c, err := NewChunker(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// travel encodes, decodes and reassembles frames, and returns the raft messages
// that come out. It checks every frame against its size and the stock codec.
func travel(t testing.TB, frames []Frame, limit int) []*pb.Message {
	t.Helper()
	stamp(frames)
	r := NewReassembler()
	var out []*pb.Message
	for i := range frames {
		f := &frames[i]
		size := f.Size()
		if size > limit {
			t.Fatalf("frame %d of %d has %d bytes, limit %d", i, len(frames), size, limit)
		}
		b := appendFrame(nil, f)
		g := stock(t, f)
		if len(b) != size || proto.Size(g) != size {
			t.Fatalf("frame %d: planned %d bytes, encoded %d, proto.Size %d", i, size, len(b), proto.Size(g))
		}
		again := g.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(b, again); err != nil || !proto.Equal(again, g) {
			t.Fatalf("frame %d: the stock codec reads something else (%v)", i, err)
		}
		var back Frame
		if err := Decode([][]byte{b}, &back); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if back.Sequence != f.Sequence || back.Epoch != 7 || back.From != 1 || back.To != 2 {
			t.Fatalf("frame %d: stamped %+v", i, back)
		}
		m := back.Message
		if back.Fragment.Total > 0 {
			var err error
			if m, err = r.Add(&back, time.Unix(0, 0)); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			for j := range b { // what was kept must not lie in the buffer
				b[j] = 0xff
			}
		} else {
			m.Entries = back.Entries
		}
		if m != nil {
			if err := Validate(m, 2, 1); err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			out = append(out, m)
		}
	}
	if open, held := r.Held(); open != 0 || held != 0 {
		t.Fatalf("%d messages of %d bytes stay open", open, held)
	}
	return out
}

// joined puts the parts of an append together again as raft would.
func joined(t testing.TB, original *pb.Message, parts []*pb.Message) *pb.Message {
	t.Helper()
	whole := proto.Clone(parts[0]).(*pb.Message)
	for _, p := range parts[1:] {
		last := whole.Entries[len(whole.Entries)-1]
		if p.GetIndex() != last.GetIndex() || p.GetLogTerm() != last.GetTerm() || p.GetTerm() != original.GetTerm() ||
			p.GetCommit() != original.GetCommit() || p.GetType() != pb.MsgApp {
			t.Fatalf("part %v does not follow upon entry %d", p, last.GetIndex())
		}
		whole.Entries = append(whole.Entries, p.Entries...)
	}
	return whole
}

func TestPlanRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := messages().Draw(r, "message")
		before := proto.Clone(m)
		name := rapid.SampledFrom(strategies).Draw(r, "strategy")
		l := Limits{
			Chunk:   rapid.IntRange(MinLimit, 4096).Draw(r, "chunk"),
			Receive: rapid.IntRange(MinLimit, 16384).Draw(r, "receive"),
			Learned: rapid.SampledFrom([]int{0, 512, 700, 5000}).Draw(r, "learned"),
			Count:   rapid.IntRange(1, 5).Draw(r, "count"),
		}
		checkPlan(t, name, m, l)
		if !proto.Equal(before, m) {
			t.Fatalf("the message was changed")
		}
	})
}

func checkPlan(t testing.TB, name string, m *pb.Message, l Limits) {
	t.Helper()
	frames, err := chunker(t, name).Plan(nil, m, l)
	limit := l.Receive
	if name == ChunkReactive {
		limit = math.MaxInt32
		if l.Learned > 0 {
			limit = l.Learned
		}
	}
	if name == ChunkFragment {
		limit = min(l.Receive, l.Chunk)
	}
	if err != nil {
		var cannot *CannotFollowError
		if !errors.As(err, &cannot) || cannot.Message <= cannot.Limit || cannot.Limit != limit || name == ChunkFragment {
			t.Fatalf("%s, %+v: %v", name, l, err)
		}
		// What goes out nevertheless is a beginning.
		m = &pb.Message{Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index, Commit: m.Commit, Entries: m.Entries}
		n := 0
		for i := range frames {
			n += len(frames[i].Entries)
		}
		if n >= len(m.Entries) || n > 0 && (name == ChunkNone || name == ChunkRaft) {
			t.Fatalf("%s: %d of %d entries planned with %v", name, n, len(m.Entries), err)
		}
		m.Entries = m.Entries[:n]
		if n == 0 {
			if len(frames) != 0 {
				t.Fatalf("%s: empty frames with %v", name, err)
			}
			return
		}
	}
	out := travel(t, frames, limit)
	if whole := joined(t, m, out); !proto.Equal(whole, m) {
		t.Fatalf("%s, %+v:\n got %v\nwant %v", name, l, whole, m)
	}
}

// FuzzPlan plans two messages one after the other, as a lane does, with each
// strategy, and puts them together again.
func FuzzPlan(f *testing.F) {
	f.Add(uint16(512), uint16(512), uint16(3), uint8(1), uint64(5), []byte{1, 200, 9, 255})
	f.Add(uint16(600), uint16(4096), uint16(2), uint8(2), uint64(0), []byte{0, 0, 0, 40})
	f.Add(uint16(512), uint16(512), uint16(600), uint8(3), uint64(1<<40), []byte{255, 255})
	f.Add(uint16(1024), uint16(1024), uint16(0), uint8(255), uint64(1<<62), []byte{56, 57, 57, 58, 128})
	f.Fuzz(func(t *testing.T, chunk, receive, learned uint16, count uint8, index uint64, sizes []byte) {
		if len(sizes) > 64 || index > 1<<62 {
			return
		}
		lengths := make([]int, len(sizes))
		for i, n := range sizes {
			lengths[i] = int(n)*16 + int(n)%16 // with what lies around a frame's end
		}
		l := Limits{Chunk: max(MinLimit, int(chunk)), Receive: max(MinLimit, int(receive)), Count: int(count)}
		if learned > 0 {
			l.Learned = max(MinLimit, int(learned))
		}
		half := len(lengths) / 2
		first := appendMessage(index, lengths[:half]...)
		second := appendMessage(index+uint64(half), lengths[half:]...)
		for _, name := range strategies {
			checkPlan(t, name, first, l)
			checkPlan(t, name, second, l)
			checkLane(t, name, l, first, second)
		}
	})
}

// checkLane plans messages into one slice, as a lane does: what comes out of one
// reassembler are the entries that went in, in order.
func checkLane(t testing.TB, name string, l Limits, messages ...*pb.Message) {
	t.Helper()
	var frames []Frame
	var want []*pb.Entry
	for _, m := range messages {
		before := len(frames)
		var err error
		if frames, err = chunker(t, name).Plan(frames, m, l); err != nil {
			frames = frames[:before]
			continue
		}
		want = append(want, m.Entries...)
	}
	var got []*pb.Entry
	for _, m := range travel(t, frames, math.MaxInt32) {
		got = append(got, m.Entries...)
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries came out, %d went in", name, len(got), len(want))
	}
	for i := range want {
		if !proto.Equal(got[i], want[i]) {
			t.Fatalf("%s: entry %d came out as %v, was %v", name, i, got[i], want[i])
		}
	}
}

// An entry of MaxEntryBytes makes a frame of exactly the limit, whatever its
// index and term; one byte more is one too many.
func TestPlanBoundaries(t *testing.T) {
	for _, limit := range []int{512, 513, 1024, 4096, 16383, 16384, 16511, 65536, 1 << 20} {
		largest := int(MaxEntryBytes(ChunkBounded, limit))
		for _, index := range []uint64{1, 127, 128, 1 << 40} {
			for _, over := range []int{-1, 0, 1} {
				m := appendMessage(index)
				m.Entries = []*pb.Entry{entryOf(t, index+1, largest+over)}
				size := (&Frame{Message: m, Entries: m.Entries}).Size()
				if want := limit + over; size != want && fieldSize(largest+1) == fieldSize(largest)+1 {
					t.Fatalf("limit %d: an entry of %d bytes makes a frame of %d, want %d", limit, largest+over, size, want)
				}
				for _, name := range strategies {
					frames, err := chunker(t, name).Plan(nil, m, Limits{Chunk: limit, Receive: limit, Learned: limit, Count: 2})
					switch {
					case over <= 0 || size <= limit:
						if err != nil || len(frames) != 1 {
							t.Fatalf("%s, limit %d, frame of %d: %d frames, %v", name, limit, size, len(frames), err)
						}
					case name == ChunkFragment:
						if err != nil || len(frames) != 2 || len(frames) != FragmentFrames(largest+over, limit) {
							t.Fatalf("%s, limit %d, frame of %d: %d frames, %v", name, limit, size, len(frames), err)
						}
						travel(t, frames, limit)
					default:
						want := fmt.Sprintf("cannot follow: message %d > limit %d", size, limit)
						if err == nil || err.Error() != want || len(frames) != 0 {
							t.Fatalf("%s, limit %d: %d frames, %v, want %s", name, limit, len(frames), err, want)
						}
					}
				}
			}
		}
	}
}

func TestPlanStrategies(t *testing.T) {
	l := Limits{Chunk: 1024, Receive: 4096, Count: 2}
	tests := []struct {
		name    string
		message *pb.Message
		limits  Limits
		entries []int // of each frame
		problem string
	}{
		{ChunkNone, appendMessage(5, 1000, 1000, 1000), l, []int{3}, ""},
		{ChunkNone, appendMessage(5, 1000, 1000, 1000, 1000), l, nil, "cannot follow: message 4154 > limit 4096"},
		{ChunkRaft, appendMessage(5, 4000, 10), l, nil, "cannot follow"},
		{ChunkCount, appendMessage(5, 10, 10, 10, 10, 10), l, []int{2, 2, 1}, ""},
		{ChunkCount, appendMessage(5, 10, 1000, 10, 10), l, []int{1, 1, 2}, ""},
		{ChunkCount, appendMessage(5, 10, 10, 5000), l, []int{2}, "cannot follow"},
		{ChunkReactive, appendMessage(5, 5000, 5000), l, []int{2}, ""},
		{ChunkReactive, appendMessage(5, 500, 500, 500), Limits{Learned: 1200}, []int{2, 1}, ""},
		{ChunkBounded, appendMessage(5, 400, 400, 400), l, []int{2, 1}, ""},
		{ChunkBounded, appendMessage(5, 10, 3000, 10, 10), l, []int{1, 1, 2}, ""},
		{ChunkBounded, appendMessage(5, 10, 5000), l, []int{1}, "cannot follow"},
		{ChunkFragment, appendMessage(5, 10, 3000, 10, 10), l, []int{1, 0, 0, 0, 0, 2}, ""},
		{ChunkFragment, appendMessage(5), l, []int{0}, ""},
	}
	for _, test := range tests {
		frames, err := chunker(t, test.name).Plan(nil, test.message, test.limits)
		var entries []int
		for i := range frames {
			entries = append(entries, len(frames[i].Entries))
		}
		if fmt.Sprint(entries) != fmt.Sprint(test.entries) {
			t.Errorf("%s: frames of %v entries, want %v", test.name, entries, test.entries)
		}
		if (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.problem)
		}
	}
	if _, err := NewChunker("clever"); err == nil {
		t.Error("an unknown strategy was taken")
	}
}

// Nothing but an append needs splitting at the least limit there may be.
func TestHeadersFitMinLimit(t *testing.T) {
	top := uint64(math.MaxUint64 - 2)
	for kind := range pb.MessageType_name {
		m := &pb.Message{
			Type: pb.MessageType(kind).Enum(), To: new(top), From: new(top), Term: new(top), LogTerm: new(top), Index: new(top),
			Commit: new(top), Vote: new(top), Reject: new(true), RejectHint: new(top), Context: make([]byte, 64),
			Entries: []*pb.Entry{{Data: make([]byte, 64)}},
		}
		if f := (Frame{Message: m, Entries: m.Entries}); f.Size() > MinLimit {
			t.Errorf("%s: %d bytes", m.GetType(), f.Size())
		}
	}
	if n := MaxEntryBytes(ChunkBounded, MinLimit); n < 300 {
		t.Errorf("the least limit leaves %d bytes for an entry", n)
	}
}
