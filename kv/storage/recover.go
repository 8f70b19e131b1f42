package storage

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv/metric"
)

// contents is what a folder holds, by the names.
type contents struct {
	identity  bool
	temps     []string // names
	segments  []uint64 // ascending
	snapshots []uint64 // ascending
}

func list(fsys FS, dir string) (contents, error) {
	var c contents
	names, err := fsys.List(dir)
	if err != nil {
		return c, fmt.Errorf("data folder %s can't be read: %w", dir, err)
	}
	for _, name := range names {
		base, temp := strings.CutSuffix(name, tempSuffix)
		segment, isSegment := number(base, segmentPrefix, segmentName)
		snapshot, isSnapshot := number(base, snapshotPrefix, snapshotName)
		switch {
		case name == lockName || name == "lost+found":
		case temp && (base == identityName || isSegment || isSnapshot):
			c.temps = append(c.temps, name)
		case name == identityName:
			c.identity = true
		case isSegment:
			c.segments = append(c.segments, segment)
		case isSnapshot:
			c.snapshots = append(c.snapshots, snapshot)
		default:
			return c, fmt.Errorf("%s is not part of a data folder: move it away, or choose another folder", filepath.Join(dir, name))
		}
	}
	slices.Sort(c.segments)
	slices.Sort(c.snapshots)
	return c, nil
}

// number parses a name as its function writes it.
func number(name, prefix string, write func(uint64) string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, prefix), 10, 64)
	return n, err == nil && n > 0 && write(n) == name
}

// recover reads the folder, and when nothing is wrong with it, makes it ready to
// be written.
func (d *Disk) recover() error {
	c, err := list(d.o.FS, d.o.Dir)
	if err != nil {
		return err
	}
	if !c.identity {
		return d.create(c)
	}
	if d.identity, err = loadIdentity(d.o.FS, d.o.Dir, d.o.Node); err != nil {
		return err
	}
	d.journal = d.newJournal()
	r := replay{journal: d.journal, log: NewMemory()}
	if err := r.read(c.segments); err != nil {
		return err
	}
	d.log = r.log
	restart, err := d.place(c.snapshots)
	if err != nil {
		return err
	}
	if d.journal.commit > d.log.last() {
		return fmt.Errorf("%s is %w: the log ends at index %d, but %d is committed: %s",
			d.o.Dir, ErrCorrupt, d.log.last(), d.journal.commit, giveUp)
	}
	if err := d.repair(&r, c, restart); err != nil {
		return err
	}
	d.account()
	return nil
}

func (d *Disk) newJournal() *journal {
	return &journal{
		fs: d.o.FS, dir: d.o.Dir, policy: d.o.Sync, segmentSize: d.o.SegmentSize, incarnation: d.identity.Incarnation,
		count: Counters{FsyncDuration: new(metric.Histogram)},
	}
}

// create makes a new folder: the journal first, the identity last. What is there
// without an identity is a create that did not end, or not ours.
func (d *Disk) create(c contents) error {
	d.identity = identity{Format: format, Node: d.o.Node}
	for d.identity.Incarnation == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		d.identity.Incarnation = binary.LittleEndian.Uint64(b[:])
	}
	d.journal = d.newJournal()
	left, err := d.leftover(c)
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := d.o.FS.Remove(filepath.Join(d.o.Dir, name)); err != nil {
			return err
		}
	}
	if err := d.journal.create(1, 0); err != nil {
		return err
	}
	if err := d.identity.save(d.o.FS, d.o.Dir); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	d.log = NewMemory()
	d.account()
	return nil
}

// leftover returns the names that a create leaves when it does not end.
func (d *Disk) leftover(c contents) ([]string, error) {
	missing := fmt.Errorf("%s is missing, but the folder is in use: %w: %s", filepath.Join(d.o.Dir, identityName), ErrCorrupt, giveUp)
	if len(c.snapshots) > 0 || len(c.segments) > 1 {
		return nil, missing
	}
	left := c.temps
	if len(c.segments) == 1 {
		size, err := fileSize(d.o.FS, filepath.Join(d.o.Dir, segmentName(c.segments[0])))
		if err != nil {
			return nil, err
		}
		created, err := d.journal.beginning(1, 0)
		if err != nil {
			return nil, err
		}
		if c.segments[0] != 1 || size > int64(len(created)) {
			return nil, missing
		}
		left = append(left, segmentName(1))
	}
	return left, nil
}

func fileSize(fsys FS, path string) (int64, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}

// repair makes what was read the folder's durable state: leftovers go, a torn
// tail is cut off, and everything is synced, because what a process that died
// had written may have been read from the kernel's memory only. If it died of a
// failed fsync, the kernel takes that for clean and a sync would skip it, so what
// no record calls durable is written again before.
func (d *Disk) repair(r *replay, c contents, restart *raftpb.Message) error {
	fsys, dir, j := d.o.FS, d.o.Dir, d.journal
	for _, name := range c.temps {
		if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
		d.o.Logger.Info("removed a leftover file", "file", filepath.Join(dir, name))
	}
	for i := range j.segments {
		if err := d.openSegment(r, i); err != nil {
			return err
		}
	}
	if err := j.syncDir(); err != nil {
		return err
	}
	if restart != nil {
		d.o.Logger.Info("raised the log to the newest snapshot", "dir", dir,
			"index", restart.GetCommit(), "restart", restart.GetSnapshot() != nil)
		return j.write([]*raftpb.Message{restart})
	}
	return nil
}

// openSegment cuts and syncs a segment; the last one stays open.
func (d *Disk) openSegment(r *replay, i int) error {
	j := d.journal
	s := &j.segments[i]
	path := j.path(s.number)
	f, err := d.o.FS.Open(path)
	if err != nil {
		return err
	}
	last := i == len(j.segments)-1
	if last {
		j.f, j.synced = f, 0
	}
	if last && s.size != s.length {
		// Or what is cut off would count again, behind a record as long as the one
		// that is missing.
		if err := f.Truncate(s.size); err != nil {
			return err
		}
		if r.reason != zeros {
			d.o.Logger.Warn(fmt.Sprintf("truncated %d bytes at offset %d", s.length-s.size, s.size), //nolint:sloglint // the figures are the message
				"file", path, "reason", r.reason)
		}
		s.length = s.size
	}
	if j.policy != SyncNever {
		if err := rewrite(f, s.known, s.size); err != nil {
			err = fmt.Errorf("write to %s: %w", path, err)
			if last {
				return err // the journal closes it
			}
			return errors.Join(err, f.Close())
		}
	}
	if last {
		return j.sync()
	}
	if j.policy != SyncNever {
		if err := f.Sync(); err != nil {
			return errors.Join(&syncError{path, err}, f.Close())
		}
	}
	return f.Close()
}

// rewrite writes a part of a file with what it holds.
func rewrite(f File, from, to int64) error {
	buf := make([]byte, min(to-from, spill))
	for ; from < to; from += int64(len(buf)) {
		buf = buf[:min(to-from, int64(len(buf)))]
		if _, err := f.ReadAt(buf, from); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, from); err != nil {
			return err
		}
	}
	return nil
}

// place finds the newest good snapshot that the log can go on from, and lets the
// log go on there. It returns the message that has to be written for it, nil if
// none.
func (d *Disk) place(indexes []uint64) (*raftpb.Message, error) {
	var faults []string
	for _, index := range slices.Backward(indexes) {
		path := filepath.Join(d.o.Dir, snapshotName(index))
		if len(d.snapshots) > 0 {
			// Older than the one taken; it is read through when it is needed.
			if info, err := statSnapshot(d.o.FS, path, index); err == nil && index >= d.log.base && len(d.snapshots) < keepSnapshots {
				d.snapshots = slices.Insert(d.snapshots, 0, info)
			} else {
				d.bad = append(d.bad, path)
			}
			continue
		}
		info, err := openSnapshot(d.o.FS, path, index)
		if err == nil && index < d.log.base {
			err = fmt.Errorf("it is of index %d, the journal begins after %d", index, d.log.base)
		}
		if err != nil {
			d.bad = append(d.bad, path)
			faults = append(faults, fmt.Sprintf("%s: %v", path, err))
			continue
		}
		d.snapshots = append(d.snapshots, info)
	}
	if len(d.snapshots) == 0 && d.log.base > 0 {
		if len(faults) == 0 {
			faults = []string{"there is none"}
		}
		return nil, fmt.Errorf("%s is %w: the journal begins after index %d and no snapshot reaches there (%s): %s",
			d.o.Dir, ErrCorrupt, d.log.base, strings.Join(faults, "; "), giveUp)
	}
	for _, fault := range faults {
		d.o.Logger.Warn("fell back to an older snapshot or the whole journal", "fault", fault)
	}
	if len(d.snapshots) == 0 {
		return nil, nil
	}
	return d.goOnFrom(d.snapshots[len(d.snapshots)-1])
}

// statSnapshot is openSnapshot without reading the data.
func statSnapshot(fsys FS, path string, index uint64) (info snapshotInfo, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return info, err
	}
	info, _, err = readSnapshotFrame(f, size)
	info.path = path
	if err == nil && info.index != index {
		err = ErrCorrupt
	}
	return info, err
}

// goOnFrom applies the rule told at Disk.
func (d *Disk) goOnFrom(s snapshotInfo) (*raftpb.Message, error) {
	j, m := d.journal, &raftpb.Message{}
	term, err := d.log.Term(s.index)
	switch {
	case err == nil && term == s.meta.GetTerm():
		if s.index > d.log.base {
			if err := d.log.Compact(s.index); err != nil {
				return nil, err
			}
		}
		d.log.confState = s.meta.GetConfState()
	case s.index <= j.commit:
		return nil, fmt.Errorf("%s is %w: it is of index %d term %d, which is committed with term %d in the journal: %s",
			s.path, ErrCorrupt, s.index, s.meta.GetTerm(), term, giveUp)
	default:
		m.Snapshot = &raftpb.Snapshot{Metadata: s.meta}
		if err := d.log.Restore(s.meta); err != nil {
			return nil, err
		}
	}
	if d.log.confState == nil {
		d.log.confState = &raftpb.ConfState{}
	}
	hard := &raftpb.HardState{Term: new(j.term), Vote: new(j.vote), Commit: new(max(j.commit, s.index))}
	if s.meta.GetTerm() > j.term { // as if a message of that term had come
		hard.Term, hard.Vote = new(s.meta.GetTerm()), new(uint64(0))
	}
	if err := d.log.Append(nil, hard); err != nil {
		return nil, err
	}
	if m.Snapshot == nil && hard.GetTerm() == j.term && hard.GetCommit() == j.commit {
		return nil, nil
	}
	m.Term, m.Vote, m.Commit = hard.Term, hard.Vote, hard.Commit
	return m, nil
}
