package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A snapshot is a file snapshot-00000000000000000123, by its index:
//
//	magic "raftlogs" | format u32 | 0 u32 | data | metadata | data length u64 | metadata length u32 | data crc u32 | crc u32 | magic
//
// Numbers are little endian, CRCs are CRC-32C. metadata is a
// raftpb.SnapshotMetadata. The last crc is of the head, the metadata and the
// numbers after it. What the data is, only its writer knows.
const (
	snapshotPrefix = "snapshot-"
	snapshotMagic  = "raftlogs"
	snapshotHead   = 16
	snapshotTail   = 28
	// maxMetadata is more than the configuration of any cluster.
	maxMetadata = 1 << 20
	// snapshotBuffer is how much is gathered before it is written.
	snapshotBuffer = 256 << 10
	// keepSnapshots is told about at Disk.
	keepSnapshots = 2
)

func snapshotName(index uint64) string { return fmt.Sprintf("%s%020d", snapshotPrefix, index) }

type snapshotInfo struct {
	index uint64
	path  string
	meta  *raftpb.SnapshotMetadata
	size  int64 // of the data
}

// SnapshotFile is a snapshot being written. It is used by one goroutine, and
// ends with Commit or Abort.
type SnapshotFile struct {
	d    *Disk
	meta *raftpb.SnapshotMetadata
	path string // of the temporary file
	f    File
	buf  []byte
	size int64 // written to f
	crc  uint32
	data int64
	err  error
}

// NewSnapshot begins a snapshot. Any goroutine may call it, one snapshot at a
// time. Its index must not be lower than that of the newest.
func (d *Disk) NewSnapshot(meta *raftpb.SnapshotMetadata) (*SnapshotFile, error) {
	if meta.GetIndex() == 0 || meta.GetTerm() == 0 {
		return nil, fmt.Errorf("snapshot of index %d term %d: neither may be 0", meta.GetIndex(), meta.GetTerm())
	}
	if n := proto.Size(meta); n > maxMetadata {
		return nil, fmt.Errorf("snapshot metadata of %d bytes exceeds the limit of %d", n, maxMetadata)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	if d.writing {
		return nil, errors.New("another snapshot is being written")
	}
	if n := len(d.snapshots); n > 0 && d.snapshots[n-1].index > meta.GetIndex() {
		return nil, fmt.Errorf("snapshot of index %d is older than the newest, of index %d", meta.GetIndex(), d.snapshots[n-1].index)
	}
	path := filepath.Join(d.o.Dir, snapshotName(meta.GetIndex())) + tempSuffix
	f, err := d.o.FS.Create(path)
	if err != nil {
		return nil, fmt.Errorf("new snapshot: %w", noSpace(err))
	}
	d.writing = true
	return &SnapshotFile{d: d, meta: proto.CloneOf(meta), path: path, f: f, buf: newSnapshotHead()}, nil
}

func newSnapshotHead() []byte {
	b := append(make([]byte, 0, snapshotHead), snapshotMagic...)
	b = binary.LittleEndian.AppendUint32(b, format)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// appendSnapshotTail appends metadata and what follows it.
func appendSnapshotTail(b []byte, meta *raftpb.SnapshotMetadata, data int64, crc uint32) ([]byte, error) {
	start := len(b)
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, meta)
	if err != nil {
		return nil, err
	}
	n := len(b) - start
	b = binary.LittleEndian.AppendUint64(b, uint64(data))
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = binary.LittleEndian.AppendUint32(b, crc)
	sum := crc32.Update(crc32.Checksum(newSnapshotHead(), castagnoli), castagnoli, b[start:])
	b = binary.LittleEndian.AppendUint32(b, sum)
	return append(b, snapshotMagic...), nil
}

// Write takes the next bytes of the snapshot. An error, of a full disk too, is
// this snapshot's alone: Commit repeats it, Abort takes it away.
func (s *SnapshotFile) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.crc = crc32.Update(s.crc, castagnoli, p)
	s.data += int64(len(p))
	s.buf = append(s.buf, p...)
	if len(s.buf) >= snapshotBuffer {
		s.flush()
	}
	return len(p), s.err
}

func (s *SnapshotFile) flush() {
	if s.err != nil {
		return
	}
	if _, err := s.f.WriteAt(s.buf, s.size); err != nil {
		s.err = fmt.Errorf("write to %s at offset %d: %w", s.path, s.size, noSpace(err))
		return
	}
	s.size += int64(len(s.buf))
	s.buf = s.buf[:0]
}

// Abort removes what was written. After Commit it does nothing.
func (s *SnapshotFile) Abort() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	err = errors.Join(err, s.d.o.FS.Remove(s.path))
	s.d.mu.Lock()
	s.d.writing = false
	s.d.mu.Unlock()
	return err
}

// Commit makes the snapshot durable and the newest, and removes those it makes
// superfluous. If it fails the snapshot is aborted, and if an fsync or the rename
// failed, the Disk has failed.
func (s *SnapshotFile) Commit() error {
	if s.f == nil {
		return errors.New("snapshot was committed or aborted")
	}
	if s.err == nil {
		s.buf, s.err = appendSnapshotTail(s.buf, s.meta, s.data, s.crc)
	}
	s.flush()
	if s.err == nil {
		s.err = s.d.failed()
	}
	if s.err != nil {
		return errors.Join(s.err, s.Abort())
	}
	if err := s.publish(); err != nil {
		return errors.Join(s.d.fail(err), s.Abort())
	}
	return nil
}

func (s *SnapshotFile) publish() error {
	d := s.d
	if err := s.f.Sync(); err != nil {
		return &syncError{s.path, err}
	}
	info := snapshotInfo{
		index: s.meta.GetIndex(), path: filepath.Join(d.o.Dir, snapshotName(s.meta.GetIndex())), meta: s.meta, size: s.data,
	}
	if err := d.o.FS.Rename(s.path, info.path); err != nil {
		return err
	}
	if err := d.o.FS.SyncDir(d.o.Dir); err != nil {
		return &syncError{d.o.Dir, err}
	}
	err := s.f.Close()
	s.f = nil
	if err != nil {
		// Everything is on disk; a descriptor is lost at worst.
		d.o.Logger.Warn("snapshot was written but not closed", "file", info.path, "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writing = false
	d.count.Snapshots++
	d.count.SnapshotBytes += uint64(s.size)
	if n := len(d.snapshots); n > 0 && d.snapshots[n-1].index == info.index {
		d.snapshots = d.snapshots[:n-1]
	}
	d.snapshots = append(d.snapshots, info)
	for _, path := range d.bad {
		if path != info.path {
			d.discard(path)
		}
	}
	d.bad = nil
	for len(d.snapshots) > keepSnapshots {
		d.discard(d.snapshots[0].path)
		d.snapshots = d.snapshots[1:]
	}
	return nil
}

// discard removes a snapshot that is not needed. If it stays, or comes back after
// a power cut, it does no harm.
func (d *Disk) discard(path string) {
	if err := d.o.FS.Remove(path); err != nil && !notExist(err) {
		d.o.Logger.Warn("superfluous snapshot can't be removed", "file", path, "error", err)
	}
}

func (d *Disk) hasSnapshot(index uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.snapshots {
		if s.index == index {
			return true
		}
	}
	return false
}

// dropSnapshotsBefore removes those the log can't go on from.
func (d *Disk) dropSnapshotsBefore(index uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.snapshots) > 0 && d.snapshots[0].index < index {
		d.discard(d.snapshots[0].path)
		d.snapshots = d.snapshots[1:]
	}
}

// Snapshot opens the newest good snapshot; its metadata is nil if there is none.
// The caller closes the reader, which goes on to work when a newer snapshot
// takes its place. Any goroutine may call it.
func (d *Disk) Snapshot() (*raftpb.SnapshotMetadata, io.ReadCloser, error) {
	// With the lock held, or it may be removed before it is open.
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, nil, d.err
	}
	if len(d.snapshots) == 0 {
		return nil, nil, nil
	}
	s := d.snapshots[len(d.snapshots)-1]
	f, err := d.o.FS.Open(s.path)
	if err != nil {
		return nil, nil, err
	}
	return proto.CloneOf(s.meta), snapshotReader{io.NewSectionReader(f, snapshotHead, s.size), f}, nil
}

type snapshotReader struct {
	io.Reader
	io.Closer
}

// openSnapshot reads a snapshot through and checks it. Its error says what is
// wrong with the file.
func openSnapshot(fsys FS, path string, index uint64) (info snapshotInfo, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return info, err
	}
	info, crc, err := readSnapshotFrame(f, size)
	if err != nil {
		return info, err
	}
	if info.index != index {
		return info, fmt.Errorf("it is of index %d: %w", info.index, ErrCorrupt)
	}
	info.path = path
	h := crc32.New(castagnoli)
	if _, err := io.Copy(h, io.NewSectionReader(f, snapshotHead, info.size)); err != nil {
		return info, err
	}
	if h.Sum32() != crc {
		return info, fmt.Errorf("checksum mismatch of the data: %w", ErrCorrupt)
	}
	return info, nil
}

// readSnapshotFrame reads what stands around the data.
func readSnapshotFrame(f io.ReaderAt, size int64) (info snapshotInfo, crc uint32, err error) {
	if size < snapshotHead+snapshotTail {
		return info, 0, fmt.Errorf("truncated to %d bytes: %w", size, ErrCorrupt)
	}
	var head [snapshotHead]byte
	var tail [snapshotTail]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return info, 0, err
	}
	if _, err := f.ReadAt(tail[:], size-snapshotTail); err != nil {
		return info, 0, err
	}
	if string(head[:8]) != snapshotMagic {
		return info, 0, fmt.Errorf("not a snapshot: %w", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v > format {
		return info, 0, fmt.Errorf("format %d, this program knows up to %d", v, format)
	}
	if string(tail[20:]) != snapshotMagic {
		return info, 0, fmt.Errorf("truncated, its end is missing: %w", ErrCorrupt)
	}
	data, n := binary.LittleEndian.Uint64(tail[:]), int64(binary.LittleEndian.Uint32(tail[8:]))
	if n > maxMetadata || data != uint64(size-snapshotHead-snapshotTail-n) {
		return info, 0, fmt.Errorf("%d bytes of data and %d of metadata in a file of %d: %w", data, n, size, ErrCorrupt)
	}
	meta := make([]byte, n, n+16)
	if _, err := f.ReadAt(meta, size-snapshotTail-n); err != nil {
		return info, 0, err
	}
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, append(meta, tail[:16]...))
	if sum != binary.LittleEndian.Uint32(tail[16:]) {
		return info, 0, fmt.Errorf("checksum mismatch of the metadata: %w", ErrCorrupt)
	}
	m := &raftpb.SnapshotMetadata{}
	if err := proto.Unmarshal(meta, m); err != nil {
		return info, 0, fmt.Errorf("metadata: %w: %w", err, ErrCorrupt)
	}
	return snapshotInfo{index: m.GetIndex(), meta: m, size: int64(data)}, binary.LittleEndian.Uint32(tail[12:]), nil
}
