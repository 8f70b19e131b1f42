package transport

import (
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Whatever the bytes: no panic, and what decodes encodes to the same message.
func FuzzDecode(f *testing.F) {
	for _, m := range []*pb.Message{appendMessage(5, 10, 0, 300), appendMessage(0), {Type: pb.MsgHeartbeat.Enum(), Context: make([]byte, 8)}} {
		frames, err := chunker(f, ChunkFragment).Plan(nil, m, Limits{Chunk: 512})
		if err != nil {
			f.Fatal(err)
		}
		stamp(frames)
		for i := range frames {
			f.Add(AppendCodec{}.Append(nil, &frames[i]))
		}
	}
	f.Add([]byte{0x22, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		looksFragment(b)
		var frame Frame
		if err := (AppendCodec{}).Decode(b, &frame); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			return
		}
		if frame.Fragment.Total > 0 && frame.Fragment.Len() == 0 {
			return // never sent
		}
		frame.size = 0
		var back Frame
		again := AppendCodec{}.Append(nil, &frame)
		if len(again) != frame.Size() {
			t.Fatalf("encoded %d bytes, size %d", len(again), frame.Size())
		}
		if err := (AppendCodec{}).Decode(again, &back); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(frame.Message, back.Message) || len(frame.Entries) != len(back.Entries) {
			t.Fatalf("got %v, want %v", back, frame)
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
		"fragment and entries":  frame(&transportv1.Frame{Fragment: &transportv1.Fragment{Total: 9}, Entries: [][]byte{{}}}),
	} {
		if err := (AppendCodec{}).Decode(b, new(Frame)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// gRPC hands over and takes back pooled buffers in pieces of any size.
func TestGRPCCodec(t *testing.T) {
	c := grpcCodec{stock: nil}
	for _, m := range []*pb.Message{appendMessage(5, 10), appendMessage(5, 3000, 5000), appendMessage(5, 100<<10)} {
		frames, err := chunker(t, ChunkFragment).Plan(nil, m, Limits{Chunk: 40 << 10})
		if err != nil {
			t.Fatal(err)
		}
		stamp(frames)
		for i := range frames {
			want := AppendCodec{}.Append(nil, &frames[i])
			out, err := c.Marshal(&outgoing{frame: &frames[i]})
			if err != nil {
				t.Fatal(err)
			}
			if string(out.Materialize()) != string(want) {
				t.Fatalf("frame %d: other bytes for gRPC", i)
			}
			split := mem.BufferSlice{mem.SliceBuffer(want[:min(len(want), 150)]), mem.SliceBuffer(want[min(len(want), 150):])}
			in := new(incoming)
			if err := c.Unmarshal(split, in); err != nil {
				t.Fatal(err)
			}
			if string(in.data) != string(want) || (in.pooled != nil) != (frames[i].Fragment.Total > 0) {
				t.Fatalf("frame %d: arrived as other bytes, or in the wrong kind of buffer", i)
			}
			in.release()
			out.Free()
		}
	}
}

func benchFrames(b *testing.B, entries, size, limit int) []Frame {
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
	{1, 256, 1 << 20}, {64, 256, 1 << 20}, {240, 256, 64 << 10}, {4000, 256, 1 << 20}, {1, 60 << 10, 64 << 10}, {1, 1 << 20, 64 << 10},
}

func BenchmarkEncode(b *testing.B) {
	for _, s := range benchShapes {
		frames := benchFrames(b, s.entries, s.size, s.limit)
		b.Run(fmt.Sprintf("entries=%d/size=%d/frames=%d", s.entries, s.size, len(frames)), func(b *testing.B) {
			var buf []byte
			bytes := 0
			for i := range frames {
				bytes += frames[i].Size()
			}
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			for b.Loop() {
				for i := range frames {
					buf = AppendCodec{}.Append(buf[:0], &frames[i])
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, s := range benchShapes {
		frames := benchFrames(b, s.entries, s.size, s.limit)
		b.Run(fmt.Sprintf("entries=%d/size=%d/frames=%d", s.entries, s.size, len(frames)), func(b *testing.B) {
			var encoded [][]byte
			bytes := 0
			for i := range frames {
				encoded = append(encoded, AppendCodec{}.Append(nil, &frames[i]))
				bytes += frames[i].Size()
			}
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			var f Frame
			for b.Loop() {
				for _, e := range encoded {
					if err := (AppendCodec{}).Decode(e, &f); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
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
