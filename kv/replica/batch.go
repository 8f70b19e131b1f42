package replica

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"raftlab/kv"
)

// Batcher decides how many of the waiting commands go into the next proposal.
// It is a pure decision over what it is shown; the core calls it in a loop
// until it takes nothing. A Batcher belongs to one core and is called by its
// goroutine only.
type Batcher interface {
	// Next looks at a queue that is not empty and says how many commands to
	// propose now, as one MsgProp. When it takes none, wait says when to ask again
	// at the latest, 0 that only an event can change its mind. It is asked again
	// after every event in any case: commands that came, a commit, a tick.
	Next(queue QueueView, now time.Time) (take int, wait time.Duration)
	// Observe tells what became of an earlier proposal.
	Observe(Feedback)
}

// QueueView is what a Batcher sees of the commands that wait, in the order they
// came. It is valid during the call.
type QueueView struct {
	Count  int
	Bytes  int       // encoded, of all of them
	Oldest time.Time // when the first of them came
	// InFlight is how many proposals are not yet committed.
	InFlight int

	commands []Proposal
}

// Size is the encoded size in bytes of the i-th command.
func (q *QueueView) Size(i int) int { return q.commands[i].size }

// Feedback describes one proposal all of whose entries are committed. None comes
// for proposals that were lost with the leadership.
type Feedback struct {
	Commands int
	// Waited is the sum of the times from when its commands came to proposing.
	Waited time.Duration
	// CommitLatency is from proposing to knowing of the commit, at Committed.
	CommitLatency time.Duration
	Committed     time.Time
}

// Batching strategies, by the name the batching knob gives them.
const (
	BatchNone   = "none"
	BatchGreedy = "greedy"
	BatchLinger = "linger"
	BatchNagle  = "nagle"
)

var batchStrategies = []string{BatchNone, BatchGreedy, BatchLinger, BatchNagle}

// Batching says which strategy gathers commands, within which bounds.
type Batching struct {
	Strategy string
	// A proposal has at most that many commands, and that many bytes of them; a
	// single command may exceed MaxBytes. Strategy none reads neither.
	MaxCount, MaxBytes int
	// Linger is how long strategy linger waits, from when the first waiting
	// command came; with LingerAuto it finds out itself.
	Linger     time.Duration
	LingerAuto bool
}

// NewBatcher returns the strategy of that name.
func NewBatcher(b Batching) (Batcher, error) {
	limits := caps{b.MaxCount, b.MaxBytes}
	switch {
	case b.Strategy == BatchNone:
		return single{}, nil
	case !slices.Contains(batchStrategies, b.Strategy):
		return nil, fmt.Errorf("batching %q is not one of %s", b.Strategy, strings.Join(batchStrategies, ", "))
	case b.MaxCount < 1 || b.MaxBytes < 1:
		return nil, fmt.Errorf("batching %s needs room for a command: at most %d commands of %d bytes", b.Strategy, b.MaxCount, b.MaxBytes)
	case b.Linger < 0:
		return nil, fmt.Errorf("linger %s must not be negative", b.Linger)
	}
	switch {
	case b.Strategy == BatchLinger && b.LingerAuto:
		return newAutoLinger(limits), nil
	case b.Strategy == BatchLinger:
		return linger{limits, b.Linger}, nil
	case b.Strategy == BatchNagle:
		return &nagle{caps: limits}, nil
	default:
		return greedy{limits}, nil
	}
}

// caps bound one proposal.
type caps struct {
	count, bytes int
}

// full says that waiting longer can't make the next proposal any larger.
func (c caps) full(q *QueueView) bool { return q.Count >= c.count || q.Bytes >= c.bytes }

// take is how many commands fit, one at least.
func (c caps) take(q *QueueView) int {
	if q.Count <= c.count && q.Bytes <= c.bytes {
		return q.Count
	}
	n, bytes := 1, q.Size(0)
	for n < min(q.Count, c.count) {
		if bytes += q.Size(n); bytes > c.bytes {
			break
		}
		n++
	}
	return n
}

// single proposes each command by itself: the baseline that shows what batching
// buys.
type single struct{}

func (single) Next(QueueView, time.Time) (int, time.Duration) { return 1, 0 }
func (single) Observe(Feedback)                               {}

// greedy proposes whatever waits: what piled up while the loop was busy is the
// next batch.
type greedy struct{ caps }

func (g greedy) Next(q QueueView, _ time.Time) (int, time.Duration) { return g.take(&q), 0 }
func (greedy) Observe(Feedback)                                     {}

// linger lets each first command wait for others, for a fixed time: fewer and
// larger rounds, at the price of that time when nothing else comes.
type linger struct {
	caps
	wait time.Duration
}

func (l linger) Next(q QueueView, now time.Time) (int, time.Duration) {
	if left := l.wait - now.Sub(q.Oldest); left > 0 && !l.full(&q) {
		return 0, left
	}
	return l.take(&q), 0
}

func (linger) Observe(Feedback) {}

// nagle lets commands gather while a proposal is under way and takes the commit
// as its clock, as Nagle's algorithm does with segments (RFC 896): a lone client
// never waits, and the busier the cluster the larger the rounds. A full batch
// goes at once, so more than one proposal may be in flight; each commit then
// lets one more go.
type nagle struct {
	caps
	acknowledged bool // a commit came since the last proposal
}

func (n *nagle) Next(q QueueView, _ time.Time) (int, time.Duration) {
	if q.InFlight > 0 && !n.acknowledged && !n.full(&q) {
		return 0, 0
	}
	n.acknowledged = false
	return n.take(&q), 0
}

func (n *nagle) Observe(Feedback) { n.acknowledged = true }

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
