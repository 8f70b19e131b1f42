package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A journal is files journal-0000000001 and so on, of which the last is written.
// Until it has its header and first record, durably, a file is called
// journal-0000000001.tmp. So are spares: files that were released and wait to be
// written over.
//
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
//
// What follows the last record is zeros, or in a spare what it held before.
const (
	segmentMagic  = "raftlogj"
	segmentHeader = 40
	recordHead    = 24
	recordAlign   = 8

	kindMessage = 1 // payload: a raftpb.Message, see appendMessage
	kindEnd     = 2 // no payload

	// maxPayload is what a record's length can say, aligned.
	maxPayload = math.MaxUint32 &^ (recordAlign - 1)
)

const segmentPrefix = "journal-"

func segmentName(number uint64) string { return fmt.Sprintf("%s%010d", segmentPrefix, number) }

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

// head is a record's head.
type head struct {
	crc, length, payload uint32
	synced               uint64
	kind                 byte
}

func parseHead(b []byte) head {
	return head{
		crc: binary.LittleEndian.Uint32(b), length: binary.LittleEndian.Uint32(b[4:]),
		synced: binary.LittleEndian.Uint64(b[8:]), payload: binary.LittleEndian.Uint32(b[16:]), kind: b[20],
	}
}
