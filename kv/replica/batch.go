package replica

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"raftlab/kv"
)

// Batcher decides how many of the waiting commands go into the next proposal.
// It is a pure decision over what it is shown; the core calls it in a loop
// until it takes nothing. A Batcher belongs to one core.
type Batcher interface {
	// Next looks at the queue and says how many commands to propose now, as one
	// MsgProp. When it takes none from a queue that is not empty, wait says when
	// to ask again at the latest; new events ask sooner.
	Next(queue QueueView, now time.Time) (take int, wait time.Duration)
	// Observe tells what became of earlier proposals.
	Observe(Feedback)
}

// QueueView is what a Batcher sees of the commands that wait.
type QueueView struct {
	Count  int
	Oldest time.Time // when the first of them came
	// Size is the encoded size in bytes of the i-th.
	Size func(i int) int
	// InFlight is the number of entries proposed and not yet committed.
	InFlight int
}

// Feedback describes one entry that was committed.
type Feedback struct {
	Commands      int
	Bytes         int
	CommitLatency time.Duration
}

// Batching strategies, by the name the batching knob gives them.
const (
	BatchNone   = "none"
	BatchGreedy = "greedy"
)

// NewBatcher returns the strategy of that name, capped by commands and bytes a
// proposal. A single command may exceed the byte cap.
func NewBatcher(name string, maxCount, maxBytes int) (Batcher, error) {
	switch name {
	case BatchNone:
		return single{}, nil
	case BatchGreedy:
		return greedy{maxCount: maxCount, maxBytes: maxBytes}, nil
	}
	return nil, fmt.Errorf("batching %q is not one of %s, %s", name, BatchNone, BatchGreedy)
}

// single proposes each command by itself: the baseline that shows what batching
// buys.
type single struct{}

func (single) Next(q QueueView, _ time.Time) (int, time.Duration) { return min(q.Count, 1), 0 }
func (single) Observe(Feedback)                                   {}

// greedy proposes whatever waits: what piled up while the loop was busy is the
// next batch.
type greedy struct {
	maxCount, maxBytes int
}

func (g greedy) Next(q QueueView, _ time.Time) (int, time.Duration) {
	n, bytes := 0, 0
	for n < min(q.Count, g.maxCount) {
		bytes += q.Size(n)
		if n > 0 && bytes > g.maxBytes {
			break
		}
		n++
	}
	return n, 0
}

func (greedy) Observe(Feedback) {}

// Packer says how many commands share one raft entry.
type Packer struct {
	// Packed puts many commands in one entry; otherwise each has its own.
	Packed bool
	// Size caps the data of an entry that holds more than one command, in bytes.
	Size int
}

// Packing, by the name the packing knob gives it.
const (
	PackEntry  = "entry"
	PackPacked = "packed"
)

// next returns how many of the commands share the next entry, and that entry's
// data size. There is at least one command.
func (p Packer) next(commands []Proposal) (count, size int) {
	size = kv.HeaderSize + commands[0].size
	if !p.Packed {
		return 1, size
	}
	count = 1
	for count < len(commands) && size+commands[count].size <= p.Size {
		size += commands[count].size
		count++
	}
	return count, size
}

// EntrySize is the encoded size, in bytes, of a raft entry with that much data.
func EntrySize(data int, term, index uint64) uint64 {
	return uint64(3 + protowire.SizeVarint(term) + protowire.SizeVarint(index) + protowire.SizeVarint(uint64(data)) + data)
}

// entryFraming is the most that EntrySize adds to the data.
const entryFraming = 3 + 3*10

// unlimited stands for no limit on entries.
const unlimited = math.MaxUint64
