package kv

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// SnapshotDecoder builds a View from the bytes of WriteSnapshot, as they come
// in, in pieces of any size. It holds the view and at most one record. Its first
// error stays. Not for concurrent use.
type SnapshotDecoder struct {
	partial []byte // of the record that is coming in, with its length prefix
	header  *kvv1.SnapshotHeader
	trailer *kvv1.SnapshotTrailer
	tree    tree
	last    *record // the greatest key so far
	client  sessions
	crc     uint32 // of the records before the present one
	err     error
}

// NewSnapshotDecoder returns a decoder that has seen nothing yet.
func NewSnapshotDecoder() *SnapshotDecoder { return &SnapshotDecoder{tree: newTree()} }

// Write takes the next bytes of the snapshot; it does not keep p. When it
// returns an error, the snapshot is of no use and n is 0.
func (d *SnapshotDecoder) Write(p []byte) (n int, err error) {
	if d.err == nil {
		d.err = d.write(p)
	}
	if d.err != nil {
		return 0, d.err
	}
	return len(p), nil
}

func (d *SnapshotDecoder) write(p []byte) error {
	for len(p) > 0 {
		// Whole records are decoded where they are.
		for len(d.partial) == 0 {
			size, err := recordSize(p)
			if err != nil {
				return err
			}
			if size == 0 || size > len(p) {
				break
			}
			if err := d.record(p[:size]); err != nil {
				return err
			}
			if p = p[size:]; len(p) == 0 {
				return nil
			}
		}
		// Otherwise up to the end of the record, or the next byte of its length.
		// The buffer grows by what came, never by what a length claims.
		size, err := recordSize(d.partial)
		if err != nil {
			return err
		}
		take := min(max(size-len(d.partial), 1), len(p))
		d.partial = append(d.partial, p[:take]...)
		p = p[take:]
		if size, err = recordSize(d.partial); err != nil {
			return err
		}
		if size == len(d.partial) {
			if err := d.record(d.partial); err != nil {
				return err
			}
			d.partial = d.partial[:0]
			if cap(d.partial) > 4*snapshotBatch {
				d.partial = nil
			}
		}
	}
	return nil
}

// recordSize returns the size of the record that b starts with, with its length
// prefix, or 0 when b is too short to tell.
func recordSize(b []byte) (int, error) {
	length, n := protowire.ConsumeVarint(b)
	switch {
	case n < 0 && len(b) >= 10:
		return 0, fmt.Errorf("%w snapshot: a length of more than 10 bytes", ErrMalformed)
	case n < 0:
		return 0, nil
	case length == 0:
		return 0, fmt.Errorf("%w snapshot: an empty record", ErrMalformed)
	case length > maxSnapshotRecord:
		return 0, fmt.Errorf("record of %d bytes, at most %d: %w", length, maxSnapshotRecord, ErrTooLarge)
	}
	return n + int(length), nil
}

// record takes one whole record with its length prefix.
func (d *SnapshotDecoder) record(framed []byte) error {
	if d.trailer != nil {
		return fmt.Errorf("%w snapshot: a record after the trailer", ErrMalformed)
	}
	_, n := protowire.ConsumeVarint(framed)
	tag := framed[n]
	body, m := protowire.ConsumeBytes(framed[n+1:])
	if m < 0 {
		return fmt.Errorf("%w snapshot record: %w", ErrMalformed, protowire.ParseError(m))
	}
	if n+1+m != len(framed) {
		return fmt.Errorf("%w snapshot record: more than one field", ErrMalformed)
	}
	if (d.header == nil) != (tag == tagRecordHeader) {
		return fmt.Errorf("%w snapshot: the header must be the first record, and only that", ErrMalformed)
	}
	var err error
	switch tag {
	case tagRecordHeader:
		err = d.takeHeader(body)
	case tagRecordItems:
		err = d.takeItems(body)
	case tagRecordSession:
		err = d.takeSession(body)
	case tagRecordTrailer:
		err = d.takeTrailer(body)
	default:
		// Skipping it could lose data: a newer program must raise the format.
		err = fmt.Errorf("%w snapshot: a record of an unknown kind", ErrMalformed)
	}
	d.crc = crc32.Update(d.crc, castagnoli, framed)
	return err
}

func (d *SnapshotDecoder) takeHeader(body []byte) error {
	if len(body) > maxSnapshotHeader {
		return fmt.Errorf("header of %d bytes, at most %d: %w", len(body), maxSnapshotHeader, ErrTooLarge)
	}
	h := &kvv1.SnapshotHeader{}
	if err := proto.Unmarshal(body, h); err != nil {
		return fmt.Errorf("%w snapshot header: %w", ErrMalformed, err)
	}
	if h.GetFormat() != snapshotFormat {
		return fmt.Errorf("snapshot: %w %d, this program knows %d", ErrFormat, h.GetFormat(), snapshotFormat)
	}
	if h.Membership == nil {
		h.Membership = &kvv1.Membership{}
	}
	d.header = h
	d.client.clock, d.client.last = int64(h.GetClockUnixNanos()), h.GetLastSessionId()
	return nil
}

func (d *SnapshotDecoder) takeItems(body []byte) error {
	for len(body) > 0 {
		if body[0] != tagItem {
			n := skipField(body)
			if n < 0 {
				return fmt.Errorf("%w snapshot items: %w", ErrMalformed, protowire.ParseError(n))
			}
			body = body[1+n:]
			continue
		}
		item, n := protowire.ConsumeBytes(body[1:])
		if n < 0 {
			return fmt.Errorf("%w snapshot items: %w", ErrMalformed, protowire.ParseError(n))
		}
		body = body[1+n:]
		if err := d.takeItem(item); err != nil {
			return err
		}
	}
	return nil
}

func (d *SnapshotDecoder) takeItem(b []byte) error {
	var it Item
	for len(b) > 0 {
		tag, n := b[0], 0
		switch tag {
		case tagItemKey:
			it.Key, n = protowire.ConsumeBytes(b[1:])
		case tagItemValue:
			it.Value, n = protowire.ConsumeBytes(b[1:])
		case tagItemVersion:
			it.Version, n = protowire.ConsumeVarint(b[1:])
		case tagItemCreate:
			it.CreateRevision, n = protowire.ConsumeVarint(b[1:])
		case tagItemMod:
			it.ModRevision, n = protowire.ConsumeVarint(b[1:])
		default:
			n = skipField(b)
		}
		if n < 0 {
			return fmt.Errorf("%w snapshot item: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[1+n:]
	}
	if it.Version == 0 || it.CreateRevision <= firstRevision || it.CreateRevision > it.ModRevision ||
		it.ModRevision > d.header.GetRevision() {
		return fmt.Errorf("%w snapshot item: version %d, create revision %d, mod revision %d, in a store at %d",
			ErrMalformed, it.Version, it.CreateRevision, it.ModRevision, d.header.GetRevision())
	}
	if d.tree.size() > 0 && bytes.Compare(d.last.head, it.Key) >= 0 {
		return fmt.Errorf("%w: key %d", ErrOrder, d.tree.size()+1)
	}
	r := newRecord(it.Key, it.Value, notShared)
	r.create, r.mod, r.number = it.CreateRevision, it.ModRevision, it.Version
	d.tree.load(r)
	d.last = r
	return nil
}

func (d *SnapshotDecoder) takeSession(body []byte) error {
	// Session.answers, SessionAnswer.result, StoredResult.steps, and theirs.
	if countMessages(body, maxSessionResults, 5, 2, 10, 10) > maxSessionResults {
		return fmt.Errorf("session of more than %d results, or with steps of steps: %w", maxSessionResults, ErrTooLarge)
	}
	m := &kvv1.Session{}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("%w snapshot session: %w", ErrMalformed, err)
	}
	session, err := sessionFromProto(m)
	if err != nil {
		return err
	}
	return d.client.load(session)
}

// countMessages counts the messages within src that lie in a field, in theirs of the
// next number, and so on: each takes two bytes, and a hundred times that once
// decoded. In the last field there must be none. It stops beyond limit, and looks no
// further than the decoder would.
func countMessages(src []byte, limit int, field protowire.Number, within ...protowire.Number) (count int) {
	for len(src) > 0 && count <= limit {
		number, kind, n := protowire.ConsumeField(src)
		if n < 0 {
			return count
		}
		if number == field && kind == protowire.BytesType {
			if len(within) == 0 {
				return limit + 1
			}
			_, _, tag := protowire.ConsumeTag(src)
			inner, _ := protowire.ConsumeBytes(src[tag:])
			count += 1 + countMessages(inner, limit, within[0], within[1:]...)
		}
		src = src[n:]
	}
	return count
}

func (d *SnapshotDecoder) takeTrailer(body []byte) error {
	t := &kvv1.SnapshotTrailer{}
	if err := proto.Unmarshal(body, t); err != nil {
		return fmt.Errorf("%w snapshot trailer: %w", ErrMalformed, err)
	}
	if t.GetCrc32C() != d.crc {
		return fmt.Errorf("%w: trailer says %08x, bytes have %08x", ErrChecksum, t.GetCrc32C(), d.crc)
	}
	keys := uint64(d.tree.size())
	if h := d.header.GetKeys(); h != keys || t.GetKeys() != keys {
		return fmt.Errorf("%w: header says %d, trailer %d, items are %d", ErrKeyCount, h, t.GetKeys(), keys)
	}
	if n := uint64(d.client.size()); t.GetSessions() != n {
		return fmt.Errorf("%w: trailer says %d sessions, there are %d", ErrKeyCount, t.GetSessions(), n)
	}
	d.trailer = t
	return nil
}

// Finish returns the view, if all of the snapshot came and holds what it says.
// The decoder must not be used after.
func (d *SnapshotDecoder) Finish() (*View, error) {
	if d.err != nil {
		return nil, d.err
	}
	if d.trailer == nil {
		d.err = fmt.Errorf("%w: it ends after %d keys", ErrTruncated, d.tree.size())
		return nil, d.err
	}
	if len(d.partial) > 0 {
		d.err = fmt.Errorf("%w snapshot: %d bytes after the trailer", ErrMalformed, len(d.partial))
		return nil, d.err
	}
	v := &View{
		tree:       d.tree,
		sessions:   d.client,
		membership: d.header.GetMembership(),
		state: State{
			Revision: d.header.GetRevision(), Index: d.header.GetIndex(), Term: d.header.GetTerm(), Keys: d.header.GetKeys(),
		},
	}
	d.err = errDecoderFinished
	return v, nil
}

var errDecoderFinished = errors.New("snapshot decoder is finished")
