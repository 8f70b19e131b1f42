package transport

import (
	"fmt"
	"math"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// Decode parses one encoded frame, whose bytes lie in parts one behind the
// other, into f, replacing what f held. It changes parts, not the bytes. What f
// holds afterwards shares them, so they must not change, nor go back to a pool,
// while it is in use. Entries must lie in one part; a fragment may lie in any
// number. Errors are ErrMalformed and about the form of the bytes only; Validate
// judges the message.
//
// It allocates three times a frame, whatever the number of its entries, and once
// for each large one that is not most of its frame.
func Decode(parts [][]byte, f *Frame) error {
	var c contents
	if err := c.scan(parts, f); err != nil {
		return err
	}
	return c.decode(f)
}

// contents is what a frame carries, found but not decoded.
type contents struct {
	header  []byte
	src     []byte // entries are among these fields
	entries int
}

// minEntry is the least encoded size of an entry of several: it has a term and an
// index, neither of them 0. What is smaller is no entry of a log, and would take
// fifty times its bytes once decoded.
const minEntry = 4

// scan reads what tells who sent a frame, and its fragment, into f. The rest it
// only finds, so that it allocates nothing that the frame could make large. A
// header fits within MinLimit, or it holds what it must not.
func (c *contents) scan(parts [][]byte, f *Frame) error {
	*f = Frame{}
	r := newReader(parts)
	f.size = r.len()
	*c = contents{src: r.rest}
	least, fragmented := math.MaxInt, false
	for r.next() {
		switch int(r.number) {
		case 1, 7, 8, 9:
			if !r.want(protowire.Fixed64Type) {
				break
			}
			switch int(r.number) {
			case 1:
				f.Sequence = r.value
			case 7:
				f.Epoch = r.value
			case 8:
				f.From = r.value
			default:
				f.To = r.value
			}
		case 2:
			if r.want(protowire.BytesType) {
				c.header = r.joined()
			}
		case 3:
			if r.want(protowire.BytesType) {
				c.entries++
				least = min(least, len(r.bytes))
			}
		case 4:
			if !r.want(protowire.BytesType) {
				break
			}
			fragmented = true
			if err := decodeFragment(reader{rest: r.bytes, more: r.tail}, &f.Fragment); err != nil {
				return err
			}
		}
	}
	switch {
	case r.err != nil:
		return r.err
	case len(c.header) > MinLimit:
		return fmt.Errorf("%w: header of %d bytes, above the maximum %d", ErrMalformed, len(c.header), MinLimit)
	case c.entries == 0:
	case fragmented:
		return fmt.Errorf("%w: both entries and a fragment", ErrMalformed)
	case len(c.src) < f.size:
		return fmt.Errorf("%w: entries in more than one part", ErrMalformed)
	case c.entries > 1 && least < minEntry:
		return fmt.Errorf("%w: an entry of %d bytes among %d, below the minimum %d", ErrMalformed, least, c.entries, minEntry)
	}
	return nil
}

// decode makes the message and the entries of a scanned frame.
func (c *contents) decode(f *Frame) error {
	if c.header != nil {
		m, err := decodeHeader(c.header)
		if err != nil {
			return err
		}
		f.Message = m
	}
	if c.entries == 0 {
		return nil
	}
	return decodeEntries(c.src, c.entries, f)
}

// A message and the numbers that its fields point to, in one allocation.
type messageSlab struct {
	message                                                  pb.Message
	kind                                                     pb.MessageType
	to, from, term, logTerm, index, commit, rejectHint, vote uint64
	reject                                                   bool
}

func decodeHeader(src []byte) (*pb.Message, error) {
	s := new(messageSlab)
	m := &s.message
	r := reader{rest: src}
	for r.next() {
		if r.number == 12 {
			if r.want(protowire.BytesType) {
				m.Context = slices.Clip(r.bytes)
			}
			continue
		}
		if r.number == 7 || r.number == 9 || r.number == 14 {
			return nil, fmt.Errorf("%w: header with field %d", ErrMalformed, r.number)
		}
		if r.number > 13 || !r.want(protowire.VarintType) {
			continue
		}
		switch int(r.number) {
		case 1:
			if r.value > math.MaxInt32 {
				return nil, fmt.Errorf("%w: message type %d", ErrMalformed, r.value)
			}
			s.kind = pb.MessageType(r.value)
			m.Type = &s.kind
		case 2:
			m.To = set(&s.to, r.value)
		case 3:
			m.From = set(&s.from, r.value)
		case 4:
			m.Term = set(&s.term, r.value)
		case 5:
			m.LogTerm = set(&s.logTerm, r.value)
		case 6:
			m.Index = set(&s.index, r.value)
		case 8:
			m.Commit = set(&s.commit, r.value)
		case 10:
			s.reject = r.value != 0
			m.Reject = &s.reject
		case 11:
			m.RejectHint = set(&s.rejectHint, r.value)
		case 13:
			m.Vote = set(&s.vote, r.value)
		}
	}
	return m, r.err
}

func set(p *uint64, v uint64) *uint64 {
	*p = v
	return p
}

// An entry and the numbers that its fields point to. The entries of a frame are
// one allocation: they are neighbours in the log, and leave it together.
type entrySlab struct {
	entry       pb.Entry
	kind        pb.EntryType
	term, index uint64
}

func decodeEntries(src []byte, n int, f *Frame) error {
	slab := make([]entrySlab, n)
	f.Entries = make([]*pb.Entry, 0, n)
	r := reader{rest: src}
	for r.next() {
		if r.number != 3 {
			continue
		}
		s := &slab[len(f.Entries)]
		if err := decodeEntry(r.bytes, s); err != nil {
			return err
		}
		if n := len(s.entry.Data); n >= aloneFrom && 2*n < f.size {
			s.entry.Data = slices.Clone(s.entry.Data)
		}
		f.Entries = append(f.Entries, &s.entry)
	}
	return r.err
}

// aloneFrom is the size from which an entry's data is at least half of the memory
// it lies in: whoever keeps a part of it, as the store does a large value, keeps
// no more than it looks like.
const aloneFrom = 256 << 10

func decodeEntry(src []byte, s *entrySlab) error {
	r := reader{rest: src}
	for r.next() {
		if r.number == 4 {
			if r.want(protowire.BytesType) {
				s.entry.Data = slices.Clip(r.bytes)
			}
			continue
		}
		if r.number > 4 || !r.want(protowire.VarintType) {
			continue
		}
		switch int(r.number) {
		case 1:
			if r.value > math.MaxInt32 {
				return fmt.Errorf("%w: entry type %d", ErrMalformed, r.value)
			}
			s.kind = pb.EntryType(r.value)
			s.entry.Type = &s.kind
		case 2:
			s.entry.Term = set(&s.term, r.value)
		case 3:
			s.entry.Index = set(&s.index, r.value)
		}
	}
	return r.err
}

func decodeFragment(r reader, p *Fragment) error {
	*p = Fragment{}
	for r.next() {
		switch int(r.number) {
		case 1, 2, 3:
			if !r.want(protowire.Fixed64Type) {
				break
			}
			switch int(r.number) {
			case 1:
				p.Message = r.value
			case 2:
				p.Offset = r.value
			default:
				p.Total = r.value
			}
		case 4:
			if r.want(protowire.BytesType) {
				p.body, p.more = r.bytes, r.tail
			}
		case 5:
			if r.want(protowire.Fixed32Type) {
				p.CRC = uint32(r.value)
			}
		}
	}
	if r.err == nil && p.Total == 0 {
		return errNoTotal
	}
	return r.err
}

var errNoTotal = fmt.Errorf("%w: fragment of a total of 0 bytes, outside 1 to %d", ErrMalformed, math.MaxInt32)

// looksFragment says whether the frame that begins with these bytes carries a
// fragment: our encoder writes it before everything large. It decides where the
// bytes are put, nothing else.
func looksFragment(start []byte) bool {
	r := reader{rest: start}
	for len(r.rest) > 0 {
		number, kind, n := protowire.ConsumeTag(r.rest)
		if n < 0 {
			return false
		}
		if number == 3 || number == 4 {
			return number == 4
		}
		r.rest = r.rest[n:]
		n = protowire.ConsumeFieldValue(number, kind, r.rest)
		if n < 0 {
			return false
		}
		r.rest = r.rest[n:]
	}
	return false
}

// reader walks the fields of one protobuf message, which lies in rest and then
// in more. next returns false at the end and on an error.
type reader struct {
	rest []byte
	more [][]byte // changed by next

	number protowire.Number
	kind   protowire.Type
	value  uint64   // of a varint or fixed field
	bytes  []byte   // of a bytes field, as far as they lie in one part
	tail   [][]byte // the rest of them
	err    error
}

func newReader(parts [][]byte) reader {
	if len(parts) == 0 {
		return reader{}
	}
	return reader{rest: parts[0], more: parts[1:]}
}

// len is the number of bytes that are left.
func (r *reader) len() int {
	n := len(r.rest)
	for _, p := range r.more {
		n += len(p)
	}
	return n
}

// A field's tag with its number or length has at most that many bytes.
const maxFieldStart = 2 * 10

func (r *reader) next() bool {
	if len(r.more) > 0 && len(r.rest) < maxFieldStart {
		r.refill()
	}
	if len(r.rest) == 0 || r.err != nil {
		return false
	}
	number, kind, n := protowire.ConsumeTag(r.rest)
	if n < 0 {
		return r.fail(n)
	}
	r.rest = r.rest[n:]
	r.number, r.kind, r.value, r.bytes, r.tail = number, kind, 0, nil, nil
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
		return r.consumeBytes()
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

// consumeBytes takes a length and that many bytes.
func (r *reader) consumeBytes() bool {
	length, n := protowire.ConsumeVarint(r.rest)
	if n < 0 {
		return r.fail(n)
	}
	r.rest = r.rest[n:]
	if length <= uint64(len(r.rest)) {
		r.bytes, r.rest = r.rest[:length], r.rest[length:]
		return true
	}
	if length > uint64(r.len()) {
		return r.fail(-1)
	}
	r.bytes = r.rest
	left, i := int(length)-len(r.rest), 0
	for ; left > len(r.more[i]); i++ {
		left -= len(r.more[i])
	}
	// The last part is two: one ends the field, the other is what follows.
	r.rest = r.more[i][left:]
	r.more[i] = r.more[i][:left]
	r.tail, r.more = r.more[:i+1:i+1], r.more[i+1:]
	return true
}

// refill makes the start of the next field lie in one piece.
func (r *reader) refill() {
	if len(r.rest) > 0 {
		r.rest = append(make([]byte, 0, 2*maxFieldStart), r.rest...)
	}
	for len(r.more) > 0 && len(r.rest) < maxFieldStart {
		if len(r.rest) == 0 {
			r.rest, r.more = r.more[0], r.more[1:]
			continue
		}
		n := min(maxFieldStart-len(r.rest), len(r.more[0]))
		r.rest = append(r.rest, r.more[0][:n]...)
		if r.more[0] = r.more[0][n:]; len(r.more[0]) == 0 {
			r.more = r.more[1:]
		}
	}
}

// joined returns the bytes of a bytes field in one piece.
func (r *reader) joined() []byte {
	if len(r.tail) == 0 {
		return r.bytes
	}
	return slices.Concat(r.bytes, slices.Concat(r.tail...))
}

func (r *reader) fail(n int) bool {
	r.err = fmt.Errorf("%w: field %d: %w", ErrMalformed, r.number, protowire.ParseError(n))
	return false
}

// want reports a field of another type than the schema says.
func (r *reader) want(kind protowire.Type) bool {
	if r.kind != kind && r.err == nil {
		r.err = fmt.Errorf("%w: field %d has wire type %d", ErrMalformed, r.number, r.kind)
	}
	return r.kind == kind
}
