package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"raftlab/bench/load"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// wire drives an echo server, or the leader of a relay, with as little as a gRPC client can be: messages
// and call options are made once a session.
type wire struct {
	conns   []*grpc.ClientConn
	next    atomic.Uint64
	options Options
}

func newWire(name string, o Options) (*wire, error) {
	t := &wire{options: o}
	dial := append(o.dialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())
	for range o.Conns {
		conn, err := grpc.NewClient("passthrough:///"+o.Endpoints[0], dial...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("target %s: %w", name, err), t.Close())
		}
		t.conns = append(t.conns, conn)
	}
	return t, nil
}

// Close implements Target.
func (t *wire) Close() error {
	var errs []error
	for _, c := range t.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Open implements load.Target.
func (t *wire) Open(ctx context.Context, _ int) (load.Session, error) {
	conn := t.conns[(t.next.Add(1)-1)%uint64(len(t.conns))]
	limit := t.options.MaxRequest + 1<<20
	calls := []grpc.CallOption{
		grpc.StaticMethod(),
		grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(t.options.MaxRequest),
	}
	if !t.options.Stream && t.options.OpsPerMessage == 1 {
		s := &wireUnary{conn: conn, calls: calls}
		s.getRequest.Consistency = t.options.read.Consistency()
		return s, nil
	}
	s := &wireStream{conn: conn, calls: calls, operations: newRequest(t.options)}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// wireUnary makes one RPC an operation.
type wireUnary struct {
	conn        *grpc.ClientConn
	calls       []grpc.CallOption
	putRequest  kvv1.PutRequest
	putResponse kvv1.WriteResponse
	getRequest  kvv1.GetRequest
	getResponse kvv1.GetResponse
}

// Do implements load.Session.
func (s *wireUnary) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	for i := range ops {
		op := &ops[i]
		if op.Kind == load.Get {
			s.getRequest.Key = op.Key
			err := s.conn.Invoke(ctx, kvv1.KV_Get_FullMethodName, &s.getRequest, &s.getResponse, s.calls...)
			results[i] = load.Result{ModRevision: s.getResponse.ModRevision, Found: err == nil && s.getResponse.Found, Value: s.getResponse.Value, Err: err}
			continue
		}
		s.putRequest.Key, s.putRequest.Value = op.Key, op.Value
		err := s.conn.Invoke(ctx, kvv1.KV_Put_FullMethodName, &s.putRequest, &s.putResponse, s.calls...)
		results[i] = load.Result{ModRevision: s.putResponse.ModRevision, Err: err}
	}
	return nil
}

// Close implements load.Session.
func (s *wireUnary) Close() error { return nil }

// wireStream has a Stream of its own, one message under way. The client's own
// goroutine sends and receives.
type wireStream struct {
	conn       *grpc.ClientConn
	calls      []grpc.CallOption
	operations request
	request    kvv1.StreamRequest
	response   kvv1.StreamResponse

	stream grpc.ClientStream // nil when broken
	cancel context.CancelFunc
	// The stream ends with the context of the messages. The generator has one
	// for all of them, so it is watched once and not for each message.
	watched context.Context
	unwatch func() bool
}

var streamDescription = grpc.StreamDesc{StreamName: "Stream", ClientStreams: true, ServerStreams: true}

// ready opens the stream unless it is open, and ties it to ctx.
func (s *wireStream) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.stream != nil && ctx != s.watched {
		if s.unwatch() {
			s.watch(ctx)
		} else {
			s.end()
		}
	}
	if s.stream != nil {
		return nil
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.watch(ctx)
	stream, err := s.conn.NewStream(life, &streamDescription, kvv1.KV_Stream_FullMethodName, s.calls...)
	if err != nil {
		s.end()
		return err
	}
	s.stream = stream
	return nil
}

func (s *wireStream) watch(ctx context.Context) {
	s.watched, s.unwatch = ctx, context.AfterFunc(ctx, s.cancel)
}

// end gives the stream up.
func (s *wireStream) end() {
	s.unwatch()
	s.cancel()
	s.stream, s.watched = nil, nil
}

// Do implements load.Session.
func (s *wireStream) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.request.Operations = s.operations.fill(ops)
	if err := s.exchange(); err != nil {
		s.end()
		return err
	}
	for i, a := range s.response.Results {
		results[i] = load.Result{ModRevision: a.ModRevision, Found: a.Found, Value: a.Value}
	}
	return nil
}

func (s *wireStream) exchange() error {
	// An error of SendMsg says only that the stream broke; RecvMsg says why.
	if err := s.stream.SendMsg(&s.request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.stream.RecvMsg(&s.response); err != nil {
		return err
	}
	if len(s.response.Results) != len(s.request.Operations) {
		return errAnswers
	}
	return nil
}

// Close implements load.Session.
func (s *wireStream) Close() error {
	if s.stream != nil {
		s.end()
	}
	return nil
}
