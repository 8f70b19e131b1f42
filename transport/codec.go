package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// ErrMalformed says that bytes are not an encoded frame.
var ErrMalformed = errors.New("malformed frame")

// Codec turns frames into bytes: what proto.Unmarshal reads as a
// transportv1.Frame. All codecs make the same bytes of a frame, and every
// receiver reads all of them, so nodes of one cluster may differ in theirs. A
// Codec is pure and safe for concurrent use.
type Codec interface {
	// Name is the codec's name.
	Name() string
	// Encode returns the f.Size() bytes of a frame. They may share memory with
	// the frame's entries, which must not change any more; what belongs to a
	// pool goes back to it when the buffers are freed.
	Encode(f *Frame) (mem.BufferSlice, error)
}

// NewCodec returns the codec of that name.
func NewCodec(name string) (Codec, error) {
	switch name {
	case CodecProto:
		return protoCodec{}, nil
	case CodecAppend:
		return appendCodec{}, nil
	case CodecScatter:
		return scatterCodec{}, nil
	}
	return nil, fmt.Errorf("codec %q is not one of proto, append, scatter", name)
}

// appendCodec writes a frame into one pooled buffer, by hand, without
// reflection and without an intermediate form of the entries.
type appendCodec struct{}

// Name implements Codec.
func (appendCodec) Name() string { return CodecAppend }

// Encode implements Codec.
func (appendCodec) Encode(f *Frame) (mem.BufferSlice, error) {
	size := f.Size()
	if mem.IsBelowBufferPoolingThreshold(size) {
		return mem.BufferSlice{mem.SliceBuffer(appendFrame(make([]byte, 0, size), f))}, nil
	}
	buf := buffers.Get(size)
	*buf = appendFrame((*buf)[:0], f)
	return mem.BufferSlice{mem.NewBuffer(buf, buffers)}, nil
}

// scatterCodec hands large data to gRPC as it lies in the log, where all
// followers' frames share it, and copies the rest as appendCodec does.
//
// That is also what encoding an entry once for all followers comes to: besides
// its data, an entry's encoding is a dozen bytes. For small entries, to keep it
// beside them was rejected: it would cost each entry an allocation of its own
// and its data in memory twice, and the copy into each frame would stay.
type scatterCodec struct{}

// scatterSize is the least data that is not copied. Each piece costs gRPC a
// buffer, and one more for what follows it: in BenchmarkScatter, that is as much
// as copying 2 KiB, and from 4 KiB on it is less.
const scatterSize = 4 << 10

// Name implements Codec.
func (scatterCodec) Name() string { return CodecScatter }

// Encode implements Codec.
func (scatterCodec) Encode(f *Frame) (mem.BufferSlice, error) { return scatter(f, scatterSize) }

func scatter(f *Frame, least int) (mem.BufferSlice, error) {
	large, bytes := 0, 0
	count := func(data []byte) {
		if len(data) >= least {
			large++
			bytes += len(data)
		}
	}
	for _, e := range f.Entries {
		count(e.Data)
	}
	count(f.Fragment.body)
	if large == 0 {
		return appendCodec{}.Encode(f)
	}
	w := writer{buf: make([]byte, 0, f.Size()-bytes), pieces: make([]piece, 0, 2*large+1), least: least}
	w.frame(f)
	w.cut()
	out := make(mem.BufferSlice, len(w.pieces))
	for i := range w.pieces {
		out[i] = &w.pieces[i]
	}
	return out, nil
}

// piece is a buffer that belongs to no pool. As a pointer it needs no allocation
// of its own to become a mem.Buffer.
type piece struct{ mem.SliceBuffer }

func appendFrame(dst []byte, f *Frame) []byte {
	w := writer{buf: dst, least: math.MaxInt}
	w.frame(f)
	return w.buf
}

// writer writes frames. Data of at least least bytes becomes a piece of its own;
// buf must have room for all the rest, since pieces lie in it.
type writer struct {
	buf    []byte
	from   int // of buf, what is not in pieces yet
	pieces []piece
	least  int
}

// data writes bytes that need not be copied.
func (w *writer) data(p []byte) {
	if len(p) < w.least {
		w.buf = append(w.buf, p...)
		return
	}
	w.cut()
	w.pieces = append(w.pieces, piece{p})
}

// cut ends a piece in buf.
func (w *writer) cut() {
	if n := len(w.buf); n > w.from {
		w.pieces = append(w.pieces, piece{w.buf[w.from:n:n]})
		w.from = n
	}
}

func (w *writer) frame(f *Frame) {
	w.buf = appendFixed64(w.buf, 1, f.Sequence)
	if f.Message != nil {
		padded := f.padded()
		w.buf = appendTag(w.buf, 2, protowire.BytesType)
		w.buf = binary.AppendUvarint(w.buf, uint64(headerSize(f.Message, padded)))
		w.buf = appendHeader(w.buf, f.Message, padded)
	}
	for _, e := range f.Entries {
		w.buf = appendTag(w.buf, 3, protowire.BytesType)
		w.buf = binary.AppendUvarint(w.buf, uint64(entrySize(e)))
		w.buf = appendEntryHead(w.buf, e)
		w.data(e.Data)
	}
	if f.Fragment.Total > 0 {
		w.fragment(&f.Fragment)
	}
	w.buf = appendStamps(w.buf, f)
}

func (w *writer) fragment(p *Fragment) {
	w.buf = appendTag(w.buf, 4, protowire.BytesType)
	w.buf = binary.AppendUvarint(w.buf, uint64(fragmentSize(p)))
	w.buf = appendFixed64(w.buf, 1, p.Message)
	if p.Offset > 0 {
		w.buf = appendFixed64(w.buf, 2, p.Offset)
	}
	w.buf = appendFixed64(w.buf, 3, p.Total)
	w.buf = appendTag(w.buf, 4, protowire.BytesType)
	w.buf = binary.AppendUvarint(w.buf, uint64(p.Len()))
	w.buf = append(w.buf, p.head...)
	w.data(p.body)
	for _, b := range p.more {
		w.data(b)
	}
	w.buf = appendTag(w.buf, 5, protowire.Fixed32Type)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, p.checksum())
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
