package transport

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"
)

// Faults is what the way from a node to one peer does to what is sent, in that
// direction only. The zero value does nothing.
//
// Drop, Duplicate, Reorder and Partition happen to whole raft messages, before
// they are queued and planned into frames. TCP below hides what a lossy network
// does to packets; what raft has to live with is a message that a full queue or
// a broken connection swallowed, one that a transport sent again, and one that a
// second connection overtook. So the frames of a stream stay in order and a
// fragmented message stays whole, whatever happens to it as a message. Nothing
// is reported to raft: a loss that it is not told of is the harder case.
//
// Delay, Jitter and Rate happen to frames on the line (see link). With Reorder 0
// a lane delivers in the order it was given: a message whose jitter would let it
// overtake another waits behind it, as bytes do in TCP, and a duplicate comes
// right behind the first.
//
// A snapshot is on the line for Delay and Rate, makes no progress while there is
// a Partition, until its patience ends, and with probability Drop is not begun.
// Hello and connections are left alone, so that a change takes effect at once.
type Faults struct {
	// Delay is how long a frame travels. Jitter, at most Delay, changes it for
	// each message by something between -Jitter and +Jitter, all alike likely.
	Delay, Jitter time.Duration
	// Rate is the bytes a second that fit the line; 0 is any number.
	Rate int64
	// Drop, Duplicate and Reorder are probabilities, 0 to 1. What is reordered,
	// a duplicate by a chance of its own, is held back before it is queued, for up
	// to Delay or 10 ms, whichever is more; what is sent meanwhile overtakes it.
	Drop, Duplicate, Reorder float64
	// Partition keeps everything from the peer; what the peer sends still comes.
	Partition bool
	// Seed decides all chances. Each ordered pair of nodes has a sequence of its
	// own, begun anew whenever its faults are set: the same messages in the same
	// order have the same fate.
	Seed uint64
}

// MaxLinkDelay bounds Faults.Delay.
const MaxLinkDelay = time.Minute

// FaultsError refuses a field of Faults: it names field, value and limit.
type FaultsError struct {
	Field, Value, Problem string
}

func (e *FaultsError) Error() string { return e.Field + " " + e.Value + " " + e.Problem }

// Check refuses what has no meaning; its errors are *FaultsError.
func (f Faults) Check() error {
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"delay", f.Delay}, {"jitter", f.Jitter}} {
		if d.value < 0 {
			return &FaultsError{d.field, d.value.String(), "must not be negative"}
		}
	}
	switch {
	case f.Delay > MaxLinkDelay:
		return &FaultsError{"delay", f.Delay.String(), fmt.Sprintf("exceeds the maximum %v", MaxLinkDelay)}
	case f.Jitter > f.Delay:
		return &FaultsError{"jitter", f.Jitter.String(), fmt.Sprintf("exceeds the delay of %v", f.Delay)}
	case f.Rate < 0:
		return &FaultsError{"rate", fmt.Sprint(f.Rate), "must not be negative"}
	}
	for _, p := range []struct {
		field string
		value float64
	}{{"drop", f.Drop}, {"duplicate", f.Duplicate}, {"reorder", f.Reorder}} {
		if !(p.value >= 0 && p.value <= 1) { // NaN is neither
			return &FaultsError{p.field, fmt.Sprint(p.value), "is not a probability from 0 to 1"}
		}
	}
	return nil
}

// none tells whether nothing is done to anything.
func (f Faults) none() bool {
	f.Seed = 0
	return f == Faults{}
}

// random returns the sequence of chances for one ordered pair.
func (f *Faults) random(from, to uint64) *rand.Rand {
	const golden = 0x9e3779b97f4a7c15 // spreads small ids over all bits
	pair := from*golden + bits.RotateLeft64(to*golden, 32)
	return rand.New(rand.NewPCG(f.Seed, pair)) //nolint:gosec // faults are to repeat, not to be secret
}

// reorderHold is the least that Reorder can hold a message back for at most.
const reorderHold = 10 * time.Millisecond

// fate is what happens to one message.
type fate struct {
	copies int // 0: it is lost
	each   [2]struct {
		hold   time.Duration // before it is queued; 0 keeps its place
		jitter time.Duration // of its frames on the line
	}
}

// decide draws the fate of the next message. Each takes the same number of
// draws, so that what becomes of one does not depend on what became of others.
func (f *Faults) decide(r *rand.Rand) fate {
	d := fate{copies: 1}
	lost, twice := r.Float64() < f.Drop, r.Float64() < f.Duplicate
	switch {
	case lost || f.Partition:
		d.copies = 0
	case twice:
		d.copies = 2
	}
	for i := range d.each {
		held, hold, jitter := r.Float64() < f.Reorder, r.Float64(), r.Float64()
		if held {
			d.each[i].hold = 1 + time.Duration(hold*float64(max(f.Delay, reorderHold)))
		}
		d.each[i].jitter = time.Duration((2*jitter - 1) * float64(f.Jitter))
	}
	return d
}

// faultTable says which faults the way to each peer has: its own if it was given
// some, else those of all.
type faultTable struct {
	all Faults
	own map[uint64]Faults
}

func (t *faultTable) of(peer uint64) Faults {
	if f, ok := t.own[peer]; ok {
		return f
	}
	return t.all
}

// change gives some peers faults of their own or, without peers, all the same.
// known are the peers there are, in order.
func (t *faultTable) change(peers []uint64, f Faults, known []uint64) error {
	if err := f.Check(); err != nil {
		return err
	}
	for _, id := range peers {
		if !slices.Contains(known, id) {
			return &UnknownPeerError{ID: id, Peers: known}
		}
	}
	if len(peers) == 0 {
		t.all, t.own = f, nil
		return nil
	}
	if t.own == nil {
		t.own = make(map[uint64]Faults)
	}
	for _, id := range peers {
		t.own[id] = f
	}
	return nil
}

// UnknownPeerError says that faults were set for a node that is not a peer.
type UnknownPeerError struct {
	ID    uint64
	Peers []uint64 // in order
}

func (e *UnknownPeerError) Error() string {
	return fmt.Sprintf("node %d is not a peer; the peers are %d", e.ID, e.Peers)
}

// LinkStats is the way to one peer: the faults in force, and how many messages
// had which fate since the node started.
type LinkStats struct {
	ID     uint64
	Faults Faults

	MessagesLost       uint64 // by Drop or Partition
	MessagesDuplicated uint64
	MessagesReordered  uint64 // held back, duplicates among them
}
