package transport

import (
	"bytes"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// wireName is the content-subtype that the frames of codecs append and scatter
// travel under. A caller that knows only the stock protobuf codec, as codec
// proto does, is understood as well: the bytes are the same.
const wireName = "raftlab-frame"

var stockCodec = encoding.GetCodecV2(protocodec.Name)

func init() { encoding.RegisterCodecV2(grpcCodec{}) }

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

// incoming is a frame out of gRPC. With the stock codec, the embedded message
// is what gets filled.
type incoming struct {
	*transportv1.Frame
	ours   bool     // by grpcCodec: parts and not Frame
	parts  [][]byte // the encoded frame
	pooled mem.BufferSlice
}

// release gives pooled buffers back; nothing decoded from them may be in use.
func (in *incoming) release() {
	in.pooled.Free()
	clear(in.parts)
	in.ours, in.pooled, in.parts = false, nil, in.parts[:0]
}

// decode parses what arrived and returns its encoded size.
func (in *incoming) decode(f *Frame) (int, error) {
	if !in.ours {
		err := fromProto(in.Frame, f)
		return f.size, err
	}
	err := Decode(in.parts, f)
	return f.size, err
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
// that they then keep; a fragment is copied by the reassembler, so it stays in
// the pooled buffers until then.
func (grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return stockCodec.Unmarshal(data, v)
	}
	in.release()
	in.ours = true
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
