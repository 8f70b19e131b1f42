package transport

import (
	"context"
	"errors"
	"io"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

type snapshotStream = grpc.BidiStreamingServer[transportv1.SnapshotFrame, transportv1.SnapshotAck]

// snapshotFrames receives in a goroutine of its own: receiving is the only thing
// on the server's side that can't be given a timeout.
type snapshotFrames struct {
	server *server
	ctx    context.Context //nolint:containedctx // of the stream
	frames chan receivedFrame
}

type receivedFrame struct {
	frame *transportv1.SnapshotFrame
	err   error
}

func (s *server) snapshotFrames(ctx context.Context, rpc snapshotStream) *snapshotFrames {
	r := &snapshotFrames{server: s, ctx: ctx, frames: make(chan receivedFrame)}
	go func() {
		for {
			f, err := rpc.Recv()
			select {
			case r.frames <- receivedFrame{f, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return r
}

// next returns the next frame, or io.EOF when the sender has no more; all other
// errors are broken streams.
func (r *snapshotFrames) next() (*transportv1.SnapshotFrame, error) {
	patience := r.server.cfg.SnapshotTimeout
	t := time.NewTimer(patience)
	defer t.Stop()
	var err error
	select {
	case f := <-r.frames:
		if f.err == nil || errors.Is(f.err, io.EOF) {
			return f.frame, f.err
		}
		err = f.err
	case <-t.C:
		err = status.Errorf(codes.DeadlineExceeded, "no snapshot chunk for %v", patience)
	case <-r.ctx.Done():
		err = context.Cause(r.ctx)
	case <-r.server.ctx.Done():
		err = errStopping
	}
	return nil, brokenError{err}
}

// Snapshot implements transportv1.RaftTransportServer.
func (s *server) Snapshot(rpc snapshotStream) error {
	if !s.enter() {
		return errStopping
	}
	defer s.running.Done()
	ctx, stop := context.WithCancelCause(rpc.Context())
	defer stop(nil)
	frames := s.snapshotFrames(ctx, rpc)
	first, err := frames.next()
	if err != nil {
		return plain(err)
	}
	offer := first.GetOffer()
	m, err := s.checkOffer(offer)
	if err != nil {
		s.log.Warn("refused a snapshot", "from", offer.GetFrom(), "error", status.Convert(err).Message())
		return err
	}
	if err := s.inbound.begin(ctx, stop, m.GetFrom(), offer.GetEpoch()); err != nil {
		return err
	}
	defer s.inbound.end(m.GetFrom())
	err = s.takeSnapshot(m, offer.GetWindowBytes(), rpc, frames)
	if err != nil {
		s.log.Warn("snapshot not taken", "from", m.GetFrom(), "error", status.Convert(plain(err)).Message())
	}
	return plain(err)
}

// plain is the error that goes to the sender.
func plain(err error) error {
	if broken, ok := errors.AsType[brokenError](err); ok {
		return broken.error
	}
	return err
}

// maxOffer bounds the MsgSnap of an offer, which may become a hundred times its
// size: room for a configuration of maxConfStateNodes.
const maxOffer = 32 << 10

// checkOffer returns the MsgSnap of an offer that this node should accept.
func (s *server) checkOffer(offer *transportv1.SnapshotOffer) (*pb.Message, error) {
	self := s.handler.Identity()
	switch {
	case offer == nil:
		return nil, status.Error(codes.InvalidArgument, "a snapshot begins with an offer")
	case offer.GetClusterId() != 0 && self.ClusterID != 0 && offer.GetClusterId() != self.ClusterID:
		return nil, status.Errorf(codes.FailedPrecondition, "snapshot of cluster %016x, this node is in cluster %016x", offer.GetClusterId(), self.ClusterID)
	case offer.GetToIncarnation() != 0 && offer.GetToIncarnation() != self.Incarnation:
		return nil, errForgotten(self.Node)
	}
	if err := s.checkFrame(&Frame{From: offer.GetFrom(), To: offer.GetTo(), Epoch: offer.GetEpoch()}); err != nil {
		return nil, err
	}
	if n := len(offer.GetMessage()); n > maxOffer {
		return nil, status.Errorf(codes.InvalidArgument, "snapshot offered by a message of %d bytes, which exceeds the limit of %d", n, maxOffer)
	}
	m := new(pb.Message)
	if err := proto.Unmarshal(offer.GetMessage(), m); err != nil {
		return nil, malformed(err)
	}
	if m.GetType() != pb.MsgSnap {
		return nil, status.Errorf(codes.InvalidArgument, "snapshot offered by a %s", m.GetType())
	}
	if err := Validate(m, s.self, offer.GetFrom()); err != nil {
		return nil, err
	}
	return m, nil
}

// openInbound returns what there is of the offered snapshot, or begins it.
func (s *server) openInbound(m *pb.Message) (*inbound, error) {
	now := time.Now()
	if err := s.inbound.check(pointOf(m)); err != nil {
		return nil, err
	}
	if in := s.inbound.resume(pointOf(m), now); in != nil {
		return in, nil
	}
	w, err := s.handler.AcceptSnapshot(m)
	if err != nil {
		return nil, snapshotError("accept", err)
	}
	return &inbound{all: &s.inbound, point: pointOf(m), writer: w, moved: now}, nil
}

// takeSnapshot takes in the chunks and commits. When the stream breaks, what
// came is kept for the next one; when it brings what it should not, it is dropped.
func (s *server) takeSnapshot(m *pb.Message, window uint64, rpc snapshotStream, frames *snapshotFrames) error {
	in, err := s.openInbound(m)
	if err != nil {
		return err
	}
	if !in.writer.Needed() {
		// The sender did not hear that the last transfer was taken.
		return s.needless(in, rpc)
	}
	c := s.counters(m.GetFrom())
	start := in.offset
	if start > 0 {
		c.snapshotsReceivedResumed.Add(1)
		c.snapshotBytesReceivedResumed.Add(start)
		s.log.Info("resuming a snapshot", "from", m.GetFrom(), "index", in.point.index, "offset", start)
	}
	switch err := s.takeChunks(in, window, c, rpc, frames); {
	case err == nil:
	case errors.Is(err, errNeedless):
		return s.needless(in, rpc)
	case isBroken(err):
		s.inbound.park(in, time.Now())
		return err
	default:
		in.abort()
		return err
	}
	size := in.offset
	if err := in.commit(m); err != nil {
		return err
	}
	c.messagesReceived.Add(1)
	c.snapshotsReceived.Add(1)
	return rpc.Send(&transportv1.SnapshotAck{Offset: size, Done: true})
}

// errNeedless: the node came as far by another way while the snapshot came in.
var errNeedless = errors.New("needless")

// needless tells the sender that it need not send the snapshot, or the rest.
func (s *server) needless(in *inbound, rpc snapshotStream) error {
	s.log.Info("snapshot is not needed", "index", in.point.index, "offset", in.offset)
	offset := in.offset
	in.abort()
	return rpc.Send(&transportv1.SnapshotAck{Offset: offset, Done: true})
}

// takeChunks writes the chunks of one stream, in order, up to the last.
func (s *server) takeChunks(in *inbound, window uint64, c *counters, rpc snapshotStream, frames *snapshotFrames) error {
	acked := in.offset
	if err := rpc.Send(&transportv1.SnapshotAck{Offset: in.offset}); err != nil {
		return brokenError{err}
	}
	for {
		f, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return status.Errorf(codes.InvalidArgument, "snapshot ended at offset %d without its last chunk", in.offset)
		case err != nil:
			return err
		case f.GetOffset() != in.offset || f.GetOffer() != nil:
			return status.Errorf(codes.InvalidArgument, "snapshot chunk at offset %d, expected %d", f.GetOffset(), in.offset)
		case len(f.GetData()) == 0 && !f.GetLast():
			return status.Errorf(codes.InvalidArgument, "snapshot chunk at offset %d is empty and not the last", in.offset)
		}
		if crc := checksum(f.GetData()); crc != f.GetCrc32C() {
			return status.Errorf(codes.DataLoss, "snapshot chunk at offset %d has checksum %08x, declares %08x", in.offset, crc, f.GetCrc32C())
		}
		if err := in.write(f.GetData(), time.Now()); err != nil {
			return err
		}
		c.snapshotChunksReceived.Add(1)
		c.snapshotBytesReceived.Add(uint64(len(f.GetData())))
		c.bytesReceived.Add(uint64(proto.Size(f)))
		if f.GetLast() {
			return nil
		}
		// Often enough for the sender's window, which need not be this node's.
		if in.offset-acked >= window/8 {
			if !in.writer.Needed() {
				return errNeedless
			}
			acked = in.offset
			if err := rpc.Send(&transportv1.SnapshotAck{Offset: in.offset}); err != nil {
				return brokenError{err}
			}
		}
	}
}
