package transport

import (
	"hash/crc32"
	"math/bits"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Frame is one gRPC message between nodes: a raft message, a run of its
// entries, or a piece of one entry. A Chunker plans frames, a lane stamps who
// sends them, a Codec turns them into bytes.
//
// Message and Entries belong to raft: they are read, never changed.
type Frame struct {
	Sequence uint64 // of the lane, from 1
	Epoch    uint64
	From, To uint64

	// Message is the raft message; its own Entries are ignored. Nil in every
	// fragment of an entry but the first.
	Message  *pb.Message
	Entries  []*pb.Entry
	Fragment Fragment

	size int // encoded bytes, set by Plan
}

// Fragment is a piece of one encoded entry. Total 0 means that the frame
// carries none.
type Fragment struct {
	Message uint64 // counts the fragmented messages of an epoch, from 1
	Offset  uint64
	Total   uint64 // bytes of the whole encoded entry
	CRC     uint32 // CRC-32C of the piece; filled by Decode

	// The piece is head followed by body: an entry's encoding is a few bytes of
	// fields, then its data, which is not copied. Decode fills body, and more with
	// what follows it: it leaves the piece in the buffers that it arrived in.
	head, body []byte
	more       [][]byte
}

// Len is the number of bytes in the piece.
func (f *Fragment) Len() int {
	n := len(f.head) + len(f.body)
	for _, b := range f.more {
		n += len(b)
	}
	return n
}

// checksum is the CRC-32C of the piece.
func (f *Fragment) checksum() uint32 {
	crc := crc32.Update(checksum(f.head), castagnoli, f.body)
	for _, b := range f.more {
		crc = crc32.Update(crc, castagnoli, b)
	}
	return crc
}

// Size is the encoded size in bytes.
func (f *Frame) Size() int {
	if f.size == 0 {
		f.size = frameSize(f)
	}
	return f.size
}

// Sizes of the wire layout. What every frame carries has a fixed width, and the
// header of an append that carries entries is padded to its largest form, so
// that the overhead of such a frame is a constant: it is known before an entry
// has a term and an index which entries fit.
const (
	stampSize = 4 * 9 // sequence, epoch, from, to

	// Type, and To, From, Term, LogTerm, Index, Commit with ten bytes each.
	appendHeaderSize = 2 + 6*11
	// Everything in an append's frame but the entries.
	appendOverhead = stampSize + 1 + 1 + appendHeaderSize

	// Message, offset, total and CRC of a fragment; the first has no offset,
	// since proto3 leaves zeros out.
	fragmentOverhead      = 9 + 9 + 9 + 5
	firstFragmentOverhead = fragmentOverhead - 9

	// MinLimit is the least receive limit: every message without entries fits.
	MinLimit = 512
)

// varintSize is the length of v as a protobuf varint.
func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// fieldSize is the length of a bytes field of n bytes, with a one-byte tag.
func fieldSize(n int) int { return 1 + varintSize(uint64(n)) + n }

// maxField is the largest n with fieldSize(n) <= budget; negative when none is.
func maxField(budget int) int {
	n := budget - 2
	for n > 0 && fieldSize(n) > budget {
		n--
	}
	return n
}

// entrySize is proto.Size(e), without reflection.
func entrySize(e *pb.Entry) int {
	n := entryHeadSize(e)
	if e.Data != nil {
		n += len(e.Data)
	}
	return n
}

// entryHeadSize is what an entry's encoding has before the bytes of its data.
func entryHeadSize(e *pb.Entry) int {
	n := 0
	if e.Type != nil {
		n += 1 + varintSize(uint64(*e.Type))
	}
	if e.Term != nil {
		n += 1 + varintSize(*e.Term)
	}
	if e.Index != nil {
		n += 1 + varintSize(*e.Index)
	}
	if e.Data != nil {
		n += 1 + varintSize(uint64(len(e.Data)))
	}
	return n
}

// padded says whether a frame's header has its largest form.
func (f *Frame) padded() bool {
	return f.Message.GetType() == pb.MsgApp && (len(f.Entries) > 0 || f.Fragment.Total > 0)
}

// headerSize is the encoded size of a message without its entries.
func headerSize(m *pb.Message, padded bool) int {
	n := 0
	number := func(v *uint64) {
		switch {
		case v == nil:
		case padded:
			n += 11
		default:
			n += 1 + varintSize(*v)
		}
	}
	if m.Type != nil {
		n += 1 + varintSize(uint64(*m.Type))
	}
	number(m.To)
	number(m.From)
	number(m.Term)
	number(m.LogTerm)
	number(m.Index)
	number(m.Commit)
	number(m.Vote)
	number(m.RejectHint)
	if m.Reject != nil {
		n += 2
	}
	if m.Context != nil {
		n += fieldSize(len(m.Context))
	}
	return n
}

// frameSize is the exact number of bytes that Append makes of a frame.
func frameSize(f *Frame) int {
	n := stampSize
	if f.Message != nil {
		n += fieldSize(headerSize(f.Message, f.padded()))
	}
	for _, e := range f.Entries {
		n += fieldSize(entrySize(e))
	}
	if f.Fragment.Total > 0 {
		n += fieldSize(fragmentSize(&f.Fragment))
	}
	return n
}

func fragmentSize(f *Fragment) int {
	n := fragmentOverhead
	if f.Offset == 0 {
		n = firstFragmentOverhead
	}
	return n + fieldSize(f.Len())
}

// maxPiece is the largest piece of an entry that one frame of that limit
// carries. The first has the message's header.
func maxPiece(limit int, first bool) int {
	if first {
		return maxField(maxField(limit-appendOverhead) - firstFragmentOverhead)
	}
	return maxField(maxField(limit-stampSize) - fragmentOverhead)
}

// FragmentFrames is the number of frames in which one encoded entry of that
// many bytes travels when a frame may have limit bytes, under chunking
// fragment: 1 when it fits.
func FragmentFrames(entryBytes, limit int) int {
	if appendOverhead+fieldSize(entryBytes) <= limit {
		return 1
	}
	rest, piece := entryBytes-maxPiece(limit, true), maxPiece(limit, false)
	return 1 + (rest+piece-1)/piece
}
