package kv

import (
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// entryFormat is EntryHeader.format in proto/raftlab/kv/v1/command.proto.
const entryFormat = 1

// HeaderSize is the number of bytes that AppendHeader adds. It does not depend
// on the header's values, so that a batcher can reserve room before it knows
// them.
const HeaderSize = 2 + headerBodySize

// A tag and a byte for the format, a tag and eight bytes for each fixed64.
const headerBodySize = 2 + 4*9

// Errors of decoding, wrapped with where and why.
var (
	// ErrMalformed: the bytes are not an entry or a snapshot record.
	ErrMalformed = errors.New("malformed")
	// ErrFormat: a format version that this program does not know.
	ErrFormat = errors.New("unknown format version")
)

// Tags of a single byte: field<<3 | wire type.
const (
	tagEntryHeader  = 1<<3 | byte(protowire.BytesType)
	tagEntryCommand = 2<<3 | byte(protowire.BytesType)

	tagHeaderFormat      = 1<<3 | byte(protowire.VarintType)
	tagHeaderNode        = 2<<3 | byte(protowire.Fixed64Type)
	tagHeaderIncarnation = 3<<3 | byte(protowire.Fixed64Type)
	tagHeaderSequence    = 4<<3 | byte(protowire.Fixed64Type)
	tagHeaderClock       = 5<<3 | byte(protowire.Fixed64Type)

	tagCommandKind         = 1<<3 | byte(protowire.VarintType)
	tagCommandKey          = 2<<3 | byte(protowire.BytesType)
	tagCommandValue        = 3<<3 | byte(protowire.BytesType)
	tagCommandExpect       = 4<<3 | byte(protowire.BytesType)
	tagCommandExpectAbsent = 5<<3 | byte(protowire.VarintType)
	tagCommandStep         = 6<<3 | byte(protowire.BytesType)
	tagCommandSession      = 7<<3 | byte(protowire.VarintType)
	tagCommandSequence     = 8<<3 | byte(protowire.VarintType)
	tagCommandAcknowledged = 9<<3 | byte(protowire.VarintType)
	tagCommandTTL          = 10<<3 | byte(protowire.VarintType)
)

// AppendHeader appends the header field of an Entry, which must come first.
func AppendHeader(dst []byte, h EntryHeader) []byte {
	dst = append(dst, tagEntryHeader, headerBodySize, tagHeaderFormat, entryFormat)
	// Zeros are written too, unlike in proto.Marshal: the size is constant.
	dst = protowire.AppendFixed64(append(dst, tagHeaderNode), h.Node)
	dst = protowire.AppendFixed64(append(dst, tagHeaderIncarnation), h.Incarnation)
	dst = protowire.AppendFixed64(append(dst, tagHeaderSequence), h.Sequence)
	return protowire.AppendFixed64(append(dst, tagHeaderClock), uint64(h.Clock))
}

// CommandSize is the number of bytes that AppendCommand adds, field tag and
// length included.
func CommandSize(c *Command) int {
	return 1 + protowire.SizeBytes(commandBodySize(c))
}

// AppendCommand appends c as one commands field of an Entry. The bytes are
// those of proto.Marshal.
func AppendCommand(dst []byte, c *Command) []byte {
	return appendCommand(dst, tagEntryCommand, c)
}

func commandBodySize(c *Command) int {
	n := 0
	if c.Kind != 0 {
		n += 2
	}
	n += sizeBytesField(c.Key) + sizeBytesField(c.Value) + sizeBytesField(c.Expect)
	if c.ExpectAbsent {
		n += 2
	}
	for i := range c.Steps {
		n += 1 + protowire.SizeBytes(commandBodySize(&c.Steps[i]))
	}
	return n + sizeVarintField(c.SessionID) + sizeVarintField(c.SessionSequence) +
		sizeVarintField(c.SessionAcknowledged) + sizeVarintField(uint64(c.SessionTTL))
}

func appendCommand(dst []byte, tag byte, c *Command) []byte {
	dst = protowire.AppendVarint(append(dst, tag), uint64(commandBodySize(c)))
	if c.Kind != 0 {
		dst = append(dst, tagCommandKind, byte(c.Kind))
	}
	dst = appendBytesField(dst, tagCommandKey, c.Key)
	dst = appendBytesField(dst, tagCommandValue, c.Value)
	dst = appendBytesField(dst, tagCommandExpect, c.Expect)
	if c.ExpectAbsent {
		dst = append(dst, tagCommandExpectAbsent, 1)
	}
	for i := range c.Steps {
		dst = appendCommand(dst, tagCommandStep, &c.Steps[i])
	}
	dst = appendVarintField(dst, tagCommandSession, c.SessionID)
	dst = appendVarintField(dst, tagCommandSequence, c.SessionSequence)
	dst = appendVarintField(dst, tagCommandAcknowledged, c.SessionAcknowledged)
	return appendVarintField(dst, tagCommandTTL, uint64(c.SessionTTL))
}

// The four below leave out what proto3 leaves out: empty and zero.

func sizeBytesField(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(len(b))
}

func appendBytesField(dst []byte, tag byte, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return protowire.AppendBytes(append(dst, tag), b)
}

func sizeVarintField(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func appendVarintField(dst []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(append(dst, tag), v)
}

// DecodeHeader reads the header of an entry and looks no further.
func DecodeHeader(data []byte) (EntryHeader, error) {
	var d entryDecoder
	err := d.reset(data)
	return d.header, err
}

// DecodeEntry reads an entry and calls visit with each of its commands in
// order. The command and its slices are valid during the call only: they alias
// data and are used again. Fields that this program does not know are skipped;
// an unknown kind of command, or a header of another format, is an error, and
// then visit may have seen the commands before it.
func DecodeEntry(data []byte, visit func(c *Command)) (EntryHeader, error) {
	d := entryDecoders.Get().(*entryDecoder)
	defer func() {
		d.release()
		entryDecoders.Put(d)
	}()
	if err := d.reset(data); err != nil {
		return d.header, err
	}
	for {
		c, err := d.next()
		if c == nil {
			return d.header, err
		}
		visit(c)
	}
}

var entryDecoders = sync.Pool{New: func() any { return new(entryDecoder) }}

// An entryDecoder walks the commands of one entry after another in one Command.
type entryDecoder struct {
	header  EntryHeader
	size    int // of the entry's data
	command Command
	rest    []byte
	steps   []Command // capacity for batches
}

// Batches with more steps than this do not leave their memory behind.
const stepsKept = 1024

// release forgets the entry, so that its bytes can be collected.
func (d *entryDecoder) release() {
	clear(d.steps)
	if cap(d.steps) > stepsKept {
		d.steps = nil
	}
	d.command, d.rest = Command{}, nil
}

// reset starts on another entry: it reads the header.
func (d *entryDecoder) reset(data []byte) error {
	d.header, d.rest, d.size = EntryHeader{}, nil, len(data)
	if len(data) == 0 || data[0] != tagEntryHeader {
		return fmt.Errorf("%w entry: it does not start with a header", ErrMalformed)
	}
	body, n := protowire.ConsumeBytes(data[1:])
	if n < 0 {
		return fmt.Errorf("%w entry header: %w", ErrMalformed, protowire.ParseError(n))
	}
	d.rest = data[1+n:]
	return d.header.decode(body)
}

func (h *EntryHeader) decode(b []byte) error {
	var format uint64
	for len(b) > 0 {
		// Tags of more bytes are those of unknown fields.
		tag, n := b[0], 0
		switch tag {
		case tagHeaderFormat:
			format, n = protowire.ConsumeVarint(b[1:])
		case tagHeaderNode:
			h.Node, n = protowire.ConsumeFixed64(b[1:])
		case tagHeaderIncarnation:
			h.Incarnation, n = protowire.ConsumeFixed64(b[1:])
		case tagHeaderSequence:
			h.Sequence, n = protowire.ConsumeFixed64(b[1:])
		case tagHeaderClock:
			var clock uint64
			clock, n = protowire.ConsumeFixed64(b[1:])
			h.Clock = int64(clock)
		default:
			n = skipField(b)
		}
		if n < 0 {
			return fmt.Errorf("%w entry header: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[1+n:]
	}
	if format != entryFormat {
		return fmt.Errorf("entry: %w %d, this program knows %d", ErrFormat, format, entryFormat)
	}
	return nil
}

// skipField returns one less than the size of the unknown field at the start of
// b, or an error code of protowire: what the cases beside it return for theirs.
func skipField(b []byte) int {
	const badNumber = -2 // protowire's "invalid field number"
	num, _, tag := protowire.ConsumeTag(b)
	if tag < 0 {
		return tag
	}
	// A known field may hide behind a tag that is longer than it need be, which
	// no encoder writes; skipping it would lose it.
	if num > protowire.MaxValidNumber || tag != protowire.SizeTag(num) {
		return badNumber
	}
	_, _, n := protowire.ConsumeField(b)
	if n > 0 {
		n--
	}
	return n
}

// next returns the next command, or nil at the end or with an error.
func (d *entryDecoder) next() (*Command, error) {
	clear(d.steps)
	d.steps = d.steps[:0]
	for len(d.rest) > 0 {
		if d.rest[0] != tagEntryCommand {
			if d.rest[0] == tagEntryHeader {
				return nil, fmt.Errorf("%w entry: a second header", ErrMalformed)
			}
			n := skipField(d.rest)
			if n < 0 {
				return nil, fmt.Errorf("%w entry: %w", ErrMalformed, protowire.ParseError(n))
			}
			d.rest = d.rest[1+n:]
			continue
		}
		body, n := protowire.ConsumeBytes(d.rest[1:])
		if n < 0 {
			return nil, fmt.Errorf("%w command: %w", ErrMalformed, protowire.ParseError(n))
		}
		d.rest = d.rest[1+n:]
		d.command = Command{}
		if err := d.decodeCommand(&d.command, body, false); err != nil {
			return nil, err
		}
		return &d.command, nil
	}
	return nil, nil
}

// keysAhead appends the keys of the next commands, as many as the capacity has room
// for, without checking anything else of them. It stops at what it does not expect.
func (d *entryDecoder) keysAhead(keys [][]byte) [][]byte {
	rest := d.rest
	for len(keys) < cap(keys) && len(rest) > 0 && rest[0] == tagEntryCommand {
		body, n := protowire.ConsumeBytes(rest[1:])
		if n < 0 || len(body) < 3 || body[0] != tagCommandKind || body[2] != tagCommandKey {
			break
		}
		key, m := protowire.ConsumeBytes(body[3:])
		if m < 0 {
			break
		}
		keys, rest = append(keys, key), rest[1+n:]
	}
	return keys
}

// decodeCommand reads a command into c, which is zero.
func (d *entryDecoder) decodeCommand(c *Command, b []byte, step bool) error {
	var kind uint64
	steps := d.steps[:0]
	for len(b) > 0 {
		tag, n := b[0], 0
		switch tag {
		case tagCommandKind:
			kind, n = protowire.ConsumeVarint(b[1:])
		case tagCommandKey:
			c.Key, n = protowire.ConsumeBytes(b[1:])
		case tagCommandValue:
			c.Value, n = protowire.ConsumeBytes(b[1:])
		case tagCommandExpect:
			c.Expect, n = protowire.ConsumeBytes(b[1:])
		case tagCommandExpectAbsent:
			var v uint64
			v, n = protowire.ConsumeVarint(b[1:])
			c.ExpectAbsent = protowire.DecodeBool(v)
		case tagCommandStep:
			if step {
				return fmt.Errorf("%w command: a batch inside a batch", ErrMalformed)
			}
			var body []byte
			body, n = protowire.ConsumeBytes(b[1:])
			if n < 0 {
				break
			}
			// Grown as valid steps are seen, never by what a length claims.
			steps = append(steps, Command{})
			if err := d.decodeCommand(&steps[len(steps)-1], body, true); err != nil {
				d.steps = steps
				return err
			}
		case tagCommandSession:
			c.SessionID, n = protowire.ConsumeVarint(b[1:])
		case tagCommandSequence:
			c.SessionSequence, n = protowire.ConsumeVarint(b[1:])
		case tagCommandAcknowledged:
			c.SessionAcknowledged, n = protowire.ConsumeVarint(b[1:])
		case tagCommandTTL:
			var ttl uint64
			ttl, n = protowire.ConsumeVarint(b[1:])
			c.SessionTTL = int64(ttl)
		default:
			n = skipField(b)
		}
		if n < 0 {
			return fmt.Errorf("%w command: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[1+n:]
	}
	c.Kind = Kind(min(kind, 255))
	if !step && len(steps) > 0 {
		d.steps, c.Steps = steps, steps
	}
	switch c.Kind {
	case KindPut, KindDelete, KindCompareAndSwap, KindOpenSession, KindKeepSession, KindCloseSession:
		if step && c.Kind >= KindOpenSession {
			break
		}
		if len(steps) == 0 || step {
			return nil
		}
		return fmt.Errorf("%w command: kind %d with steps", ErrMalformed, kind)
	case KindBatch:
		if !step {
			return nil
		}
	case KindGet:
		if step {
			return nil
		}
	}
	return fmt.Errorf("%w command: kind %d is not possible here", ErrMalformed, kind)
}
