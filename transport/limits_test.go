package transport

import (
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// appendTo is an append from node 1 to a node, with one entry of that size.
func appendTo(to uint64, size int) *pb.Message {
	m := appendMessage(5, size)
	m.To = new(to)
	return m
}

// connectTo makes peers of a, and a of each of them, and waits for a's
// connections.
func connectTo(t *testing.T, a *testServer, peers ...*testServer) {
	t.Helper()
	list := make([]Peer, len(peers))
	for i, p := range peers {
		list[i] = p.peer()
		a.change(func() { a.members[list[i].ID] = list[i] })
		p.change(func() { p.members[1] = a.peer() })
		p.transport.SetPeers([]Peer{a.peer()})
	}
	a.transport.SetPeers(list)
	a.await(t, "connections", func() bool {
		for _, s := range a.transport.Stats() {
			if !s.Connected {
				return false
			}
		}
		return true
	})
}

func (s *testServer) statOf(id uint64) PeerStats {
	for _, p := range s.transport.Stats() {
		if p.ID == id {
			return p
		}
	}
	return PeerStats{}
}

// Each peer gets frames within its own limit, whatever the others take, and the
// largest entry follows the peers that there are.
func TestLimitsDifferByPeer(t *testing.T) {
	limits := map[uint64]int{2: 1 << 10, 3: 64 << 10, 4: 4 << 20}
	for _, kind := range []string{KindStream, KindUnary} {
		for _, auto := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/auto=%v", kind, auto), func(t *testing.T) {
				cfg := Config{Kind: kind, MaxMessage: 4 << 20, ChunkAuto: auto}
				a := startServer(t, 1, cfg)
				var peers []*testServer
				for id := uint64(2); id <= 4; id++ {
					cfg.MaxMessage = limits[id]
					peers = append(peers, startServer(t, id, cfg))
				}
				connectTo(t, a, peers...)
				const size = 300 << 10
				for id := range limits {
					a.transport.Send([]*pb.Message{appendTo(id, size)})
				}
				for _, p := range peers {
					id := p.identity.Node
					p.await(t, "the entry", func() bool { return len(p.stepped) == 1 })
					if !proto.Equal(p.stepped[0], appendTo(id, size)) {
						t.Errorf("node %d has something else", id)
					}
					want := min(limits[id], messageSize(appendTo(id, size)))
					frames, largest := p.wire.get()
					if n := FragmentFrames(entrySize(appendTo(id, size).Entries[0]), want); largest != want || frames != n {
						t.Errorf("node %d: %d frames, the largest of %d bytes; want %d of up to %d", id, frames, largest, n, want)
					}
					s := a.statOf(id)
					if int(s.LargestFrame) != want || int(s.ReceiveLimitBytes) != limits[id] || s.Problem != "" {
						t.Errorf("node %d: %+v", id, s)
					}
					if s.ChunkSizeBytes != uint64(min(limits[id], 1<<20)) {
						t.Errorf("node %d: a chunk size of %d is shown", id, s.ChunkSizeBytes)
					}
				}
			})
		}
	}
}

func TestEntryLimitFollowsPeers(t *testing.T) {
	cfg := Config{Chunking: ChunkBounded, MaxMessage: 4 << 20}
	a := startServer(t, 1, cfg)
	servers := map[uint64]*testServer{}
	for id, limit := range map[uint64]int{2: 1 << 10, 3: 64 << 10, 4: 4 << 20, 5: 8 << 20} {
		servers[id] = startServer(t, id, Config{Chunking: ChunkBounded, MaxMessage: limit})
	}
	for _, step := range []struct {
		peers []uint64
		least int
	}{
		{nil, 4 << 20},
		{[]uint64{5}, 4 << 20}, // its own: others may lead
		{[]uint64{4, 5}, 4 << 20},
		{[]uint64{3, 4, 5}, 64 << 10},
		{[]uint64{2, 3, 4, 5}, 1 << 10},
		{[]uint64{3, 4}, 64 << 10},
		{[]uint64{4}, 4 << 20},
		{[]uint64{2}, 1 << 10},
		{nil, 4 << 20},
	} {
		var peers []*testServer
		for _, id := range step.peers {
			peers = append(peers, servers[id])
		}
		connectTo(t, a, peers...)
		want := MaxEntryBytes(ChunkBounded, step.least)
		a.await(t, fmt.Sprintf("peers %v: entries up to %d", step.peers, want), func() bool {
			return len(a.limits) > 0 && a.limits[len(a.limits)-1] == want
		})
	}
}

// A peer that takes less than an entry in the log is shown as unable to follow,
// by name; the others are not touched by it. It follows once it takes more, or
// once the sender cuts.
func TestCannotFollowHeals(t *testing.T) {
	const size, low = 1 << 20, 64 << 10
	restart := func(t *testing.T, s *testServer, cfg Config) *testServer {
		t.Helper()
		s.stop(t)
		return startServerAt(t, s.fakeNode, cfg, s.address)
	}
	for _, name := range []string{ChunkNone, ChunkRaft, ChunkCount, ChunkReactive, ChunkBounded} {
		for _, heal := range []string{"peer takes more", "sender cuts"} {
			t.Run(name+"/"+heal, func(t *testing.T) {
				cfg := Config{Chunking: name, MaxMessage: 4 << 20, ChunkCount: 2}
				a, b, c := startServer(t, 1, cfg), startServer(t, 2, cfg), startServer(t, 3, Config{Chunking: name, MaxMessage: low})
				connectTo(t, a, b, c)
				send := func() { a.transport.Send([]*pb.Message{appendTo(2, size), appendTo(3, size)}) }
				send()
				problem := fmt.Sprintf("cannot follow: message %d > limit %d", messageSize(appendTo(3, size)), low)
				a.await(t, problem, func() bool { return a.statOf(3).Problem == problem })
				for range 20 {
					send()
				}
				b.await(t, "entries of the other", func() bool { return len(b.stepped) == 21 })
				if s := a.statOf(2); s.Problem != "" || s.MessagesDropped != 0 || s.Refusals != 0 || !s.Connected {
					t.Errorf("the other peer: %+v", s)
				}
				if _, largest := c.wire.get(); largest > low {
					t.Errorf("a message of %d bytes got through", largest)
				}
				// What fits goes on meanwhile.
				a.transport.Send([]*pb.Message{heartbeat(1, 3)})
				c.await(t, "a heartbeat", func() bool { return len(c.stepped) == 1 })

				if heal == "sender cuts" {
					cfg.Chunking = ChunkFragment
					a = restart(t, a, cfg)
					connectTo(t, a, b, c)
				} else {
					c = restart(t, c, cfg)
				}
				deadline := time.Now().Add(20 * time.Second)
				for got := false; !got; {
					send() // as raft does until it is answered
					time.Sleep(20 * time.Millisecond)
					c.change(func() {
						for _, m := range c.stepped {
							got = got || proto.Equal(m, appendTo(3, size))
						}
					})
					if time.Now().After(deadline) {
						t.Fatalf("does not follow: %+v", a.statOf(3))
					}
				}
				a.await(t, "the problem's end", func() bool { return a.statOf(3).Problem == "" })
			})
		}
	}
}

// While a large entry is under way in small frames, a control message passes it
// on lanes of its own, and comes behind it on a shared one. On the slow line the
// entry would take a quarter of a minute: whatever the machine does, the
// heartbeat is there before it.
func TestLanesOrder(t *testing.T) {
	const size = 16 << 20
	for _, chunk := range []int{1 << 10, 64 << 10} {
		t.Run(fmt.Sprintf("%s/%s", LanesSplit, kibs(chunk)), func(t *testing.T) {
			a, b := pair(t, Config{Lanes: LanesSplit, ChunkSize: chunk, MaxMessage: 64 << 10, Faults: Faults{Rate: 1 << 20}})
			a.transport.Send([]*pb.Message{appendMessage(5, size)})
			b.await(t, "some frames", func() bool { frames, _ := b.wire.get(); return frames >= 3 })
			a.transport.Send([]*pb.Message{heartbeat(1, 2)})
			b.await(t, "the heartbeat", func() bool { return len(b.stepped) > 0 })
			if got := b.stepped[0].GetType(); got != pb.MsgHeartbeat || len(b.stepped) != 1 {
				t.Errorf("%v came first of %d", got, len(b.stepped))
			}
			if s := a.stat(); s.QueueBytes < size/2 {
				t.Errorf("the entry is not under way any more: %d bytes are queued", s.QueueBytes)
			}
		})
		t.Run(fmt.Sprintf("%s/%s", LanesShared, kibs(chunk)), func(t *testing.T) {
			a, b := pair(t, Config{Lanes: LanesShared, ChunkSize: chunk, MaxMessage: 64 << 10, Faults: Faults{Rate: 64 << 20}})
			a.transport.Send([]*pb.Message{appendMessage(5, size)})
			b.await(t, "some frames", func() bool { frames, _ := b.wire.get(); return frames >= 3 })
			a.transport.Send([]*pb.Message{heartbeat(1, 2)})
			b.await(t, "both", func() bool { return len(b.stepped) == 2 })
			if first, second := b.stepped[0].GetType(), b.stepped[1].GetType(); first != pb.MsgApp || second != pb.MsgHeartbeat {
				t.Errorf("%v came before %v", first, second)
			}
			frames, _ := b.wire.get()
			if want := FragmentFrames(entrySize(appendMessage(5, size).Entries[0]), chunk) + 1; frames != want {
				t.Errorf("%d frames, want %d", frames, want)
			}
		})
	}
}
