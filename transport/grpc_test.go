package transport

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var kinds = []struct{ kind, lanes string }{
	{KindStream, LanesSplit}, {KindStream, LanesShared}, {KindUnary, LanesSplit}, {KindUnary, LanesShared},
}

func eachKind(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.kind+"/"+k.lanes, func(t *testing.T) { test(t, Config{Kind: k.kind, Lanes: k.lanes}) })
	}
}

func TestSendReceive(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		a, b := pair(t, cfg)
		var want []*pb.Message
		index := uint64(0)
		for i := range 200 {
			m := appendMessage(index, i, 2*i, 10)
			index += 3
			want = append(want, m)
			a.transport.Send([]*pb.Message{m})
		}
		a.transport.Send([]*pb.Message{heartbeat(1, 2)})
		b.await(t, "messages", func() bool { return len(b.stepped) == len(want)+1 })
		i := 0
		for _, m := range b.stepped {
			if m.GetType() == pb.MsgHeartbeat {
				continue
			}
			if !proto.Equal(m, want[i]) {
				t.Fatalf("message %d: got %v, want %v", i, m, want[i])
			}
			i++
		}
		dials := map[string]uint64{LanesSplit: 2, LanesShared: 1}[cfg.Lanes]
		a.await(t, "queue", func() bool { return a.stat().QueueBytes == 0 && a.stat().RoundTrip > 0 })
		s, r := a.stat(), b.stat()
		if s.MessagesSent != 201 || s.FramesSent != 201 || s.MessagesDropped != 0 || s.Dials != dials || s.Problem != "" || s.ReceiveLimitBytes != 4<<20 {
			t.Errorf("sender: %+v", s)
		}
		if r.MessagesReceived != 201 || r.FramesReceived != 201 || r.BytesReceived != s.BytesSent {
			t.Errorf("receiver: %+v, sent %d bytes", r, s.BytesSent)
		}
	})
}

// Nothing that was handed up lies in memory that goes back to a pool: TestMain
// has what goes back overwritten, and it is taken again by later frames.
func TestHandedUpIsKept(t *testing.T) {
	sizes := []int{0, 1, 100, 1000, 1024, 1025, 4 << 10, 10000, 16 << 10, 16<<10 + 1, 40000, 64 << 10, 200000, 1 << 20, 1<<20 + 5}
	for _, kind := range []string{KindStream, KindUnary} {
		for _, name := range codecNames {
			for _, compression := range []string{CompressionNone, CompressionS2} {
				t.Run(fmt.Sprintf("%s/%s/%s", kind, name, compression), func(t *testing.T) {
					a, b := pair(t, Config{Kind: kind, Codec: name, Compression: compression})
					var want []*pb.Message
					index := uint64(5)
					for round := range 2 {
						for i := range sizes {
							m := appendMessage(index, sizes[i], sizes[(i+round)%len(sizes)], i)
							index += 3
							want = append(want, m)
							beat := heartbeat(1, 2)
							beat.Context = randomBytes(8, index)
							a.transport.Send([]*pb.Message{m, beat})
						}
					}
					entries := map[uint64]*pb.Entry{}
					beats := 0
					b.await(t, "messages", func() bool {
						beats = 0
						for _, m := range b.stepped {
							if m.GetType() == pb.MsgHeartbeat {
								beats++
							}
							for _, e := range m.Entries {
								entries[e.GetIndex()] = e
							}
						}
						return len(entries) == 3*len(want) && beats == len(want)
					})
					for _, m := range want {
						for _, e := range m.Entries {
							if !proto.Equal(entries[e.GetIndex()], e) {
								t.Fatalf("entry of %d bytes was changed after it was handed up", len(e.Data))
							}
						}
					}
					beats = 0
					for _, m := range b.stepped {
						if m.GetType() == pb.MsgHeartbeat {
							if beats++; !bytes.Equal(m.GetContext(), randomBytes(8, 5+3*uint64(beats))) {
								t.Fatalf("context of heartbeat %d was changed after it was handed up", beats)
							}
						}
					}
				})
			}
		}
	}
}

func TestFragmentsOverRealLimit(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		cfg.MaxMessage, cfg.ChunkSize, cfg.Chunking = 1024, 1024, ChunkFragment
		size := 16 << 20
		if cfg.Kind == KindUnary {
			size = 1 << 20 // a round trip each
		}
		a, b := pair(t, cfg)
		m := appendMessage(5, size)
		a.transport.Send([]*pb.Message{m, heartbeat(1, 2)})
		b.await(t, "the entry", func() bool { return len(b.stepped) == 2 })
		for _, got := range b.stepped {
			if got.GetType() == pb.MsgApp && !proto.Equal(got, m) {
				t.Fatal("another entry arrived")
			}
		}
		frames, largest := b.wire.get()
		if want := FragmentFrames(entrySize(m.Entries[0]), 1024) + 1; frames != want || largest > 1024 || largest < 1000 {
			t.Errorf("%d frames, the largest of %d bytes; want %d frames of up to 1024", frames, largest, want)
		}
		s := a.stat()
		if s.LargestFrame > 1024 || s.FragmentsSent != uint64(frames)-1 || s.MessagesSplit != 1 || s.Refusals != 0 {
			t.Errorf("sender: %+v", s)
		}
		if n := a.logs.count("split message"); n != 1 {
			t.Errorf("%d log lines for one split message", n)
		}
		if open, held := b.transport.(*server).reassembler.Held(); open != 0 || held != 0 {
			t.Errorf("%d messages of %d bytes stay open", open, held)
		}
	})
}

// The table of the issue: strategies, entries and what becomes of them under a
// receive limit of 1 KiB.
func TestStrategiesOverRealLimit(t *testing.T) {
	const limit = 1024
	largest := int(MaxEntryBytes(ChunkBounded, limit))
	for _, kind := range []string{KindStream, KindUnary} {
		for _, name := range strategies {
			for _, test := range []struct {
				entry  int
				passes bool
			}{
				{200, true}, {largest - 1, true}, {largest, true}, {largest + 1, name == ChunkFragment}, {64 << 10, name == ChunkFragment},
			} {
				t.Run(fmt.Sprintf("%s/%s/%d", kind, name, test.entry), func(t *testing.T) {
					a, b := pair(t, Config{Kind: kind, Chunking: name, MaxMessage: limit, ChunkSize: limit, ChunkCount: 2})
					m := appendMessage(5)
					m.Entries = []*pb.Entry{entryOf(t, 6, test.entry)}
					a.transport.Send([]*pb.Message{m})
					want := min(MaxEntryBytes(name, limit), maxReassembled)
					a.await(t, "entry limit", func() bool { return len(a.limits) > 0 && a.limits[len(a.limits)-1] == want })
					if test.passes {
						b.await(t, "the entry", func() bool { return len(b.stepped) == 1 })
						if !proto.Equal(b.stepped[0], m) || a.stat().Problem != "" {
							t.Fatalf("arrived as %v, problem %q", b.stepped[0], a.stat().Problem)
						}
						return
					}
					a.await(t, "problem", func() bool {
						return a.stat().Problem == fmt.Sprintf("cannot follow: message %d > limit %d", limit+(test.entry-largest), limit) ||
							test.entry > limit && a.stat().Problem != ""
					})
					// raft goes on probing; nothing goes over the wire but one refusal
					// of strategy reactive, which has to learn.
					for range 50 {
						a.transport.Send([]*pb.Message{m})
					}
					a.await(t, "drops", func() bool { return a.stat().MessagesDropped == 51 })
					s := a.stat()
					if s.DroppedCannotFollow != 51 {
						t.Errorf("%d of 51 were dropped because it can't follow", s.DroppedCannotFollow)
					}
					refusals := uint64(0)
					if name == ChunkReactive {
						refusals = 1
					}
					if s.Refusals != refusals || s.FramesSent != refusals || a.down[2] != 1 || s.QueueBytes != 0 {
						t.Fatalf("%+v, %d reports", s, a.down[2])
					}
					if _, wire := b.wire.get(); wire > limit {
						t.Fatalf("a message of %d bytes got through", wire)
					}
					a.transport.Send([]*pb.Message{heartbeat(1, 2), appendMessage(5, 10)})
					b.await(t, "messages that fit", func() bool { return len(b.stepped) == 2 })
					a.await(t, "the problem's end", func() bool { return a.stat().Problem == "" })
				})
			}
		}
	}
}

// Strategy reactive runs into the limit once, loses nothing, keeps the order and
// the connection, and never does it again.
func TestReactiveLearnsOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		cfg.Chunking, cfg.MaxMessage = ChunkReactive, 4096
		a, b := pair(t, cfg)
		dials := a.stat().Dials
		index := uint64(0)
		var want [][]byte
		send := func(sizes ...int) {
			m := appendMessage(index, sizes...)
			index += uint64(len(sizes))
			for _, e := range m.Entries {
				want = append(want, e.Data)
			}
			a.transport.Send([]*pb.Message{m})
		}
		for range 100 {
			send(100, 200)
		}
		for i := range 200 { // together above the limit, and many at a time
			send(1000, 1000, 1000, 1000, 1000, i)
		}
		arrived := func() (got [][]byte) {
			next := uint64(1)
			for _, m := range b.stepped {
				for _, e := range m.Entries {
					if e.GetIndex() > next {
						t.Fatalf("entry %d arrived, %d is missing", e.GetIndex(), next)
					}
					if e.GetIndex() == next { // a part that was sent again may overlap
						next++
						got = append(got, e.Data)
					}
				}
			}
			return got
		}
		b.await(t, "all entries", func() bool { return len(arrived()) == len(want) })
		for i, data := range arrived() {
			if !bytes.Equal(data, want[i]) {
				t.Fatalf("entry %d has other data", i+1)
			}
		}
		a.await(t, "queue", func() bool { return a.stat().QueueBytes == 0 })
		s := a.stat()
		if s.Refusals != 1 || s.Dials != dials || s.MessagesDropped != 0 || s.MessagesResent == 0 || s.MessagesSplit < 200 || s.Problem != "" || a.down[2] != 0 {
			t.Fatalf("%+v, %d reports", s, a.down[2])
		}
	})
}

func TestDialsAndRedial(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		a, b := pair(t, cfg)
		dials := a.stat().Dials
		for i := range 100 {
			a.transport.Send([]*pb.Message{heartbeat(1, 2), appendMessage(uint64(i), 10)})
			b.await(t, "messages", func() bool { return b.steps == 2*(i+1) })
		}
		if n := a.stat().Dials; n != dials {
			t.Fatalf("%d dials in steady state", n-dials)
		}
		// The peer ends and comes back with its memory at the same address.
		b.stop(t)
		a.await(t, "the break", func() bool { return !a.stat().Connected || cfg.Kind == KindUnary })
		for range 5 {
			a.transport.Send([]*pb.Message{heartbeat(1, 2), appendMessage(100, 10)})
			time.Sleep(2 * time.Millisecond)
		}
		a.await(t, "report", func() bool { return a.down[2] > 0 && a.stat().Problem != "" })
		if a.stat().MessagesDropped == 0 && a.down[2] == 1 && cfg.Kind == KindUnary {
			t.Error("nothing counted as dropped")
		}
		back := startServerAt(t, b.fakeNode, cfg, b.address)
		before := 0
		back.change(func() { before = back.steps })
		deadline := time.Now().Add(10 * time.Second)
		for got := before; got < before+2; {
			a.transport.Send([]*pb.Message{heartbeat(1, 2)})
			time.Sleep(5 * time.Millisecond)
			back.change(func() { got = back.steps })
			if time.Now().After(deadline) {
				t.Fatalf("not reached again: %+v", a.stat())
			}
		}
	})
}

func TestSendNeverBlocks(t *testing.T) {
	a := startServer(t, 1, Config{QueueBytes: 1 << 20})
	a.transport.SetPeers([]Peer{{ID: 2, Address: "127.0.0.1:1"}})
	began := time.Now()
	for i := range 200000 {
		a.transport.Send([]*pb.Message{appendMessage(uint64(i), 1000), heartbeat(1, 2)})
	}
	if took := time.Since(began); took > time.Minute { // 0.3 ms each: one that blocks takes longer
		t.Errorf("took %v", took)
	}
	s := a.stat()
	if s.QueueBytes > 2*(1<<20)+2000 || s.MessagesDropped < 300000 {
		t.Errorf("%+v", s)
	}
	if got := s.DroppedQueueFull + s.DroppedUnconnected + s.DroppedBroken; got != s.MessagesDropped || s.DroppedUnconnected == 0 {
		t.Errorf("%d dropped: %d because the queue was full, %d without a connection, %d of a broken one",
			s.MessagesDropped, s.DroppedQueueFull, s.DroppedUnconnected, s.DroppedBroken)
	}
	a.transport.Send([]*pb.Message{heartbeat(1, 9), heartbeat(1, 9), heartbeat(4, 2)})
	if got := a.transport.Totals().DroppedUnknownPeer; got != 3 {
		t.Errorf("%d of 3 messages for nobody are counted", got)
	}
	if a.down[9] != 1 {
		t.Errorf("an unknown peer was reported %d times", a.down[9])
	}
}

// A broken connection is one report, however many messages and attempts to
// connect it costs; the next break is another.
func TestUnreachableOncePerBreak(t *testing.T) {
	eachKind(t, func(t *testing.T, cfg Config) {
		a, b := pair(t, cfg)
		for breaks := 1; breaks <= 2; breaks++ {
			b.stop(t)
			dials := a.stat().Dials
			a.await(t, "attempts to connect", func() bool {
				a.transport.Send([]*pb.Message{heartbeat(1, 2), appendMessage(1, 10)})
				return a.stat().Dials >= dials+3
			})
			a.await(t, "report", func() bool { return a.down[2] >= breaks })
			if a.down[2] != breaks {
				t.Fatalf("break %d: %d reports after %d dials", breaks, a.down[2], a.stat().Dials-dials)
			}
			b = startServerAt(t, b.fakeNode, cfg, b.address)
			a.await(t, "connection", func() bool {
				a.transport.Send([]*pb.Message{heartbeat(1, 2), appendMessage(1, 10)})
				return a.stat().Connected
			})
		}
	})
}
