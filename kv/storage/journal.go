package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A journal is files journal-0000000001 and so on, of which the last is written.
// A file, a segment, is a header and records, every number little endian and
// every CRC a CRC-32C:
//
//	header: magic "raftlogj" | format u32 | crc u32 | incarnation u64 | number u64 | previous u64
//	record: crc u32 | length u32 | synced u64 | payload crc u32 | kind u8 | 0 0 0 | payload | zeros up to 8 bytes
//
// The header's crc is of the other fields. A record's crc is of the rest of its
// head, begun with the segment header's crc and the record's own offset, so that
// a record counts only where it was written; the payload's crc includes the
// zeros.
//
// synced tells how far the segment was durable when the record was written.
// After a power cut a record may be damaged although a later one is whole: they
// were in one fsync that never ended, and both are dropped. But a damaged record
// that a later one says was durable was damaged since, and the journal is
// refused. That is the idea of the WAL sync format of Pebble.
//
// previous is how long the segment before was when it was done; it was durable
// then. An end record may follow there, which says that this segment exists.
const (
	segmentMagic  = "raftlogj"
	segmentHeader = 40
	recordHead    = 24
	recordAlign   = 8

	kindMessage = 1 // payload: a raftpb.Message, see appendMessage
	kindEnd     = 2 // no payload

	// maxPayload is what a record's length can say, aligned.
	maxPayload = math.MaxUint32 &^ (recordAlign - 1)

	// spill is how much is gathered before it is written to the file, and
	// keepBuffer what is kept of a buffer that had to grow for one message.
	spill      = 1 << 20
	keepBuffer = 8 << 20
)

const segmentPrefix = "journal-"

func segmentName(number uint64) string { return fmt.Sprintf("%s%010d", segmentPrefix, number) }

// A segment is a file of the journal.
type segment struct {
	number uint64
	size   int64
	known  int64  // of a segment that was read: durable bytes, by its records
	max    uint64 // highest index of its entries that may still be in the log
}

// journal appends messages to the last segment. Invariant: buf is what follows
// the first size bytes of the segment, and nothing in it is acknowledged.
type journal struct {
	fs          FS
	dir         string
	policy      string
	segmentSize int64
	incarnation uint64

	segments []segment // oldest first, the last is written
	f        File      // of the last
	seed     uint32    // crc of its header
	synced   int64     // of it, durable bytes
	buf      []byte

	// What the messages so far made.
	term, vote, commit   uint64
	base, last, lastTerm uint64 // base: before the first entry the journal still has

	count Counters
}

func (j *journal) path(number uint64) string { return filepath.Join(j.dir, segmentName(number)) }

func (j *journal) current() *segment { return &j.segments[len(j.segments)-1] }

func appendSegmentHeader(b []byte, incarnation, number uint64, previous int64) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint32(b, format)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, incarnation)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = binary.LittleEndian.AppendUint64(b, uint64(previous))
	binary.LittleEndian.PutUint32(b[start+12:], segmentHeaderCRC(b[start:]))
	return b
}

func segmentHeaderCRC(h []byte) uint32 {
	return crc32.Update(crc32.Checksum(h[:12], castagnoli), castagnoli, h[16:segmentHeader])
}

// recordCRC is the checksum of a record's head at an offset of a segment. Begun
// otherwise, it never ends the same.
func recordCRC(seed uint32, offset int64, head []byte) uint32 {
	return crc32.Update(seed^uint32(offset/recordAlign), castagnoli, head[4:recordHead])
}

func align(n int) int { return (n + recordAlign - 1) &^ (recordAlign - 1) }

// appendRecord appends the record of a message, nil for an end record, that is
// to stand at an offset.
func appendRecord(b []byte, seed uint32, offset, synced int64, m *raftpb.Message) ([]byte, error) {
	start := len(b)
	var zeros [recordHead]byte
	b = append(b, zeros[:]...)
	kind := byte(kindEnd)
	if m != nil {
		kind = kindMessage
		var err error
		if b, err = appendMessage(b, m); err != nil {
			return b[:start], err
		}
	}
	length := len(b) - start - recordHead
	if length > maxPayload {
		return b[:start], fmt.Errorf("message of %d bytes exceeds the %d of a journal record", length, uint32(maxPayload))
	}
	b = append(b, zeros[:align(length)-length]...)
	head := b[start:]
	binary.LittleEndian.PutUint32(head[4:], uint32(length))
	binary.LittleEndian.PutUint64(head[8:], uint64(synced))
	binary.LittleEndian.PutUint32(head[16:], crc32.Checksum(head[recordHead:], castagnoli))
	head[20] = kind
	binary.LittleEndian.PutUint32(head, recordCRC(seed, offset, head))
	return b, nil
}

// Fields of raftpb.Message and raftpb.Entry.
const (
	tagMessageTerm     = 4<<3 | byte(protowire.VarintType)
	tagMessageLogTerm  = 5<<3 | byte(protowire.VarintType)
	tagMessageIndex    = 6<<3 | byte(protowire.VarintType)
	tagMessageEntries  = 7<<3 | byte(protowire.BytesType)
	tagMessageCommit   = 8<<3 | byte(protowire.VarintType)
	tagMessageSnapshot = 9<<3 | byte(protowire.BytesType)
	tagMessageVote     = 13<<3 | byte(protowire.VarintType)

	tagSnapshotMetadata = 2<<3 | byte(protowire.BytesType)

	tagEntryType  = 1<<3 | byte(protowire.VarintType)
	tagEntryTerm  = 2<<3 | byte(protowire.VarintType)
	tagEntryIndex = 3<<3 | byte(protowire.VarintType)
	tagEntryData  = 4<<3 | byte(protowire.BytesType)
)

// appendMessage appends what of m is to be kept, as a raftpb.Message: term, vote
// and commit, entries, and the metadata of a snapshot. Index and LogTerm are set
// in the first record of a segment, where they are those of the log's last entry
// before it. proto.Marshal would encode the same, by reflection and with the
// responses.
func appendMessage(b []byte, m *raftpb.Message) ([]byte, error) {
	if m.Term != nil {
		b = protowire.AppendVarint(append(b, tagMessageTerm), m.GetTerm())
	}
	if m.LogTerm != nil {
		b = protowire.AppendVarint(append(b, tagMessageLogTerm), m.GetLogTerm())
	}
	if m.Index != nil {
		b = protowire.AppendVarint(append(b, tagMessageIndex), m.GetIndex())
	}
	for _, e := range m.GetEntries() {
		b = protowire.AppendVarint(append(b, tagMessageEntries), encodedSize(e))
		b = appendEntry(b, e)
	}
	if m.Commit != nil {
		b = protowire.AppendVarint(append(b, tagMessageCommit), m.GetCommit())
	}
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		data, err := proto.Marshal(meta)
		if err != nil {
			return b, err
		}
		b = protowire.AppendVarint(append(b, tagMessageSnapshot), uint64(1+protowire.SizeBytes(len(data))))
		b = protowire.AppendBytes(append(b, tagSnapshotMetadata), data)
	}
	if m.Vote != nil {
		b = protowire.AppendVarint(append(b, tagMessageVote), m.GetVote())
	}
	return b, nil
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	if e.Type != nil {
		b = protowire.AppendVarint(append(b, tagEntryType), uint64(e.GetType()))
	}
	if e.Term != nil {
		b = protowire.AppendVarint(append(b, tagEntryTerm), e.GetTerm())
	}
	if e.Index != nil {
		b = protowire.AppendVarint(append(b, tagEntryIndex), e.GetIndex())
	}
	if e.Data != nil {
		b = protowire.AppendBytes(append(b, tagEntryData), e.GetData())
	}
	return b
}

// check refuses a message that would make a log raft can't have meant.
func (j *journal) check(m *raftpb.Message) error {
	base, last := j.base, j.last
	if index := m.GetSnapshot().GetMetadata().GetIndex(); index > 0 {
		if index < j.commit {
			return fmt.Errorf("log restarts at %d, but %d is committed", index, j.commit)
		}
		base, last = index, index
	}
	for i, e := range m.GetEntries() {
		switch {
		case e.GetIndex() <= base:
			return fmt.Errorf("entry %d is not after %d, where the log begins", e.GetIndex(), base)
		case i == 0 && e.GetIndex() > last+1:
			return fmt.Errorf("entries from %d leave a gap: the last is %d", e.GetIndex(), last)
		case i > 0 && e.GetIndex() != m.GetEntries()[i-1].GetIndex()+1:
			return fmt.Errorf("entry %d follows entry %d", e.GetIndex(), m.GetEntries()[i-1].GetIndex())
		}
	}
	if m.Term == nil {
		return nil
	}
	switch {
	case m.GetTerm() < j.term:
		return fmt.Errorf("term goes back from %d to %d", j.term, m.GetTerm())
	case m.GetTerm() == j.term && j.vote != 0 && m.GetVote() != j.vote:
		return fmt.Errorf("vote of term %d changes from %d to %d", j.term, j.vote, m.GetVote())
	case m.GetCommit() < j.commit:
		return fmt.Errorf("commit goes back from %d to %d", j.commit, m.GetCommit())
	}
	return nil
}

// mustSync says whether a message promises anything.
func (j *journal) mustSync(m *raftpb.Message) bool {
	return len(m.GetEntries()) > 0 || m.GetSnapshot().GetMetadata().GetIndex() > 0 ||
		m.Term != nil && (m.GetTerm() != j.term || m.GetVote() != j.vote)
}

// adopt follows what m makes of the log and the hard state.
func (j *journal) adopt(m *raftpb.Message) {
	if m.Term != nil {
		j.term, j.vote, j.commit = m.GetTerm(), m.GetVote(), m.GetCommit()
	}
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		j.base, j.last, j.lastTerm = meta.GetIndex(), meta.GetIndex(), meta.GetTerm()
		for i := range j.segments {
			j.segments[i].max = min(j.segments[i].max, j.last)
		}
	}
	if n := len(m.GetEntries()); n > 0 {
		e := m.GetEntries()[n-1]
		j.last, j.lastTerm = e.GetIndex(), e.GetTerm()
		j.current().max = max(j.current().max, j.last)
	}
}

// write appends messages, as durable as the policy says.
func (j *journal) write(messages []*raftpb.Message) error {
	due := false // an fsync, by the batched policy
	for _, m := range messages {
		if err := j.check(m); err != nil {
			return fmt.Errorf("%s: %w", j.dir, err)
		}
		if err := j.rotate(); err != nil {
			return err
		}
		must := j.mustSync(m)
		if err := j.append(m); err != nil {
			return err
		}
		j.adopt(m)
		switch {
		case j.policy == SyncAlways && must:
			if err := j.sync(); err != nil {
				return err
			}
		case j.policy == SyncBatched:
			due = due || must
		}
	}
	if due {
		return j.sync()
	}
	return j.flush()
}

// append puts m into the buffer, which it writes out when it is long.
func (j *journal) append(m *raftpb.Message) error {
	s := j.current()
	buf, err := appendRecord(j.buf, j.seed, s.size+int64(len(j.buf)), j.synced, m)
	if err != nil {
		return fmt.Errorf("%s: %w", j.path(s.number), err)
	}
	j.buf = buf
	j.count.Appends++
	if len(j.buf) >= spill {
		return j.flush()
	}
	return nil
}

// flush writes the buffer to the file.
func (j *journal) flush() error {
	if len(j.buf) == 0 {
		return nil
	}
	s := j.current()
	if _, err := j.f.WriteAt(j.buf, s.size); err != nil {
		return fmt.Errorf("write to %s at offset %d: %w", j.path(s.number), s.size, err)
	}
	s.size += int64(len(j.buf))
	j.count.Bytes += uint64(len(j.buf))
	j.buf = j.buf[:0]
	if cap(j.buf) > keepBuffer {
		j.buf = nil
	}
	return nil
}

// sync writes the buffer and makes the segment durable, unless the policy is
// never.
func (j *journal) sync() error {
	if err := j.flush(); err != nil {
		return err
	}
	s := j.current()
	if j.policy == SyncNever || j.synced == s.size {
		return nil
	}
	start := time.Now()
	if err := j.f.Sync(); err != nil {
		return &syncError{j.path(s.number), err}
	}
	took := time.Since(start)
	j.count.Fsyncs++
	j.count.FsyncTime += took
	j.count.FsyncMax = max(j.count.FsyncMax, took)
	j.count.FsyncDuration.Record(int64(took))
	j.synced = s.size
	return nil
}

// rotate goes on in a new segment if the current one is long enough.
func (j *journal) rotate() error {
	s := j.current()
	if s.size+int64(len(j.buf)) < j.segmentSize {
		return nil
	}
	if err := j.sync(); err != nil {
		return err
	}
	old, seed, synced := j.f, j.seed, j.synced
	number, size := s.number, s.size
	if err := j.create(number+1, size); err != nil {
		if j.f != old {
			err = errors.Join(err, old.Close())
		}
		return err
	}
	// Not synced: it only helps to see that a later segment is missing.
	end, err := appendRecord(nil, seed, size, synced, nil)
	if err == nil {
		_, err = old.WriteAt(end, size)
	}
	if err := errors.Join(err, old.Close()); err != nil {
		return fmt.Errorf("end of %s: %w", j.path(number), err)
	}
	return nil
}

// create begins a segment, with the state so far in its first record. It is
// durable, with its name, when create returns, unless the policy is never.
func (j *journal) create(number uint64, previous int64) error {
	path := j.path(number)
	f, err := j.fs.Create(path)
	if err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	j.f, j.synced = f, 0
	j.segments = append(j.segments, segment{number: number})
	j.buf = appendSegmentHeader(j.buf[:0], j.incarnation, number, previous)
	j.seed = segmentHeaderCRC(j.buf)
	if j.buf, err = appendRecord(j.buf, j.seed, segmentHeader, 0, j.position()); err != nil {
		return err
	}
	if err := j.sync(); err != nil || j.policy == SyncNever {
		return err
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return &syncError{j.dir, err}
	}
	return nil
}

// position is the message of a segment's first record.
func (j *journal) position() *raftpb.Message {
	m := &raftpb.Message{Index: new(j.last), LogTerm: new(j.lastTerm)}
	if j.term != 0 || j.vote != 0 || j.commit != 0 {
		m.Term, m.Vote, m.Commit = new(j.term), new(j.vote), new(j.commit)
	}
	return m
}

// createdSize is how long create makes a segment, in the present state.
func (j *journal) createdSize() int64 {
	b, err := appendRecord(nil, 0, 0, 0, j.position())
	if err != nil {
		panic(err) // it has no snapshot to marshal
	}
	return segmentHeader + int64(len(b))
}

// release removes the oldest segments while they hold nothing after index. The
// folder is synced after each: were a later one gone and an earlier one still
// there after a crash, the journal would seem to have lost one.
func (j *journal) release(index uint64) error {
	for len(j.segments) > 1 && j.segments[0].max <= index {
		path := j.path(j.segments[0].number)
		if err := j.fs.Remove(path); err != nil && !notExist(err) {
			return fmt.Errorf("release up to index %d: %w", index, err)
		}
		j.segments = j.segments[1:]
		if j.policy == SyncNever {
			continue
		}
		if err := j.fs.SyncDir(j.dir); err != nil {
			return &syncError{j.dir, err}
		}
	}
	return nil
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	f := j.f
	j.f = nil
	return f.Close()
}
