package transport

import (
	"bytes"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func localPair(t *testing.T, cfg Config) (n *Network, a, b *fakeNode, ta, tb Transport) {
	t.Helper()
	n = NewNetwork()
	a, b = newFakeNode(1), newFakeNode(2)
	ta, tb = n.Join(1, cfg, a), n.Join(2, cfg, b)
	ta.SetPeers([]Peer{{ID: 2, Incarnation: 1002}})
	tb.SetPeers([]Peer{{ID: 1, Incarnation: 1001}})
	t.Cleanup(func() {
		for _, x := range []Transport{ta, tb} {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return n, a, b, ta, tb
}

func TestLocal(t *testing.T) {
	for _, cfg := range []Config{{}, {Faults: Faults{Delay: 3 * time.Millisecond, Rate: 100_000_000}}} {
		n, a, b, ta, tb := localPair(t, cfg)
		m := appendMessage(5, 10, 20)
		began := time.Now()
		ta.Send([]*pb.Message{m, heartbeat(1, 2)})
		b.await(t, "messages", func() bool { return len(b.stepped) == 2 })
		if took := time.Since(began); took < cfg.Faults.Delay {
			t.Errorf("arrived after %v, the link takes %v", took, cfg.Faults.Delay)
		}
		got := b.stepped[0]
		if !proto.Equal(got, m) || got == m || &got.Entries[0] == &m.Entries[0] || got.Entries[0] != m.Entries[0] {
			t.Error("a message is not the sender's with a list of its own")
		}
		tb.Send([]*pb.Message{heartbeat(2, 1)})
		a.await(t, "answer", func() bool { return len(a.stepped) == 1 })
		s, r := ta.Stats()[0], tb.Stats()[0]
		if s.MessagesSent != 2 || s.FramesSent != 2 || s.BytesSent == 0 || r.MessagesReceived != 2 || !s.Connected || s.Problem != "" || s.QueueBytes != 0 {
			t.Errorf("%+v, %+v", s, r)
		}
		// Cut off, each loses what it sends and is reported once.
		n.Leave(2)
		for range 10 {
			ta.Send([]*pb.Message{heartbeat(1, 2)})
			tb.Send([]*pb.Message{heartbeat(2, 1)})
		}
		a.await(t, "report", func() bool { return a.down[2] == 1 && ta.Stats()[0].DroppedUnconnected == 10 })
		b.await(t, "report", func() bool { return b.down[1] == 1 && tb.Stats()[0].DroppedUnconnected == 10 })
		if ta.Stats()[0].Connected || ta.Stats()[0].Problem == "" {
			t.Errorf("%+v", ta.Stats()[0])
		}
		// A node without its memory takes the place, and is told to end.
		fresh := newFakeNode(2)
		fresh.identity = Identity{Node: 2, Incarnation: 4}
		tf := n.Join(2, cfg, fresh)
		ta.Send([]*pb.Message{heartbeat(1, 2)})
		fresh.await(t, "refusal", func() bool { return len(fresh.refused) == 1 })
		if text := ta.Stats()[0].Problem; !strings.Contains(text, "remove node 2, add it again under a new id") || fresh.steps != 0 {
			t.Errorf("problem %q, %d messages", text, fresh.steps)
		}
		if err := tf.Close(); err != nil {
			t.Error(err)
		}
		ta.Send([]*pb.Message{heartbeat(1, 9), heartbeat(1, 9), heartbeat(7, 2)})
		if a.down[9] != 1 {
			t.Errorf("an unknown node was reported %d times", a.down[9])
		}
	}
}

func TestLocalSnapshot(t *testing.T) {
	for _, cfg := range []Config{{ChunkSize: 4096}, {ChunkSize: 4096, Faults: Faults{Rate: 100_000_000}}} {
		n, a, b, ta, _ := localPair(t, cfg)
		chunk := SnapshotChunk(4096)
		a.snapshot = randomBytes(10*chunk, 3)
		ta.Send([]*pb.Message{snap()})
		a.await(t, "report", func() bool { return len(a.reports) == 1 })
		if !a.reports[0] || !bytes.Equal(b.taken.Bytes(), a.snapshot) || b.commits != 1 {
			t.Errorf("reported %v, %d bytes arrived", a.reports[0], b.taken.Len())
		}
		if s := ta.Stats()[0]; s.SnapshotChunksSent != 10 || s.SnapshotsSent != 1 || s.SnapshotBytesSent != uint64(10*chunk) {
			t.Errorf("%+v", s)
		}
		n.Leave(2)
		ta.Send([]*pb.Message{snap()})
		a.await(t, "report", func() bool { return len(a.reports) == 2 && !a.reports[1] })
	}
}
