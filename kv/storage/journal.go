package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	// spill is how much is gathered before it is written to the file, and
	// keepBuffer what is kept of a buffer that had to grow for one message.
	spill      = 1 << 20
	keepBuffer = 8 << 20

	// An fsync of a file that grew also writes the file system's own journal. So a
	// write that makes a segment grow has zeros behind it, by which the next ones
	// need not: extension at a time, since 4 MiB gain no more and hold up that one
	// fsync. A write of more than smallWrite would hardly leave anything for the next.
	extension  = 1 << 20
	smallWrite = 256 << 10

	// page is what a file system writes. Of one that is written in part it may have
	// to read the rest first, if the file is a spare.
	page = 4 << 10
)

// A segment is a file of the journal.
type segment struct {
	number uint64
	size   int64  // up to the end of its last record
	length int64  // of the file
	known  int64  // of a segment that was read: durable bytes, by its records
	max    uint64 // highest index of its entries that may still be in the log
}

// journal appends messages to the last segment. Invariants: buf is what follows
// the first size bytes of the segment, and nothing in it is acknowledged; no name
// that a spare had before can come back after a power cut.
type journal struct {
	fs          FS
	dir         string
	policy      string
	segmentSize int64
	incarnation uint64

	segments []segment // oldest first, the last is written
	spares   []segment // by the numbers they had; none with policy never
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

func (j *journal) temp(number uint64) string { return j.path(number) + tempSuffix }

func (j *journal) current() *segment { return &j.segments[len(j.segments)-1] }

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
	n := int64(len(j.buf))
	if j.policy != SyncNever {
		j.pad()
	}
	if _, err := j.f.WriteAt(j.buf, s.size); err != nil {
		return fmt.Errorf("write to %s at offset %d: %w", j.path(s.number), s.size, err)
	}
	s.length = max(s.length, s.size+int64(len(j.buf)))
	s.size += n
	j.count.Bytes += uint64(n)
	j.buf = j.buf[:0]
	if cap(j.buf) > keepBuffer {
		j.buf = nil
	}
	return nil
}

// pad adds to the buffer the zeros that are written behind it: the rest of a page
// and, where the file grows, the extension.
func (j *journal) pad() {
	s := j.current()
	end := s.size + int64(len(j.buf))
	to := (end + page - 1) &^ (page - 1)
	if to > s.length && len(j.buf) <= smallWrite {
		to = max(to, min(to+min(extension, j.segmentSize/4), j.segmentSize))
	}
	j.buf = append(j.buf, make([]byte, to-end)...)
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
	if err := j.fsync(j.f, j.path(s.number)); err != nil {
		return err
	}
	j.synced = s.size
	return nil
}

func (j *journal) fsync(f File, path string) error {
	start := time.Now()
	if err := f.Sync(); err != nil {
		return &syncError{path, err}
	}
	took := time.Since(start)
	j.count.Fsyncs++
	j.count.FsyncTime += took
	j.count.FsyncMax = max(j.count.FsyncMax, took)
	j.count.FsyncDuration.Record(int64(took))
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
	// Not synced: it only helps to see that a later segment is missing.
	end, err := appendRecord(nil, j.seed, s.size, j.synced, nil)
	if err != nil {
		return err
	}
	old, path, size := j.f, j.path(s.number), s.size
	s.length = max(s.length, size+int64(len(end)))
	if err := j.create(s.number+1, size); err != nil {
		return err
	}
	_, err = old.WriteAt(end, size)
	if err := errors.Join(err, old.Close()); err != nil {
		return fmt.Errorf("end of %s: %w", path, err)
	}
	return nil
}

// create begins a segment, over a spare if there is one. It is durable when
// create returns, unless the policy is never, and it has its name only when all
// in it is: it is there as a whole or not at all.
func (j *journal) create(number uint64, previous int64) error {
	b, err := j.beginning(number, previous)
	if err != nil {
		return err
	}
	s := segment{number: number, size: int64(len(b)), length: int64(len(b))}
	temp := j.temp(number)
	var f File
	if last := len(j.spares) - 1; last >= 0 {
		temp, s.length = j.temp(j.spares[last].number), j.spares[last].length
		j.spares = j.spares[:last]
		f, err = j.fs.Open(temp)
	} else {
		f, err = j.fs.Create(temp)
	}
	if err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	if err := j.name(f, b, temp, j.path(number)); err != nil {
		return errors.Join(err, f.Close())
	}
	j.f, j.seed, j.synced = f, segmentHeaderCRC(b), 0
	if j.policy != SyncNever {
		j.synced = s.size
	}
	j.segments = append(j.segments, s)
	j.count.Bytes += uint64(s.size)
	return nil
}

// name writes the beginning of a segment to a file and then names it.
func (j *journal) name(f File, beginning []byte, temp, path string) error {
	if _, err := f.WriteAt(beginning, 0); err != nil {
		return fmt.Errorf("write to %s: %w", temp, err)
	}
	if j.policy != SyncNever {
		if err := j.fsync(f, temp); err != nil {
			return err
		}
	}
	if err := j.fs.Rename(temp, path); err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	return j.syncDir()
}

// syncDir makes the names of the files durable, unless the policy is never.
func (j *journal) syncDir() error {
	if j.policy == SyncNever {
		return nil
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return &syncError{j.dir, err}
	}
	return nil
}

// beginning is a segment's header and its first record, which has the state so
// far.
func (j *journal) beginning(number uint64, previous int64) ([]byte, error) {
	m := &raftpb.Message{Index: new(j.last), LogTerm: new(j.lastTerm)}
	if j.term != 0 || j.vote != 0 || j.commit != 0 {
		m.Term, m.Vote, m.Commit = new(j.term), new(j.vote), new(j.commit)
	}
	b := appendSegmentHeader(nil, j.incarnation, number, previous)
	return appendRecord(b, segmentHeaderCRC(b), segmentHeader, 0, m)
}

// release lets go of the oldest segments while they hold nothing after index.
// They become spares, up to one more than there are segments left, since as many
// are filled until the next release; others are removed. The folder is synced
// after each: were a later one gone and an earlier one still there after a crash,
// the journal would seem to have lost one, and a spare that is written over must
// not get its name back.
func (j *journal) release(index uint64) error {
	n := 0
	for n < len(j.segments)-1 && j.segments[n].max <= index {
		n++
	}
	left := len(j.segments) - n
	for _, s := range j.segments[:n] {
		path := j.path(s.number)
		spare := j.policy != SyncNever && len(j.spares) <= left
		var err error
		if spare {
			err = j.fs.Rename(path, j.temp(s.number))
		} else {
			err = j.fs.Remove(path)
		}
		if err != nil && !notExist(err) {
			return fmt.Errorf("release up to index %d: %w", index, err)
		}
		j.segments = j.segments[1:]
		if err := j.syncDir(); err != nil {
			return err
		}
		if spare && err == nil {
			j.spares = append(j.spares, s)
		}
	}
	return nil
}

// finish makes all of it durable and leaves nothing for recovery to cut off or
// remove.
func (j *journal) finish() error {
	if err := j.sync(); err != nil {
		return err
	}
	for _, s := range j.spares {
		if err := j.fs.Remove(j.temp(s.number)); err != nil {
			return err
		}
	}
	j.spares = nil
	s := j.current()
	if s.length == s.size {
		return nil
	}
	s.length = s.size
	return j.f.Truncate(s.size)
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	f := j.f
	j.f = nil
	return f.Close()
}
