package node

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"raftlab/kv"
	"raftlab/kv/replica"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	"raftlab/transport"
)

const kib = 1 << 10

// arrivals sees every message that reaches a peer port, as gRPC hands it out.
type arrivals struct {
	mu      sync.Mutex
	largest int
	full    int // messages as large as the limit
	refused int
}

func (*arrivals) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*arrivals) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*arrivals) HandleConn(context.Context, stats.ConnStats)                       {}

func (a *arrivals) HandleRPC(_ context.Context, s stats.RPCStats) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := s.(type) {
	case *stats.InPayload:
		a.largest = max(a.largest, s.Length)
		if s.Length == kib {
			a.full++
		}
	case *stats.End:
		if status.Code(s.Error) == codes.ResourceExhausted {
			a.refused++
		}
	}
}

func (a *arrivals) read() (largest, full, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.largest, a.full, a.refused
}

// pair starts two voters whose peer ports take messages of 1 KiB at most.
func pair(t *testing.T, chunking, kind string, more func(*Config)) (leader, follower *member, seen *arrivals) {
	t.Helper()
	seen = new(arrivals)
	members := startCluster(t, 2, func(o *Options) {
		o.Config.MaxMessage, o.Config.Chunking, o.Config.Transport = kib, chunking, kind
		o.Config.Tick = 200 * time.Millisecond // no election while 16,000 frames are under way
		if more != nil {
			more(&o.Config)
		}
		if o.Config.ID == 2 {
			o.PeerServerOptions = []grpc.ServerOption{grpc.StatsHandler(seen)}
		}
	})
	return members[0], members[1], seen
}

func (m *member) peer(t *testing.T, id uint64) *clusterv1.PeerTransport {
	t.Helper()
	s, err := m.cluster.Status(t.Context(), &clusterv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.GetTransport() {
		if p.GetId() == id {
			return p
		}
	}
	t.Fatalf("node %d knows no peer %d", m.ID(), id)
	return nil
}

// framesOf is the number of frames that the append of one put becomes, and how
// many of them are as large as the limit: by the planner, from nothing but the
// size of the value.
func framesOf(t *testing.T, chunking string, value int) (frames, full, largest int) {
	t.Helper()
	cmd := kv.Command{Kind: kv.KindPut, Key: []byte("key"), Value: make([]byte, value)}
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(2)),
		LogTerm: new(uint64(2)), Index: new(uint64(20)), Commit: new(uint64(20)),
		Entries: []*raftpb.Entry{{
			Term: new(uint64(2)), Index: new(uint64(21)),
			Data: kv.AppendCommand(kv.AppendHeader(nil, kv.EntryHeader{}), &cmd),
		}},
	}
	chunker, err := transport.NewChunker(chunking)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := chunker.Plan(nil, m, transport.Limits{Chunk: kib, Receive: kib, Learned: kib, Count: 2})
	if err != nil {
		return 0, 0, 0
	}
	for i := range plan {
		size := plan[i].Size()
		largest = max(largest, size)
		if size == kib {
			full++
		}
	}
	return len(plan), full, largest
}

// The chunking test: values and frames around a limit of 1 KiB, by strategy.
// Every strategy carries what fits a frame; only fragment carries more; what
// can't be carried is refused before it is in the log, with both sizes.
func TestChunkingUnderOneKiB(t *testing.T) {
	// A value that makes the append one frame of just the limit.
	atLimit := 0
	for value := range kib {
		if frames, _, largest := framesOf(t, transport.ChunkBounded, value); frames == 1 && largest == kib {
			atLimit = value
		}
	}
	if atLimit == 0 {
		t.Fatal("no value fills a frame")
	}
	values := []struct {
		name string
		size int
	}{
		{"200B", 200},
		{"900B", 900},
		{"frame=limit-1", atLimit - 1},
		{"frame=limit", atLimit},
		{"frame=limit+1", atLimit + 1},
		{"1KiB", kib},
		{"64KiB", 64 * kib},
		{"16MiB", 16 * kib * kib},
	}
	for _, chunking := range []string{
		transport.ChunkNone, transport.ChunkRaft, transport.ChunkCount,
		transport.ChunkReactive, transport.ChunkBounded, transport.ChunkFragment,
	} {
		for _, kind := range []string{transport.KindStream, transport.KindUnary} {
			t.Run(chunking+"/"+kind, func(t *testing.T) {
				leader, follower, seen := pair(t, chunking, kind, nil)
				dials := leader.peer(t, 2).GetDials()
				for _, v := range values {
					frames, full, _ := framesOf(t, chunking, v.size)
					_, fullBefore, _ := seen.read()
					before := leader.peer(t, 2)
					value := randomBytes(v.size)
					_, err := leader.kv.Put(within(t, 5*time.Minute), &kvv1.PutRequest{Key: []byte("key"), Value: value}, grpc.MaxCallSendMsgSize(32<<20))
					if frames == 0 {
						checkTooLarge(t, v.name, err)
						continue
					}
					if err != nil {
						t.Errorf("%s: %v", v.name, err)
						continue
					}
					for _, m := range []*member{leader, follower} {
						got, err := m.kv.Get(within(t, 3*time.Minute), &kvv1.GetRequest{Key: []byte("key")}, grpc.MaxCallRecvMsgSize(32<<20))
						if err != nil || !bytes.Equal(got.GetValue(), value) {
							t.Errorf("%s: node %d holds %d bytes, %v", v.name, m.ID(), len(got.GetValue()), err)
						}
					}
					after := leader.peer(t, 2)
					if sent := after.GetFragmentsSent() - before.GetFragmentsSent(); frames > 1 && sent != uint64(frames) {
						t.Errorf("%s: %d fragments sent, computed %d", v.name, sent, frames)
					}
					largest, fullNow, refused := seen.read()
					if fullNow-fullBefore != full {
						t.Errorf("%s: %d frames of the limit's size arrived, computed %d", v.name, fullNow-fullBefore, full)
					}
					if largest > kib || refused > 0 {
						t.Errorf("%s: a message of %d bytes came, %d were refused", v.name, largest, refused)
					}
				}
				if now := leader.peer(t, 2).GetDials(); now != dials {
					t.Errorf("dialled %d times after the first %d", now-dials, dials)
				}
			})
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func checkTooLarge(t *testing.T, name string, err error) {
	t.Helper()
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "exceeds the limit of") {
		t.Errorf("%s: got %v, want InvalidArgument with both sizes", name, err)
	}
	for _, d := range status.Convert(err).Details() {
		if o, ok := d.(*kvv1.Outcome); ok && o.GetApplied() == kvv1.Applied_APPLIED_NO {
			return
		}
	}
	t.Errorf("%s: the error does not say that nothing was applied: %v", name, err)
}

// burst proposes many entries at once, so that raft puts them in one message
// larger than the limit.
func burst(t *testing.T, m *member, wait time.Duration) error {
	t.Helper()
	stream, err := m.kv.Stream(within(t, wait))
	if err != nil {
		t.Fatal(err)
	}
	req := &kvv1.StreamRequest{}
	for i := range 20 {
		req.Operations = append(req.Operations, &kvv1.Operation{
			Id: uint64(i), Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: fmt.Appendf(nil, "burst%d", i), Value: make([]byte, 300),
		})
	}
	if err := stream.Send(req); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return err
	}
	for _, r := range resp.GetResults() {
		if r.GetError() != nil {
			return fmt.Errorf("operation %d: %s", r.GetId(), r.GetError().GetMessage())
		}
	}
	return nil
}

func TestMessageOfManyEntries(t *testing.T) {
	for _, chunking := range []string{
		transport.ChunkRaft, transport.ChunkCount, transport.ChunkReactive, transport.ChunkBounded, transport.ChunkFragment,
	} {
		for _, kind := range []string{transport.KindStream, transport.KindUnary} {
			t.Run(chunking+"/"+kind, func(t *testing.T) {
				leader, _, seen := pair(t, chunking, kind, func(c *Config) { c.Packing = replica.PackEntry })
				dials := leader.peer(t, 2).GetDials()
				for range 5 {
					if err := burst(t, leader, time.Minute); err != nil {
						t.Fatal(err)
					}
				}
				largest, _, refused := seen.read()
				want := 0
				if chunking == transport.ChunkReactive {
					want = 1 // it learns from one refusal, and then knows
				}
				if refused != want || largest > kib {
					t.Errorf("%d messages refused, want %d; the largest that arrived has %d bytes", refused, want, largest)
				}
				p := leader.peer(t, 2)
				if p.GetRefusals() != uint64(want) {
					t.Errorf("status counts %d refusals, want %d", p.GetRefusals(), want)
				}
				if p.GetDials() != dials {
					t.Errorf("dialled %d times after the first %d", p.GetDials()-dials, dials)
				}
			})
		}
	}
}

// Under none a message that is too large is sent to nobody: the peer is shown
// as unable to follow, by name, and nothing is tried in a loop.
func TestNoneCannotFollow(t *testing.T) {
	leader, _, seen := pair(t, transport.ChunkNone, transport.KindStream, func(c *Config) { c.Packing = replica.PackEntry })
	if err := burst(t, leader, 2*time.Second); err == nil {
		t.Error("a message above the limit was replicated without chunking")
	}
	eventually(t, "the peer is shown as unable to follow", func() bool {
		return strings.HasPrefix(leader.peer(t, 2).GetProblem(), "cannot follow: message ")
	})
	if p := leader.peer(t, 2).GetProblem(); !strings.HasSuffix(p, "> limit 1024") {
		t.Errorf("the problem reads %q", p)
	}
	if largest, _, refused := seen.read(); largest > kib || refused > 0 {
		t.Errorf("a message of %d bytes came, %d were refused", largest, refused)
	}
}

// A node with a lower limit joins after a larger entry is in the log. Only
// fragment carries it there; otherwise the newcomer is shown as unable to
// follow, by name, while the voters go on, and entries that it could not be sent
// are refused. With the newcomer gone all is as before.
func TestLateJoinerWithLowerLimit(t *testing.T) {
	const low = 64 * kib
	for _, chunking := range []string{
		transport.ChunkNone, transport.ChunkRaft, transport.ChunkCount, transport.ChunkReactive, transport.ChunkBounded, transport.ChunkFragment,
	} {
		t.Run(chunking, func(t *testing.T) {
			limit := Size(4 << 20)
			set := func(o *Options) { o.Config.Chunking, o.Config.MaxMessage = chunking, limit }
			members := startCluster(t, 2, set)
			leader, voter := members[0], members[1]
			put := func(key string, size int) error {
				_, err := leader.kv.Put(within(t, 3*time.Minute), &kvv1.PutRequest{Key: []byte(key), Value: randomBytes(size)})
				return err
			}
			holds := func(m *member, key string, size int) func() bool {
				return func() bool {
					item, _, found := m.Store().Get([]byte(key))
					return found && len(item.Value) == size
				}
			}
			if err := put("large", 1<<20); err != nil {
				t.Fatal(err)
			}
			limit = low
			late := start(t, 3, set)
			// Under all but fragment the learner stays behind, which is no error.
			if _, err := leader.cluster.AddLearner(within(t, 3*time.Minute), &clusterv1.AddLearnerRequest{Id: 3, Address: late.Addr()}); err != nil {
				t.Fatal(err)
			}
			if chunking == transport.ChunkFragment {
				eventually(t, "the learner has the large value", holds(late, "large", 1<<20))
				if err := put("larger", 2<<20); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the learner has the larger value", holds(late, "larger", 2<<20))
				return
			}
			eventually(t, "the learner is shown as unable to follow", func() bool {
				p := leader.peer(t, 3).GetProblem()
				return strings.HasPrefix(p, "cannot follow: message ") && strings.HasSuffix(p, fmt.Sprintf(" > limit %d", low))
			})
			if p := leader.peer(t, 2).GetProblem(); p != "" {
				t.Errorf("the voter has the problem %q", p)
			}
			if err := put("small", 100); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the voter has the small value", holds(voter, "small", 100))
			checkTooLarge(t, "larger", put("larger", 2<<20))
			if _, err := leader.cluster.RemoveNode(within(t, 3*time.Minute), &clusterv1.RemoveNodeRequest{Id: 3}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "larger entries are taken again", func() bool { return put("larger", 2<<20) == nil })
			limit = 4 << 20
			next := start(t, 4, set)
			if _, err := leader.cluster.AddLearner(within(t, 3*time.Minute), &clusterv1.AddLearnerRequest{Id: 4, Address: next.Addr()}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a node that takes more follows", holds(next, "larger", 2<<20))
		})
	}
}

// Under chunk-size auto, status shows where the size of each peer is, and no
// frame is larger than the peer takes.
func TestChunkSizeAutoInStatus(t *testing.T) {
	leader, follower, seen := pair(t, transport.ChunkFragment, transport.KindStream, func(c *Config) {
		c.MaxMessage, c.ChunkSize = 64*kib, AutoChunk
	})
	for i := range 20 {
		value := randomBytes(300 * kib)
		if _, err := leader.kv.Put(within(t, 3*time.Minute), &kvv1.PutRequest{Key: []byte("key"), Value: value}); err != nil {
			t.Fatal(i, err)
		}
	}
	eventually(t, "the follower has the value", func() bool {
		item, _, found := follower.Store().Get([]byte("key"))
		return found && len(item.Value) == 300*kib
	})
	if n := leader.peer(t, 2).GetChunkSizeBytes(); n < 16*kib || n > 64*kib {
		t.Errorf("a chunk size of %d is shown, want 16 to 64 KiB", n)
	}
	if largest, _, refused := seen.read(); largest > 64*kib || refused > 0 {
		t.Errorf("a message of %d bytes came, %d were refused", largest, refused)
	}
	s, err := leader.cluster.Status(t.Context(), &clusterv1.StatusRequest{})
	if err != nil || s.GetConfig()["chunk-size"] != "auto" || s.GetLimits().GetChunkSizeBytes() != 64*kib {
		t.Errorf("status: %v, %v, %v", s.GetConfig()["chunk-size"], s.GetLimits(), err)
	}
}
