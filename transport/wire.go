package transport

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// wireName is the content-subtype that the frames of codecs append and scatter
// travel under. A caller that knows only the stock protobuf codec, as codec
// proto does, is understood as well: the bytes are the same.
const wireName = "raftlab-frame"

var stockCodec = encoding.GetCodecV2(protocodec.Name)

func init() { encoding.RegisterCodecV2(grpcCodec{}) }

// ServerCodec is what the peer port's server has to be forced to use, whatever
// codec a caller names: gRPC then decodes no frame before its sender was checked.
func ServerCodec() encoding.CodecV2 { return grpcCodec{} }

// contentSubtype is what a connection of that codec says it carries.
func contentSubtype(c Codec) string {
	if c.Name() == CodecProto {
		return protocodec.Name
	}
	return wireName
}

// grpcCodec lets gRPC carry outgoing and incoming frames without the generated
// message, and everything else with the stock codec.
type grpcCodec struct{}

// outgoing is frames on their way into gRPC, one at a time.
type outgoing struct {
	codec Codec
	frame *Frame
}

// of returns a frame as gRPC has to be given it.
func (o *outgoing) of(f *Frame) (any, error) {
	if o.codec.Name() == CodecProto {
		return protoFrame(f)
	}
	o.frame = f
	return o, nil
}

// incoming is a frame out of gRPC, as bytes. It is decoded in two steps: identify
// and, once its sender was checked, decode.
type incoming struct {
	stock    *transportv1.Frame // what the stock decoder fills, where that is used
	whole    [1]mem.Buffer      // what it reads
	parts    [][]byte           // the encoded frame
	pooled   mem.BufferSlice    // that they lie in, if they do
	contents contents
}

// newIncoming is for the frames of an RPC: what codec proto sent is decoded by the
// stock decoder, since that is what it is there to show.
func newIncoming(ctx context.Context) *incoming {
	in := new(incoming)
	if kind := metadata.ValueFromIncomingContext(ctx, "content-type"); !slices.Contains(kind, "application/grpc+"+wireName) {
		in.stock = new(transportv1.Frame)
	}
	return in
}

// release gives pooled buffers back; nothing decoded from them may be in use.
func (in *incoming) release() {
	in.pooled.Free()
	clear(in.parts)
	in.pooled, in.parts, in.contents = nil, in.parts[:0], contents{}
}

// identify reads who sent the frame, and allocates nothing for what it carries.
func (in *incoming) identify(f *Frame) error { return in.contents.scan(in.parts, f) }

// decode reads the rest of what identify saw.
func (in *incoming) decode(f *Frame) error {
	if in.stock == nil {
		return in.contents.decode(f)
	}
	if err := proto.Unmarshal(in.parts[0], in.stock); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return fromProto(in.stock, f)
}

// Name implements encoding.CodecV2.
func (grpcCodec) Name() string { return wireName }

// Marshal implements encoding.CodecV2.
func (grpcCodec) Marshal(v any) (mem.BufferSlice, error) {
	if out, ok := v.(*outgoing); ok {
		return out.codec.Encode(out.frame)
	}
	return stockCodec.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. What is handed up must never lie in a
// pooled buffer, so entries are copied once, into memory of the frame's size
// that they then keep; a fragment is copied by the reassembler, and everything by
// the stock decoder, so those stay in pooled buffers until then.
func (grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return stockCodec.Unmarshal(data, v)
	}
	in.release()
	if in.stock != nil {
		in.whole[0] = data.MaterializeToBuffer(buffers)
		in.pooled = in.whole[:]
		in.parts = append(in.parts, in.whole[0].ReadOnlyData())
		return nil
	}
	for _, b := range data {
		in.parts = append(in.parts, b.ReadOnlyData())
	}
	if len(in.parts) > 0 && looksFragment(in.parts[0]) {
		data.Ref()
		in.pooled = data
		return nil
	}
	// Join, unlike make, does not clear what it allocates before it copies.
	joined := bytes.Join(in.parts, nil)
	clear(in.parts)
	in.parts = append(in.parts[:0], joined)
	return nil
}
