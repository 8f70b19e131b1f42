package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Lanes by index. With shared lanes, both are the same one.
const (
	laneControl = iota
	laneLog
)

// peer is another node as this one sends to it: its lanes, the way to it, its
// snapshot under way.
type peer struct {
	Peer
	server *server
	count  *counters
	path   path
	ctx    context.Context //nolint:containedctx // the time it is a peer
	cancel context.CancelFunc

	lanes   []*lane // one when shared
	follow  atomic.Pointer[string]
	learned atomic.Int64 // limit learned from a refusal; 0 before

	snapshot *connection
	sending  outboundSnapshot
}

func newPeer(ctx context.Context, s *server, description Peer) *peer {
	p := &peer{Peer: description, server: s, count: s.counters(description.ID)}
	p.path.from, p.path.to, p.path.count = s.self, p.ID, p.count
	p.path.set(s.faults.of(p.ID))
	ctx, p.cancel = context.WithCancel(ctx)
	p.ctx = ctx
	names := []string{"control", "log"}
	if s.cfg.Lanes == LanesShared {
		names = []string{"shared"}
	}
	for _, name := range names {
		l := &lane{
			peer: p, name: name, queue: newQueue(s.cfg.QueueBytes), conn: &connection{peer: p},
			limits: Limits{Chunk: s.cfg.ChunkSize, Count: s.cfg.ChunkCount},
		}
		p.lanes = append(p.lanes, l)
	}
	if s.cfg.ChunkAuto && ReadsChunk(s.cfg.Chunking) {
		p.lanes[len(p.lanes)-1].sizer = newSizer(s.cfg.ChunkSize)
	}
	for _, l := range p.lanes {
		s.running.Go(func() { l.run(ctx) })
	}
	p.snapshot = &connection{peer: p}
	context.AfterFunc(ctx, p.snapshot.close)
	return p
}

// acknowledged says that the peer's log has all entries up to index.
func (p *peer) acknowledged(index uint64, now time.Time) {
	if s := p.lanes[len(p.lanes)-1].sizer; s != nil {
		s.acknowledged(index, now)
	}
}

// send queues a message. It never blocks.
func (p *peer) send(m *pb.Message) {
	if m.GetType() == pb.MsgSnap {
		p.startSnapshot(m)
		return
	}
	if k := p.path.link.Load(); k != nil {
		p.path.pass(p.ctx, k, m, p.push)
		return
	}
	p.push(queued{message: m, size: messageSize(m)})
}

// push queues a message in its lane.
func (p *peer) push(q queued) {
	l := p.lanes[min(laneOf(q.message), len(p.lanes)-1)]
	dropped, overflowed := l.queue.push(q)
	p.count.drop(dropped, 1)
	if overflowed {
		p.server.log.Warn("queue to peer overflows", "peer", p.ID, "lane", l.name)
		p.server.handler.ReportUnreachable(p.ID)
	}
}

// unreachable reports the peer, once until it can be reached again.
func (p *peer) unreachable() {
	if p.count.unreachable.CompareAndSwap(false, true) {
		p.server.handler.ReportUnreachable(p.ID)
	}
}

// cannotFollow shows that the peer can't be sent what it needs. It is reported
// once, so that raft stops streaming to it; raft goes on probing it, and each
// probe ends here.
func (p *peer) cannotFollow(err error) {
	text := err.Error()
	p.count.drop(droppedCannotFollow, 1)
	if old := p.follow.Swap(&text); old == nil {
		p.server.log.Warn("peer cannot follow", "peer", p.ID, "problem", text)
		p.server.handler.ReportUnreachable(p.ID)
	}
}

func (p *peer) stats() PeerStats {
	s := PeerStats{ID: p.ID, Address: p.Address, Connected: true}
	p.count.fill(&s)
	problem, refused := p.follow.Load(), false
	for _, l := range p.lanes {
		s.Connected = s.Connected && l.up.Load()
		s.QueueBytes += uint64(max(0, l.queue.bytes.Load()))
		if why := l.problem.Load(); why != nil && !refused {
			problem, refused = &why.text, why.refused
		}
	}
	if l := p.lanes[len(p.lanes)-1]; ReadsChunk(p.server.cfg.Chunking) {
		limits := Limits{Chunk: l.limits.Chunk, Receive: FrameLimit(p.server.cfg.Compression, int(min(s.ReceiveLimitBytes, math.MaxInt32)))}
		if l.sizer != nil {
			limits.Chunk = l.sizer.now()
		}
		target, _ := limits.bounds()
		s.ChunkSizeBytes = uint64(target)
	}
	if problem == nil {
		problem = p.count.problem.Load() // of the last snapshot
	}
	if problem != nil {
		s.Problem = *problem
	} else {
		s.Problem = p.path.problem()
	}
	return s
}

// Timeouts and bounds of a connection. gRPC's own defaults are none of these:
// its back-off grows to two minutes and its client takes 4 MiB.
const (
	helloTimeout    = 3 * time.Second
	keepaliveTime   = 10 * time.Second // the least that gRPC's client does
	keepaliveWait   = 5 * time.Second
	maxAnswer       = 64 << 10 // answers are acknowledgements
	maxHeaderListKB = 16
)

// connection is one connection to a peer, made on demand and kept until it
// breaks.
type connection struct {
	peer *peer

	mu     sync.Mutex
	conn   *grpc.ClientConn
	closed bool
}

var errClosed = errors.New("transport is closed")

// client returns the connection, made if there is none.
func (c *connection) client() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if c.conn != nil {
		return c.conn, nil
	}
	p, cfg := c.peer, &c.peer.server.cfg
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			p.count.dials.Add(1)
			return cfg.Dial(ctx, address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: helloTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveWait}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxAnswer),
			grpc.MaxCallSendMsgSize(1<<31-1), // the Chunker's business
			grpc.CallContentSubtype(contentSubtype(p.server.codec)),
		),
		experimental.WithBufferPool(buffers),
		grpc.WithMaxHeaderListSize(maxHeaderListKB << 10),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	}
	if cfg.Compression != CompressionNone {
		options = append(options, grpc.WithDefaultCallOptions(grpc.UseCompressor(cfg.Compression)), grpc.WithStatsHandler(wireCounter{p.count}))
	}
	if n := cfg.GRPCWindow; n > 0 {
		window := int32(min(n, 1<<31-1))
		options = append(options, grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
	}
	if n := cfg.GRPCWriteBuffer; n > 0 {
		options = append(options, grpc.WithWriteBufferSize(n))
	}
	// The dialer resolves names, anew for each connection.
	conn, err := grpc.NewClient("passthrough:///"+p.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", p.Address, err)
	}
	c.conn = conn
	return conn, nil
}

// drop closes a connection that may be broken; the next use makes another.
func (c *connection) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close() //nolint:errcheck,gosec // it is given up
		c.conn = nil
	}
}

// close ends the connection for good.
func (c *connection) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop()
}

// hello says who calls, on the connection there is or on a new one, and learns
// the peer's receive limit.
func (c *connection) hello(ctx context.Context, epoch uint64) (limit int, err error) {
	conn, err := c.client()
	if err != nil {
		return 0, err
	}
	p := c.peer
	self := p.server.handler.Identity()
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	began := time.Now()
	answer, err := transportv1.NewRaftTransportClient(conn).Hello(ctx, &transportv1.HelloRequest{
		Protocol: protocolVersion, ClusterId: self.ClusterID,
		From: self.Node, FromIncarnation: self.Incarnation,
		To: p.ID, ToIncarnation: p.Incarnation,
		ReceiveLimitBytes: uint64(p.server.cfg.MaxMessage),
		Epoch:             epoch,
		FromAddress:       self.PeerAddress,
	})
	if err == nil {
		err = checkHelloAnswer(self, p.Peer, answer)
	}
	if err != nil {
		if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
			c.drop()
		}
		return 0, err
	}
	p.count.firstRoundTrip(time.Since(began))
	p.server.limitTold(p.count, answer.GetReceiveLimitBytes())
	return int(min(answer.GetReceiveLimitBytes(), 1<<31-1)), nil
}

// refusal is what a peer's gRPC says about a message above its limit.
type refusal struct{ size, limit int }

// The second is about what a compressed message inflates to, of which gRPC tells
// no size.
var (
	refusalText         = regexp.MustCompile(`received message larger than max \((\d+) vs\. (\d+)\)`)
	inflatedRefusalText = regexp.MustCompile(`received message after decompression larger than max (\d+)`)
)

// parseRefusal reads the text of grpc-go, the only place where it tells the
// limit.
func parseRefusal(err error) (refusal, bool) {
	if status.Code(err) != codes.ResourceExhausted {
		return refusal{}, false
	}
	text := status.Convert(err).Message()
	if found := inflatedRefusalText.FindStringSubmatch(text); found != nil {
		limit, err := strconv.Atoi(found[1])
		return refusal{limit + 1, limit}, err == nil && limit >= MinLimit
	}
	found := refusalText.FindStringSubmatch(text)
	if found == nil {
		return refusal{}, false
	}
	size, err1 := strconv.Atoi(found[1])
	limit, err2 := strconv.Atoi(found[2])
	return refusal{size, limit}, err1 == nil && err2 == nil && limit >= MinLimit && limit < size
}
