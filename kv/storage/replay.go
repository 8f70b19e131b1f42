package storage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A replay makes the log and the journal's state from the segments.
type replay struct {
	journal *journal
	log     *Memory

	// The log begins where an earlier segment ended that was released since. What
	// replaces entries of that one begins the log anew, at a base whose term is not
	// known: the snapshot that allowed the release is after it.
	released bool

	reason string // why what is after the good part of the last segment is not good
}

// A segmentFile is a segment being read.
type segmentFile struct {
	segment
	File
	path     string
	seed     uint32
	previous int64
}

func (r *replay) read(numbers []uint64) (err error) {
	j := r.journal
	if len(numbers) == 0 {
		return fmt.Errorf("%s is %w: it has no journal: %s", j.dir, ErrCorrupt, giveUp)
	}
	for i, n := range numbers {
		if want := numbers[0] + uint64(i); n != want {
			return missing(j.path(want))
		}
	}
	files := make([]*segmentFile, 0, len(numbers))
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, n := range numbers {
		f, err := j.openForRead(n)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	for i, f := range files {
		var next *segmentFile
		if i+1 < len(files) {
			next = files[i+1]
		}
		if err := r.segment(f, next, i == 0); err != nil {
			return err
		}
	}
	if j.term != 0 || j.commit != 0 {
		return r.log.Append(nil, &raftpb.HardState{Term: new(j.term), Vote: new(j.vote), Commit: new(j.commit)})
	}
	return nil
}

func missing(path string) error {
	return fmt.Errorf("%s is missing: %w: %s", path, ErrCorrupt, giveUp)
}

func damaged(path string, offset int64, reason string) error {
	return fmt.Errorf("%s is %w at offset %d: %s: %s", path, ErrCorrupt, offset, reason, giveUp)
}

func (j *journal) openForRead(number uint64) (*segmentFile, error) {
	path := j.path(number)
	f, err := j.fs.Open(path)
	if err != nil {
		return nil, err
	}
	s := &segmentFile{segment: segment{number: number}, File: f, path: path}
	if err := s.readHeader(j.incarnation); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *segmentFile) readHeader(incarnation uint64) error {
	var err error
	if s.length, err = s.Size(); err != nil {
		return err
	}
	if s.length < segmentHeader {
		return damaged(s.path, 0, fmt.Sprintf("its header is cut off after %d bytes", s.length))
	}
	var h [segmentHeader]byte
	if _, err := s.ReadAt(h[:], 0); err != nil {
		return err
	}
	s.seed = segmentHeaderCRC(h[:])
	s.previous = int64(binary.LittleEndian.Uint64(h[32:]))
	switch {
	case string(h[:8]) != segmentMagic:
		return damaged(s.path, 0, "its header is not a journal's")
	case binary.LittleEndian.Uint32(h[12:]) != s.seed:
		return damaged(s.path, 0, "checksum mismatch of its header")
	case binary.LittleEndian.Uint32(h[8:]) != format:
		return fmt.Errorf("%s: format %d, this program knows only %d: use a newer program", s.path, binary.LittleEndian.Uint32(h[8:]), format)
	case binary.LittleEndian.Uint64(h[16:]) != incarnation:
		return fmt.Errorf("%s: it was copied here from another data folder: choose a folder of its own for each node", s.path)
	case binary.LittleEndian.Uint64(h[24:]) != s.number:
		return fmt.Errorf("%s: it is segment %d by its header: %s", s.path, binary.LittleEndian.Uint64(h[24:]), giveUp)
	}
	return nil
}

// segment replays one file. All but the last were durable as a whole before the
// next was created.
func (r *replay) segment(f, next *segmentFile, first bool) error {
	end := f.length
	if next != nil {
		end = next.previous
		if f.length < end || end < segmentHeader {
			return damaged(f.path, f.length, fmt.Sprintf("the file has %d bytes, the next one says %d", f.length, end))
		}
	}
	r.journal.segments = append(r.journal.segments, f.segment)
	r.journal.seed = f.seed
	s := scan(f, f.seed, end, func(m *raftpb.Message, at int64) error { return r.apply(m, at, first) })
	r.journal.current().size, r.journal.current().known = s.offset, s.synced
	switch {
	case s.err != nil:
		return fmt.Errorf("%s: %w", f.path, s.err)
	case s.ended && next == nil:
		return missing(r.journal.path(f.number + 1))
	case s.ended:
		return damaged(f.path, s.offset, fmt.Sprintf("its end, but the next one says it has %d bytes", end))
	case s.reason == "":
	case s.refused:
		return damaged(f.path, s.offset, s.reason)
	case next != nil:
		return damaged(f.path, s.offset, s.reason+", but a segment follows")
	case s.offset == segmentHeader:
		return damaged(f.path, s.offset, s.reason)
	default:
		claim, err := evidence(f, f.seed, s.offset, f.length)
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		if claim > 0 {
			return damaged(f.path, s.offset, fmt.Sprintf("%s, but a record at %d says it was durable", s.reason, claim))
		}
		r.reason = s.reason
	}
	return nil
}

// apply follows one record, at its offset.
func (r *replay) apply(m *raftpb.Message, at int64, first bool) error {
	j := r.journal
	if at == segmentHeader {
		if first {
			j.base, j.last, j.lastTerm = m.GetIndex(), m.GetIndex(), m.GetLogTerm()
			r.log.base, r.log.term = m.GetIndex(), m.GetLogTerm()
			r.released = m.GetIndex() > 0
		}
		if m.GetIndex() != j.last || m.GetLogTerm() != j.lastTerm {
			return fmt.Errorf("the segment goes on after index %d term %d, the log ends at index %d term %d",
				m.GetIndex(), m.GetLogTerm(), j.last, j.lastTerm)
		}
	}
	if es := m.GetEntries(); r.released && m.GetSnapshot() == nil && len(es) > 0 && es[0].GetIndex() <= j.base {
		j.base, j.last = es[0].GetIndex()-1, es[0].GetIndex()-1
		r.log.entries, r.log.bytes, r.log.base, r.log.term = nil, 0, j.base, 0
	}
	if err := j.check(m); err != nil {
		return err
	}
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		r.released = false
		if err := r.log.Restore(meta); err != nil {
			return err
		}
	}
	if err := r.log.Append(m.GetEntries(), nil); err != nil {
		return err
	}
	j.adopt(m)
	return nil
}

func reader(file io.ReaderAt, from, to int64) *bufio.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(file, from, to-from), int(min(to-from, 256<<10)))
}

// zeros is the reason of a segment that ends as one does that is being written.
const zeros = "zeros"

// scanned is how far a segment could be read.
type scanned struct {
	offset  int64  // where the good part ends
	synced  int64  // how far it was durable, by its last record
	ended   bool   // with an end record, which offset is before
	reason  string // why it ends before the end asked for; "" if it does not
	refused bool   // the record at offset is whole but makes no sense
	err     error  // of reading the file
}

// scan reads the records of a segment up to end and calls f with each message
// and its offset. It allocates no more than the file is long.
func scan(file io.ReaderAt, seed uint32, end int64, f func(*raftpb.Message, int64) error) scanned {
	s := scanned{offset: segmentHeader}
	in := reader(file, segmentHeader, end)
	var payload []byte
	for left := end - s.offset; left > 0; left = end - s.offset {
		var head [recordHead]byte
		if _, s.err = io.ReadFull(in, head[:min(left, recordHead)]); s.err != nil {
			return s
		}
		h := parseHead(head[:])
		size := int64(align(int(h.length)))
		switch {
		case head == [recordHead]byte{}:
			s.reason = zeros
		case left < recordHead:
			s.reason = fmt.Sprintf("%d bytes, less than the head of a record", left)
		case h.crc != recordCRC(seed, s.offset, head[:]):
			s.reason = "checksum mismatch of a record's head"
		case size > left-recordHead:
			s.reason = fmt.Sprintf("a record of %d bytes, but only %d are left", size, left-recordHead)
		}
		if s.reason != "" {
			return s
		}
		payload = slices.Grow(payload[:0], int(size))[:size]
		if _, s.err = io.ReadFull(in, payload); s.err != nil {
			return s
		}
		if crc32.Checksum(payload, castagnoli) != h.payload {
			s.reason = "checksum mismatch of a record"
			return s
		}
		if h.kind == kindEnd {
			s.ended = true
			return s
		}
		if err := deliver(h, payload, s.offset, f); err != nil {
			s.reason, s.refused = err.Error(), true
			return s
		}
		s.offset += recordHead + size
		s.synced = int64(h.synced)
	}
	return s
}

func deliver(h head, payload []byte, offset int64, f func(*raftpb.Message, int64) error) error {
	if h.kind != kindMessage || int64(h.synced) > offset {
		return fmt.Errorf("a record of kind %d, durable up to %d", h.kind, h.synced)
	}
	m := &raftpb.Message{}
	if err := proto.Unmarshal(payload[:h.length], m); err != nil {
		return fmt.Errorf("a record that can't be decoded: %w", err)
	}
	return f(m, offset)
}

// evidence looks for the head of a record that says that the segment was durable
// past offset, and returns where it stands, 0 if there is none.
func evidence(file io.ReaderAt, seed uint32, offset, end int64) (int64, error) {
	in := reader(file, offset, end)
	for at := offset; at+recordHead <= end; at += recordAlign {
		b, err := in.Peek(recordHead)
		if err != nil {
			return 0, err
		}
		h := parseHead(b)
		if h.synced > uint64(offset) && h.synced <= uint64(at) && h.crc == recordCRC(seed, at, b) {
			return at, nil
		}
		if _, err := in.Discard(recordAlign); err != nil {
			return 0, err
		}
	}
	return 0, nil
}
