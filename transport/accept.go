package transport

import (
	"errors"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// inboundSnapshots bounds what is taken in at a time: one from each sender, a
// few in all.
type inboundSnapshots struct {
	mu     sync.Mutex
	active map[uint64]bool
}

const maxInboundSnapshots = 4

func (i *inboundSnapshots) begin(from uint64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.active[from] || len(i.active) >= maxInboundSnapshots {
		return status.Errorf(codes.ResourceExhausted, "already taking in %d snapshots", len(i.active))
	}
	i.active[from] = true
	return nil
}

func (i *inboundSnapshots) end(from uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.active, from)
}

// snapshotFrame is what a receiving goroutine got.
type snapshotFrame struct {
	frame *transportv1.SnapshotFrame
	err   error
}

// Snapshot implements transportv1.RaftTransportServer.
func (s *server) Snapshot(rpc grpc.BidiStreamingServer[transportv1.SnapshotFrame, transportv1.SnapshotAck]) error {
	if !s.enter() {
		return errStopping
	}
	defer s.running.Done()
	// Receiving is the only thing that can't be given a timeout.
	frames := make(chan snapshotFrame)
	go func() {
		for {
			f, err := rpc.Recv()
			select {
			case frames <- snapshotFrame{f, err}:
			case <-rpc.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	next := func() (*transportv1.SnapshotFrame, error) {
		t := time.NewTimer(snapshotPatience)
		defer t.Stop()
		select {
		case f := <-frames:
			return f.frame, f.err
		case <-t.C:
			return nil, status.Errorf(codes.DeadlineExceeded, "no snapshot chunk for %v", snapshotPatience)
		case <-s.ctx.Done():
			return nil, errStopping
		}
	}
	first, err := next()
	if err != nil {
		return err
	}
	offer := first.GetOffer()
	m, err := s.checkOffer(offer)
	if err != nil {
		s.log.Warn("refused a snapshot", "from", offer.GetFrom(), "error", status.Convert(err).Message())
		return err
	}
	if err := s.inbound.begin(m.GetFrom()); err != nil {
		return err
	}
	defer s.inbound.end(m.GetFrom())
	err = s.takeSnapshot(m, rpc, next)
	if err != nil {
		s.log.Warn("snapshot not taken", "from", m.GetFrom(), "error", status.Convert(err).Message())
	}
	return err
}

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

// takeSnapshot writes the chunks, in order, and commits.
func (s *server) takeSnapshot(m *pb.Message, rpc grpc.BidiStreamingServer[transportv1.SnapshotFrame, transportv1.SnapshotAck],
	next func() (*transportv1.SnapshotFrame, error),
) (err error) {
	w, err := s.handler.AcceptSnapshot(m)
	if err != nil {
		return snapshotError("accept", err)
	}
	done := false
	defer func() {
		if !done {
			w.Abort()
		}
	}()
	if err := rpc.Send(&transportv1.SnapshotAck{}); err != nil {
		return err
	}
	c := s.counters(m.GetFrom())
	var offset, acked uint64
	for {
		f, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return status.Errorf(codes.InvalidArgument, "snapshot ended at offset %d without its last chunk", offset)
		case err != nil:
			return err
		case f.GetOffset() != offset || f.GetOffer() != nil:
			return status.Errorf(codes.InvalidArgument, "snapshot chunk at offset %d, expected %d", f.GetOffset(), offset)
		}
		if crc := checksum(f.GetData()); crc != f.GetCrc32C() {
			return status.Errorf(codes.DataLoss, "snapshot chunk at offset %d has checksum %08x, declares %08x", offset, crc, f.GetCrc32C())
		}
		if _, err := w.Write(f.GetData()); err != nil {
			return snapshotError("write", err)
		}
		offset += uint64(len(f.GetData()))
		c.snapshotChunksReceived.Add(1)
		c.bytesReceived.Add(uint64(proto.Size(f)))
		if f.GetLast() {
			break
		}
		if offset-acked >= snapshotWindow/8 {
			acked = offset
			if err := rpc.Send(&transportv1.SnapshotAck{Offset: offset}); err != nil {
				return err
			}
		}
	}
	done = true // whatever Commit returns
	if err := w.Commit(); err != nil {
		return snapshotError("commit", err)
	}
	c.messagesReceived.Add(1)
	return rpc.Send(&transportv1.SnapshotAck{Offset: offset, Done: true})
}

// snapshotError keeps the code that the node above gave, if any.
func snapshotError(doing string, err error) error {
	code := status.Code(err)
	if code == codes.Unknown {
		code = codes.DataLoss
	}
	return status.Errorf(code, "%s snapshot: %s", doing, status.Convert(err).Message())
}
