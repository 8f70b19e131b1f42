package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/raft/v3/raftpb"

	"raftlab/kv/metric"
	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Network connects nodes of one process. Nothing is serialised, so nothing is
// split either: chunking has no meaning here.
//
// Without faults, a message is handed over by calling the receiver's Step from
// Send itself, which by contract does not block: a queue in between would be a
// second inbox and a goroutine switch a message. With them, the ordered pair has
// a queue, a delay line and two goroutines.
type Network struct {
	mu    sync.RWMutex
	nodes map[uint64]*localNode
}

// NewNetwork returns a network without nodes.
func NewNetwork() *Network { return &Network{nodes: make(map[uint64]*localNode)} }

// Join connects a node. One that joins under an id that is there takes its
// place.
func (n *Network) Join(id uint64, cfg Config, h Handler) Transport {
	t := &localNode{network: n, id: id, cfg: cfg.withDefaults(), handler: h, faults: faultTable{all: cfg.Faults}}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.peers.Store(&map[uint64]*localPeer{})
	n.mu.Lock()
	n.nodes[id] = t
	n.mu.Unlock()
	h.EntryLimit(MaxEntryBytes(ChunkFragment, 0))
	return t
}

// Leave cuts a node off: what others send to it, and what it sends, is lost and
// reported, until it joins again.
func (n *Network) Leave(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.nodes, id)
}

// between returns the receiver of what a node sends to an id; nil when one of
// them is cut off.
func (n *Network) between(from *localNode, to uint64) *localNode {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.nodes[from.id] != from {
		return nil
	}
	return n.nodes[to]
}

// localNode is the Transport of one node.
type localNode struct {
	network *Network
	id      uint64
	cfg     Config
	handler Handler

	ctx     context.Context //nolint:containedctx // the transport's life
	stop    context.CancelFunc
	running sync.WaitGroup

	unknown        sync.Map // ids reported since the last SetPeers
	unknownDropped atomic.Uint64

	mu     sync.Mutex // one SetPeers, SetFaults or Close at a time
	closed bool
	roster roster
	faults faultTable
	peers  atomic.Pointer[map[uint64]*localPeer]
}

// localPeer is another node as this one sends to it.
type localPeer struct {
	Peer
	node   *localNode
	ctx    context.Context //nolint:containedctx // the time it is a peer
	cancel context.CancelFunc
	path   path
	queue  *queue                  // what goes by a link, until it has arrived
	line   *delayLine[*pb.Message] // nil before there is a link; guarded by node.mu
	count  counters

	greeted      atomic.Pointer[localNode] // the receiver that took a Hello
	transferring atomic.Bool
}

// Send implements Transport.
func (t *localNode) Send(messages []*pb.Message) {
	peers := *t.peers.Load()
	for _, m := range messages {
		p := peers[m.GetTo()]
		switch {
		case p == nil || m.GetFrom() != t.id:
			t.unknownDropped.Add(1)
			if m.GetType() == pb.MsgSnap {
				t.handler.ReportSnapshot(m.GetTo(), false)
			}
			if _, reported := t.unknown.LoadOrStore(m.GetTo(), true); !reported {
				t.handler.ReportUnreachable(m.GetTo())
			}
		case m.GetType() == pb.MsgSnap:
			p.startSnapshot(m)
		default:
			p.send(m)
		}
	}
}

// send hands a message over, or to the link. What was sent before a link was
// healed stays in front of what is sent after.
func (p *localPeer) send(m *pb.Message) {
	k := p.path.link.Load()
	switch {
	case k != nil:
		p.path.pass(p.ctx, k, m, p.push)
	case p.queue.bytes.Load() > 0:
		p.push(queued{message: m, size: messageSize(m)})
	default:
		p.deliver(m)
	}
}

func (p *localPeer) push(q queued) {
	dropped, overflowed := p.queue.push(q)
	p.count.drop(dropped, 1)
	if overflowed {
		p.node.handler.ReportUnreachable(p.ID)
	}
}

// deliver hands a message to the receiver that is there now.
func (p *localPeer) deliver(m *pb.Message) {
	to := p.receiver()
	if to == nil {
		p.count.drop(droppedUnconnected, 1)
		p.unreachable()
		return
	}
	p.count.messagesSent.Add(1)
	p.count.sent(&Frame{Message: m, Entries: m.Entries})
	if back := (*to.peers.Load())[p.node.id]; back != nil {
		back.count.messagesReceived.Add(1)
	}
	to.handler.Step(handOver(m))
}

func (p *localPeer) unreachable() {
	if p.count.unreachable.CompareAndSwap(false, true) {
		p.node.handler.ReportUnreachable(p.ID)
	}
}

// receiver returns the node to deliver to, once it took a Hello; nil when it is
// cut off or refuses.
func (p *localPeer) receiver() *localNode {
	to := p.node.network.between(p.node, p.ID)
	if to == nil {
		p.show("cut off")
		p.greeted.Store(nil)
		return nil
	}
	if p.greeted.Load() == to {
		return to
	}
	self := p.node.handler.Identity()
	known, member := to.handler.Peer(self.Node)
	fatal, err := checkHello(to.handler.Identity(), known, member, &transportv1.HelloRequest{
		Protocol: protocolVersion, ClusterId: self.ClusterID, From: self.Node, FromIncarnation: self.Incarnation,
		To: p.ID, ToIncarnation: p.Incarnation, ReceiveLimitBytes: MinLimit,
	})
	if err != nil {
		p.show(err.Error())
		if fatal {
			to.handler.Refused(err)
		}
		return nil
	}
	if !member {
		to.learn(Peer{ID: self.Node, Incarnation: self.Incarnation, Address: self.PeerAddress})
	}
	p.count.problem.Store(nil)
	p.count.unreachable.Store(false)
	p.greeted.Store(to)
	return to
}

func (p *localPeer) show(problem string) { p.count.problem.Store(&problem) }

// handOver copies what the receiving raft may change: the message's own fields
// (it forwards some under another To) and the list of entries (it appends to
// it). The entries are immutable.
func handOver(m *pb.Message) *pb.Message {
	return &pb.Message{
		Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index,
		Entries: slices.Clone(m.Entries), Commit: m.Commit, Vote: m.Vote, Snapshot: m.Snapshot,
		Reject: m.Reject, RejectHint: m.RejectHint, Context: m.Context,
	}
}

// SetPeers implements Transport.
func (t *localNode) SetPeers(peers []Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.roster.set(peers)
	t.connect()
}

// learn makes a caller that the membership does not have a peer.
func (t *localNode) learn(caller Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.roster.learn(caller, t.handler.Identity().Leader) {
		t.connect()
	}
}

// connect makes the peers those of the roster. The caller holds t.mu.
func (t *localNode) connect() {
	if t.closed {
		return
	}
	peers := t.roster.all()
	old := *t.peers.Load()
	now := make(map[uint64]*localPeer, len(peers))
	for _, d := range peers {
		if p := old[d.ID]; p != nil && p.Peer == d {
			now[d.ID] = p
		} else if d.ID != t.id {
			now[d.ID] = t.newPeer(d)
		}
	}
	for id, p := range old {
		if now[id] != p {
			p.cancel()
		}
	}
	t.unknown.Clear()
	t.peers.Store(&now)
}

func (t *localNode) newPeer(d Peer) *localPeer {
	p := &localPeer{Peer: d, node: t}
	metric.Make(&p.count.histograms)
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	p.queue = newQueue(t.cfg.QueueBytes)
	p.path.from, p.path.to, p.path.count = t.id, d.ID, &p.count
	p.setFaults(t.faults.of(d.ID))
	return p
}

// SetFaults implements Transport.
func (t *localNode) SetFaults(ids []uint64, f Faults) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	peers := *t.peers.Load()
	if err := t.faults.change(ids, f, slices.Sorted(maps.Keys(peers))); err != nil {
		return err
	}
	for id, p := range peers {
		if !t.closed && (len(ids) == 0 || slices.Contains(ids, id)) {
			p.setFaults(f)
		}
	}
	return nil
}

// Faults implements Transport.
func (t *localNode) Faults() (others Faults, links []LinkStats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	peers := *t.peers.Load()
	for _, id := range slices.Sorted(maps.Keys(peers)) {
		links = append(links, peers[id].path.stats())
	}
	return t.faults.all, links
}

// setFaults changes the link, and starts what carries messages by one when there
// is none yet. The caller holds node.mu, and the node is not closed.
func (p *localPeer) setFaults(f Faults) {
	if !f.none() && p.line == nil {
		p.line = newDelayLine[*pb.Message]()
		p.node.running.Go(p.feed)
		p.node.running.Go(p.arrive)
	}
	p.path.set(f)
}

func (t *localNode) sleeper() *sleeper {
	if t.cfg.virtualTime {
		return &sleeper{}
	}
	return newSleeper()
}

// feed puts what is queued onto the link as it gets free.
func (p *localPeer) feed() {
	s := p.node.sleeper()
	defer s.close()
	for {
		batch := p.queue.take()
		if len(batch) == 0 {
			select {
			case <-p.queue.wake:
				continue
			case <-p.ctx.Done():
				return
			}
		}
		for _, q := range batch {
			k, at, err := p.path.admit(p.ctx, s, q, q.size)
			if err != nil {
				return
			}
			p.line.put(k, at, q.message)
		}
	}
}

// arrive delivers what the link has carried.
func (p *localPeer) arrive() {
	s := p.node.sleeper()
	defer s.close()
	p.line.run(p.ctx, s, func(m **pb.Message) error { //nolint:errcheck,gosec // ends with the peer only
		p.deliver(*m)
		p.queue.release(messageSize(*m)) // what is sent from now on needs no queue
		return nil
	})
}

// Stats implements Transport. Frames and bytes are those that the messages
// would have made, unsplit.
func (t *localNode) Stats() []PeerStats {
	peers := slices.SortedFunc(maps.Values(*t.peers.Load()), func(a, b *localPeer) int { return cmp.Compare(a.ID, b.ID) })
	stats := make([]PeerStats, len(peers))
	for i, p := range peers {
		s := &stats[i]
		p.count.fill(s)
		s.ID, s.Address, s.Connected = p.ID, p.Address, t.network.between(t, p.ID) != nil
		s.QueueBytes = uint64(max(0, p.queue.bytes.Load()))
		if text := p.count.problem.Load(); text != nil {
			s.Problem = *text
		} else {
			s.Problem = p.path.problem()
		}
	}
	return stats
}

// Totals implements Transport.
func (t *localNode) Totals() Totals { return Totals{DroppedUnknownPeer: t.unknownDropped.Load()} }

// Close implements Transport. The node leaves the network.
func (t *localNode) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.network.mu.Lock()
	if t.network.nodes[t.id] == t {
		delete(t.network.nodes, t.id)
	}
	t.network.mu.Unlock()
	t.stop()
	t.running.Wait()
	return nil
}

// startSnapshot copies a snapshot from this node's handler to the receiver's.
func (p *localPeer) startSnapshot(m *pb.Message) {
	t := p.node
	if p.path.losesSnapshot() {
		t.handler.ReportSnapshot(p.ID, false)
		return
	}
	t.mu.Lock()
	begin := !t.closed && p.transferring.CompareAndSwap(false, true)
	if begin {
		t.running.Add(1)
	}
	t.mu.Unlock()
	if !begin {
		t.handler.ReportSnapshot(p.ID, false)
		return
	}
	go func() {
		defer t.running.Done()
		err := p.copySnapshot(m)
		if err != nil {
			p.show("snapshot: " + err.Error())
			t.cfg.Logger.Warn("snapshot to peer failed", "peer", p.ID, "error", err)
		} else {
			p.count.problem.Store(nil)
			p.count.snapshotsSent.Add(1)
		}
		p.transferring.Store(false)
		t.handler.ReportSnapshot(p.ID, err == nil)
	}()
}

var errCutOff = errors.New("cut off")

// open blocks while there is a partition, for as long as a transfer may make no
// progress.
func (p *localPeer) open(s *sleeper) error {
	patience := p.node.cfg.SnapshotTimeout
	ctx, cancel := context.WithTimeoutCause(p.ctx, patience, fmt.Errorf("no progress for %v", patience))
	defer cancel()
	if err := p.path.open(ctx, s); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (p *localPeer) copySnapshot(m *pb.Message) error {
	to := p.receiver()
	if to == nil {
		return errCutOff
	}
	from, err := p.node.handler.OpenSnapshot(m)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	w, err := to.handler.AcceptSnapshot(handOver(m))
	if err != nil {
		return err
	}
	s := p.node.sleeper()
	defer s.close()
	buf := make([]byte, SnapshotChunk(p.node.cfg.ChunkSize))
	for {
		n, err := readChunk(from, buf)
		if err == nil {
			err = p.open(s)
		}
		if err == nil {
			_, err = p.path.carry(p.ctx, s, queued{}, n)
		}
		if err == nil && (p.ctx.Err() != nil || p.receiver() != to) {
			err = errCutOff
		}
		if err == nil {
			_, err = w.Write(buf[:n])
		}
		if err != nil {
			w.Abort()
			return err
		}
		p.count.snapshotBytesSent.Add(uint64(n))
		if n > 0 {
			p.count.snapshotChunksSent.Add(1)
		}
		if n < len(buf) {
			return w.Commit(handOver(m))
		}
	}
}
