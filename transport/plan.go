package transport

import (
	"fmt"
	"math"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Limits bound the frames to one peer. Sizes are encoded bytes, inclusive.
type Limits struct {
	// Chunk is the size wanted (chunk-size).
	Chunk int
	// Receive is the largest gRPC message that the peer accepts, as its Hello
	// told; 0 means none.
	Receive int
	// Learned is the same, as a refusal told; 0 before one. Strategy reactive
	// reads this instead of Receive.
	Learned int
	// Count is the number of entries a message, for strategy count.
	Count int
}

// Chunker decides how a raft message becomes frames. It is pure, and one value
// serves all peers.
type Chunker interface {
	// Name is the strategy's name.
	Name() string
	// Plan appends the frames of a message to dst, in the order they have to be
	// sent, each within the limits. The message is not changed; frames share its
	// entries. A *CannotFollowError says that something in the message can't be
	// sent; the frames returned with it, if any, carry the entries before it and
	// are worth sending.
	//
	// Fragments carry fragment message number 0: the sender numbers them.
	Plan(dst []Frame, m *pb.Message, l Limits) ([]Frame, error)
}

// CannotFollowError says that a peer can't be sent what it needs.
type CannotFollowError struct {
	Message int // encoded bytes of the frame that would be needed
	Limit   int
}

func (e *CannotFollowError) Error() string {
	return fmt.Sprintf("cannot follow: message %d > limit %d", e.Message, e.Limit)
}

// NewChunker returns the strategy of that name.
func NewChunker(name string) (Chunker, error) {
	switch name {
	case ChunkNone, ChunkRaft:
		return whole{name}, nil
	case ChunkCount:
		return count{}, nil
	case ChunkReactive, ChunkBounded, ChunkFragment:
		return greedy{name}, nil
	}
	return nil, fmt.Errorf("chunking %q is not one of none, raft, count, reactive, bounded, fragment", name)
}

// MaxEntryBytes is the largest encoded raftpb.Entry that can be sent to a peer
// that accepts messages of limit bytes. Every strategy but fragment carries an
// entry in one frame; fragment has no limit but what a receiver puts together.
func MaxEntryBytes(chunking string, limit int) uint64 {
	if chunking == ChunkFragment {
		return maxReassembled
	}
	return uint64(max(0, maxField(limit-appendOverhead)))
}

// ReadsChunk says whether a strategy cuts at chunk-size.
func ReadsChunk(chunking string) bool {
	return chunking == ChunkCount || chunking == ChunkBounded || chunking == ChunkFragment
}

// frame target and hard limit of one peer, in bytes.
func (l Limits) bounds() (target, hard int) {
	hard = math.MaxInt32
	if l.Receive > 0 {
		hard = l.Receive
	}
	target = hard
	if l.Chunk > 0 {
		target = min(hard, l.Chunk)
	}
	return target, hard
}

// whole never splits: strategies none and raft, which differ in what raft was
// told about sizes.
type whole struct{ name string }

// Name implements Chunker.
func (w whole) Name() string { return w.name }

// Plan implements Chunker.
func (w whole) Plan(dst []Frame, m *pb.Message, l Limits) ([]Frame, error) {
	_, hard := l.bounds()
	return planWhole(dst, m, hard)
}

func planWhole(dst []Frame, m *pb.Message, limit int) ([]Frame, error) {
	f := Frame{Message: m, Entries: m.Entries}
	if n := f.Size(); n > limit {
		return dst, &CannotFollowError{Message: n, Limit: limit}
	}
	return append(dst, f), nil
}

// count sends so many entries a message, and one where that many don't fit.
type count struct{}

// Name implements Chunker.
func (count) Name() string { return ChunkCount }

// Plan implements Chunker.
func (count) Plan(dst []Frame, m *pb.Message, l Limits) ([]Frame, error) {
	target, hard := l.bounds()
	per := max(1, l.Count)
	if len(m.Entries) <= per || m.GetType() != pb.MsgApp {
		if f := (Frame{Message: m, Entries: m.Entries}); f.Size() <= target {
			return append(dst, f), nil
		}
	}
	if m.GetType() != pb.MsgApp {
		return planWhole(dst, m, hard)
	}
	for from := 0; from < len(m.Entries); {
		to := min(from+per, len(m.Entries))
		size := appendOverhead
		for _, e := range m.Entries[from:to] {
			size += fieldSize(entrySize(e))
		}
		if to-from > 1 && size > target {
			to = from + 1
			size = appendOverhead + fieldSize(entrySize(m.Entries[from]))
		}
		if size > hard {
			return dst, &CannotFollowError{Message: size, Limit: hard}
		}
		dst = append(dst, part(m, from, to))
		from = to
	}
	return dst, nil
}

// greedy fills frames up to their limit: strategies bounded, fragment, and
// reactive once it has learned one.
type greedy struct{ name string }

// Name implements Chunker.
func (g greedy) Name() string { return g.name }

// Plan implements Chunker.
func (g greedy) Plan(dst []Frame, m *pb.Message, l Limits) ([]Frame, error) {
	target, hard := l.bounds()
	if g.name == ChunkReactive {
		hard = math.MaxInt32
		if l.Learned > 0 {
			hard = l.Learned
		}
		target = hard
	}
	if f := (Frame{Message: m, Entries: m.Entries}); f.Size() <= target {
		return append(dst, f), nil
	}
	if m.GetType() != pb.MsgApp || len(m.Entries) == 0 {
		return planWhole(dst, m, hard)
	}
	from, size := 0, appendOverhead
	for i, e := range m.Entries {
		n := fieldSize(entrySize(e))
		if size+n <= target {
			size += n
			continue
		}
		if i > from {
			dst = append(dst, part(m, from, i))
		}
		from, size = i, appendOverhead+n
		switch {
		case size <= target:
		case g.name == ChunkFragment:
			dst = fragments(dst, m, i, target)
			from, size = i+1, appendOverhead
		case size <= hard:
			// Alone in a frame above chunk-size but within what the peer takes: it
			// has no seam to be cut at.
			dst = append(dst, part(m, i, i+1))
			from, size = i+1, appendOverhead
		default:
			return dst, &CannotFollowError{Message: size, Limit: hard}
		}
	}
	if from < len(m.Entries) {
		dst = append(dst, part(m, from, len(m.Entries)))
	}
	return dst, nil
}

// part is the frame of m.Entries[from:to]: a legal MsgApp of its own, that
// follows upon the entry before it. Its commit index may lie beyond its last
// entry; raft takes the lesser.
func part(m *pb.Message, from, to int) Frame {
	f := Frame{Message: partHeader(m, from), Entries: m.Entries[from:to:to]}
	f.Size()
	return f
}

// partHeader is the header of the part that begins at entry i: a new Message
// that shares the numbers, which nobody changes. It has no other fields, so it
// is never larger than appendHeaderSize.
func partHeader(m *pb.Message, i int) *pb.Message {
	h := &pb.Message{
		Type: m.Type, To: m.To, From: m.From, Term: m.Term, Commit: m.Commit,
		LogTerm: m.LogTerm, Index: m.Index,
	}
	if i > 0 {
		h.LogTerm, h.Index = m.Entries[i-1].Term, m.Entries[i-1].Index
	}
	return h
}

// fragments cuts the encoding of entry i into pieces.
func fragments(dst []Frame, m *pb.Message, i, limit int) []Frame {
	e := m.Entries[i]
	head := appendEntryHead(make([]byte, 0, entryHeadSize(e)), e)
	total := len(head) + len(e.Data)
	for offset := 0; offset < total; {
		first := offset == 0
		end := min(offset+maxPiece(limit, first), total)
		f := Frame{Fragment: Fragment{
			Offset: uint64(offset), Total: uint64(total),
			head: head[min(offset, len(head)):min(end, len(head))],
			body: e.Data[max(0, offset-len(head)):max(0, end-len(head))],
		}}
		if first {
			f.Message = partHeader(m, i)
		}
		f.Size()
		dst = append(dst, f)
		offset = end
	}
	return dst
}
