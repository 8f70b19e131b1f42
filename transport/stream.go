package transport

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// stream carries a lane's frames over one Channel: they are on their way one
// behind the other, with no waiting in between. What comes back is Control,
// which tells how far the peer has got; a goroutine reads it.
type stream struct {
	lane   *lane
	rpc    grpc.ClientStream
	cancel context.CancelFunc

	out     outgoing
	ended   chan struct{}
	failure error // once ended
	known   atomic.Uint64

	// When the last frames were sent, by sequence, for the round trip.
	newest atomic.Uint64
	times  [256]atomic.Int64
	origin time.Time
}

func openStream(ctx context.Context, l *lane) (carrier, error) {
	conn, err := l.conn.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	rpc, err := conn.NewStream(ctx, &transportv1.RaftTransport_ServiceDesc.Streams[0],
		transportv1.RaftTransport_Channel_FullMethodName, grpc.StaticMethod())
	if err != nil {
		cancel()
		return nil, err
	}
	s := &stream{lane: l, rpc: rpc, cancel: cancel, out: outgoing{codec: l.peer.server.codec}, ended: make(chan struct{}), origin: time.Now()}
	l.peer.server.running.Go(s.listen)
	return s, nil
}

func (s *stream) send(f *Frame) error {
	s.times[f.Sequence%uint64(len(s.times))].Store(int64(time.Since(s.origin)))
	s.newest.Store(f.Sequence)
	message, err := s.out.of(f)
	if err != nil {
		return err
	}
	if err := s.rpc.SendMsg(message); err != nil {
		if errors.Is(err, io.EOF) { // the stream has ended, and listen hears why
			<-s.ended
			return s.failure
		}
		return err
	}
	return nil
}

// listen reads Controls until the stream ends.
func (s *stream) listen() {
	defer close(s.ended)
	var control transportv1.Control
	for {
		if err := s.rpc.RecvMsg(&control); err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the peer closed the stream")
			}
			s.failure = err
			if status.Code(err) == codes.Unavailable {
				s.lane.conn.drop()
			}
			return
		}
		echo := control.GetEchoSequence()
		s.known.Store(echo)
		if newest := s.newest.Load(); echo > newest || newest-echo >= uint64(len(s.times)) {
			continue // its time was overwritten
		}
		sent := time.Duration(s.times[echo%uint64(len(s.times))].Load())
		trip := time.Since(s.origin) - sent - time.Duration(control.GetHoldNanos())
		if trip > 0 {
			s.lane.peer.count.tookRoundTrip(trip)
		}
	}
}

func (s *stream) done() <-chan struct{} { return s.ended }

func (s *stream) err() error { return s.failure }

func (s *stream) acknowledged() uint64 { return s.known.Load() }

// close ends the stream; the connection stays.
func (s *stream) close() {
	s.cancel()
	<-s.ended
}
