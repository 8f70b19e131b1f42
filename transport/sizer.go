package transport

import (
	"math"
	"sync"
	"time"
)

// What a chunk size changes, for a message of S bytes in frames of c that pass
// stages one behind the other (the sender's gRPC, the line, the receiver's):
//
//	time = S x slowest stage        the same for every c
//	     + S/c x cost of a frame    calls, acknowledgements, wake-ups: against small frames
//	     + c x all other stages     each waits for the whole frame: against large ones
//
// The best c is where the last two are equal, which depends on the machine, the
// link and the messages; with one RPC a frame, or messages that keep every stage
// busy, the last term vanishes and the largest frame is the best. Around the
// best c the time is flat, and a doubling that saves less than 4 % leaves less
// than 8 % to be saved by all further ones, since each saves half of what the
// one before it did. So climbing by factors of two ends close enough.

// Law of the climber.
const (
	// autoLeast is the least size that is tried: smaller ones gain less than 5 %
	// in the simulation of sizer_test.go, and cost half of the goodput where the
	// line is fast.
	autoLeast = 16 << 10
	// autoGain is by how much the probe has to be better than both epochs around
	// it.
	autoGain = 0.04
	// autoPatience bounds the epochs between probes.
	autoPatience = 32
	// autoFrame is how long a frame may take at the goodput there is, when a
	// smaller one is as good: what is behind it on the line waits for that long.
	autoFrame = 10 * time.Millisecond
	// autoChange is the factor of goodput that says the conditions are others.
	autoChange = 1.5
)

// Length of an epoch: enough messages to even out what happens to one, or so
// many bytes that it is long enough anyhow.
const (
	epochMessages  = 8
	epochBytes     = 4 << 20
	epochMostBytes = 32 << 20
	// autoUnused is how many messages in a row have to be no larger than half the
	// size for it to be halved: it made no difference to them.
	autoUnused = 16
	// maxMeasured bounds the messages under way that are measured.
	maxMeasured = 1024
)

// phase of a climber: what the epoch that is under way is for.
type phase int

const (
	resting  phase = iota // at the base
	probing               // at the neighbour
	checking              // at the base again
)

// climber moves a chunk size towards more goodput. It is fed the goodput of one
// epoch after the other and says the size for the next. An epoch at twice or
// half the base is compared with the epochs at the base on both sides of it, so
// that what changes meanwhile does not count as its merit. A neighbour that is
// better than both becomes the base, and the next probe goes on that way. One
// that is not turns the direction around and doubles the epochs until the next
// probe, which bounds what probing costs.
type climber struct {
	least, most int
	base        int
	up          bool // the next probe is larger
	phase       phase
	patience    int
	wait        int // epochs at the base before the next probe
	before      float64
	probed      float64
}

func newClimber(start int) climber {
	return climber{least: autoLeast, most: math.MaxInt32, base: max(start, autoLeast), patience: 1, wait: 1}
}

// bound sets the largest size that the peer takes.
func (c *climber) bound(most int) {
	if most == c.most {
		return
	}
	c.least, c.most = min(autoLeast, most), most
	c.move(max(c.least, min(c.base, most)))
}

// size of the epoch under way.
func (c *climber) size() int {
	if c.phase == probing {
		return c.neighbour()
	}
	return c.base
}

func (c *climber) neighbour() int {
	if c.up {
		return min(2*c.base, c.most)
	}
	return max(c.base/2, c.least)
}

// move makes size the base, and lets the next probe come soon.
func (c *climber) move(size int) {
	c.base, c.phase, c.patience, c.wait, c.before = size, resting, 1, 1, 0
}

// observe takes in the goodput, in bytes a second, of an epoch at size.
func (c *climber) observe(goodput float64) {
	switch c.phase {
	case resting:
		if c.before > 0 && (goodput > c.before*autoChange || goodput < c.before/autoChange) {
			c.patience, c.wait = 1, min(c.wait, 1)
		}
		c.before = goodput
		c.wait--
		c.begin()
	case probing:
		c.probed, c.phase = goodput, checking
	case checking:
		if c.better(goodput) {
			c.move(c.neighbour())
			return
		}
		c.up = !c.up
		c.before, c.phase = goodput, resting
		c.patience = min(2*c.patience, autoPatience)
		c.wait = c.patience
	}
}

// begin starts a probe if it is time and there is a neighbour.
func (c *climber) begin() {
	if c.wait > 0 {
		return
	}
	if c.neighbour() == c.base {
		c.up = !c.up
	}
	if c.neighbour() != c.base {
		c.phase = probing
	}
}

// better judges the probe, after was measured at the base again.
func (c *climber) better(after float64) bool {
	if c.probed > (1+autoGain)*max(c.before, after) {
		return true
	}
	long := float64(c.base) > after*autoFrame.Seconds()
	return !c.up && long && c.probed > (1-autoGain/2)*max(c.before, after)
}

// sizer is what chunk-size auto adds to a lane: it measures goodput and has a
// climber draw the conclusions. Goodput is bytes of appends that the peer's raft
// has acknowledged, by the time in which any of them was under way: what a
// client waits for, where messages come one at a time, and throughput where
// they keep the lane busy. Stalls of any kind are in it.
//
// The lane tells what it sends, the receiving side what is acknowledged. Methods
// may be called concurrently; the clock is the callers'.
type sizer struct {
	mu    sync.Mutex
	climb climber
	sent  []measured
	mark  time.Time // until when time is accounted for
	round int       // counts changes of the size
	// The epoch under way.
	messages, bytes int
	busy            time.Duration
	unused          int
}

// measured is an append under way.
type measured struct {
	index uint64 // of its last entry
	bytes int
	at    time.Time
	round int // of the size that it was cut with
}

func newSizer(start int) *sizer { return &sizer{climb: newClimber(start)} }

// size is what frames to the peer should have now, within the limit that it
// told.
func (s *sizer) size(limit int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change(func() {
		if limit > 0 {
			s.climb.bound(limit)
		}
	})
}

// now is the size that the last append was cut with.
func (s *sizer) now() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.climb.size()
}

// change runs f, and begins anew what is measured if it changed the size.
func (s *sizer) change(f func()) int {
	before := s.climb.size()
	f()
	size := s.climb.size()
	if size != before {
		s.round++
		s.messages, s.bytes, s.busy = 0, 0, 0
	}
	return size
}

// append says that the lane begins to send an append whose last entry has that
// index.
func (s *sizer) append(index uint64, bytes int, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case bytes <= s.climb.least: // one frame at any size
		return
	case bytes <= s.climb.base/2: // one frame at the size and its neighbours
		if s.unused++; s.unused >= autoUnused {
			s.unused = 0
			s.change(func() { s.climb.move(s.climb.base / 2) })
		}
		return
	}
	s.unused = 0
	if n := len(s.sent); n > 0 && (index <= s.sent[n-1].index || n == maxMeasured) {
		s.sent = s.sent[:0] // raft goes back: what was under way is lost
	}
	s.sent = append(s.sent, measured{index: index, bytes: bytes, at: now, round: s.round})
}

// acknowledged says that the peer's log has all entries up to index.
func (s *sizer) acknowledged(index uint64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for ; n < len(s.sent) && s.sent[n].index <= index; n++ {
		m := s.sent[n]
		since := m.at
		if s.mark.After(since) {
			since = s.mark
		}
		s.mark = now
		if m.round != s.round {
			continue // cut with a size that is not measured any more
		}
		s.messages++
		s.bytes += m.bytes
		s.busy += now.Sub(since)
	}
	s.sent = s.sent[:copy(s.sent, s.sent[n:])]
	if s.busy <= 0 || s.bytes < epochMostBytes && (s.messages < epochMessages || s.bytes < epochBytes) {
		return
	}
	goodput := float64(s.bytes) / s.busy.Seconds()
	s.messages, s.bytes, s.busy = 0, 0, 0
	s.change(func() { s.climb.observe(goodput) })
}

// lost says that nothing that is under way will be acknowledged.
func (s *sizer) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = s.sent[:0]
}
