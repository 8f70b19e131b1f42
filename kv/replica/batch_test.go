package replica

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"raftlab/kv"
)

// queueOf is a queue of commands of these sizes, the first of which came at
// oldest.
func queueOf(oldest time.Time, sizes ...int) QueueView {
	q := QueueView{Count: len(sizes), Oldest: oldest, commands: make([]Proposal, len(sizes))}
	for i, n := range sizes {
		q.commands[i].size = n
		q.Bytes += n
	}
	return q
}

func TestBatchers(t *testing.T) {
	now := time.Unix(1700000000, 0)
	sizes := []int{10, 20, 30, 1000, 5}
	const ms = time.Millisecond
	for _, c := range []struct {
		strategy           string
		maxCount, maxBytes int
		queue              int           // how many of sizes
		age                time.Duration // of the first
		inFlight           int
		take               int
		wait               time.Duration
	}{
		{BatchNone, 100, 100, 5, 0, 9, 1, 0},
		{BatchGreedy, 100, 10000, 5, 0, 9, 5, 0},
		{BatchGreedy, 2, 10000, 5, 0, 9, 2, 0},
		{BatchGreedy, 100, 60, 5, 0, 9, 3, 0},
		{BatchGreedy, 100, 59, 5, 0, 9, 2, 0},
		{BatchGreedy, 100, 1, 5, 0, 9, 1, 0}, // a single command may exceed the cap

		{BatchLinger, 100, 10000, 1, 0, 0, 0, 5 * ms},
		{BatchLinger, 100, 10000, 5, 2 * ms, 0, 0, 3 * ms},
		{BatchLinger, 100, 10000, 5, 5 * ms, 0, 5, 0},
		{BatchLinger, 100, 10000, 5, time.Hour, 0, 5, 0},
		{BatchLinger, 6, 10000, 5, 0, 0, 0, 5 * ms},
		{BatchLinger, 5, 10000, 5, 0, 0, 5, 0}, // N commands
		{BatchLinger, 2, 10000, 5, 0, 0, 2, 0},
		{BatchLinger, 100, 61, 3, 0, 0, 0, 5 * ms},
		{BatchLinger, 100, 60, 3, 0, 0, 3, 0}, // B bytes
		{BatchLinger, 100, 59, 3, 0, 0, 2, 0},

		{BatchNagle, 100, 10000, 1, 0, 0, 1, 0},
		{BatchNagle, 100, 10000, 5, 0, 0, 5, 0},
		{BatchNagle, 100, 10000, 5, time.Hour, 1, 0, 0}, // only a commit helps
		{BatchNagle, 5, 10000, 5, 0, 1, 5, 0},
		{BatchNagle, 100, 60, 5, 0, 1, 3, 0},
	} {
		b, err := NewBatcher(Batching{Strategy: c.strategy, MaxCount: c.maxCount, MaxBytes: c.maxBytes, Linger: 5 * ms})
		if err != nil {
			t.Fatal(err)
		}
		q := queueOf(now.Add(-c.age), sizes[:c.queue]...)
		q.InFlight = c.inFlight
		if take, wait := b.Next(q, now); take != c.take || wait != c.wait {
			t.Errorf("%+v: takes %d, waits %s", c, take, wait)
		}
	}
}

// A commit lets one more proposal go.
func TestNagleAcknowledged(t *testing.T) {
	b := &nagle{caps: caps{100, 10000}}
	q := queueOf(time.Time{}, 10, 20)
	q.InFlight = 2
	for i, want := range []int{0, 2, 0} {
		if i == 1 {
			b.Observe(Feedback{Commands: 1})
			b.Observe(Feedback{Commands: 1})
		}
		if take, wait := b.Next(q, time.Time{}); take != want || wait != 0 {
			t.Errorf("look %d takes %d, waits %s; want %d and 0", i, take, wait, want)
		}
	}
}

// What auto decides from what it has seen: rounds that take base and then slow.
func TestAutoLinger(t *testing.T) {
	const us = time.Microsecond
	begin := time.Unix(1700000000, 0)
	for _, c := range []struct {
		name       string
		slow       time.Duration // commit latency after rounds of 100 µs
		inFlight   int
		since      time.Duration // the last proposal
		queue      int
		take       int
		least, top time.Duration // of the wait
	}{
		{"nothing in flight", 1000 * us, 0, 0, 1, 1, 0, 0},
		{"rounds do not queue", 100 * us, 9, 0, 1, 1, 0, 0},
		{"rounds queue", 300 * us, 2, 0, 1, 0, 150 * us, 240 * us},
		{"part of the pace is over", 300 * us, 2, 100 * us, 1, 0, 50 * us, 140 * us},
		{"the pace is over", 300 * us, 2, 240 * us, 3, 3, 0, 0},
		{"full", 300 * us, 2, 0, 100, 10, 0, 0},
	} {
		a := newAutoLinger(caps{10, 10000})
		now := begin
		for i := range 110 {
			now = now.Add(time.Millisecond)
			latency := 100 * us
			if i >= 10 {
				latency = c.slow
			}
			a.Observe(Feedback{Commands: 1, CommitLatency: latency, Committed: now})
		}
		q := queueOf(now, make([]int, c.queue)...)
		q.InFlight = 0
		a.Next(q, now)
		q.InFlight = c.inFlight
		take, wait := a.Next(q, now.Add(c.since))
		if take != c.take || wait < c.least || wait > c.top {
			t.Errorf("%s: takes %d, waits %s", c.name, take, wait)
		}
	}
}

// Trim follows the setting under which commands take less time, stays in its
// bounds, and rests where the setting makes no difference.
func TestAutoLingerTrim(t *testing.T) {
	for _, c := range []struct {
		name        string
		waits       bool
		above       time.Duration // that a larger pace costs
		least, most float64
	}{
		{"more is better", true, -100 * time.Microsecond, maxTrim, maxTrim},
		{"less is better", true, 100 * time.Microsecond, minTrim, minTrim},
		{"no difference", true, 0, 1, 1},
		{"nobody waits", false, 100 * time.Microsecond, 1, 1},
	} {
		a := newAutoLinger(caps{10, 10000})
		now := time.Unix(1700000000, 0)
		for range 10000 {
			now = now.Add(100 * time.Microsecond)
			a.trial.waited = c.waits
			latency := time.Millisecond
			if abba[a.trial.phase] == 1 {
				latency += c.above
			}
			a.Observe(Feedback{Commands: 1, Waited: latency, CommitLatency: time.Millisecond, Committed: now})
		}
		if a.trim < c.least || a.trim > c.most {
			t.Errorf("%s: trim %.2f, want %.2f to %.2f", c.name, a.trim, c.least, c.most)
		}
	}
}

func TestBadBatching(t *testing.T) {
	for _, c := range []struct {
		batching Batching
		want     string
	}{
		{Batching{Strategy: "often"}, `batching "often" is not one of none, greedy, linger, nagle`},
		{Batching{Strategy: BatchGreedy, MaxBytes: 1}, "batching greedy needs room for a command: at most 0 commands of 1 bytes"},
		{Batching{Strategy: BatchNagle, MaxCount: 1}, "batching nagle needs room for a command: at most 1 commands of 0 bytes"},
		{Batching{Strategy: BatchLinger, MaxCount: 1, MaxBytes: 1, Linger: -1}, "linger -1ns must not be negative"},
	} {
		if _, err := NewBatcher(c.batching); err == nil || err.Error() != c.want {
			t.Errorf("%+v: got %v, want %s", c.batching, err, c.want)
		}
	}
}

// Whatever waits, every strategy takes between nothing and everything, stays
// within its caps, and comes to take everything.
func TestBatchersTakeEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		countCap := rapid.IntRange(1, 20).Draw(t, "count")
		bytesCap := rapid.IntRange(1, 200).Draw(t, "bytes")
		b, err := NewBatcher(Batching{
			Strategy: rapid.SampledFrom(batchStrategies).Draw(t, "strategy"),
			MaxCount: countCap, MaxBytes: bytesCap,
			Linger:     time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "linger")),
			LingerAuto: rapid.Bool().Draw(t, "auto"),
		})
		if err != nil {
			t.Fatal(err)
		}
		sizes := rapid.SliceOfN(rapid.IntRange(1, 300), 1, 50).Draw(t, "sizes")
		now := time.Unix(1700000000, 0)
		oldest := now
		for inFlight := 0; len(sizes) > 0; {
			q := queueOf(oldest, sizes...)
			q.InFlight = inFlight
			take, wait := b.Next(q, now)
			switch {
			case take < 0 || take > len(sizes) || take > countCap:
				t.Fatalf("takes %d of %d", take, len(sizes))
			case take > 0 && wait != 0:
				t.Fatalf("takes %d and waits %s", take, wait)
			case take > 1 && sum(sizes[:take]) > bytesCap:
				t.Fatalf("takes %d bytes", sum(sizes[:take]))
			case take == 0 && wait == 0 && inFlight == 0:
				t.Fatal("waits for nothing")
			case take == 0 && wait == 0:
				b.Observe(Feedback{
					Commands: 1, Committed: now,
					CommitLatency: time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "latency")),
				})
				inFlight--
			case take == 0:
				now = now.Add(wait)
			default:
				sizes = sizes[take:]
				inFlight++
			}
		}
	})
}

func sum(ns []int) (total int) {
	for _, n := range ns {
		total += n
	}
	return total
}

func TestPackerFillsEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Packer{Packed: rapid.Bool().Draw(t, "packed"), Size: rapid.IntRange(100, 1000).Draw(t, "size")}
		var queue []Proposal
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 400), 1, 50).Draw(t, "sizes") {
			queue = append(queue, Proposal{size: n})
		}
		count, size := p.next(queue)
		switch {
		case count < 1 || count > len(queue):
			t.Fatalf("takes %d of %d", count, len(queue))
		case !p.Packed && count != 1:
			t.Fatalf("unpacked takes %d", count)
		case count > 1 && size > p.Size:
			t.Fatalf("%d commands make %d bytes, more than %d", count, size, p.Size)
		case p.Packed && count < len(queue) && size+queue[count].size <= p.Size:
			t.Fatalf("stops at %d commands although the next fits", count)
		case size != kv.HeaderSize+totalSize(queue[:count]):
			t.Fatal("size is not the header and the commands")
		}
	})
}

func totalSize(ps []Proposal) (n int) {
	for _, p := range ps {
		n += p.size
	}
	return n
}

func TestEntrySizeIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := make([]byte, rapid.IntRange(1, 20000).Draw(t, "data"))
		term, index := rapid.Uint64Min(1).Draw(t, "term"), rapid.Uint64Min(1).Draw(t, "index")
		e := &raftpb.Entry{Term: &term, Index: &index, Data: data}
		if got, want := EntrySize(len(data), term, index), uint64(proto.Size(e)); got != want {
			t.Fatalf("EntrySize is %d, encoded are %d bytes", got, want)
		}
	})
}

// One large value must not have its node hold a buffer as large from then on.
func TestLargeProposalLeavesNoBuffer(t *testing.T) {
	env := newRandomCluster(t, 1, 10, 1)
	env.found()
	c := env.nodes[0].core
	for _, size := range []int{1 << 20, 2 * keepScratch} {
		w := make(once, 1)
		p := Proposal{Command: kv.Command{Kind: kv.KindPut, Key: []byte("k"), Value: make([]byte, size)}, Waiter: w}
		p.size = kv.CommandSize(&p.Command)
		c.Propose([]Proposal{p}, env.now)
		env.settle()
		if o := <-w; o.err != nil {
			t.Fatal(o.err)
		}
		if n := cap(c.scratch); n > keepScratch || n < size && size < keepScratch {
			t.Errorf("after a value of %d bytes a buffer of %d is kept", size, n)
		}
	}
}
