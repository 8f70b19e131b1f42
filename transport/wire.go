package transport

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// wireName is the content-subtype that a node's frames travel under. A caller
// that knows only the stock protobuf codec is understood as well: the bytes are
// the same.
const wireName = "raftlab-append"

func init() {
	encoding.RegisterCodecV2(grpcCodec{stock: encoding.GetCodecV2(protocodec.Name)})
}

// grpcCodec lets gRPC carry outgoing and incoming frames with the AppendCodec,
// and everything else with the stock codec.
type grpcCodec struct{ stock encoding.CodecV2 }

// outgoing is a frame on its way into gRPC.
type outgoing struct{ frame *Frame }

// incoming is a frame out of gRPC. With the stock codec, the embedded message
// is what gets filled.
type incoming struct {
	*transportv1.Frame
	data   []byte
	pooled mem.Buffer // holds data when it is to be given back
}

// release gives a pooled buffer back; nothing decoded from it may be in use.
func (in *incoming) release() {
	if in.pooled != nil {
		in.pooled.Free()
		in.pooled = nil
	}
	in.data = nil
}

// decode parses what arrived and returns its encoded size.
func (in *incoming) decode(f *Frame) (int, error) {
	if in.data == nil { // by the stock codec
		data, err := proto.Marshal(in.Frame)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		in.data = data
	}
	return len(in.data), AppendCodec{}.Decode(in.data, f)
}

// Name implements encoding.CodecV2.
func (grpcCodec) Name() string { return wireName }

// A fragment's body at least that large is handed to gRPC as it lies in the
// log, which saves one copy a follower; below, the extra buffer costs more.
const scatterSize = 16 << 10

// Marshal implements encoding.CodecV2.
func (c grpcCodec) Marshal(v any) (mem.BufferSlice, error) {
	out, ok := v.(*outgoing)
	if !ok {
		return c.stock.Marshal(v)
	}
	f := out.frame
	if body := f.Fragment.body; len(body) >= scatterSize {
		small := make([]byte, 0, f.Size()-len(body))
		prefix, _ := appendFramePrefix(small, f)
		suffix := appendFrameSuffix(prefix[len(prefix):], f)
		return mem.BufferSlice{mem.SliceBuffer(prefix), mem.SliceBuffer(body), mem.SliceBuffer(suffix)}, nil
	}
	size := f.Size()
	if mem.IsBelowBufferPoolingThreshold(size) {
		return mem.BufferSlice{mem.SliceBuffer(AppendCodec{}.Append(make([]byte, 0, size), f))}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	*buf = AppendCodec{}.Append((*buf)[:0], f)
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2. What is handed up must never lie in a
// pooled buffer, so entries are copied once, into memory of the frame's size
// that they then keep; a fragment is copied by the reassembler, so it may stay
// in the pooled buffer until then.
func (c grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return c.stock.Unmarshal(data, v)
	}
	in.release()
	if len(data) > 0 && looksFragment(data[0].ReadOnlyData()) {
		in.pooled = data.MaterializeToBuffer(mem.DefaultBufferPool())
		in.data = in.pooled.ReadOnlyData()
		return nil
	}
	in.data = data.Materialize()
	if in.data == nil {
		in.data = []byte{}
	}
	return nil
}
