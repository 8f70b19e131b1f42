package transport

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

func compressed(t testing.TB, name string, writes ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := encoding.GetCompressor(name).Compress(&out)
	for _, p := range writes {
		if err == nil {
			_, err = w.Write(p)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out.Bytes()
}

func inflated(t testing.TB, name string, b []byte) ([]byte, error) {
	t.Helper()
	r, err := encoding.GetCompressor(name).Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() //nolint:errcheck // only read
	}
	return io.ReadAll(r)
}

// A frame of the size that FrameLimit gives passes the limit though it does not
// compress at all, in however many pieces gRPC writes it.
func TestFrameLimit(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.SampledFrom(compressions[1:]).Draw(r, "compression")
		limit := rapid.OneOf(rapid.IntRange(MinLimit, 4096), rapid.IntRange(MinLimit, 3<<20)).Draw(r, "limit")
		data := randomBytes(FrameLimit(name, limit), rapid.Uint64().Draw(r, "seed"))
		cut := rapid.IntRange(0, len(data)).Draw(r, "cut")
		b := compressed(t, name, data[:cut/2], data[cut/2:cut], data[cut:])
		if len(b) > limit {
			t.Fatalf("%s: %d bytes become %d, limit %d", name, len(data), len(b), limit)
		}
		if back, err := inflated(t, name, b); err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%s: %d bytes come back as %d (%v)", name, len(data), len(back), err)
		}
	})
	if n := FrameLimit(CompressionNone, 4096); n != 4096 {
		t.Errorf("%d of 4096 bytes without compression", n)
	}
}

// What compresses travels in fewer bytes; what does not stays within the limit.
// Either way everything arrives, by every strategy that can carry it.
func TestCompressionOverRealLimit(t *testing.T) {
	const limit = 4096
	for _, kind := range []string{KindStream, KindUnary} {
		for _, name := range compressions {
			for _, chunking := range []string{ChunkBounded, ChunkFragment, ChunkReactive} {
				t.Run(fmt.Sprintf("%s/%s/%s", kind, name, chunking), func(t *testing.T) {
					a, b := pair(t, Config{Kind: kind, Chunking: chunking, Compression: name, MaxMessage: limit, ChunkSize: limit})
					fits := int(MaxEntryBytes(ChunkBounded, FrameLimit(name, limit)))
					index := uint64(5)
					var want []*pb.Entry
					send := func(random bool, sizes ...int) {
						m := appendMessage(index, sizes...)
						for i, e := range m.Entries {
							if !random {
								e.Data = bytes.Repeat([]byte("value"), sizes[i]/5)
							}
						}
						index += uint64(len(sizes))
						want = append(want, m.Entries...)
						a.transport.Send([]*pb.Message{m})
					}
					received := func(n int) {
						b.await(t, fmt.Sprintf("%d entries", n), func() bool {
							// Strategy reactive may send a part again.
							last := uint64(0)
							for _, m := range b.stepped {
								for _, e := range m.Entries {
									last = max(last, e.GetIndex())
								}
							}
							return last == 5+uint64(n)
						})
					}
					send(false, 2000)
					send(false, 2000, 2000, 2000, 2000) // above the limit before, not after
					received(5)
					plain := a.stat()
					charged := (*a.transport.(*server).peers.Load())[2].onWire(1000)
					send(true, fits-20)
					send(true, 1000, 1000, 1000, 1000, 1000)
					exact := appendMessage(index)
					exact.Entries = []*pb.Entry{entryOf(t, index+1, fits)}
					want, index = append(want, exact.Entries...), index+1
					a.transport.Send([]*pb.Message{exact})
					received(12)

					byIndex := map[uint64]*pb.Entry{}
					for _, m := range b.stepped {
						for _, e := range m.Entries {
							byIndex[e.GetIndex()] = e
						}
					}
					for _, e := range want {
						if !proto.Equal(byIndex[e.GetIndex()], e) {
							t.Fatalf("entry %d arrived as something else", e.GetIndex())
						}
					}
					s := a.stat()
					refusals := uint64(0)
					if chunking == ChunkReactive {
						refusals = 1
					}
					if s.Refusals != refusals || s.Problem != "" || s.MessagesDropped != 0 {
						t.Errorf("%+v", s)
					}
					if (name == CompressionNone) != (charged == 1000) || name != CompressionNone && charged > 250 {
						t.Errorf("a link charges for %d bytes of 1000", charged)
					}
					switch {
					case name == CompressionNone && s.WireBytesSent != s.BytesSent+grpcHeader*s.FramesSent:
						t.Errorf("%d bytes in %d frames took %d on the wire", s.BytesSent, s.FramesSent, s.WireBytesSent)
					case name != CompressionNone && (plain.WireBytesSent == 0 || plain.WireBytesSent*4 > plain.BytesSent):
						t.Errorf("%d bytes took %d on the wire", plain.BytesSent, plain.WireBytesSent)
					}
				})
			}
		}
	}
}

// Any receiver understands any sender.
func TestMixedCodecs(t *testing.T) {
	for _, kind := range []string{KindStream, KindUnary} {
		for i, name := range codecNames {
			for j, compression := range compressions {
				from := startServer(t, 1, Config{Kind: kind, Codec: name, Compression: compression, ChunkSize: 64 << 10})
				to := startServer(t, 2, Config{Kind: kind, Codec: codecNames[(i+1)%len(codecNames)], Compression: compressions[(j+1)%len(compressions)]})
				connect(t, from, to)
				m := appendMessage(5, 0, 100, 3000, 70000, 200000)
				back := &pb.Message{Type: pb.MsgAppResp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(3)), Index: new(uint64(10))}
				from.transport.Send([]*pb.Message{m})
				to.transport.Send([]*pb.Message{back})
				var got []*pb.Entry
				to.await(t, "the entries", func() bool {
					got = nil
					for _, m := range to.stepped {
						got = append(got, m.Entries...)
					}
					return len(got) == len(m.Entries)
				})
				for i, e := range m.Entries {
					if !proto.Equal(got[i], e) {
						t.Fatalf("%s, %s, %s: entry %d arrived as something else", kind, name, compression, i)
					}
				}
				from.await(t, "the answer", func() bool { return len(from.stepped) == 1 })
				if !proto.Equal(from.stepped[0], back) {
					t.Fatalf("answer arrived as %v", from.stepped[0])
				}
			}
		}
	}
}

// A message that inflates to more than the limit is refused, and the node goes
// on. A stream can't make the decoder allocate by what it declares.
func TestDecompressionBomb(t *testing.T) {
	a, b := pair(t, Config{MaxMessage: 64 << 10, ChunkSize: 64 << 10})
	for _, name := range compressions[1:] {
		frame := &transportv1.Frame{Header: make([]byte, 16<<20)}
		_, err := raw(t, b).Send(t.Context(), frame, grpc.UseCompressor(name))
		if told, ok := parseRefusal(err); status.Code(err) != codes.ResourceExhausted || !ok || told.limit != 64<<10 {
			t.Errorf("%s: %v", name, err)
		}
	}
	a.transport.Send([]*pb.Message{heartbeat(1, 2)})
	b.await(t, "a heartbeat afterwards", func() bool { return len(b.stepped) == 1 })

	large := randomBytes(8<<20, 1)
	var window, block bytes.Buffer
	zw, err := zstd.NewWriter(&window, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	sw := s2.NewWriter(&block, s2.WriterBlockSize(4<<20), s2.WriterConcurrency(1))
	for _, w := range []io.WriteCloser{zw, sw} {
		if _, err := w.Write(large); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, stream := range map[string][]byte{CompressionZstd: window.Bytes(), CompressionS2: block.Bytes(), CompressionSnappy: block.Bytes()} {
		if got, err := inflated(t, name, stream); err == nil || len(got) > 0 {
			t.Errorf("%s: %d bytes through a window that is too large (%v)", name, len(got), err)
		}
	}
}
