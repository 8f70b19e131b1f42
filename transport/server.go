package transport

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// server is the Transport over gRPC, both directions.
type server struct {
	transportv1.UnimplementedRaftTransportServer

	cfg     Config
	handler Handler
	chunker Chunker
	codec   Codec
	log     *slog.Logger
	self    uint64

	ctx     context.Context //nolint:containedctx // the transport's life
	stop    context.CancelFunc
	running sync.WaitGroup

	epoch       atomic.Uint64
	sessions    sessions
	reassembler *Reassembler
	inbound     inboundSnapshots

	throttle       *rate.Limiter // of all snapshots sent; nil when unlimited
	throttledChunk int           // largest chunk that it lets through in time

	setting sync.Mutex // one SetPeers, SetFaults or Close at a time
	roster  roster
	faults  faultTable
	peers   atomic.Pointer[map[uint64]*peer]

	unknownDropped atomic.Uint64

	mu      sync.Mutex // of the rest
	closed  bool
	byNode  map[uint64]*counters
	unknown map[uint64]bool // ids reported since the last SetPeers
	limit   uint64          // last told to the handler
}

// New returns a transport over gRPC. The handler's Identity is asked here for
// the node's id, which never changes.
func New(cfg Config, h Handler) Server {
	cfg = cfg.withDefaults()
	chunker, err := NewChunker(cfg.Chunking)
	if err != nil {
		panic(fmt.Sprintf("transport: %v", err)) // the knobs are checked long before
	}
	codec, err := NewCodec(cfg.Codec)
	if err != nil {
		panic(fmt.Sprintf("transport: %v", err))
	}
	if err := checkCompression(cfg.Compression); err != nil {
		panic(fmt.Sprintf("transport: %v", err))
	}
	s := &server{
		cfg: cfg, handler: h, chunker: chunker, codec: codec, log: cfg.Logger, self: h.Identity().Node,
		sessions: sessions{byNode: make(map[uint64]caller)}, reassembler: NewReassembler(),
		byNode: make(map[uint64]*counters), unknown: make(map[uint64]bool),
		inbound: inboundSnapshots{keep: cfg.SnapshotKeep, limit: cfg.SnapshotLimit, active: make(map[uint64]*arrival)},
		faults:  faultTable{all: cfg.Faults},
	}
	s.throttle, s.throttledChunk = newThrottle(cfg)
	s.ctx, s.stop = context.WithCancel(context.Background())
	// Epochs grow across restarts too, as far as the clock does.
	s.epoch.Store(uint64(time.Now().UnixNano()))
	s.peers.Store(&map[uint64]*peer{})
	s.limitTold(nil, 0)
	s.running.Go(s.sweep)
	return s
}

// sweep drops fragments and snapshots that nobody completes.
func (s *server) sweep() {
	t := time.NewTicker(maxFragmentAge / 6)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			s.reassembler.Expire(now)
			s.inbound.expire(now)
		case <-s.ctx.Done():
			return
		}
	}
}

// Send implements Transport.
func (s *server) Send(messages []*pb.Message) {
	peers := *s.peers.Load()
	for _, m := range messages {
		// raft forwards what others asked of it under their name, which the
		// receiver would take for a forgery. Who asked tries again.
		if p := peers[m.GetTo()]; p != nil && m.GetFrom() == s.self {
			p.send(m)
			continue
		}
		s.drop(m)
	}
}

func (s *server) drop(m *pb.Message) {
	to := m.GetTo()
	s.unknownDropped.Add(1)
	if m.GetType() == pb.MsgSnap {
		s.handler.ReportSnapshot(to, false)
	}
	s.mu.Lock()
	first := !s.unknown[to]
	if len(s.unknown) >= maxStrangers {
		clear(s.unknown)
	}
	s.unknown[to] = true
	s.mu.Unlock()
	if first {
		s.handler.ReportUnreachable(to)
	}
}

// SetPeers implements Transport.
func (s *server) SetPeers(peers []Peer) {
	s.setting.Lock()
	defer s.setting.Unlock()
	s.roster.set(peers)
	s.connect()
}

// learn makes a caller that the membership does not have a peer.
func (s *server) learn(caller Peer) {
	s.setting.Lock()
	defer s.setting.Unlock()
	if s.roster.learn(caller, s.handler.Identity().Leader) {
		s.connect()
	}
}

// recall makes the sender of a message a peer again, if strangers took its place
// before this node knew that it leads.
func (s *server) recall(from uint64) {
	if (*s.peers.Load())[from] != nil || s.handler.Identity().Leader != from {
		return
	}
	if p, known := s.sessions.peer(from); known {
		s.learn(p)
	}
}

// connect makes the peers those of the roster. The caller holds s.setting.
func (s *server) connect() {
	peers := s.roster.all()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	old := *s.peers.Load()
	now := make(map[uint64]*peer, len(peers))
	var begin []Peer
	for _, d := range peers {
		if p := old[d.ID]; p != nil && p.Peer == d {
			now[d.ID] = p
		} else if d.ID != s.self {
			begin = append(begin, d)
		}
	}
	clear(s.unknown)
	s.mu.Unlock()
	for id, p := range old {
		if now[id] == nil {
			p.cancel()
			s.sessions.forget(id)
			s.reassembler.Forget(id)
		}
	}
	for _, d := range begin {
		now[d.ID] = newPeer(s.ctx, s, d)
	}
	s.peers.Store(&now)
	for id := range old {
		s.forget(id)
	}
	s.limitTold(nil, 0)
}

// forget drops what there is about a node that said Hello, unless it is a peer.
func (s *server) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (*s.peers.Load())[id] != nil {
		return
	}
	s.reassembler.Forget(id)
	delete(s.byNode, id)
}

// SetFaults implements Transport.
func (s *server) SetFaults(ids []uint64, f Faults) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	peers := *s.peers.Load()
	if err := s.faults.change(ids, f, slices.Sorted(maps.Keys(peers))); err != nil {
		return err
	}
	for id, p := range peers {
		if len(ids) == 0 || slices.Contains(ids, id) {
			p.path.set(f)
		}
	}
	return nil
}

// Faults implements Transport.
func (s *server) Faults() (others Faults, links []LinkStats) {
	s.setting.Lock()
	defer s.setting.Unlock()
	peers := *s.peers.Load()
	for _, id := range slices.Sorted(maps.Keys(peers)) {
		links = append(links, peers[id].path.stats())
	}
	return s.faults.all, links
}

// Stats implements Transport.
func (s *server) Stats() []PeerStats {
	peers := slices.SortedFunc(maps.Values(*s.peers.Load()), func(a, b *peer) int { return cmp.Compare(a.ID, b.ID) })
	stats := make([]PeerStats, len(peers))
	for i, p := range peers {
		stats[i] = p.stats()
	}
	return stats
}

// Totals implements Transport.
func (s *server) Totals() Totals {
	return Totals{Reassembly: s.reassembler.took, DroppedUnknownPeer: s.unknownDropped.Load()}
}

// Close implements Transport.
func (s *server) Close() error {
	s.setting.Lock()
	defer s.setting.Unlock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
	s.inbound.close()
	return nil
}

// enter counts a goroutine that serves a caller, unless the transport is closed.
func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// counters returns those of a node, made if there are none: of peers, and of
// callers that are remembered.
func (s *server) counters(id uint64) *counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byNode[id]
	if c == nil {
		c = newCounters()
		s.byNode[id] = c
	}
	return c
}

// limitTold notes the receive limit that a peer told, and tells the handler
// what entries can be sent to every peer now.
func (s *server) limitTold(c *counters, limit uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c != nil {
		c.receiveLimit.Store(limit)
	}
	least := uint64(max(MinLimit, s.cfg.MaxMessage))
	for _, p := range *s.peers.Load() {
		if told := p.count.receiveLimit.Load(); told > 0 {
			least = min(least, told)
		}
	}
	if entry := MaxEntryBytes(s.cfg.Chunking, FrameLimit(s.cfg.Compression, int(least))); entry != s.limit {
		s.limit = entry
		s.handler.EntryLimit(entry) // in order, hence under the lock
	}
}

// Register implements Server.
func (s *server) Register(r grpc.ServiceRegistrar) {
	d := transportv1.RaftTransport_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	for i := range d.Methods {
		if d.Methods[i].MethodName == "Send" {
			d.Methods[i].Handler = sendHandler
		}
	}
	r.RegisterService(&d, service{s})
}

// service is the server as gRPC sees it, where Send is an RPC.
type service struct{ *server }

// Send implements the RPC in name: sendHandler takes its calls.
func (s service) Send(context.Context, *transportv1.Frame) (*transportv1.FrameAck, error) {
	return nil, status.Error(codes.Unimplemented, "served by the handler that Register gives")
}
