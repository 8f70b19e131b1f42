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

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// clientCodec is gRPC's protobuf codec, but for the requests that carry what is
// written. Two of them it decodes with a few allocations, whatever they hold, of
// which one is their bytes, copied once; keys and values lie in it. The stock
// decoder allocates three times an operation, and copies a large value twice. And
// of requests of many operations it decodes none of those with more than may be.
type clientCodec struct{ encoding.CodecV2 }

func newClientCodec() encoding.CodecV2 { return clientCodec{encoding.GetCodecV2(protocodec.Name)} }

// streamRequest is a StreamRequest with the bytes that it came in, all of which it
// may keep.
type streamRequest struct {
	*kvv1.StreamRequest

	bytes int
}

// Unmarshal implements encoding.CodecV2. Nothing of data is kept.
func (c clientCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *streamRequest:
		m.bytes = data.Len()
		return c.Unmarshal(data, m.StreamRequest)
	case *kvv1.StreamRequest:
		src := joined(data)
		if decodeStreamRequest(src, m) {
			return nil
		}
		return unmarshalOperations(src, m, &m.Operations)
	case *kvv1.PutRequest:
		src := joined(data)
		if decodePutRequest(src, m) {
			return nil
		}
		return proto.Unmarshal(src, m)
	case *kvv1.BatchRequest:
		src := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer src.Free()
		return unmarshalOperations(src.ReadOnlyData(), m, &m.Operations)
	case *clusterv1.ChangeMembershipRequest:
		if data.Len() > maxVotersBytes {
			proto.Reset(m)
			m.Voters = make([]uint64, maxVoters+1) // for checkVoters to refuse
			return nil
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

// joined returns the bytes in memory of their own. Join, unlike make, does not
// clear what it allocates before it copies.
func joined(data mem.BufferSlice) []byte {
	parts := make([][]byte, len(data))
	for i, b := range data {
		parts[i] = b.ReadOnlyData()
	}
	return bytes.Join(parts, nil)
}

// unmarshalOperations has the stock decoder decode src into m, whose operations
// are its field 1. An operation takes two bytes and becomes a hundred and more, so
// too many of them are not decoded: m then has one more than may be, all nil, for
// checkOperations to refuse.
func unmarshalOperations(src []byte, m proto.Message, operations *[]*kvv1.Operation) error {
	if !tooManyOperations(src) {
		return proto.Unmarshal(src, m)
	}
	proto.Reset(m)
	*operations = make([]*kvv1.Operation, maxOperations+1)
	return nil
}

// tooManyOperations looks no further than the stock decoder would, which stops at
// what is malformed, or at the end.
func tooManyOperations(src []byte) bool {
	for count := 0; count <= maxOperations; {
		number, kind, n := protowire.ConsumeField(src)
		if n < 0 {
			return false
		}
		if number == 1 && kind == protowire.BytesType {
			count++
		}
		src = src[n:]
	}
	return true
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
		return false // no slab for it
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
