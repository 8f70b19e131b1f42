package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// Codec turns frames into bytes and back. It is pure and safe for concurrent
// use. All codecs make the same bytes: what proto.Unmarshal reads as a
// transportv1.Frame.
type Codec interface {
	// Append appends the encoding of f, which has f.Size() bytes, to dst.
	Append(dst []byte, f *Frame) []byte
	// Decode parses one encoded frame into f, replacing what f held. What f
	// holds afterwards shares the bytes of src, which must not be changed, nor
	// go back to a pool, while it is in use. The errors are about the form of
	// the bytes only; Validate judges the message.
	Decode(src []byte, f *Frame) error
}

// AppendCodec encodes by hand, without reflection and without an intermediate
// form of the entries, and decodes with four allocations a frame whatever the
// number of its entries.
type AppendCodec struct{}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// ErrMalformed says that bytes are not an encoded frame.
var ErrMalformed = errors.New("malformed frame")

// Append implements Codec.
func (AppendCodec) Append(dst []byte, f *Frame) []byte {
	dst, body := appendFramePrefix(dst, f)
	if body == nil {
		return dst
	}
	dst = append(dst, body...)
	return appendFrameSuffix(dst, f)
}

// A frame's encoding is a prefix, perhaps one large run of bytes that need not
// be copied (the body of a fragment), and what follows it.

func appendFramePrefix(dst []byte, f *Frame) (prefix, body []byte) {
	dst = appendFixed64(dst, 1, f.Sequence)
	if f.Message != nil {
		padded := f.padded()
		dst = appendTag(dst, 2, protowire.BytesType)
		dst = binary.AppendUvarint(dst, uint64(headerSize(f.Message, padded)))
		dst = appendHeader(dst, f.Message, padded)
	}
	for _, e := range f.Entries {
		dst = appendTag(dst, 3, protowire.BytesType)
		dst = binary.AppendUvarint(dst, uint64(entrySize(e)))
		dst = appendEntryHead(dst, e)
		dst = append(dst, e.Data...)
	}
	if f.Fragment.Total == 0 {
		return appendStamps(dst, f), nil
	}
	p := &f.Fragment
	dst = appendTag(dst, 4, protowire.BytesType)
	dst = binary.AppendUvarint(dst, uint64(fragmentSize(p)))
	dst = appendFixed64(dst, 1, p.Message)
	if p.Offset > 0 {
		dst = appendFixed64(dst, 2, p.Offset)
	}
	dst = appendFixed64(dst, 3, p.Total)
	dst = appendTag(dst, 4, protowire.BytesType)
	dst = binary.AppendUvarint(dst, uint64(p.Len()))
	dst = append(dst, p.head...)
	if len(p.body) == 0 {
		return appendFrameSuffix(dst, f), nil
	}
	return dst, p.body
}

func appendFrameSuffix(dst []byte, f *Frame) []byte {
	crc := crc32.Update(checksum(f.Fragment.head), castagnoli, f.Fragment.body)
	dst = appendTag(dst, 5, protowire.Fixed32Type)
	dst = binary.LittleEndian.AppendUint32(dst, crc)
	return appendStamps(dst, f)
}

func appendStamps(dst []byte, f *Frame) []byte {
	dst = appendFixed64(dst, 7, f.Epoch)
	dst = appendFixed64(dst, 8, f.From)
	return appendFixed64(dst, 9, f.To)
}

func appendTag(dst []byte, number protowire.Number, t protowire.Type) []byte {
	return append(dst, byte(number)<<3|byte(t))
}

func appendFixed64(dst []byte, number protowire.Number, v uint64) []byte {
	dst = appendTag(dst, number, protowire.Fixed64Type)
	return binary.LittleEndian.AppendUint64(dst, v)
}

// appendPadded appends v as a varint of ten bytes, which every protobuf decoder
// reads as v.
func appendPadded(dst []byte, v uint64) []byte {
	for range 9 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func appendHeader(dst []byte, m *pb.Message, padded bool) []byte {
	number := func(field protowire.Number, v *uint64) {
		if v == nil {
			return
		}
		dst = appendTag(dst, field, protowire.VarintType)
		if padded {
			dst = appendPadded(dst, *v)
		} else {
			dst = binary.AppendUvarint(dst, *v)
		}
	}
	if m.Type != nil {
		dst = appendTag(dst, 1, protowire.VarintType)
		dst = binary.AppendUvarint(dst, uint64(*m.Type))
	}
	number(2, m.To)
	number(3, m.From)
	number(4, m.Term)
	number(5, m.LogTerm)
	number(6, m.Index)
	number(8, m.Commit)
	if m.Reject != nil {
		dst = append(appendTag(dst, 10, protowire.VarintType), protowireBool(*m.Reject))
	}
	number(11, m.RejectHint)
	if m.Context != nil {
		dst = appendTag(dst, 12, protowire.BytesType)
		dst = binary.AppendUvarint(dst, uint64(len(m.Context)))
		dst = append(dst, m.Context...)
	}
	number(13, m.Vote)
	return dst
}

func protowireBool(v bool) byte { return byte(protowire.EncodeBool(v)) }

// appendEntryHead appends an entry's encoding up to the bytes of its data.
func appendEntryHead(dst []byte, e *pb.Entry) []byte {
	if e.Type != nil {
		dst = appendTag(dst, 1, protowire.VarintType)
		dst = binary.AppendUvarint(dst, uint64(*e.Type))
	}
	if e.Term != nil {
		dst = appendTag(dst, 2, protowire.VarintType)
		dst = binary.AppendUvarint(dst, *e.Term)
	}
	if e.Index != nil {
		dst = appendTag(dst, 3, protowire.VarintType)
		dst = binary.AppendUvarint(dst, *e.Index)
	}
	if e.Data != nil {
		dst = appendTag(dst, 4, protowire.BytesType)
		dst = binary.AppendUvarint(dst, uint64(len(e.Data)))
	}
	return dst
}

// reader walks the fields of one protobuf message. It is used by value; next
// returns false at the end and on an error.
type reader struct {
	rest   []byte
	number protowire.Number
	value  uint64 // of a varint or fixed field
	bytes  []byte // of a bytes field
	kind   protowire.Type
	err    error
}

func (r *reader) next() bool {
	if len(r.rest) == 0 || r.err != nil {
		return false
	}
	number, kind, n := protowire.ConsumeTag(r.rest)
	if n < 0 {
		return r.fail(n)
	}
	r.rest = r.rest[n:]
	r.number, r.kind, r.value, r.bytes = number, kind, 0, nil
	switch kind {
	case protowire.VarintType:
		r.value, n = protowire.ConsumeVarint(r.rest)
	case protowire.Fixed64Type:
		r.value, n = protowire.ConsumeFixed64(r.rest)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(r.rest)
		r.value = uint64(v)
	case protowire.BytesType:
		r.bytes, n = protowire.ConsumeBytes(r.rest)
	case protowire.StartGroupType, protowire.EndGroupType:
		n = -1
	default:
		n = -1
	}
	if n < 0 {
		return r.fail(n)
	}
	r.rest = r.rest[n:]
	return true
}

func (r *reader) fail(n int) bool {
	r.err = fmt.Errorf("%w: field %d: %w", ErrMalformed, r.number, protowire.ParseError(n))
	return false
}

// wrong reports a field of another type than the schema says.
func (r *reader) want(kind protowire.Type) bool {
	if r.kind != kind && r.err == nil {
		r.err = fmt.Errorf("%w: field %d has wire type %d", ErrMalformed, r.number, r.kind)
	}
	return r.kind == kind
}
