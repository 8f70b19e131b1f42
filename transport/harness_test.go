package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
)

// fakeNode is what stands above a transport in these tests.
type fakeNode struct {
	mu       sync.Mutex
	identity Identity
	members  map[uint64]Peer
	stepped  []*pb.Message
	steps    int
	keep     bool // stepped messages
	down     map[uint64]int
	reports  []bool
	limits   []uint64
	refused  []error

	snapshot   []byte // what OpenSnapshot gives
	openErr    error
	taken      *bytes.Buffer // what AcceptSnapshot got
	accepts    int
	onTaken    func(step string, n int) // called at accept, write and commit with the bytes taken
	onRead     func(offset int)         // called before the sender reads there
	committed  []byte                   // of the last commit
	commits    int
	commitTerm uint64
	aborts     int
	needless   bool          // snapshots are of no use
	changed    chan struct{} // capacity 1
}

func newFakeNode(id uint64) *fakeNode {
	return &fakeNode{
		identity: Identity{ClusterID: 77, Node: id, Incarnation: 1000 + id}, keep: true,
		members: map[uint64]Peer{}, down: map[uint64]int{}, changed: make(chan struct{}, 1),
	}
}

func (n *fakeNode) change(f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

func (n *fakeNode) Identity() Identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.identity
}

func (n *fakeNode) Peer(id uint64) (Peer, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.members[id]
	return p, ok
}

func (n *fakeNode) Step(m *pb.Message) {
	n.change(func() {
		n.steps++
		if n.keep {
			n.stepped = append(n.stepped, m)
		}
	})
}

func (n *fakeNode) ReportUnreachable(id uint64) { n.change(func() { n.down[id]++ }) }
func (n *fakeNode) ReportSnapshot(_ uint64, ok bool) {
	n.change(func() { n.reports = append(n.reports, ok) })
}

func (n *fakeNode) EntryLimit(bytes uint64) { n.change(func() { n.limits = append(n.limits, bytes) }) }

func (n *fakeNode) Refused(err error) { n.change(func() { n.refused = append(n.refused, err) }) }

func (n *fakeNode) OpenSnapshot(*pb.Message) (io.ReadCloser, error) {
	if n.openErr != nil {
		return nil, n.openErr
	}
	return io.NopCloser(&hookedReader{node: n, left: n.snapshot}), nil
}

func (n *fakeNode) AcceptSnapshot(*pb.Message) (SnapshotWriter, error) {
	n.change(func() { n.taken, n.accepts = new(bytes.Buffer), n.accepts+1 })
	n.at("accept")
	return &fakeWriter{node: n}, nil
}

// hookedReader tells where the sender is.
type hookedReader struct {
	node *fakeNode
	left []byte
}

func (r *hookedReader) Read(p []byte) (int, error) {
	if r.node.onRead != nil {
		r.node.onRead(len(r.node.snapshot) - len(r.left))
	}
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (n *fakeNode) at(step string) {
	if n.onTaken != nil {
		n.onTaken(step, n.taken.Len())
	}
}

type fakeWriter struct{ node *fakeNode }

func (w *fakeWriter) Write(p []byte) (int, error) {
	w.node.taken.Write(p)
	w.node.at("write")
	return len(p), nil
}

func (w *fakeWriter) Needed() bool {
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	return !w.node.needless
}

func (w *fakeWriter) Commit(m *pb.Message) error {
	var err error
	w.node.change(func() {
		w.node.commits++
		w.node.commitTerm = m.GetTerm()
		w.node.committed = bytes.Clone(w.node.taken.Bytes())
		if bytes.HasPrefix(w.node.taken.Bytes(), []byte("bad")) {
			err = errors.New("verification failed")
		}
	})
	w.node.at("commit")
	return err
}

func (w *fakeWriter) Abort() { w.node.change(func() { w.node.aborts++ }) }

// await waits until cond holds of the node.
func (n *fakeNode) await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		n.mu.Lock()
		ok := cond()
		n.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-n.changed:
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("timed out: %s", what)
		}
	}
}

// wireStats sees every message that arrives at a gRPC server.
type wireStats struct {
	mu      sync.Mutex
	largest int
	frames  int
}

func (*wireStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*wireStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*wireStats) HandleConn(context.Context, stats.ConnStats)                       {}
func (w *wireStats) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.largest = max(w.largest, in.Length)
		if _, frame := in.Payload.(*incoming); frame {
			w.frames++
		}
	}
}

func (w *wireStats) get() (frames, largest int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frames, w.largest
}

// testServer is a transport on a real port.
type testServer struct {
	*fakeNode
	transport Server
	grpc      *grpc.Server
	address   string
	wire      *wireStats
	logs      *logs
}

// logs keeps what is logged at debug, too.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.b.Bytes(), []byte(text))
}

func startServer(t testing.TB, id uint64, cfg Config) *testServer {
	t.Helper()
	return startServerAt(t, newFakeNode(id), cfg, "127.0.0.1:0")
}

func startServerAt(t testing.TB, node *fakeNode, cfg Config, address string) *testServer {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return startServerOn(t, node, cfg, l)
}

func startServerOn(t testing.TB, node *fakeNode, cfg Config, l net.Listener) *testServer {
	t.Helper()
	s := &testServer{fakeNode: node, address: l.Addr().String(), wire: new(wireStats), logs: new(logs)}
	cfg = cfg.withDefaults()
	cfg.Logger = slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(cfg.MaxMessage), grpc.StatsHandler(s.wire), experimental.BufferPool(buffers),
		grpc.ForceServerCodecV2(ServerCodec()),
		grpc.StaticStreamWindowSize(1<<20), grpc.StaticConnWindowSize(1<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	s.transport = New(cfg, node)
	s.transport.Register(s.grpc)
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		s.grpc.Serve(l) //nolint:errcheck // ends with Stop
	}()
	t.Cleanup(func() {
		s.stop(t)
		<-serving
	})
	return s
}

func (s *testServer) stop(t testing.TB) {
	if err := s.transport.Close(); err != nil {
		t.Error(err)
	}
	s.grpc.Stop()
}

func (s *testServer) peer() Peer {
	id := s.Identity()
	return Peer{ID: id.Node, Incarnation: id.Incarnation, Address: s.address}
}

// connect makes each know the other, and waits for the connections.
func connect(t testing.TB, a, b *testServer) {
	t.Helper()
	for _, pair := range [][2]*testServer{{a, b}, {b, a}} {
		pair[0].change(func() { pair[0].members[pair[1].identity.Node] = pair[1].peer() })
		pair[0].transport.SetPeers([]Peer{pair[1].peer()})
	}
	for _, s := range []*testServer{a, b} {
		s.await(t, "connection", func() bool { return s.transport.Stats()[0].Connected })
	}
}

func (s *testServer) stat() PeerStats { return s.transport.Stats()[0] }

func pair(t testing.TB, cfg Config) (a, b *testServer) {
	t.Helper()
	a, b = startServer(t, 1, cfg), startServer(t, 2, cfg)
	connect(t, a, b)
	return a, b
}

func heartbeat(from, to uint64) *pb.Message {
	return &pb.Message{Type: pb.MsgHeartbeat.Enum(), To: new(to), From: new(from), Term: new(uint64(3)), Commit: new(uint64(1))}
}
