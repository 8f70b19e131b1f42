package kv

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

const (
	snapshotFormat = 1 // SnapshotHeader.format in proto/raftlab/kv/v1/command.proto

	// snapshotBatch is how many bytes of items a record takes before the next
	// one is begun: large enough that the records cost nothing, small enough
	// that neither side holds much.
	snapshotBatch = 64 << 10

	// MaxItemSize is the largest key and value, together, that a snapshot
	// carries. Requests for more must be refused, or no node could be replaced.
	MaxItemSize = 64 << 20

	// A record holds one item of any size or several within the batch. The rest
	// is for tags, lengths and revisions, and for the header's membership.
	maxSnapshotRecord = MaxItemSize + snapshotBatch

	// maxSnapshotHeader has room for a membership of a thousand nodes and fifty
	// thousand that were removed.
	maxSnapshotHeader = 1 << 20
)

// Errors of snapshots, beside ErrMalformed and ErrFormat; wrapped with figures.
var (
	// ErrTruncated: the snapshot ends before its trailer.
	ErrTruncated = errors.New("snapshot is truncated")
	// ErrChecksum: the bytes are not those that were written.
	ErrChecksum = errors.New("snapshot checksum mismatch")
	// ErrKeyCount: header, items and trailer disagree on the number of keys or of
	// sessions.
	ErrKeyCount = errors.New("snapshot key count mismatch")
	// ErrOrder: a key, or a session, is not greater than the one before it.
	ErrOrder = errors.New("snapshot keys out of order")
	// ErrTooLarge: a record or an item above the cap.
	ErrTooLarge = errors.New("too large for a snapshot")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Tags of SnapshotRecord and of what it holds.
const (
	tagRecordHeader  = 1<<3 | byte(protowire.BytesType)
	tagRecordItems   = 2<<3 | byte(protowire.BytesType)
	tagRecordTrailer = 3<<3 | byte(protowire.BytesType)
	tagRecordSession = 4<<3 | byte(protowire.BytesType)

	tagItem = 1<<3 | byte(protowire.BytesType) // of SnapshotItems

	tagItemKey     = 1<<3 | byte(protowire.BytesType)
	tagItemValue   = 2<<3 | byte(protowire.BytesType)
	tagItemVersion = 3<<3 | byte(protowire.VarintType)
	tagItemCreate  = 4<<3 | byte(protowire.VarintType)
	tagItemMod     = 5<<3 | byte(protowire.VarintType)
)

// WriteSnapshot writes v as length-delimited SnapshotRecords: a header, items
// in key order about 64 KiB a record, sessions by id, a trailer. Equal views make equal bytes.
// It writes one record at a time and holds no more than one.
func WriteSnapshot(w io.Writer, v *View) error {
	s := snapshotWriter{w: w, keys: uint64(v.Len())}
	if err := s.message(&kvv1.SnapshotRecord{Record: &kvv1.SnapshotRecord_Header{Header: &kvv1.SnapshotHeader{
		Format: snapshotFormat, Index: v.state.Index, Term: v.state.Term, Revision: v.state.Revision,
		Keys: s.keys, Membership: v.membership,
		ClockUnixNanos: uint64(v.sessions.clock), LastSessionId: v.sessions.last,
	}}}); err != nil {
		return fmt.Errorf("snapshot header: %w", err)
	}
	if err := s.items(v); err != nil {
		return fmt.Errorf("snapshot items: %w", err)
	}
	for session := range v.sessions.all() {
		if err := s.message(&kvv1.SnapshotRecord{Record: &kvv1.SnapshotRecord_Session{Session: session.proto()}}); err != nil {
			return fmt.Errorf("snapshot session %d: %w", session.id, err)
		}
	}
	if err := s.message(&kvv1.SnapshotRecord{Record: &kvv1.SnapshotRecord_Trailer{Trailer: &kvv1.SnapshotTrailer{
		Keys: s.keys, Sessions: uint64(v.sessions.size()), Crc32C: s.crc,
	}}}); err != nil {
		return fmt.Errorf("snapshot trailer: %w", err)
	}
	return nil
}

type snapshotWriter struct {
	w    io.Writer
	crc  uint32 // of everything written
	keys uint64
}

func (s *snapshotWriter) message(m *kvv1.SnapshotRecord) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxSnapshotRecord {
		return fmt.Errorf("record of %d bytes, at most %d: %w", len(data), maxSnapshotRecord, ErrTooLarge)
	}
	return s.write(append(protowire.AppendVarint(nil, uint64(len(data))), data...))
}

func (s *snapshotWriter) write(b []byte) error {
	s.crc = crc32.Update(s.crc, castagnoli, b)
	_, err := s.w.Write(b)
	return err
}

// items writes the view's items. The prefixes of a record depend on its size,
// so they are put into a gap left before the items.
func (s *snapshotWriter) items(v *View) error {
	const gap = 16 // record's length, items' tag, items' length: 5 + 1 + 5 bytes at most
	buf := make([]byte, gap, gap+snapshotBatch)
	flush := func() error {
		n := len(buf) - gap
		if n == 0 {
			return nil
		}
		var head [gap]byte
		prefix := protowire.AppendVarint(head[:0], uint64(1+protowire.SizeBytes(n)))
		prefix = append(prefix, tagRecordItems)
		prefix = protowire.AppendVarint(prefix, uint64(n))
		record := buf[gap-len(prefix):]
		copy(record, prefix)
		err := s.write(record)
		if cap(buf) > 4*snapshotBatch {
			buf = make([]byte, gap, gap+snapshotBatch) // a large value does not stay
		}
		buf = buf[:gap]
		return err
	}
	var err error
	v.tree.scan(func(r *record) bool {
		if size := len(r.head) + len(r.value()); size > MaxItemSize {
			err = fmt.Errorf("item of %d bytes, at most %d: %w", size, MaxItemSize, ErrTooLarge)
			return false
		}
		body := itemBodySize(r)
		if len(buf)-gap+1+protowire.SizeBytes(body) > snapshotBatch {
			if err = flush(); err != nil {
				return false
			}
		}
		buf = appendItem(buf, r, body)
		return true
	})
	if err != nil {
		return err
	}
	return flush()
}

func itemBodySize(r *record) int {
	return sizeBytesField(r.head) + sizeBytesField(r.value()) +
		sizeVarintField(r.number) + sizeVarintField(r.create) + sizeVarintField(r.mod)
}

// appendItem appends r as one items field of SnapshotItems; body is its size.
func appendItem(dst []byte, r *record, body int) []byte {
	dst = protowire.AppendVarint(append(dst, tagItem), uint64(body))
	dst = appendBytesField(dst, tagItemKey, r.head)
	dst = appendBytesField(dst, tagItemValue, r.value())
	dst = appendVarintField(dst, tagItemVersion, r.number)
	dst = appendVarintField(dst, tagItemCreate, r.create)
	return appendVarintField(dst, tagItemMod, r.mod)
}
