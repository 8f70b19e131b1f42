package transport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// The model, in virtual time.
func TestLinkModel(t *testing.T) {
	start := time.Unix(1000, 0)
	l := newLink(Faults{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Rate: 1_000_000}, 1, 2)
	at := func(ready, now time.Duration, bytes int, jitter time.Duration) (time.Duration, time.Duration) {
		arrives, wait := l.put(start.Add(ready), start.Add(now), bytes, jitter)
		if wait > 0 {
			return 0, wait
		}
		return arrives.Sub(start), 0
	}
	ms := time.Millisecond
	for i, step := range []struct {
		ready, now    time.Duration
		bytes         int
		jitter        time.Duration
		arrives, wait time.Duration
	}{
		{0, 0, 1000, 0, 6 * ms, 0},                       // 1 ms on the line, 5 to travel
		{0, 0, 1000, 3 * ms, 10 * ms, 0},                 // behind the first, and slower on its way
		{0, 0, 10_000, 0, 17 * ms, 0},                    // a large one is there when its last byte is
		{0, 0, 10, 0, 0, 10 * ms},                        // the line is taken for 12 ms
		{10 * ms, 10 * ms, 10, 0, 17*ms + 10*ms/1000, 0}, // a small one of another lane gets its turn
		{100 * ms, 100 * ms, 500, 0, 105*ms + ms/2, 0},   // an idle line
		{100 * ms, 130 * ms, 500, -5 * ms, 101 * ms, 0},  // its goroutine woke late, and it is fast
		{100 * ms, 130 * ms, 500, 0, 106*ms + ms/2, 0},   // jitter took none of the line
	} {
		arrives, wait := at(step.ready, step.now, step.bytes, step.jitter)
		if arrives != step.arrives || wait != step.wait {
			t.Errorf("step %d: arrives %v, wait %v; want %v, %v", i, arrives, wait, step.arrives, step.wait)
		}
	}
	if newLink(Faults{Seed: 4}, 1, 2) != nil {
		t.Error("a way without faults is a link")
	}
}

func TestSleeper(t *testing.T) {
	s := newSleeper()
	defer s.close()
	var late []time.Duration
	for range 50 {
		began := time.Now()
		if err := s.sleep(t.Context(), 1300*time.Microsecond); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if took < 1300*time.Microsecond {
			t.Fatalf("woke after %v", took)
		}
		late = append(late, took-1300*time.Microsecond)
	}
	slices.Sort(late)
	t.Logf("late by %v (median), %v (most)", late[25], late[49])
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if err := s.sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := s.sleep(t.Context(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
}

// throughLink sends appends over a link and returns how long they took.
func throughLink(t *testing.T, send func([]*pb.Message), to *fakeNode, count, size int) time.Duration {
	t.Helper()
	began := time.Now()
	for i := range count {
		send([]*pb.Message{appendMessage(uint64(i), size)})
	}
	to.await(t, "appends", func() bool { return to.steps == count })
	return time.Since(began)
}

func TestLinkOverGRPC(t *testing.T) {
	const delay, rate = 100 * time.Millisecond, 50_000_000
	for _, chunking := range []string{ChunkNone, ChunkFragment} {
		cfg := Config{Faults: Faults{Delay: delay, Rate: rate}, Chunking: chunking, ChunkSize: 16 << 10}
		a, b := pair(t, cfg)
		b.keep = false
		const count, size = 10, 500_000
		took := throughLink(t, a.transport.Send, b.fakeNode, count, size)
		line := time.Duration(float64(count*size) / rate * float64(time.Second))
		if took < line+delay {
			t.Errorf("%s: %d bytes took %v, faster than the link's %v", chunking, count*size, took, line+delay)
		}
		// Frames are on their way together: one after the other, the fragments would
		// take half a minute.
		if took > 10*time.Second {
			t.Errorf("%s: %d bytes took %v, the link takes %v", chunking, count*size, took, line+delay)
		}
		t.Logf("%s: %v, the link takes %v", chunking, took, line+delay)
		a.await(t, "queue", func() bool { return a.stat().QueueBytes == 0 })
	}
	// One RPC at a time pays the way there and back for each.
	a, b := pair(t, Config{Faults: Faults{Delay: delay}, Kind: KindUnary})
	if took := throughLink(t, a.transport.Send, b.fakeNode, 5, 100); took < 9*delay {
		t.Errorf("five unary frames took %v over a round trip of %v", took, 2*delay)
	}
}

// A heartbeat does not wait for what is queued in the log's lane.
func TestHeartbeatBesideBulk(t *testing.T) {
	a, b := pair(t, Config{Faults: Faults{Rate: 4_000_000}, ChunkSize: 64 << 10}) // the append takes 2.6 s
	began := time.Now()
	a.transport.Send([]*pb.Message{appendMessage(5, 10<<20), heartbeat(1, 2)})
	var first pb.MessageType
	b.await(t, "heartbeat", func() bool {
		if len(b.stepped) > 0 {
			first = b.stepped[0].GetType()
		}
		return len(b.stepped) > 0
	})
	if first != pb.MsgHeartbeat {
		t.Errorf("%s came first, after %v", first, time.Since(began))
	}
	b.await(t, "append", func() bool { return len(b.stepped) == 2 })
}

func TestQueue(t *testing.T) {
	q := newQueue(1000)
	push := func(size int) string {
		dropped, overflowed := q.push(queued{size: size})
		switch {
		case dropped == notDropped && !overflowed:
			return "taken"
		case dropped == droppedQueueFull && overflowed:
			return "first drop"
		case dropped == droppedQueueFull:
			return "drop"
		case dropped == droppedUnconnected && !overflowed:
			return "closed"
		}
		return fmt.Sprint(dropped, overflowed)
	}
	for i, step := range []struct {
		size int
		want string
	}{{5000, "taken"}, {1, "first drop"}, {1, "drop"}} {
		if got := push(step.size); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
	batch := q.take()
	if len(batch) != 1 || push(1) != "first drop" {
		t.Error("what was taken does not count until it is released")
	}
	q.release(batch[0].size)
	for range 10 {
		if push(100) != "taken" {
			t.Error("dropped below the limit")
		}
	}
	if push(1) != "drop" || q.open(false) != 10 || q.bytes.Load() != 0 || push(1) != "closed" {
		t.Error("a closed queue holds messages")
	}
	q.open(true)
	if push(1) != "taken" {
		t.Error("an opened queue takes none")
	}
	q.putBack([]queued{{size: 7}})
	if batch := q.take(); len(batch) != 2 || batch[0].size != 7 {
		t.Error("what was put back is not first")
	}
}
