package transport

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// virtualLink is a lane, a line and a receiver in virtual time. A frame passes
// the stages one after the other, each taking one frame at a time; an append is
// acknowledged when its last frame has passed the last one.
type virtualLink struct {
	delay time.Duration
	rate  float64 // bytes a second; 0 is unlimited
	unary bool
	rng   *rand.Rand

	free [3]float64 // when each stage is done with what it has, in seconds
}

// What a frame and a byte cost where they are sent and received, in seconds,
// and an append beside its frames: as on one core of an ordinary machine.
const (
	perFrame  = 12e-6
	perByte   = 0.8e-9
	perAppend = 150e-6
)

// carry returns when an append with one entry of so many bytes, cut into frames
// of size, is acknowledged.
func (l *virtualLink) carry(now float64, bytes, size int) float64 {
	noise := 1 + 0.05*l.rng.NormFloat64()
	delay := l.delay.Seconds()
	for rest := bytes; rest > 0; {
		piece := min(rest, maxPiece(size, rest == bytes))
		rest -= piece
		cpu := (perFrame + perByte*float64(piece)) * noise
		line := 0.0
		if l.rate > 0 {
			line = float64(piece) / l.rate
		}
		if l.unary {
			now += line + delay + 2*cpu + delay
			continue
		}
		at := now
		for stage, cost := range []float64{line, cpu, cpu} {
			at = max(at, l.free[stage]) + cost
			l.free[stage] = at
			if stage == 0 {
				at += delay
			}
		}
	}
	if l.unary {
		return now + perAppend
	}
	return l.free[2] + perAppend + delay
}

// drive sends appends of that size, so many at a time, for a total of appends,
// and returns the goodput of the last half in bytes a second. next says the
// size to cut with; s may be nil.
func (l *virtualLink) drive(bytes, clients, appends int, next func() int, s *sizer) float64 {
	at := func(seconds float64) time.Time { return time.Unix(0, 0).Add(time.Duration(seconds * 1e9)) }
	var waiting []float64 // when those under way are acknowledged, in order
	now, half := 0.0, 0.0
	sent, known := 0, 0
	for known < appends {
		for len(waiting) < clients {
			size := next()
			sent++
			if s != nil {
				s.append(uint64(sent), bytes+appendOverhead, at(now))
			}
			waiting = append(waiting, l.carry(now, bytes, size))
		}
		now, waiting = waiting[0], waiting[1:]
		known++
		if s != nil {
			s.acknowledged(uint64(known), at(now))
		}
		if known == appends/2 {
			half = now
		}
	}
	return float64(bytes) * float64(appends-appends/2) / (now - half)
}

// auto comes within a tenth of the best static size wherever sizes differ by a
// quarter, over links, messages, clients and carriers; what its probes cost is
// in it.
func TestAutoSizeNearBest(t *testing.T) {
	const limit = 16<<20 + 4096
	telling := 0
	for _, unary := range []bool{false, true} {
		for _, delay := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
			for _, rate := range []float64{0, 200e6, 20e6} {
				for _, bytes := range []int{64 << 10, 1 << 20, 16 << 20} {
					for _, clients := range []int{1, 4} {
						name := fmt.Sprintf("unary=%v delay=%v rate=%.0fMB/s value=%s clients=%d", unary, delay, rate/1e6, kibs(bytes), clients)
						link := func() *virtualLink {
							return &virtualLink{delay: delay, rate: rate, unary: unary, rng: rand.New(rand.NewPCG(1, uint64(bytes)))}
						}
						if unary && clients > 1 {
							continue // one at a time whatever clients do
						}
						appends := max(600, min(20000, 2<<30/bytes))
						best, worst, bestSize := 0.0, 0.0, 0
						for size := autoLeast; size < 2*limit; size *= 2 {
							g := link().drive(bytes, clients, appends/10, func() int { return min(size, limit) }, nil)
							if g > best {
								best, bestSize = g, size
							}
							if worst == 0 || g < worst {
								worst = g
							}
						}
						s := newSizer(1 << 20)
						got := link().drive(bytes, clients, appends, func() int { return s.size(limit) }, s)
						t.Logf("%-75s best %7.1f MB/s at %8s, worst %7.1f, auto %7.1f (%3.0f %%) at %s",
							name, best/1e6, kibs(bestSize), worst/1e6, got/1e6, 100*got/best, kibs(s.climb.base))
						if best > 1.25*worst {
							telling++
						}
						least := 0.85
						if best > 1.25*worst {
							least = 0.9
						}
						if got < least*best {
							t.Errorf("%s: auto has %.1f MB/s, size %s has %.1f", name, got/1e6, kibs(bestSize), best/1e6)
						}
					}
				}
			}
		}
	}
	if telling < 10 {
		t.Errorf("only %d cells tell sizes apart", telling)
	}
}

func kibs(n int) string { return fmt.Sprintf("%dKiB", n>>10) }

// A size that makes no difference comes down to what is sent, and comes back up
// when that grows; what is below the least size moves nothing.
func TestSizerFollowsMessages(t *testing.T) {
	s := newSizer(1 << 20)
	index := uint64(0)
	send := func(n, bytes int) {
		for range n {
			index++
			s.append(index, bytes, time.Unix(0, 0))
		}
	}
	for _, step := range []struct{ n, bytes, size int }{
		{1000, 16 << 10, 1 << 20},
		{autoUnused - 1, 512 << 10, 1 << 20},
		{1, 512<<10 + 1, 1 << 20}, // counts from the beginning again
		{autoUnused, 512 << 10, 512 << 10},
		{10 * autoUnused, 100 << 10, 128 << 10},
		{10 * autoUnused, 200 << 10, 128 << 10},
	} {
		send(step.n, step.bytes)
		if got := s.size(4 << 20); got != step.size {
			t.Fatalf("after %d appends of %d bytes: %d, want %d", step.n, step.bytes, got, step.size)
		}
	}
	if got := s.size(1 << 10); got != 1<<10 {
		t.Errorf("a limit of 1 KiB is exceeded: %d", got)
	}
	if got := s.size(4 << 20); got != autoLeast {
		t.Errorf("from a limit of 1 KiB on: %d", got)
	}
}

// What the climber does with goodputs that are known, epoch by epoch.
func TestClimber(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name    string
		goodput func(size int) float64
		want    int
		epochs  int // until it is there
	}{
		{"larger is better", func(size int) float64 { return float64(size) * 1e3 }, 16 * mib, 24},
		{"smaller is better", func(size int) float64 { return 1e15 / float64(size) }, autoLeast, 24},
		{"flat, and frames are short", func(int) float64 { return 1e9 }, mib, 100},
		{"flat, and frames are long", func(int) float64 { return 20e6 }, 128 << 10, 40},
		{"a peak", func(size int) float64 { return 1e9 / (float64(size)/(256<<10) + (256<<10)/float64(size)) }, 256 << 10, 24},
	}
	for _, test := range tests {
		c := newClimber(mib)
		c.bound(16 * mib)
		probes := 0
		for epoch := range 1000 {
			if epoch == test.epochs && c.base != test.want {
				t.Errorf("%s: after %d epochs at %s, want %s", test.name, epoch, kibs(c.base), kibs(test.want))
			}
			if c.phase == probing && epoch >= 500 {
				probes++
			}
			c.observe(test.goodput(c.size()))
		}
		if c.base != test.want {
			t.Errorf("%s: ends at %s, want %s", test.name, kibs(c.base), kibs(test.want))
		}
		if probes > 500/autoPatience {
			t.Errorf("%s: %d probes in 500 epochs", test.name, probes)
		}
	}
}

// Where the link changes, the size follows.
func TestSizerFollowsLink(t *testing.T) {
	const bytes, limit = 16 << 20, 32 << 20
	rng := rand.New(rand.NewPCG(3, 3))
	s := newSizer(1 << 20)
	next := func() int { return s.size(limit) }
	for _, step := range []struct {
		link        virtualLink
		least, most int
	}{
		{virtualLink{rng: rng, unary: true, delay: 5 * time.Millisecond}, 8 << 20, limit},
		{virtualLink{rng: rng, rate: 20e6}, autoLeast, 512 << 10},
		{virtualLink{rng: rng, unary: true, delay: 5 * time.Millisecond}, 8 << 20, limit},
	} {
		s.lost() // another connection
		step.link.drive(bytes, 1, 400, next, s)
		if s.climb.base < step.least || s.climb.base > step.most {
			t.Errorf("delay %v, rate %.0f: %s, want %s to %s", step.link.delay, step.link.rate, kibs(s.climb.base), kibs(step.least), kibs(step.most))
		}
		s.mark = time.Time{} // the next link's clock begins at 0 again
	}
}

// Over real gRPC: frames follow the size within each peer's limit, and what
// raft acknowledges is measured.
func TestAutoSizeOverGRPC(t *testing.T) {
	for _, kind := range []string{KindStream, KindUnary} {
		t.Run(kind, func(t *testing.T) {
			cfg := Config{Kind: kind, ChunkAuto: true, MaxMessage: 256 << 10}
			a, b := pair(t, cfg)
			if got := a.stat().ChunkSizeBytes; got != 256<<10 {
				t.Fatalf("begins with %d", got)
			}
			s := (*a.transport.(*server).peers.Load())[2].lanes[laneLog].sizer
			index := uint64(0)
			send := func(size int) {
				index++
				a.transport.Send([]*pb.Message{appendMessage(index-1, size)})
				b.await(t, "the append", func() bool { return b.steps == int(index) })
				b.transport.Send([]*pb.Message{{Type: pb.MsgAppResp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(3)), Index: new(index)}})
				a.await(t, "the answer", func() bool { return a.steps == int(index) })
			}
			for range 3 {
				send(400 << 10)
			}
			if s.messages != 3 || len(s.sent) != 0 || s.busy <= 0 {
				t.Errorf("measured %d messages in %v, %d are under way", s.messages, s.busy, len(s.sent))
			}
			for range autoUnused {
				send(100 << 10)
			}
			if got := a.stat().ChunkSizeBytes; got != 128<<10 {
				t.Errorf("goes on with %d, want 128 KiB", got)
			}
			send(400 << 10)
			if s := a.stat(); s.LargestFrame != 256<<10 || s.FragmentsSent != 3*2+4 {
				t.Errorf("largest frame %d, %d fragments", s.LargestFrame, s.FragmentsSent)
			}
		})
	}
}
