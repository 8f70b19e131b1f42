package transport

import (
	"context"
	"errors"
	"io"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Hello implements transportv1.RaftTransportServer.
func (s *server) Hello(_ context.Context, r *transportv1.HelloRequest) (*transportv1.HelloResponse, error) {
	self := s.handler.Identity()
	known, member := s.handler.Peer(r.GetFrom())
	fatal, err := checkHello(self, known, member, r)
	if fatal {
		s.handler.Refused(err)
	}
	if err != nil {
		s.log.Warn("refused a caller", "from", r.GetFrom(), "error", status.Convert(err).Message())
		return nil, err
	}
	from := Peer{ID: r.GetFrom(), Incarnation: r.GetFromIncarnation(), Address: r.GetFromAddress()}
	restarted, evicted := s.sessions.add(from, r.GetEpoch(), member)
	if restarted {
		s.reassembler.Forget(r.GetFrom())
	}
	if evicted != 0 {
		s.forget(evicted)
	}
	if member {
		s.limitTold(s.counters(r.GetFrom()), r.GetReceiveLimitBytes())
	} else {
		s.learn(from)
	}
	return &transportv1.HelloResponse{
		Protocol: protocolVersion, ClusterId: self.ClusterID, Node: self.Node, Incarnation: self.Incarnation,
		ReceiveLimitBytes: uint64(s.cfg.MaxMessage),
	}, nil
}

// checkFrame wants a frame to be for this node and from one that said Hello.
func (s *server) checkFrame(f *Frame) error {
	if f.To != s.self {
		return status.Errorf(codes.PermissionDenied, "frame for node %d at node %d", f.To, s.self)
	}
	if !s.sessions.has(f.From, f.Epoch) {
		return status.Errorf(codes.PermissionDenied, "frame from node %d, epoch %d, which did not say Hello", f.From, f.Epoch)
	}
	return nil
}

// accept takes in a frame whose sender was checked. What it hands up does not
// lie in memory that is given back.
func (s *server) accept(f *Frame, c *counters, now time.Time) error {
	c.received(f.size)
	m := f.Message
	if f.Fragment.Total > 0 {
		var err error
		if m, err = s.reassembler.Add(f, now); m == nil {
			return err
		}
	} else if m != nil {
		m.Entries = f.Entries
	}
	if err := Validate(m, s.self, f.From); err != nil {
		return err
	}
	c.messagesReceived.Add(1)
	if s.cfg.ChunkAuto && m.GetType() == pb.MsgAppResp && !m.GetReject() {
		if p := (*s.peers.Load())[f.From]; p != nil {
			p.acknowledged(m.GetIndex(), now)
		}
	}
	s.handler.Step(m)
	s.recall(f.From)
	return nil
}

// malformed is the answer to bytes that are no frame.
func malformed(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

// sendHandler stands for the generated one: it lets the codec decode a frame
// without the generated message.
func sendHandler(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's order
	in := newIncoming(ctx)
	defer in.release()
	answerPlain(ctx)
	if err := decode(in); err != nil {
		return nil, err
	}
	handle := func(context.Context, any) (any, error) { return srv.(service).receiveOne(in) }
	if interceptor == nil {
		return handle(ctx, in)
	}
	return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: transportv1.RaftTransport_Send_FullMethodName}, handle)
}

func (s *server) receiveOne(in *incoming) (*transportv1.FrameAck, error) {
	if !s.enter() {
		return nil, errStopping
	}
	defer s.running.Done()
	var f Frame
	if err := in.identify(&f); err != nil {
		return nil, malformed(err)
	}
	if err := s.checkFrame(&f); err != nil {
		return nil, err
	}
	if err := in.decode(&f); err != nil {
		return nil, malformed(err)
	}
	if err := s.accept(&f, s.counters(f.From), time.Now()); err != nil {
		return nil, s.refuse(&f, err)
	}
	return new(transportv1.FrameAck), nil
}

// answerPlain keeps gRPC from answering in the compression that it was called
// in: an acknowledgement of a few bytes gets no smaller.
func answerPlain(ctx context.Context) {
	grpc.SetSendCompressor(ctx, encoding.Identity) //nolint:errcheck,gosec // outside an RPC, as in a test, there is nothing to keep from
}

var errStopping = status.Error(codes.Unavailable, "node is stopping")

// refuse logs why a peer's frame was not taken.
func (s *server) refuse(f *Frame, err error) error {
	s.log.Warn("refused a frame", "from", f.From, "error", status.Convert(err).Message())
	return err
}

// Channel implements transportv1.RaftTransportServer. The frames are received
// in a goroutine of their own only so that Close can end the stream: nothing
// else makes a receive on the server's side return.
func (s *server) Channel(rpc grpc.BidiStreamingServer[transportv1.Frame, transportv1.Control]) error {
	if !s.enter() {
		return errStopping
	}
	ended := make(chan error, 1)
	go func() {
		defer s.running.Done()
		ended <- s.receive(rpc)
	}()
	select {
	case err := <-ended:
		return err
	case <-s.ctx.Done():
		return errStopping
	}
}

// A Control goes back after that many frames or bytes or that much time,
// whichever comes first, and before the stream ends.
const (
	controlFrames = 64
	controlBytes  = 1 << 20
	controlEvery  = 100 * time.Millisecond
)

// receive takes in the frames of one stream until it ends.
func (s *server) receive(rpc grpc.ServerStream) error {
	answerPlain(rpc.Context())
	// The caller's gRPC keeps what it sent until it hears something.
	if err := rpc.SendHeader(nil); err != nil {
		return err
	}
	in := newIncoming(rpc.Context())
	defer in.release()
	var (
		f               Frame
		c               *counters
		from, epoch     uint64
		frames, bytes   int
		answered        time.Time
		last, lastAcked uint64
		control         transportv1.Control
	)
	answer := func(held time.Duration) error {
		control.EchoSequence, control.HoldNanos = last, uint64(held)
		frames, bytes, lastAcked = 0, 0, last
		return rpc.SendMsg(&control)
	}
	for {
		in.release()
		err := rpc.RecvMsg(in)
		if err != nil {
			if last != lastAcked {
				answer(0) //nolint:errcheck,gosec // tells which frame was refused, if it still can
			}
			s.reassembler.End(from, epoch)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		now := time.Now()
		if err := in.identify(&f); err != nil {
			return malformed(err)
		}
		if c == nil {
			if err := s.checkFrame(&f); err != nil {
				return err
			}
			from, epoch, c = f.From, f.Epoch, s.counters(f.From)
		}
		if f.From != from || f.Epoch != epoch || f.To != s.self {
			return status.Errorf(codes.PermissionDenied, "frame from node %d, epoch %d, on a stream of node %d, epoch %d", f.From, f.Epoch, from, epoch)
		}
		if err := in.decode(&f); err != nil {
			return malformed(err)
		}
		if err := s.accept(&f, c, now); err != nil {
			s.reassembler.End(from, epoch)
			return s.refuse(&f, err)
		}
		last = f.Sequence
		frames++
		bytes += f.size
		if frames >= controlFrames || bytes >= controlBytes || now.Sub(answered) >= controlEvery {
			answered = now
			if err := answer(time.Since(now)); err != nil {
				return err
			}
		}
	}
}
