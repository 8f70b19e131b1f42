package target

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"raftlab/bench/load"
	"raftlab/kv/client"
	"raftlab/kv/node"
)

// Names of targets.
const (
	Unary    = "unary"
	Pipeline = "pipeline"
	Coalesce = "coalesce"
	Direct   = "direct"
	Bare     = "bare"
	Wire     = "wire"
	Relay    = "relay"
	Etcd     = "etcd"
)

// Names lists all targets.
func Names() []string { return []string{Unary, Pipeline, Coalesce, Direct, Bare, Wire, Relay, Etcd} }

// Target is what New makes. Its sessions have to be closed before it.
type Target interface {
	load.Target
	// Close ends the connections that the sessions share.
	Close() error
}

// Options say where a target is and how it is reached.
type Options struct {
	// Endpoints are client addresses of the nodes, any of them; for wire
	// and relay the address of the one server. Not for direct and bare.
	Endpoints []string
	// Conns is the number of connections (to each node) that the clients share,
	// in turn; 0 means one.
	Conns int
	// OpsPerMessage is the number of operations a message at most. unary does one
	// at a time and refuses more.
	OpsPerMessage int
	// Read is what gets promise and who answers them, by the name of a client.Read;
	// empty means linearizable.
	Read string
	// Stream makes wire and relay use the Stream RPC with one operation a message too, as
	// the ceiling of pipeline; with more it always does.
	Stream bool
	// Direct are the nodes of this process, for direct.
	Direct []*node.Node
	// Node and Nodes are the settings and the number of nodes of bare; zero means
	// the nodes' default and 1.
	Node  node.Config
	Nodes int
	// Dialer connects to an address; nil is TCP.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// MaxRequest and GRPCWindow are the nodes' knobs of those names, in bytes;
	// 0 means the nodes' default.
	MaxRequest, GRPCWindow, GRPCWriteBuffer int

	// AttemptTimeout is that of client.Config.
	AttemptTimeout time.Duration

	read client.Read // Read, parsed
}

// New makes a target by its name. Nothing is dialled before the first session
// is opened.
func New(name string, o Options) (Target, error) {
	o.OpsPerMessage = max(o.OpsPerMessage, 1)
	o.Conns = max(o.Conns, 1)
	defaults := node.DefaultConfig()
	if o.MaxRequest == 0 {
		o.MaxRequest = int(defaults.MaxRequest)
	}
	if o.GRPCWindow == 0 {
		o.GRPCWindow = int(defaults.GRPCWindow)
	}
	if o.Node == (node.Config{}) {
		o.Node = defaults
	}
	if o.Read != "" {
		var err error
		if o.read, err = client.ParseRead(o.Read); err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
	}
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("target %q is not one of %s", name, strings.Join(Names(), ", "))
	}
	if (name == Unary || name == Coalesce) && o.OpsPerMessage > 1 {
		return nil, fmt.Errorf("target %s makes calls of one operation: ops-per-message %d needs pipeline", name, o.OpsPerMessage)
	}
	if name == Direct {
		if len(o.Direct) == 0 {
			return nil, fmt.Errorf("target direct needs the nodes in this process: topology in-process or in-process-grpc")
		}
		return &direct{nodes: o.Direct, read: o.read}, nil
	}
	if name == Bare {
		return newBare(o)
	}
	if len(o.Endpoints) == 0 {
		return nil, fmt.Errorf("target %s has no endpoints", name)
	}
	switch name {
	case Wire, Relay:
		return newWire(name, o)
	case Etcd:
		return newEtcd(o)
	}
	c, err := client.New(client.Config{
		Endpoints: o.Endpoints, Conns: o.Conns, MaxRequest: o.MaxRequest, AttemptTimeout: o.AttemptTimeout, DialOptions: o.dialOptions(),
	})
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", name, err)
	}
	if name == Coalesce {
		return &coalesce{client: c, options: o}, nil
	}
	return &cluster{client: c, stream: name == Pipeline, options: o}, nil
}

// dialOptions are what all gRPC targets differ in from the client's defaults.
func (o *Options) dialOptions() []grpc.DialOption {
	window := int32(o.GRPCWindow)
	options := []grpc.DialOption{grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window)}
	if o.GRPCWriteBuffer > 0 {
		options = append(options, grpc.WithWriteBufferSize(o.GRPCWriteBuffer))
	}
	if o.Dialer != nil {
		options = append(options, grpc.WithContextDialer(o.Dialer))
	}
	return options
}
