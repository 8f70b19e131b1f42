package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// What the echo server answers: as many digits as a store that has been written
// to for a while.
const (
	echoRevision = 1_000_000
	echoIndex    = 100_000
	echoVersion  = 10
)

// stopTime is how long servers let calls finish when their context ends.
const stopTime = time.Second

// EchoServer is a KV service without a store: it decodes requests and answers
// with constants. A get finds a value of the size of the last put, or of the size
// the server was made with.
type EchoServer struct {
	kvv1.UnimplementedKVServer

	relay *relay              // nil for one that keeps what it is put to itself
	write *kvv1.WriteResponse // shared by all answers, like the ones below
	read  atomic.Pointer[kvv1.GetResponse]
	bytes atomic.Pointer[[]byte] // that values are the beginning of
}

// NewEchoServer makes an echo server whose gets find valueSize bytes until a put
// shows another size.
func NewEchoServer(valueSize int) *EchoServer {
	s := &EchoServer{write: &kvv1.WriteResponse{
		Revision: echoRevision, AppliedIndex: echoIndex,
		Version: echoVersion, CreateRevision: echoRevision, ModRevision: echoRevision,
	}}
	s.resize(valueSize)
	return s
}

// resize makes the value that gets find. It makes bytes only when there were
// never so many: puts may be of any size, each of another.
func (s *EchoServer) resize(size int) {
	bytes := s.bytes.Load()
	if bytes == nil || len(*bytes) < size {
		grown := make([]byte, size)
		for i := range grown {
			grown[i] = byte(i*31 + i>>8)
		}
		bytes = &grown
		s.bytes.Store(bytes)
	}
	r := &kvv1.GetResponse{
		Revision: echoRevision, AppliedIndex: echoIndex,
		Version: echoVersion, CreateRevision: echoRevision, ModRevision: echoRevision,
		Found: true, Value: (*bytes)[:size],
	}
	s.read.Store(r)
}

// wrote notes the size of a put. It writes only when that changes.
func (s *EchoServer) wrote(value []byte) {
	if len(s.read.Load().Value) != len(value) {
		s.resize(len(value))
	}
}

// Put implements KV.
func (s *EchoServer) Put(ctx context.Context, req *kvv1.PutRequest) (*kvv1.WriteResponse, error) {
	s.wrote(req.Value)
	if s.relay != nil {
		if err := s.relay.replicate(ctx, []entry{{req.Key, req.Value}}); err != nil {
			return nil, err
		}
	}
	return s.write, nil
}

// Get implements KV.
func (s *EchoServer) Get(context.Context, *kvv1.GetRequest) (*kvv1.GetResponse, error) {
	return s.read.Load(), nil
}

// Stream implements KV. The messages of one stream are used again for each
// request: SendMsg has encoded an answer when it returns.
func (s *EchoServer) Stream(stream grpc.BidiStreamingServer[kvv1.StreamRequest, kvv1.StreamResponse]) error {
	var (
		req  kvv1.StreamRequest
		resp kvv1.StreamResponse
		slab []kvv1.Result
		puts []entry
	)
	for {
		if err := stream.RecvMsg(&req); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if n := len(req.Operations); n > len(slab) {
			slab = make([]kvv1.Result, n)
			resp.Results = slices.Grow(resp.Results[:0], n)
		}
		resp.Results, puts = resp.Results[:0], puts[:0]
		for i, op := range req.Operations {
			s.answer(&slab[i], op)
			resp.Results = append(resp.Results, &slab[i])
			if op.Kind != kvv1.OperationKind_OPERATION_KIND_GET {
				puts = append(puts, entry{op.Key, op.Value})
			}
		}
		if s.relay != nil {
			if err := s.relay.replicate(stream.Context(), puts); err != nil {
				return err
			}
		}
		if err := stream.SendMsg(&resp); err != nil {
			return err
		}
	}
}

func (s *EchoServer) answer(r *kvv1.Result, op *kvv1.Operation) {
	r.Id, r.Kind = op.Id, op.Kind
	r.Revision, r.AppliedIndex = echoRevision, echoIndex
	r.Version, r.CreateRevision, r.ModRevision = echoVersion, echoRevision, echoRevision
	r.Succeeded, r.Found, r.Value = true, false, nil
	if op.Kind == kvv1.OperationKind_OPERATION_KIND_GET {
		r.Found, r.Value = true, s.read.Load().Value
	} else {
		s.wrote(op.Value)
	}
}

// ServeWire serves an EchoServer on lis until ctx ends, with the settings that
// cfg gives the client port of a node (node.DefaultConfig for the defaults). It
// closes lis. The process's own settings, GOGC above all, are its program's to set,
// as raftkv sets them from the same config.
func ServeWire(ctx context.Context, lis net.Listener, cfg node.Config, valueSize int) error {
	return serveEcho(ctx, lis, cfg, NewEchoServer(valueSize))
}

func serveEcho(ctx context.Context, lis net.Listener, cfg node.Config, echo *EchoServer) error {
	server := grpc.NewServer(node.ClientServerOptions(cfg)...)
	kvv1.RegisterKVServer(server, echo)
	return serve(ctx, lis, server, "echo server")
}

// serve serves until ctx ends; what names the server in errors.
func serve(ctx context.Context, lis net.Listener, server *grpc.Server, what string) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("%s: %w", what, err)
	case <-ctx.Done():
	}
	// Streams would hold up a graceful stop for ever.
	force := time.AfterFunc(stopTime, server.Stop)
	defer force.Stop()
	server.GracefulStop()
	if err := <-served; err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
