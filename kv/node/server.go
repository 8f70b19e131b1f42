package node

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	// Registers gzip, so that a client may compress: what it inflates to counts
	// against max-request like any other message.
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"raftlab/transport"
)

// The stock codec takes its buffers from the default pool, of which there is one
// a process. See transport.BufferPool for what is wrong with gRPC's own.
func init() { experimental.SetDefaultBufferPool(transport.BufferPool()) }

// Limits of both ports. They are stated, never left to the library's defaults.
const (
	maxStreams        = 1024 // RPCs under way on one connection
	maxHeaderBytes    = 16 << 10
	connectionTimeout = 5 * time.Second // TCP accept to HTTP/2 settings
	minPingInterval   = 5 * time.Second // a peer that pings more often is sent away
)

// serverOptions are what both ports share; receive is the port's own limit on
// one message, in bytes.
func serverOptions(cfg Config, receive Size) []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(int(receive)),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: minPingInterval, PermitWithoutStream: true,
		}),
		grpc.WaitForHandlers(true),
		experimental.BufferPool(transport.BufferPool()),
	}
	if window := int32(cfg.GRPCWindow); window > 0 {
		// Static windows stop the pings by which gRPC estimates bandwidth.
		options = append(options, grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window))
	}
	if n := int(cfg.GRPCWriteBuffer); n > 0 {
		options = append(options, grpc.WriteBufferSize(n))
	}
	return options
}

// ClientServerOptions are the settings of the client port's server. The bench's
// echo server, which shows the ceiling of this API, takes the same.
func ClientServerOptions(cfg Config) []grpc.ServerOption {
	return append(serverOptions(cfg, cfg.MaxRequest),
		grpc.NumStreamWorkers(uint32(cfg.StreamWorkers)))
}

// newClientServer makes the server of the client port. Health watches end with
// life, since they would hold up a graceful stop for ever.
func newClientServer(life context.Context, cfg Config) *grpc.Server {
	options := append(ClientServerOptions(cfg),
		grpc.ForceServerCodecV2(newClientCodec()), grpc.StreamInterceptor(endWatches(life)))
	return grpc.NewServer(append(options, slowdown()...)...)
}

// newPeerServer makes the server of the peer port, whose receive limit is what
// chunking is about.
func newPeerServer(cfg Config, more []grpc.ServerOption) *grpc.Server {
	options := append(serverOptions(cfg, cfg.MaxMessage), grpc.ForceServerCodecV2(transport.ServerCodec()))
	return grpc.NewServer(append(options, more...)...)
}

func endWatches(life context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if info.FullMethod != grpc_health_v1.Health_Watch_FullMethodName {
			return handler(srv, ss)
		}
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		return handler(srv, streamWithContext{ServerStream: ss, ctx: ctx})
	}
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }

// listen binds a TCP port.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}
