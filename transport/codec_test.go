package transport

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

var codecNames = []string{CodecProto, CodecAppend, CodecScatter}

func codec(t testing.TB, name string) Codec {
	t.Helper()
	c, err := NewCodec(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// encodings are a frame's bytes by every codec, and by scatter with other
// thresholds, which must be the same. What they came in has been freed.
func encodings(t testing.TB, f *Frame) []byte {
	t.Helper()
	want := appendFrame(nil, f)
	if len(want) != f.Size() {
		t.Fatalf("%d bytes, size %d", len(want), f.Size())
	}
	check := func(name string, out mem.BufferSlice, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(out.Materialize(), want) {
			t.Fatalf("%s makes other bytes", name)
		}
		out.Free()
	}
	for _, name := range codecNames {
		if name == CodecProto && !sendable(f) {
			continue
		}
		out, err := codec(t, name).Encode(f)
		check(name, out, err)
	}
	for _, least := range []int{1, 100, 1000} {
		out, err := scatter(f, least)
		check(fmt.Sprintf("scatter from %d bytes", least), out, err)
	}
	return want
}

// sendable says whether a lane could have made the frame. The generated message
// leaves out zeros, and these are never zero.
func sendable(f *Frame) bool {
	p := &f.Fragment
	return f.Sequence > 0 && f.Epoch > 0 && f.From > 0 && f.To > 0 &&
		(f.Message == nil || headerSize(f.Message, false) > 0) && (p.Total == 0 || p.Message > 0 && p.checksum() > 0)
}

// equalFrames compares what two frames carry: not the entries that belong to a
// Message.
func equalFrames(a, b *Frame) bool {
	header := func(f *Frame) []byte {
		if f.Message == nil {
			return nil
		}
		return appendHeader([]byte{}, f.Message, false)
	}
	x, y := &a.Fragment, &b.Fragment
	same := a.Sequence == b.Sequence && a.Epoch == b.Epoch && a.From == b.From && a.To == b.To &&
		(a.Message == nil) == (b.Message == nil) && bytes.Equal(header(a), header(b)) && len(a.Entries) == len(b.Entries) &&
		x.Message == y.Message && x.Offset == y.Offset && x.Total == y.Total && x.Len() == y.Len() && x.checksum() == y.checksum()
	for i := 0; same && i < len(a.Entries); i++ {
		same = proto.Equal(a.Entries[i], b.Entries[i])
	}
	return same
}

// take decodes a frame from the buffers that gRPC has it in.
func take(in *incoming, arrived mem.BufferSlice, f *Frame) error {
	if err := (grpcCodec{}).Unmarshal(arrived, in); err != nil {
		return err
	}
	if err := in.identify(f); err != nil {
		return err
	}
	return in.decode(f)
}

// All codecs make the same bytes, and both ways of reading them, however the
// bytes are cut, give the frame that was sent.
func TestCodecsAgree(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := messages().Draw(r, "message")
		frames, err := chunker(t, ChunkFragment).Plan(nil, m, Limits{Chunk: rapid.IntRange(MinLimit, 4096).Draw(r, "chunk")})
		if err != nil {
			t.Fatal(err)
		}
		stamp(frames)
		for i := range frames {
			f := &frames[i]
			b := encodings(t, f)
			var parts [][]byte
			cuts := rapid.SliceOf(rapid.IntRange(0, len(b))).Draw(r, "cuts")
			slices.Sort(cuts)
			from := 0
			for _, to := range append(cuts, len(b)) {
				parts = append(parts, bytes.Clone(b[from:to]))
				from = to
			}
			if len(f.Entries) > 0 {
				parts = [][]byte{b}
			}
			var byHand, byProto Frame
			if err := Decode(parts, &byHand); err != nil {
				t.Fatalf("frame %d in parts cut at %v: %v", i, cuts, err)
			}
			in := &incoming{stock: new(transportv1.Frame)}
			if err := take(in, mem.BufferSlice{mem.SliceBuffer(b)}, &byProto); err != nil {
				t.Fatal(err)
			}
			for _, back := range []*Frame{&byHand, &byProto} {
				if !equalFrames(f, back) || back.size != len(b) || back.Fragment.Total > 0 && back.Fragment.checksum() != back.Fragment.CRC {
					t.Fatalf("frame %d in parts cut at %v: got %+v, want %+v", i, cuts, back, f)
				}
			}
		}
	})
}

// Whatever the bytes and wherever they are cut: no panic, and what decodes
// encodes, by every codec, to the same.
func FuzzDecode(f *testing.F) {
	for _, m := range []*pb.Message{appendMessage(5, 10, 0, 300), appendMessage(0), {Type: pb.MsgHeartbeat.Enum(), Context: make([]byte, 8)}} {
		frames, err := chunker(f, ChunkFragment).Plan(nil, m, Limits{Chunk: 512})
		if err != nil {
			f.Fatal(err)
		}
		stamp(frames)
		for i := range frames {
			f.Add(appendFrame(nil, &frames[i]), uint(7))
		}
	}
	f.Add([]byte{0x22, 0x00}, uint(1))
	f.Fuzz(func(t *testing.T, b []byte, step uint) {
		looksFragment(b)
		var frame, cut Frame
		err := Decode([][]byte{b}, &frame)
		var parts [][]byte
		for part := range slices.Chunk(bytes.Clone(b), int(step%64)+1) {
			parts = append(parts, part)
		}
		cutErr := Decode(parts, &cut)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			if cutErr == nil {
				t.Fatalf("cut up, it decodes; whole: %v", err)
			}
			return
		}
		if len(frame.Entries) == 0 || len(parts) == 1 {
			if cutErr != nil || !equalFrames(&frame, &cut) {
				t.Fatalf("cut up: %+v (%v), whole %+v", cut, cutErr, frame)
			}
		}
		if frame.Fragment.Total > 0 && frame.Fragment.Len() == 0 {
			return // never sent
		}
		frame.size = 0
		var back Frame
		if err := Decode([][]byte{encodings(t, &frame)}, &back); err != nil {
			t.Fatal(err)
		}
		if !equalFrames(&frame, &back) {
			t.Fatalf("got %+v, want %+v", back, frame)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	frame := func(g *transportv1.Frame) []byte {
		b, err := proto.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	message := func(m *pb.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"cut off":               frame(&transportv1.Frame{Header: make([]byte, 9)})[:5],
		"wrong wire type":       {0x08, 0x01},
		"header of junk":        frame(&transportv1.Frame{Header: []byte{0xff, 0xff}}),
		"entries in the header": frame(&transportv1.Frame{Header: message(&pb.Message{Entries: []*pb.Entry{{}}})}),
		"snapshot":              frame(&transportv1.Frame{Header: message(&pb.Message{Snapshot: &pb.Snapshot{}})}),
		"responses":             frame(&transportv1.Frame{Header: message(&pb.Message{Responses: []*pb.Message{{}}})}),
		"negative type":         frame(&transportv1.Frame{Header: message(&pb.Message{Type: pb.MessageType(-1).Enum()})}),
		"entry of junk":         frame(&transportv1.Frame{Entries: [][]byte{{0x1c}}}),
		"fragment of nothing":   frame(&transportv1.Frame{Fragment: &transportv1.Fragment{}}),
		"long header":           frame(&transportv1.Frame{Header: message(&pb.Message{Context: make([]byte, MinLimit)})}),
		"small entries":         frame(&transportv1.Frame{Entries: [][]byte{{0x10, 1, 0x18, 1}, {0x10, 1}}}),
		"fragment and entries":  frame(&transportv1.Frame{Fragment: &transportv1.Fragment{Total: 9}, Entries: [][]byte{{}}}),
	} {
		if err := Decode([][]byte{b}, new(Frame)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The log of a cluster that did nothing but elect: the smallest entries there are.
func TestDecodeSmallestEntries(t *testing.T) {
	f := Frame{Message: &pb.Message{Type: pb.MsgApp.Enum()}}
	for i := range uint64(100) {
		f.Entries = append(f.Entries, &pb.Entry{Term: new(i + 1), Index: new(i + 1)})
	}
	f.Sequence, f.Epoch, f.From, f.To = 1, 7, 1, 2
	for _, in := range []*incoming{{}, {stock: new(transportv1.Frame)}} {
		var back Frame
		if err := take(in, mem.BufferSlice{mem.SliceBuffer(encodings(t, &f))}, &back); err != nil || !equalFrames(&f, &back) {
			t.Errorf("got %+v (%v)", back, err)
		}
	}
}

// gRPC hands over and takes back pooled buffers in pieces of any size.
func TestGRPCCodec(t *testing.T) {
	for _, m := range []*pb.Message{appendMessage(5, 10), appendMessage(5, 3000, 5000), appendMessage(5, 100<<10)} {
		frames, err := chunker(t, ChunkFragment).Plan(nil, m, Limits{Chunk: 40 << 10})
		if err != nil {
			t.Fatal(err)
		}
		stamp(frames)
		for i := range frames {
			want := appendFrame(nil, &frames[i])
			for _, in := range []*incoming{{}, {stock: new(transportv1.Frame)}} {
				var arrived mem.BufferSlice
				for part := range slices.Chunk(want, 16<<10) {
					arrived = append(arrived, mem.Copy(part, buffers))
				}
				if err := (grpcCodec{}).Unmarshal(arrived, in); err != nil {
					t.Fatal(err)
				}
				arrived.Free() // as gRPC does
				if got := bytes.Join(in.parts, nil); !bytes.Equal(got, want) || (in.pooled != nil) != (frames[i].Fragment.Total > 0 || in.stock != nil) {
					t.Fatalf("frame %d: arrived as other bytes, or in the wrong kind of buffer", i)
				}
				var f Frame
				if err := in.identify(&f); err != nil || f.From != 1 || f.To != 2 || f.Epoch != 7 || f.Message != nil || f.Entries != nil {
					t.Fatalf("frame %d identified as %+v (%v)", i, f, err)
				}
				if err := in.decode(&f); err != nil || f.size != len(want) || !equalFrames(&f, &frames[i]) {
					t.Fatalf("frame %d: %d bytes decode to %+v (%v)", i, f.size, f, err)
				}
				if in.stock != nil { // what it read is its own
					in.release()
					if !equalFrames(&f, &frames[i]) {
						t.Fatalf("frame %d lies in what is given back", i)
					}
				}
				in.release()
			}
		}
	}
}

// What scatter hands to gRPC are the entries' own bytes, and no more than a few
// allocations.
func TestScatterShares(t *testing.T) {
	f := &Frame{Message: appendMessage(5), Entries: appendMessage(5, 100, scatterSize, scatterSize-1, 1<<20).Entries}
	out, err := codec(t, CodecScatter).Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	shared := 0
	for _, b := range out {
		for _, e := range f.Entries {
			if &b.ReadOnlyData()[0] == &e.Data[0] {
				shared++
			}
		}
	}
	if shared != 2 {
		t.Errorf("%d of 2 large entries are shared", shared)
	}
	if n := testing.AllocsPerRun(100, func() { codec(t, CodecScatter).Encode(f) }); n > 3 { //nolint:errcheck // checked above
		t.Errorf("%v allocations", n)
	}
}

// What keeps a large entry keeps no frame of many: it is most of the memory that
// it lies in.
func TestLargeEntriesAreAlone(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		alone bool
	}{
		{[]int{aloneFrom}, false},
		{[]int{aloneFrom, aloneFrom / 4}, false},
		{[]int{aloneFrom, aloneFrom, aloneFrom}, true},
		{[]int{aloneFrom - 1, aloneFrom, aloneFrom}, false},
	} {
		src := appendFrame(nil, &Frame{Message: appendMessage(5), Entries: appendMessage(5, c.sizes...).Entries})
		var f Frame
		if err := Decode([][]byte{src}, &f); err != nil {
			t.Fatal(err)
		}
		before := f.Entries[0].Data[0]
		for i := range src {
			src[i]++
		}
		if alone := f.Entries[0].Data[0] == before; alone != c.alone {
			t.Errorf("entries of %v: the first has memory of its own: %v", c.sizes, alone)
		}
	}
}

// From gRPC's buffers to a message: the frame's bytes, the message, its entries
// and the list of them.
func TestDecodeAllocations(t *testing.T) {
	for _, entries := range []int{1, 100, 1000} {
		frame := benchFrames(t, entries, 256, 1<<20)[0]
		var arrived mem.BufferSlice
		for part := range slices.Chunk(appendFrame(nil, &frame), 16<<10) {
			arrived = append(arrived, mem.SliceBuffer(part))
		}
		in := new(incoming)
		n := testing.AllocsPerRun(100, func() {
			var f Frame
			if err := take(in, arrived, &f); err != nil || len(f.Entries) != entries {
				t.Fatal(len(f.Entries), err)
			}
		})
		if n > 4 {
			t.Errorf("%v allocations for a frame of %d entries", n, entries)
		}
	}
}

func benchFrames(b testing.TB, entries, size, limit int) []Frame {
	sizes := make([]int, entries)
	for i := range sizes {
		sizes[i] = size
	}
	frames, err := chunker(b, ChunkFragment).Plan(nil, appendMessage(1000, sizes...), Limits{Chunk: limit})
	if err != nil {
		b.Fatal(err)
	}
	stamp(frames)
	return frames
}

var benchShapes = []struct{ entries, size, limit int }{
	{1, 256, 1 << 20}, {64, 256, 1 << 20}, {4000, 256, 1 << 20}, {1, 64 << 10, 1 << 20}, {1, 1 << 20, 2 << 20}, {1, 1 << 20, 1 << 20},
}

func eachShape(b *testing.B, bench func(b *testing.B, c Codec, frames []Frame)) {
	for _, s := range benchShapes {
		frames := benchFrames(b, s.entries, s.size, s.limit)
		for _, name := range codecNames {
			b.Run(fmt.Sprintf("codec=%s/entries=%d/size=%d/frames=%d", name, s.entries, s.size, len(frames)), func(b *testing.B) {
				bytes := 0
				for i := range frames {
					bytes += frames[i].Size()
				}
				b.SetBytes(int64(bytes))
				b.ReportAllocs()
				bench(b, codec(b, name), frames)
			})
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	eachShape(b, func(b *testing.B, c Codec, frames []Frame) {
		for b.Loop() {
			for i := range frames {
				out, err := c.Encode(&frames[i])
				if err != nil {
					b.Fatal(err)
				}
				out.Free()
			}
		}
	})
}

// BenchmarkDecode is from the buffers that gRPC reads into to messages that may
// be kept.
func BenchmarkDecode(b *testing.B) {
	eachShape(b, func(b *testing.B, c Codec, frames []Frame) {
		var encoded []mem.BufferSlice
		for i := range frames {
			var parts mem.BufferSlice
			for part := range slices.Chunk(appendFrame(nil, &frames[i]), 16<<10) {
				parts = append(parts, mem.SliceBuffer(part))
			}
			encoded = append(encoded, parts)
		}
		in := new(incoming)
		if c.Name() == CodecProto {
			in.stock = new(transportv1.Frame)
		}
		r := NewReassembler()
		var f Frame
		for b.Loop() {
			for _, parts := range encoded {
				if err := take(in, parts, &f); err != nil {
					b.Fatal(err)
				}
				if f.Fragment.Total > 0 {
					if _, err := r.Add(&f, time.Time{}); err != nil {
						b.Fatal(err)
					}
				}
				in.release()
			}
			r.Forget(1)
		}
	})
}

// BenchmarkScatter is what scatterSize was chosen by: a frame of 1 MiB of entries
// of one size, copied and not, and then taken as gRPC takes it, in HTTP/2 frames
// that it copies into its write buffer.
func BenchmarkScatter(b *testing.B) {
	const http2Frame = 16 << 10
	for size := 512; size <= 64<<10; size *= 2 {
		frames := benchFrames(b, (1<<20)/size-1, size, 2<<20)
		for _, least := range []int{1, math.MaxInt} {
			b.Run(fmt.Sprintf("size=%d/copied=%t", size, least > 1), func(b *testing.B) {
				b.SetBytes(int64(frames[0].Size()))
				b.ReportAllocs()
				var parts [][]byte
				written := make([]byte, http2Frame)
				for b.Loop() {
					out, err := scatter(&frames[0], least)
					if err != nil {
						b.Fatal(err)
					}
					r := out.Reader()
					out.Free()
					for r.Remaining() > 0 {
						n := min(http2Frame, r.Remaining())
						if parts, err = r.Peek(n, parts[:0]); err != nil {
							b.Fatal(err)
						}
						to := written
						for _, p := range parts {
							to = to[copy(to, p):]
						}
						if _, err := r.Discard(n); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, name := range strategies {
		for _, s := range benchShapes {
			sizes := make([]int, s.entries)
			for i := range sizes {
				sizes[i] = s.size
			}
			m := appendMessage(1000, sizes...)
			c := chunker(b, name)
			l := Limits{Chunk: s.limit, Receive: 4 << 20, Count: 2}
			b.Run(fmt.Sprintf("chunking=%s/entries=%d/size=%d", name, s.entries, s.size), func(b *testing.B) {
				var frames []Frame
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if frames, err = c.Plan(frames[:0], m, l); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
