package transport

import (
	"fmt"
	"math"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// Decode implements Codec.
func (AppendCodec) Decode(src []byte, f *Frame) error {
	*f = Frame{size: len(src)}
	var header, fragment []byte
	entries := 0
	r := reader{rest: src}
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
		case 2, 3, 4:
			if !r.want(protowire.BytesType) {
				break
			}
			switch int(r.number) {
			case 2:
				header = r.bytes
			case 3:
				entries++
			default:
				fragment = r.bytes
			}
		}
	}
	if r.err != nil {
		return r.err
	}
	if header != nil {
		m, err := decodeHeader(header)
		if err != nil {
			return err
		}
		f.Message = m
	}
	if fragment != nil {
		if entries > 0 {
			return fmt.Errorf("%w: both entries and a fragment", ErrMalformed)
		}
		return decodeFragment(fragment, &f.Fragment)
	}
	if entries > 0 {
		return decodeEntries(src, entries, f)
	}
	return nil
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
		f.Entries = append(f.Entries, &s.entry)
	}
	return r.err
}

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

func decodeFragment(src []byte, p *Fragment) error {
	r := reader{rest: src}
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
				p.body = r.bytes
			}
		case 5:
			if r.want(protowire.Fixed32Type) {
				p.CRC = uint32(r.value)
			}
		}
	}
	if r.err == nil && p.Total == 0 {
		return fmt.Errorf("%w: fragment of a total of 0 bytes, outside 1 to %d", ErrMalformed, math.MaxInt32)
	}
	return r.err
}

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
