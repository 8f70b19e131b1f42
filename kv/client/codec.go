package client

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that answers are decoded by
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// encodedCodec is gRPC's protobuf codec for messages that are encoded before
// SendMsg. Callers of a pipeline thus encode side by side instead of in turn,
// and none of a caller's bytes is referred to once its message is queued.
type encodedCodec struct {
	encoding.CodecV2
}

func newEncodedCodec() encodedCodec {
	return encodedCodec{CodecV2: encoding.GetCodecV2("proto")}
}

// Marshal hands on what is encoded already.
func (c encodedCodec) Marshal(v any) (mem.BufferSlice, error) {
	data, ok := v.(*mem.BufferSlice)
	if !ok {
		return nil, fmt.Errorf("client: %T is not an encoded message", v)
	}
	return *data, nil
}

// encode marshals a message of a known size into a pooled buffer, which gRPC
// gives back once it is on the wire.
func encode(m proto.Message, size int) (mem.BufferSlice, error) {
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	data, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buffer)[:0], m)
	if err != nil {
		pool.Put(buffer)
		return nil, err
	}
	*buffer = data
	return mem.BufferSlice{mem.NewBuffer(buffer, pool)}, nil
}
