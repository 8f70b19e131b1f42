package storage

import (
	"encoding/binary"
	"hash/crc32"
)

// Seal makes the checksums and lengths of a segment right, so that a fuzzer gets
// past them, and returns it whole: with a header, and every record within it.
func Seal(b []byte, incarnation uint64) []byte {
	out := appendSegmentHeader(nil, incarnation, 1, 0)
	seed := segmentHeaderCRC(out)
	for len(b) > recordHead {
		head, rest := b[:recordHead], b[recordHead:]
		n := min(int(head[4]), len(rest))
		at := len(out)
		out = append(out, head...)
		out = append(out, rest[:n]...)
		for len(out)%recordAlign != 0 {
			out = append(out, 0)
		}
		r := out[at:]
		binary.LittleEndian.PutUint32(r[4:], uint32(n))
		binary.LittleEndian.PutUint64(r[8:], 0)
		binary.LittleEndian.PutUint32(r[16:], crc32.Checksum(r[recordHead:], castagnoli))
		r[20] = kindMessage
		binary.LittleEndian.PutUint32(r, recordCRC(seed, int64(at), r))
		b = rest[n:]
	}
	return append(out, b...)
}

// SealSnapshot makes the checksums of a snapshot file right: data, and metadata
// as encoded.
func SealSnapshot(data, metadata []byte) []byte {
	b := append(newSnapshotHead(), data...)
	start := len(b)
	b = append(b, metadata...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(metadata)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(data, castagnoli))
	sum := crc32.Update(crc32.Checksum(newSnapshotHead(), castagnoli), castagnoli, b[start:])
	return append(binary.LittleEndian.AppendUint32(b, sum), snapshotMagic...)
}
