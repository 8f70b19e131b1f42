// Package clienttest stands in for a cluster in tests of what talks to one: real
// gRPC servers on loopback with a map behind them instead of raft, and a script
// of faults.
//
//	cluster := clienttest.Start(t, 3)
//	cluster.Node(1).Script(clienttest.Put, clienttest.Step{Err: clienttest.Refusal(codes.Unavailable, "stopping")})
//	c, err := client.New(client.Config{Endpoints: cluster.Addresses()})
//
// The first node leads. Every write that is applied is counted by key, so that
// a test sees whether one was applied twice.
package clienttest

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Cluster is a set of nodes with one store between them.
type Cluster struct {
	nodes []*Node

	mu         sync.Mutex
	leader     uint64 // 0: none
	items      map[string]*kvv1.KeyValue
	applied    map[string]int
	revision   uint64
	index      uint64
	membership *kvv1.Membership

	sessions sessions
}

// Start starts nodes 1 to n. They end with the test.
func Start(tb testing.TB, n int) *Cluster {
	tb.Helper()
	c, err := New(n)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// New is Start without a test; Close ends the nodes.
func New(n int) (*Cluster, error) {
	c := &Cluster{
		leader: 1, items: map[string]*kvv1.KeyValue{}, applied: map[string]int{},
		sessions:   sessions{answers: map[uint64]map[uint64]any{}},
		membership: &kvv1.Membership{ClusterId: 7},
	}
	for i := range n {
		node := &Node{ID: uint64(i + 1), cluster: c, scripts: map[string][]Step{}, calls: map[string]int{}}
		if err := node.Restart(); err != nil {
			c.Close()
			return nil, err
		}
		c.nodes = append(c.nodes, node)
		c.membership.Voters = append(c.membership.Voters, node.ID)
		c.membership.Nodes = append(c.membership.Nodes, &kvv1.Member{
			Id: node.ID, Incarnation: 1, Address: node.Address, PeerAddress: "127.0.0.1:1",
		})
	}
	return c, nil
}

// Close ends all nodes.
func (c *Cluster) Close() {
	for _, node := range c.nodes {
		node.Stop()
	}
}

// Node returns the node of an id.
func (c *Cluster) Node(id uint64) *Node { return c.nodes[id-1] }

// Addresses are those of all nodes, in order of id.
func (c *Cluster) Addresses() []string {
	addresses := make([]string, 0, len(c.nodes))
	for _, n := range c.nodes {
		addresses = append(addresses, n.Address)
	}
	return addresses
}

// SetLeader moves leadership; 0 leaves the cluster without a leader.
func (c *Cluster) SetLeader(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = id
}

// Applied tells how often a write of the key was applied.
func (c *Cluster) Applied(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied[key]
}

// Keys are the present keys, sorted.
func (c *Cluster) Keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.items))
}

// Node is one server.
type Node struct {
	ID      uint64
	Address string
	// OnMessage, if set before the first message, serves those of Stream: answer
	// computes the results, send sends some. An error ends the stream.
	OnMessage func(req *kvv1.StreamRequest, answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, send func(*kvv1.StreamResponse) error) error
	// Options of the server, for the next Restart.
	Options []grpc.ServerOption

	kvv1.UnimplementedKVServer
	clusterv1.UnimplementedClusterServer
	cluster *Cluster
	server  *grpc.Server
	served  chan struct{}

	mu      sync.Mutex
	scripts map[string][]Step
	calls   map[string]int
}

// Stop ends the server and all its connections at once.
func (n *Node) Stop() {
	if n.server == nil {
		return
	}
	n.server.Stop()
	<-n.served
	n.server = nil
}

// Restart stops the server and starts it at the same address.
func (n *Node) Restart() error {
	n.Stop()
	address := n.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	if n.Address == "" {
		n.Address = l.Addr().String()
	}
	server, served := grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(64 << 20),
		grpc.StaticStreamWindowSize(1 << 20), grpc.StaticConnWindowSize(1 << 20),
	}, n.Options...)...), make(chan struct{})
	kvv1.RegisterKVServer(server, n)
	clusterv1.RegisterClusterServer(server, n)
	n.server, n.served = server, served
	go func() {
		defer close(served)
		// It ends with Stop; a listener that breaks shows as calls that fail.
		_ = server.Serve(l)
	}()
	return nil
}

// Calls tells how many requests of a method arrived, refused ones too; for
// Stream, how many streams.
func (n *Node) Calls(method string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[method]
}

// Refusal is an error of a request that was not applied.
func Refusal(code codes.Code, message string) error {
	return withOutcome(status.New(code, message), kvv1.Applied_APPLIED_NO)
}

// Unknown is an error of a request that may have been applied.
func Unknown(code codes.Code, message string) error {
	return withOutcome(status.New(code, message), kvv1.Applied_APPLIED_UNKNOWN)
}

func withOutcome(st *status.Status, a kvv1.Applied) error {
	with, err := st.WithDetails(&kvv1.Outcome{Applied: a})
	if err != nil {
		panic(err) // a well-known message always marshals
	}
	return with.Err()
}

// notLeader is the refusal of a node that does not lead; nil on the leader.
func (n *Node) notLeader() (*kvv1.NotLeader, error) {
	n.cluster.mu.Lock()
	leader := n.cluster.leader
	n.cluster.mu.Unlock()
	if leader == n.ID {
		return nil, nil
	}
	detail := &kvv1.NotLeader{LeaderId: leader}
	if leader != 0 {
		detail.LeaderAddress = n.cluster.Node(leader).Address
	}
	st, err := status.New(codes.FailedPrecondition, "not the leader").
		WithDetails(&kvv1.Outcome{Applied: kvv1.Applied_APPLIED_NO}, detail)
	if err != nil {
		panic(err)
	}
	return detail, st.Err()
}
