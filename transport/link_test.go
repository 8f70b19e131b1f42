package transport

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// someFaults draws faults that pass Check.
func someFaults() *rapid.Generator[Faults] {
	return rapid.Custom(func(t *rapid.T) Faults {
		probability := rapid.OneOf(rapid.Just(0.0), rapid.Just(1.0), rapid.Float64Range(0, 1))
		delay := rapid.SampledFrom([]int64{0, 1, 5, 50}).Draw(t, "delay ms")
		return Faults{
			Delay:  time.Duration(delay) * time.Millisecond,
			Jitter: time.Duration(rapid.Int64Range(0, delay).Draw(t, "jitter ms")) * time.Millisecond,
			Rate:   rapid.SampledFrom([]int64{0, 10_000, 1_000_000}).Draw(t, "rate"),
			Drop:   probability.Draw(t, "drop"), Duplicate: probability.Draw(t, "duplicate"), Reorder: probability.Draw(t, "reorder"),
			Partition: rapid.IntRange(0, 9).Draw(t, "partition") == 0,
			Seed:      rapid.Uint64().Draw(t, "seed"),
		}
	})
}

func TestFaultsCheck(t *testing.T) {
	ms := time.Millisecond
	for _, test := range []struct {
		f    Faults
		want string
	}{
		{Faults{}, ""},
		{Faults{Delay: ms, Jitter: ms, Rate: 1, Drop: 1, Duplicate: 1, Reorder: 1, Partition: true, Seed: 1}, ""},
		{Faults{Delay: -ms}, "delay -1ms must not be negative"},
		{Faults{Delay: time.Hour}, "delay 1h0m0s exceeds the maximum 1m0s"},
		{Faults{Delay: ms, Jitter: 2 * ms}, "jitter 2ms exceeds the delay of 1ms"},
		{Faults{Delay: ms, Jitter: -ms}, "jitter -1ms must not be negative"},
		{Faults{Rate: -1}, "rate -1 must not be negative"},
		{Faults{Drop: 1.1}, "drop 1.1 is not a probability from 0 to 1"},
		{Faults{Duplicate: -0.5}, "duplicate -0.5 is not a probability from 0 to 1"},
		{Faults{Reorder: math.NaN()}, "reorder NaN is not a probability from 0 to 1"},
	} {
		got := ""
		if err := test.f.Check(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%+v: %q, want %q", test.f, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if f := someFaults().Draw(t, "faults"); f.Check() != nil {
			t.Fatal(f.Check())
		}
	})
}

// What a fate may be, under any faults, and that the same seed has it again.
func TestFate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := someFaults().Draw(t, "faults")
		other := f
		other.Drop, other.Duplicate, other.Partition = 0, 0, false
		once, again, mild := f.random(1, 2), f.random(1, 2), other.random(1, 2)
		for i := range 50 {
			d, m := f.decide(once), other.decide(mild)
			if d != f.decide(again) {
				t.Fatalf("message %d: another fate of the same seed", i)
			}
			if d.each != m.each {
				t.Fatalf("message %d: its fate depends on those before", i)
			}
			switch {
			case f.Partition && d.copies != 0, f.Drop == 1 && d.copies != 0, m.copies != 1,
				!f.Partition && f.Drop == 0 && d.copies == 0,
				d.copies == 2 && f.Duplicate == 0, d.copies == 1 && f.Duplicate == 1:
				t.Fatalf("message %d: %d copies under %+v", i, d.copies, f)
			}
			for _, c := range d.each {
				if held := c.hold > 0; held && f.Reorder == 0 || !held && f.Reorder == 1 || c.hold < 0 || c.hold > max(f.Delay, reorderHold) {
					t.Fatalf("message %d: held back for %v under %+v", i, c.hold, f)
				}
				if c.jitter.Abs() > f.Jitter {
					t.Fatalf("message %d: jitter %v under %+v", i, c.jitter, f)
				}
			}
		}
	})
}

// Probabilities are what they say, jitter is even, and ordered pairs differ.
func TestFateFrequencies(t *testing.T) {
	const n = 20000
	f := Faults{Delay: time.Second, Jitter: time.Second, Drop: 0.1, Duplicate: 0.3, Reorder: 0.2, Seed: 5}
	r := f.random(1, 2)
	var lost, twice, held, early int
	var jitter time.Duration
	for range n {
		d := f.decide(r)
		switch d.copies {
		case 0:
			lost++
		case 2:
			twice++
		}
		if d.each[0].hold > 0 {
			held++
		}
		if d.each[0].jitter < -f.Jitter/2 {
			early++
		}
		jitter += d.each[0].jitter / n
	}
	for _, c := range []struct {
		what string
		got  int
		p    float64
	}{{"lost", lost, 0.1}, {"twice", twice, 0.9 * 0.3}, {"held", held, 0.2}, {"early", early, 0.25}} {
		// The seed is fixed: this passes always or never.
		if sigma := math.Sqrt(n * c.p * (1 - c.p)); math.Abs(float64(c.got)-n*c.p) > 4*sigma {
			t.Errorf("%s: %d of %d, want about %.0f", c.what, c.got, n, n*c.p)
		}
	}
	if jitter.Abs() > 20*time.Millisecond {
		t.Errorf("mean jitter %v", jitter)
	}
	seen := map[uint64][2]uint64{}
	for from := range uint64(8) {
		for to := range uint64(8) {
			first := f.random(from, to).Uint64()
			if pair, dup := seen[first]; dup {
				t.Errorf("%d to %d has the chances of %d", from, to, pair)
			}
			seen[first] = [2]uint64{from, to}
		}
	}
}

// The line never carries more than its rate, wastes no time while something
// waits, and knows nothing of jitter.
func TestLineRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Faults{Delay: 50 * time.Millisecond, Jitter: 50 * time.Millisecond, Rate: rapid.Int64Range(1000, 1_000_000).Draw(t, "rate")}
		even, uneven := newLink(f, 1, 2), newLink(f, 1, 2)
		now := time.Unix(1000, 0)
		free := now // the model: when the line has carried all so far
		for range rapid.IntRange(1, 60).Draw(t, "frames") {
			ready := now.Add(time.Duration(rapid.Int64Range(0, 30).Draw(t, "gap ms")) * time.Millisecond)
			now = ready
			bytes := rapid.IntRange(1, 5000).Draw(t, "bytes")
			jitter := time.Duration(rapid.Int64Range(-50, 50).Draw(t, "jitter ms")) * time.Millisecond
			for {
				at, wait := even.put(ready, now, bytes, 0)
				jittered, wait2 := uneven.put(ready, now, bytes, jitter)
				if wait != wait2 {
					t.Fatalf("jitter changes the wait from %v to %v", wait, wait2)
				}
				if wait > 0 {
					if early := free.Sub(now); early <= linkAhead {
						t.Fatalf("waits %v for a line that is free in %v", wait, early)
					}
					now = now.Add(wait)
					continue
				}
				if free.Before(ready) {
					free = ready
				}
				free = free.Add(time.Duration(float64(bytes) / float64(f.Rate) * float64(time.Second)))
				if !at.Equal(free.Add(f.Delay)) || !jittered.Equal(at.Add(jitter)) {
					t.Fatalf("arrives at %v, with jitter %v; want %v and %v later", at, jittered, free.Add(f.Delay), jitter)
				}
				break
			}
		}
	})
}

// handedUp is a message of a transcript: its number and when it was handed up.
type handedUp struct {
	index uint64
	at    time.Duration
}

// listener notes when what arrives.
type listener struct {
	*fakeNode
	began time.Time

	mu  sync.Mutex
	got []handedUp
}

func (l *listener) Step(m *pb.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, handedUp{m.GetIndex(), time.Since(l.began)})
}

// departure is what happens before a message is sent.
type departure struct {
	gap  time.Duration
	size int
	set  *Faults // nil: as before
}

func departures() *rapid.Generator[departure] {
	return rapid.Custom(func(t *rapid.T) departure {
		return departure{
			gap:  time.Duration(rapid.SampledFrom([]int64{0, 0, 100, 1000, 7000}).Draw(t, "gap µs")) * time.Microsecond,
			size: rapid.SampledFrom([]int{0, 100, 3000}).Draw(t, "size"),
		}
	})
}

// transcript sends messages from node 1 to node 2 of a Network, in virtual time,
// heals, and returns when which arrived and what was counted.
func transcript(t *testing.T, f Faults, sends []departure) (sent []time.Duration, got []handedUp, stats LinkStats) {
	synctest.Test(t, func(t *testing.T) {
		n, cfg := NewNetwork(), Config{Faults: f, virtualTime: true}
		to := &listener{fakeNode: newFakeNode(2), began: time.Now()}
		ta, tb := n.Join(1, cfg, newFakeNode(1)), n.Join(2, cfg, to)
		ta.SetPeers([]Peer{{ID: 2, Incarnation: 1002}})
		tb.SetPeers([]Peer{{ID: 1, Incarnation: 1001}})
		for i, d := range sends {
			time.Sleep(d.gap)
			if d.set != nil {
				if err := ta.SetFaults(nil, *d.set); err != nil {
					t.Fatal(err)
				}
			}
			sent = append(sent, time.Since(to.began))
			ta.Send([]*pb.Message{appendMessage(uint64(i), d.size)})
		}
		time.Sleep(10 * time.Minute)
		_, links := ta.Faults()
		stats = links[0]
		if q := ta.Stats()[0].QueueBytes; q != 0 {
			t.Errorf("%d bytes are still queued", q)
		}
		for _, x := range []Transport{ta, tb} {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
		got = to.got
	})
	return sent, got, stats
}

// In order, not before delay and jitter let it, not faster than the rate, and
// the same again from the same seed.
func TestLinkInVirtualTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := someFaults().Draw(rt, "faults")
		sends := rapid.SliceOfN(departures(), 1, 40).Draw(rt, "sends")
		sent, got, stats := transcript(t, f, sends)
		_, again, _ := transcript(t, f, sends)
		if !reflect.DeepEqual(got, again) {
			rt.Fatalf("twice the same faults and messages:\n%v\n%v", got, again)
		}
		if want := len(sends) - int(stats.MessagesLost) + int(stats.MessagesDuplicated); len(got) != want {
			rt.Fatalf("%d of %d messages arrived, want %d: %+v", len(got), len(sends), want, stats)
		}
		if (f.Drop == 1 || f.Partition) && len(got) > 0 {
			rt.Fatalf("%v came through %+v", got, f)
		}
		if !slices.IsSortedFunc(got, func(a, b handedUp) int { return int(a.at - b.at) }) {
			rt.Fatalf("the clock goes back: %v", got)
		}
		if f.Reorder == 0 && !slices.IsSortedFunc(got, func(a, b handedUp) int { return int(a.index) - int(b.index) }) {
			rt.Fatalf("overtaken without reorder: %v", got)
		}
		bytes := 0
		for _, a := range got {
			bytes += messageSize(appendMessage(a.index, sends[a.index].size))
			line := time.Duration(0)
			if f.Rate > 0 {
				line = time.Duration(float64(bytes) / float64(f.Rate) * float64(time.Second))
			}
			if early := sent[a.index] + f.Delay - f.Jitter; a.at < early {
				rt.Fatalf("message %d is there after %v, earliest %v", a.index, a.at, early)
			}
			// All so far have passed the line since the first was sent.
			if early := sent[0] + line + f.Delay - f.Jitter - time.Microsecond; a.at < early {
				rt.Fatalf("%d bytes are there after %v, faster than %d a second", bytes, a.at, f.Rate)
			}
		}
	})
}

// Faults that change under way lose nothing and keep the order, and what is
// healed is fast at once.
func TestFaultsChangeInVirtualTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		orderly := rapid.Map(someFaults(), func(f Faults) Faults {
			f.Drop, f.Reorder, f.Duplicate, f.Partition = 0, 0, 0, false
			return f
		})
		f := orderly.Draw(rt, "faults")
		sends := rapid.SliceOfN(departures(), 2, 40).Draw(rt, "sends")
		for range rapid.IntRange(0, 5).Draw(rt, "changes") {
			g := rapid.OneOf(orderly, rapid.Just(Faults{})).Draw(rt, "then")
			sends[rapid.IntRange(0, len(sends)-1).Draw(rt, "before")].set = &g
		}
		last := &sends[len(sends)-1]
		last.set = &Faults{}
		sent, got, _ := transcript(t, f, sends)
		if len(got) != len(sends) {
			rt.Fatalf("%d of %d messages arrived: %v", len(got), len(sends), got)
		}
		for i, a := range got {
			if a.index != uint64(i) {
				rt.Fatalf("out of order: %v", got)
			}
		}
		if end := got[len(got)-1].at; end > sent[len(sent)-1]+3*recheck {
			rt.Fatalf("healed at %v, the last was there at %v", sent[len(sent)-1], end)
		}
	})
}

// What is held back is overtaken, and comes.
func TestReorder(t *testing.T) {
	sends := make([]departure, 200)
	for i := range sends {
		sends[i].gap = time.Millisecond
	}
	_, got, stats := transcript(t, Faults{Reorder: 0.1, Duplicate: 0.1, Seed: 1}, sends)
	overtakes, seen := 0, map[uint64]bool{}
	for i, a := range got {
		seen[a.index] = true
		if i > 0 && a.index < got[i-1].index {
			overtakes++
		}
	}
	if len(seen) != len(sends) || overtakes < 10 || stats.MessagesReordered < 10 || stats.MessagesDuplicated < 10 {
		t.Errorf("%d of %d messages, %d overtaken; %+v", len(seen), len(sends), overtakes, stats)
	}
}

// However much is to be reordered, memory that no queue counts is bounded.
func TestHeldIsBounded(t *testing.T) {
	k := newLink(Faults{Reorder: 1, Duplicate: 1}, 1, 2)
	held := 0
	for range maxHeld {
		for _, c := range k.decide().each {
			if c.hold > 0 {
				held++
			}
		}
	}
	if held != maxHeld || k.held != maxHeld {
		t.Errorf("%d are held back, counted %d, want %d", held, k.held, maxHeld)
	}
	k.letGo()
	if d := k.decide(); d.each[0].hold == 0 || d.each[1].hold != 0 {
		t.Errorf("one may be held back: %+v", d)
	}
}

func TestFaultTable(t *testing.T) {
	slow, cut := Faults{Delay: time.Second}, Faults{Partition: true}
	known := []uint64{2, 3}
	table := faultTable{all: slow}
	show := func() string {
		var words []string
		for _, id := range []uint64{2, 3, 4} {
			words = append(words, map[Faults]string{{}: "none", slow: "slow", cut: "cut"}[table.of(id)])
		}
		return strings.Join(words, " ")
	}
	for i, step := range []struct {
		peers []uint64
		f     Faults
		want  string
		err   string
	}{
		{[]uint64{3}, cut, "slow cut slow", ""},
		{[]uint64{2}, Faults{}, "none cut slow", ""},
		{[]uint64{2, 4}, cut, "none cut slow", "node 4 is not a peer; the peers are [2 3]"},
		{nil, Faults{Drop: 3}, "none cut slow", "drop 3 is not a probability from 0 to 1"},
		{nil, cut, "cut cut cut", ""},
		{[]uint64{2, 3}, slow, "slow slow cut", ""},
		{nil, Faults{}, "none none none", ""},
	} {
		got := ""
		if err := table.change(step.peers, step.f, known); err != nil {
			got = err.Error()
		}
		if got != step.err || show() != step.want {
			t.Errorf("step %d: %s, error %q; want %s, %q", i, show(), got, step.want, step.err)
		}
	}
}

// On a real transport, faults that come and go under load keep the order, and
// every message whole.
func TestFaultsChangeOverGRPC(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		cfg.ChunkSize, cfg.Chunking = 1024, ChunkFragment
		a, b := pair(t, cfg)
		const count = 600
		for i := range count {
			switch i % 100 {
			case 20, 60:
				f := Faults{Delay: time.Duration(i%7+1) * time.Millisecond, Jitter: time.Millisecond, Rate: 5_000_000}
				if err := a.transport.SetFaults([]uint64{2}, f); err != nil {
					t.Fatal(err)
				}
			case 45, 95:
				if err := a.transport.SetFaults(nil, Faults{}); err != nil {
					t.Fatal(err)
				}
			}
			a.transport.Send([]*pb.Message{appendMessage(uint64(i), 4000*(i%2))})
			if i%10 == 0 {
				time.Sleep(500 * time.Microsecond)
			}
		}
		b.await(t, "messages", func() bool { return len(b.stepped) == count })
		for i, m := range b.stepped {
			if !proto.Equal(m, appendMessage(uint64(i), 4000*(i%2))) {
				t.Fatalf("message %d is %d, or not whole", i, m.GetIndex())
			}
		}
		a.await(t, "queue", func() bool { return a.stat().QueueBytes == 0 })
	})
}

// Fragments of a message that is doubled or overtaken stay together.
func TestReorderedFragments(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		cfg.ChunkSize, cfg.Chunking = 1024, ChunkFragment
		cfg.Faults = Faults{Drop: 0.1, Duplicate: 0.3, Reorder: 0.3, Seed: 2}
		a, b := pair(t, cfg)
		const count = 200
		for i := range count {
			a.transport.Send([]*pb.Message{appendMessage(uint64(i), 4000)})
			time.Sleep(200 * time.Microsecond)
		}
		_, links := a.transport.Faults()
		l := links[0]
		want := count - int(l.MessagesLost) + int(l.MessagesDuplicated)
		b.await(t, "messages", func() bool { return len(b.stepped) == want })
		overtakes := 0
		for i, m := range b.stepped {
			if !proto.Equal(m, appendMessage(m.GetIndex(), 4000)) {
				t.Fatalf("message %d is not whole", m.GetIndex())
			}
			if i > 0 && m.GetIndex() < b.stepped[i-1].GetIndex() {
				overtakes++
			}
		}
		if overtakes == 0 || l.MessagesLost == 0 || l.MessagesDuplicated == 0 {
			t.Errorf("%d overtakes, %+v", overtakes, l)
		}
	})
}

// A link's rate is that of the wire: what compresses well fits it more often.
func TestRateOfCompressed(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		cfg.Compression, cfg.ChunkSize, cfg.Faults = CompressionS2, 64<<10, Faults{Rate: 100_000}
		a, b := pair(t, cfg)
		b.keep = false
		const count, size = 40, 100_000 // 40 s as it is
		began := time.Now()
		for i := range count {
			m := appendMessage(uint64(i), 0)
			m.Entries[0].Data = make([]byte, size)
			a.transport.Send([]*pb.Message{m})
		}
		b.await(t, "appends", func() bool { return b.steps == count })
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%d bytes of zeros took %v", count*size, took)
		}
	})
}

// A partition is one-way, and a snapshot under way waits for its end.
func TestPartition(t *testing.T) {
	a, b := pair(t, Config{})
	_, la, lb, ta, tb := localPair(t, Config{})
	for _, c := range []struct {
		name     string
		from, to *fakeNode
		out, in  Transport
	}{{"gRPC", a.fakeNode, b.fakeNode, a.transport, b.transport}, {"local", la, lb, ta, tb}} {
		if err := c.out.SetFaults(nil, Faults{Partition: true}); err != nil {
			t.Fatal(err)
		}
		c.from.snapshot = randomBytes(100_000, 1)
		c.out.Send([]*pb.Message{heartbeat(1, 2), snap()})
		c.in.Send([]*pb.Message{heartbeat(2, 1)})
		c.from.await(t, c.name+": the other way", func() bool { return c.from.steps == 1 })
		time.Sleep(3 * recheck)
		s := c.out.Stats()[0]
		if !s.Connected || !strings.HasPrefix(s.Problem, "partition") {
			t.Errorf("%s: %+v", c.name, s)
		}
		c.from.change(func() {
			if len(c.from.reports) > 0 || c.from.down[2] > 0 {
				t.Errorf("%s: reports %v, unreachable %v", c.name, c.from.reports, c.from.down)
			}
		})
		c.to.change(func() {
			if c.to.steps > 0 || c.to.commits > 0 {
				t.Errorf("%s: %d messages, %d snapshots came through", c.name, c.to.steps, c.to.commits)
			}
		})
		if err := c.out.SetFaults([]uint64{2}, Faults{}); err != nil {
			t.Fatal(err)
		}
		c.from.await(t, c.name+": snapshot", func() bool { return len(c.from.reports) == 1 && c.from.reports[0] && c.to.commits == 1 })
		c.out.Send([]*pb.Message{heartbeat(1, 2)})
		c.to.await(t, c.name+": heartbeat", func() bool { return c.to.steps == 1 })
		if s := c.out.Stats()[0]; s.Problem != "" {
			t.Errorf("%s: healed, but shows %q", c.name, s.Problem)
		}
		if _, links := c.out.Faults(); links[0].MessagesLost != 1 || links[0].Faults != (Faults{}) {
			t.Errorf("%s: %+v", c.name, links)
		}
		// A snapshot that is lost is reported, as every one is.
		if err := c.out.SetFaults(nil, Faults{Drop: 1}); err != nil {
			t.Fatal(err)
		}
		c.out.Send([]*pb.Message{snap()})
		c.from.await(t, c.name+": loss", func() bool { return len(c.from.reports) == 2 && !c.from.reports[1] })
	}
}

// A snapshot that makes no progress in a partition ends as a failed one.
func TestPartitionOutlastsSnapshot(t *testing.T) {
	cfg := Config{SnapshotTimeout: 100 * time.Millisecond, Faults: Faults{Partition: true}}
	a, b := pair(t, cfg)
	_, la, lb, ta, _ := localPair(t, cfg)
	for _, c := range []struct {
		name     string
		from, to *fakeNode
		out      Transport
	}{{"gRPC", a.fakeNode, b.fakeNode, a.transport}, {"local", la, lb, ta}} {
		c.from.snapshot = randomBytes(100_000, 1)
		c.out.Send([]*pb.Message{snap()})
		c.from.await(t, c.name+": report", func() bool { return len(c.from.reports) == 1 && !c.from.reports[0] })
		if text := c.out.Stats()[0].Problem; !strings.Contains(text, "no progress for 100ms") {
			t.Errorf("%s: problem is %q", c.name, text)
		}
		c.to.change(func() {
			if c.to.commits > 0 {
				t.Errorf("%s: the snapshot came through", c.name)
			}
		})
	}
}

// BenchmarkLocalSend shows what faults cost a message, and what none cost.
func BenchmarkLocalSend(b *testing.B) {
	for _, f := range []Faults{{}, {Duplicate: 0.5, Seed: 1}} {
		b.Run(fmt.Sprintf("faults=%v", !f.none()), func(b *testing.B) {
			n, to := NewNetwork(), newFakeNode(2)
			to.keep = false
			ta, tb := n.Join(1, Config{Faults: f}, newFakeNode(1)), n.Join(2, Config{}, to)
			ta.SetPeers([]Peer{{ID: 2, Incarnation: 1002}})
			tb.SetPeers([]Peer{{ID: 1, Incarnation: 1001}})
			defer ta.Close() //nolint:errcheck // always nil
			defer tb.Close() //nolint:errcheck // always nil
			messages := []*pb.Message{appendMessage(1, 100)}
			b.ReportAllocs()
			for b.Loop() {
				ta.Send(messages)
			}
		})
	}
}
