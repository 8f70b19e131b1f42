package node

import (
	"bytes"
	"math"
	"slices"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// clientCodec is gRPC's protobuf codec, but for the two requests that carry what
// is written: those it decodes with a few allocations, whatever they hold, of
// which one is their bytes, copied once; keys and values lie in it. The stock
// decoder allocates three times an operation, and copies a large value twice.
type clientCodec struct{ encoding.CodecV2 }

func newClientCodec() encoding.CodecV2 { return clientCodec{encoding.GetCodecV2(protocodec.Name)} }

// Unmarshal implements encoding.CodecV2. Nothing of data is kept.
func (c clientCodec) Unmarshal(data mem.BufferSlice, v any) error {
	var decode func(src []byte) bool
	switch m := v.(type) {
	case *kvv1.StreamRequest:
		decode = func(src []byte) bool { return decodeStreamRequest(src, m) }
	case *kvv1.PutRequest:
		decode = func(src []byte) bool { return decodePutRequest(src, m) }
	default:
		return c.CodecV2.Unmarshal(data, v)
	}
	parts := make([][]byte, len(data))
	for i, b := range data {
		parts[i] = b.ReadOnlyData()
	}
	// Join, unlike make, does not clear what it allocates before it copies.
	src := bytes.Join(parts, nil)
	if decode(src) {
		return nil
	}
	// Something rare: the stock decoder knows what to make of it.
	return proto.Unmarshal(src, v.(proto.Message))
}

// field consumes one field of known number and type; false for any other.
func field(b []byte) (number protowire.Number, value uint64, data, rest []byte, ok bool) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, 0, nil, nil, false
	}
	b = b[n:]
	switch kind {
	case protowire.VarintType:
		value, n = protowire.ConsumeVarint(b)
	case protowire.BytesType:
		data, n = protowire.ConsumeBytes(b)
	case protowire.Fixed32Type, protowire.Fixed64Type, protowire.StartGroupType, protowire.EndGroupType:
		return 0, 0, nil, nil, false
	default:
		return 0, 0, nil, nil, false
	}
	if n < 0 {
		return 0, 0, nil, nil, false
	}
	// So that an append to a key does not reach the value behind it.
	return number, value, slices.Clip(data), b[n:], true
}

// decodePutRequest decodes into m, whose key and value then lie in src; false for
// what only the stock decoder knows.
func decodePutRequest(src []byte, m *kvv1.PutRequest) bool {
	m.Reset()
	for len(src) > 0 {
		number, _, data, rest, ok := field(src)
		if !ok || data == nil {
			return false
		}
		switch number {
		case 1:
			m.Key = data
		case 2:
			m.Value = data
		default:
			return false
		}
		src = rest
	}
	return true
}

// decodeStreamRequest decodes into m, whose operations then lie in src; false for
// what only the stock decoder knows.
func decodeStreamRequest(src []byte, m *kvv1.StreamRequest) bool {
	m.Reset()
	count := 0
	for rest := src; len(rest) > 0; count++ {
		number, _, data, after, ok := field(rest)
		if !ok || number != 1 || data == nil {
			return false
		}
		rest = after
	}
	if count > maxOperations {
		return false // refused when it is seen; no slab for it
	}
	slab := make([]kvv1.Operation, count)
	m.Operations = make([]*kvv1.Operation, count)
	for i := range slab {
		_, _, data, rest, _ := field(src)
		if !decodeOperation(data, &slab[i]) {
			m.Reset()
			return false
		}
		m.Operations[i] = &slab[i]
		src = rest
	}
	return true
}

func decodeOperation(src []byte, op *kvv1.Operation) bool {
	for len(src) > 0 {
		number, value, data, rest, ok := field(src)
		if !ok || (data == nil) != (number < 3 || number > 5) || value > math.MaxInt32 && number > 1 {
			return false
		}
		switch number {
		case 1:
			op.Id = value
		case 2:
			op.Kind = kvv1.OperationKind(value)
		case 3:
			op.Key = data
		case 4:
			op.Value = data
		case 5:
			op.Expect = data
		case 6:
			op.ExpectAbsent = protowire.DecodeBool(value)
		case 7:
			op.Consistency = kvv1.Consistency(value)
		default:
			return false
		}
		src = rest
	}
	return true
}
