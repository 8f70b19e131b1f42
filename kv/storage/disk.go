package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv/metric"
)

// Errors that a caller can act on; wrapped with the path and what to do.
var (
	// ErrLocked: another process, or another Disk of this one, has the folder.
	ErrLocked = errors.New("locked by another process")
	// ErrNoSpace: the file system is full, or a quota is reached.
	ErrNoSpace = errors.New("no space left for the data folder")
	// ErrCorrupt: what is on disk is not what was written there.
	ErrCorrupt = errors.New("damaged")
	// ErrClosed: the Disk was closed.
	ErrClosed = errors.New("data folder is closed")
)

// What Options.Sync may be.
const (
	SyncAlways  = "always"  // an fsync for each message that needs one
	SyncBatched = "batched" // one fsync for all messages of a Write
	SyncNever   = "never"   // none: survives the process's death, not the machine's
)

// DefaultSegmentSize is how long a file of the journal grows: long enough that a
// new one, with its two fsyncs, is rare; short enough that what is released goes
// soon.
const DefaultSegmentSize = 64 << 20

// Options say where a Disk is and how it writes.
type Options struct {
	Dir         string // created if missing; its parents too
	FS          FS     // nil: the operating system's
	Sync        string // SyncAlways (also ""), SyncBatched or SyncNever
	SegmentSize int64  // bytes at which the journal goes on in a new file; 0: DefaultSegmentSize
	Node        uint64 // whose folder it is; not 0
	Logger      *slog.Logger
}

func (o *Options) validate() error {
	if o.FS == nil {
		o.FS = OS{}
	}
	if o.Sync == "" {
		o.Sync = SyncAlways
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Dir == "":
		return errors.New("data folder: no path")
	case o.Node == 0:
		return errors.New("data folder: node 0")
	case o.Sync != SyncAlways && o.Sync != SyncBatched && o.Sync != SyncNever:
		return fmt.Errorf("sync %q: not always, batched or never", o.Sync)
	case o.SegmentSize < 0:
		return fmt.Errorf("segment size %d is negative", o.SegmentSize)
	}
	return nil
}

// Counters are totals since Open, or as tagged.
type Counters struct {
	Appends       uint64        `counter:"journal_appends" usage:"messages written to the journal"`
	Bytes         uint64        `counter:"journal_written_bytes" usage:"bytes written to the journal, framing included, zeros behind it not"`
	Fsyncs        uint64        `counter:"journal_fsyncs" usage:"fsyncs of the journal's files"`
	FsyncTime     time.Duration `counter:"journal_fsync_nanos" usage:"time spent in these fsyncs"`
	FsyncMax      time.Duration `gauge:"journal_fsync_max_nanos" usage:"longest of these fsyncs"`
	Segments      uint64        `gauge:"journal_segments" usage:"files of the journal"`
	JournalBytes  uint64        `gauge:"journal_bytes" usage:"size of the journal's files, with zeros ahead and spares"`
	Snapshots     uint64        `counter:"snapshot_files_written" usage:"snapshots made durable"`
	SnapshotBytes uint64        `counter:"snapshot_file_written_bytes" usage:"bytes of these snapshots"`
	// Live, and shared by all copies.
	FsyncDuration *metric.Histogram `histogram:"journal_fsync_duration_nanos" usage:"how long an fsync of the journal's files took"`
}

// Disk is a node's data folder: who it is, its journal and its snapshots.
//
// Raft reads its log from a Memory; the journal is what brings that back after
// the process ended. What is written in which order, and what a crash between
// two steps leaves:
//
//   - A snapshot is durable when SnapshotFile.Commit returns. Only then may the
//     log restart at it (Write of a message with a Snapshot) or let go of what it
//     covers (Release).
//   - A message is one record, so it is there as a whole or not at all, and a
//     record is there only if all before it are: after a crash the log is what
//     some prefix of the messages made, and at least all those synced.
//   - Recovery takes the newest good snapshot and the journal's log. If the log
//     has the snapshot's index with the same term, the log goes on after it.
//     Otherwise the log is older, or of another history: a crash came between
//     Commit and the journal's record of the restart. A snapshot is committed
//     state, so the log restarts at it there and then, and the hard state is
//     raised to it. This is what raft was about to do, so answers sent before
//     the crash still hold.
//   - The two newest snapshots are kept and the journal reaches back to the older
//     one, so that a damaged snapshot costs a longer replay and not the node.
//     After a restart at a snapshot only that one is left: the log before it is
//     gone.
//
// A failed write or fsync of the journal, and a failed fsync or rename of a
// snapshot, is fatal: what the disk then holds is not known, and a second fsync
// that succeeds would prove nothing, because the kernel marks what it could not
// write as clean. Every later call returns the same error.
type Disk struct {
	o        Options
	lock     io.Closer
	identity identity // cluster: under mu
	log      *Memory

	write   sync.Mutex // held by Write, Release and Close: the journal's
	journal *journal

	mu        sync.Mutex // guards what follows; may be taken with write held
	err       error      // fatal, or ErrClosed
	count     Counters
	snapshots []snapshotInfo // good ones, oldest first
	bad       []string       // paths of damaged ones
	writing   bool           // a SnapshotFile is open
}

// Open opens the data folder, creating it if it is not there, and recovers what
// it holds. Nothing is changed in a folder it refuses. An error names the path,
// the reason and what to do.
func Open(o Options) (*Disk, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := makeDir(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("data folder %s can't be created: %w: let this user write there, or choose another folder", o.Dir, noSpace(err))
	}
	lock, err := o.FS.Lock(filepath.Join(o.Dir, lockName))
	if errors.Is(err, ErrLocked) {
		return nil, fmt.Errorf("data folder %s is %w: stop the other node, or choose another folder", o.Dir, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("data folder %s is not writable: %w: let this user write there, or choose another folder", o.Dir, noSpace(err))
	}
	d := &Disk{o: o, lock: lock}
	if err := d.recover(); err != nil {
		if d.journal != nil {
			err = errors.Join(err, d.journal.close())
		}
		return nil, errors.Join(noSpace(err), lock.Close())
	}
	return d, nil
}

// makeDir creates a folder and its parents, and makes them durable: what is
// acknowledged later is in it.
func makeDir(fsys FS, dir string) error {
	err := fsys.Mkdir(dir)
	parent := filepath.Dir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDir(fsys, parent); err != nil {
			return err
		}
		err = fsys.Mkdir(dir)
	}
	if errors.Is(err, fs.ErrExist) {
		// It may be left by an Open that ended before the SyncDir below. Whether
		// it is a folder, the lock file in it will tell. A parent that can't be
		// opened was not made by this user.
		if err := fsys.SyncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}

// Incarnation is a random number, drawn when the folder was created.
func (d *Disk) Incarnation() uint64 { return d.identity.Incarnation }

// ClusterID is the cluster the folder belongs to, 0 until SetClusterID.
func (d *Disk) ClusterID() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity.Cluster
}

// Log returns the log as it was recovered: entries after the snapshot, the hard
// state, and the snapshot's configuration. It is the caller's from then on; the
// Disk neither reads nor changes it.
func (d *Disk) Log() *Memory { return d.log }

// Stats returns the counters. Any goroutine may call it.
func (d *Disk) Stats() Counters {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// Write makes messages durable as Options.Sync says, in their order. Of each it
// takes the entries, which replace those at their indexes and after; the hard
// state, if Term is set; and a snapshot's metadata, at which the log restarts
// before the entries are appended: that snapshot must have been committed. A
// message that changes nothing but the commit index needs no fsync: raft finds it
// again.
//
// A message that raft can't have meant (a gap, a term that goes back) is an
// error, and as fatal as any. One goroutine at a time calls Write; messages are
// not kept.
func (d *Disk) Write(messages []*raftpb.Message) error {
	d.write.Lock()
	defer d.write.Unlock()
	if err := d.failed(); err != nil {
		return err
	}
	for _, m := range messages {
		if index := m.GetSnapshot().GetMetadata().GetIndex(); index > 0 && !d.hasSnapshot(index) {
			return d.fail(fmt.Errorf("%s: log restarts at index %d, of which no snapshot was committed", d.o.Dir, index))
		}
	}
	err := d.journal.write(messages)
	d.account()
	if err != nil {
		return d.fail(err)
	}
	for _, m := range messages {
		if index := m.GetSnapshot().GetMetadata().GetIndex(); index > 0 {
			d.dropSnapshotsBefore(index)
		}
	}
	return nil
}

// Release lets go of entries up to index, which a committed snapshot covers:
// files of the journal that hold nothing else become spares or are removed, as far
// as the older of the two snapshots allows. An error is not fatal unless it is one of fsync.
func (d *Disk) Release(index uint64) error {
	d.write.Lock()
	defer d.write.Unlock()
	if err := d.failed(); err != nil {
		return err
	}
	d.mu.Lock()
	if len(d.snapshots) == 0 {
		index = 0
	} else {
		index = min(index, d.snapshots[0].index)
	}
	d.mu.Unlock()
	err := d.journal.release(index)
	d.account()
	if _, fatal := errors.AsType[*syncError](err); fatal {
		return d.fail(err)
	}
	return noSpace(err)
}

// Close syncs the journal, unless Sync is never, gives back the space it has for
// what is to come, and lets go of the folder. It returns the fatal error, if there
// was one. Later calls return ErrClosed.
func (d *Disk) Close() error {
	d.write.Lock()
	defer d.write.Unlock()
	err := d.failed()
	if errors.Is(err, ErrClosed) {
		return err
	}
	if err == nil {
		err = d.journal.finish()
		d.account()
	}
	d.mu.Lock()
	d.err = ErrClosed
	d.mu.Unlock()
	return errors.Join(noSpace(err), d.journal.close(), d.lock.Close())
}

func (d *Disk) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// fail makes err the answer to every later call.
func (d *Disk) fail(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = noSpace(err)
		d.o.Logger.Error("data folder can't be used any more", "dir", d.o.Dir, "error", err)
	}
	return d.err
}

// account takes over what the journal counted.
func (d *Disk) account() {
	c := d.journal.count
	c.Segments = uint64(len(d.journal.segments))
	for _, files := range [...][]segment{d.journal.segments, d.journal.spares} {
		for _, s := range files {
			c.JournalBytes += uint64(s.length)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Snapshots, c.SnapshotBytes = d.count.Snapshots, d.count.SnapshotBytes
	d.count = c
}

// A syncError is a failed fsync: nobody knows what is on disk.
type syncError struct {
	path string
	err  error
}

func (e *syncError) Error() string { return "fsync of " + e.path + ": " + e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }

// noSpace makes an error of a full file system an ErrNoSpace too.
func noSpace(err error) error {
	if errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoSpace, err)
}
