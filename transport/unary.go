package transport

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// unary carries a lane's frames by one RPC each. The next begins when the one
// before it is answered: that keeps raft's messages in order, as its flow
// control likes them, and is what the example that this project started from
// does. Several at a time would be a stream with more work and without order.
type unary struct {
	lane  *lane
	ctx   context.Context //nolint:containedctx // of the connection's life, as the stream's
	out   outgoing
	never chan struct{} // nothing breaks between RPCs
	known uint64
}

func openUnary(ctx context.Context, l *lane) carrier {
	return &unary{lane: l, ctx: ctx, out: outgoing{codec: l.peer.server.codec}, never: make(chan struct{})}
}

// sendTimeout ends an RPC whose peer hangs while its connection lives.
const sendTimeout = 30 * time.Second

func (u *unary) send(f *Frame) error {
	conn, err := u.lane.conn.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(u.ctx, sendTimeout)
	defer cancel()
	message, err := u.out.of(f)
	if err != nil {
		return err
	}
	began := time.Now()
	err = conn.Invoke(ctx, transportv1.RaftTransport_Send_FullMethodName, message, new(transportv1.FrameAck), grpc.StaticMethod())
	if err != nil {
		if status.Code(err) == codes.Unavailable {
			u.lane.conn.drop()
		}
		return err
	}
	u.known = f.Sequence
	u.lane.peer.count.tookRoundTrip(time.Since(began))
	return nil
}

func (u *unary) done() <-chan struct{} { return u.never }

func (u *unary) err() error { return nil }

func (u *unary) acknowledged() uint64 { return u.known }

func (u *unary) close() {}
