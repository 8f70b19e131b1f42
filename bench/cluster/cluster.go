package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"raftlab/kv/client"
	"raftlab/kv/node"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Topologies.
const (
	InProcess     = "in-process"
	InProcessGRPC = "in-process-grpc"
	Processes     = "processes"
	External      = "external"
)

// Listeners of in-process-grpc.
const (
	ListenTCP     = "tcp"
	ListenBufconn = "bufconn"
)

// Config says what cluster to start. The zero value is three nodes in this
// process.
type Config struct {
	Topology string // default in-process
	Nodes    int    // default 3
	// Node is what every node is built from; identity and addresses are put in.
	// The zero value means node.DefaultConfig.
	Node     node.Config
	Listener string // of in-process-grpc; default tcp
	// ServerBin is the raftkv to start for processes; "" finds one: see FindServer.
	ServerBin string
	// ServerEnv is added to the environment of the processes.
	ServerEnv []string
	// DataRoot is where the nodes of storage wal get a folder each, in one that is
	// removed with the cluster; "" is the system's place for temporary files.
	DataRoot string
	// Endpoints are the client addresses of an external cluster.
	Endpoints []string
	// Conns is the number of connections of Client to each node. Default 1.
	Conns int
	// Logger of the nodes in this process; nil is silent. What child processes
	// log is kept for error messages.
	Logger *slog.Logger
}

// Cluster is a running cluster. All methods may be called from any goroutine.
type Cluster struct {
	cfg     Config
	backend backend
	data    string // folder of the nodes' data folders; "" without
	admin   *client.Client

	mu     sync.Mutex
	nodes  []*Node // every node ever started, by id
	closed bool
}

// Dialer connects to an address of a cluster.
type Dialer = func(ctx context.Context, address string) (net.Conn, error)

// backend starts nodes of one topology.
type backend interface {
	// start starts a node, at the addresses and on the data of its former run if
	// there was one.
	start(ctx context.Context, id uint64, place place, cfg node.Config) (*Node, error)
	dialer() Dialer
	close() error
}

// place is where a node is.
type place struct {
	addr, peerAddr string // "" is any that is free
	dataDir        string // "" without a durable log
}

// ErrUnsupported says that the topology cannot do this to a node.
var ErrUnsupported = errors.New("not possible in this topology")

// Start starts a cluster and returns once it has a leader and all nodes are
// voters. ctx bounds the start only. On an error nothing is left running.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg}
	if cfg.Topology == External {
		if err := c.attach(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
	if cfg.Topology == Processes {
		c.backend, err = newProcesses(cfg)
	} else {
		c.backend = newInProcess(cfg)
	}
	if err != nil {
		return nil, err
	}
	if cfg.Node.Storage == node.StorageWAL {
		if c.data, err = os.MkdirTemp(cfg.DataRoot, "raftlab-data-"); err != nil {
			return nil, err
		}
	}
	if err := c.bootstrap(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c Config) withDefaults() (Config, error) {
	if c.Topology == "" {
		c.Topology = InProcess
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Listener == "" {
		c.Listener = ListenTCP
	}
	if c.Node == (node.Config{}) {
		c.Node = node.DefaultConfig()
	}
	switch c.Topology {
	case InProcess, InProcessGRPC, Processes:
	case External:
		if len(c.Endpoints) == 0 {
			return c, errors.New("topology external needs endpoints")
		}
	default:
		return c, fmt.Errorf("topology %q is not one of in-process, in-process-grpc, processes, external", c.Topology)
	}
	if c.Listener != ListenTCP && c.Listener != ListenBufconn {
		return c, fmt.Errorf("listener %q is not one of tcp, bufconn", c.Listener)
	}
	if c.Nodes < 1 {
		return c, fmt.Errorf("nodes %d is below the minimum 1", c.Nodes)
	}
	return c, nil
}

// bootstrap starts all nodes at once and makes them a cluster.
func (c *Cluster) bootstrap(ctx context.Context) error {
	nodes := make([]*Node, c.cfg.Nodes)
	errs := make([]error, c.cfg.Nodes)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			nodes[i], errs[i] = c.startNode(ctx, uint64(i)+1, place{}, c.cfg.Node)
		})
	}
	wg.Wait()
	c.nodes = slices.DeleteFunc(nodes, func(n *Node) bool { return n == nil })
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var err error
	if c.admin, err = c.newClient(1); err != nil {
		return err
	}
	if _, err := c.admin.Init(ctx, c.nodes[0].Addr); err != nil {
		return fmt.Errorf("init node 1: %w", err)
	}
	var voters []uint64
	for _, n := range c.nodes {
		voters = append(voters, n.ID)
		if n.ID == 1 {
			continue
		}
		if _, err := c.admin.AddLearner(ctx, n.ID, n.Addr); err != nil {
			return fmt.Errorf("add node %d: %w", n.ID, err)
		}
	}
	if len(voters) > 1 {
		if _, err := c.admin.ChangeMembership(ctx, voters, false); err != nil {
			return fmt.Errorf("make nodes %d voters: %w", voters, err)
		}
	}
	return c.waitReady(ctx)
}

// waitReady waits until every node knows the leader and all the voters.
func (c *Cluster) waitReady(ctx context.Context) error {
	for _, n := range c.nodes {
		for {
			st, err := c.admin.Status(ctx, n.Addr, false)
			if err == nil && st.GetLeaderId() != 0 && len(st.GetMembership().GetVoters()) == len(c.nodes) {
				break
			}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return fmt.Errorf("node %d knows no leader and %d voters yet: %w", n.ID, len(c.nodes), err)
			}
		}
	}
	return nil
}

// attach finds the nodes of an external cluster.
func (c *Cluster) attach(ctx context.Context) error {
	var err error
	if c.admin, err = c.newClient(1); err != nil {
		return err
	}
	var errs []error
	for _, endpoint := range c.cfg.Endpoints {
		st, err := c.admin.Status(ctx, endpoint, false)
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", endpoint, err))
			continue
		}
		for _, m := range st.GetMembership().GetNodes() {
			c.nodes = append(c.nodes, &Node{ID: m.GetId(), Addr: m.GetAddress(), PeerAddr: m.GetPeerAddress()})
		}
		if len(c.nodes) > 0 {
			return nil
		}
		errs = append(errs, fmt.Errorf("endpoint %s is in no cluster yet", endpoint))
	}
	return errors.Join(errs...)
}

func (c *Cluster) newClient(conns int) (*client.Client, error) {
	cfg := client.Config{Endpoints: c.Endpoints(), Conns: conns, MaxRequest: int(c.cfg.Node.MaxRequest)}
	if dial := c.Dialer(); dial != nil {
		cfg.DialOptions = []grpc.DialOption{grpc.WithContextDialer(dial)}
	}
	return client.New(cfg)
}

// Client returns a new client of the cluster; close it before the cluster.
func (c *Cluster) Client() (*client.Client, error) { return c.newClient(max(c.cfg.Conns, 1)) }

// Endpoints are the client addresses of the nodes that have not ended.
func (c *Cluster) Endpoints() []string {
	if c.cfg.Topology == External {
		return slices.Clone(c.cfg.Endpoints)
	}
	var addrs []string
	for _, n := range c.Nodes() {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// Dialer is how to reach the endpoints with listener bufconn, whose addresses
// mean nothing outside; nil for TCP.
func (c *Cluster) Dialer() Dialer {
	if c.backend == nil {
		return nil
	}
	return c.backend.dialer()
}

// Nodes are the nodes that have not ended, by id.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *Node) bool {
		if n.life == nil {
			return false
		}
		select {
		case <-n.life.done():
			return true
		default:
			return false
		}
	})
}

// Node returns the node of an id, ended or not; nil for none.
func (c *Cluster) Node(id uint64) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// Leader waits until a node says that it leads, and returns it.
func (c *Cluster) Leader(ctx context.Context) (*Node, error) {
	for {
		for _, n := range c.Nodes() {
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			st, err := c.admin.Status(attempt, n.Addr, false)
			cancel()
			if err == nil && st.GetRole() == clusterv1.Role_ROLE_LEADER {
				return n, nil
			}
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil, fmt.Errorf("no node leads: %w", err)
		}
	}
}

// Status asks a node about itself.
func (c *Cluster) Status(ctx context.Context, n *Node) (*clusterv1.StatusResponse, error) {
	return c.admin.Status(ctx, n.Addr, false)
}

// TransferLeadership has the leader hand over to a voter, in good order; it
// returns when that one leads.
func (c *Cluster) TransferLeadership(ctx context.Context, to uint64) error {
	_, err := c.admin.TransferLeadership(ctx, to)
	return err
}

// AddNode starts a further node and makes it a voter.
func (c *Cluster) AddNode(ctx context.Context) (*Node, error) {
	n, membership, err := c.addLearner(ctx)
	if err != nil {
		return nil, err
	}
	voters := append(slices.Clone(membership.GetVoters()), n.ID)
	if _, err := c.admin.ChangeMembership(ctx, voters, false); err != nil {
		return nil, fmt.Errorf("make node %d a voter: %w", n.ID, err)
	}
	return n, nil
}

// AddLearner starts a further node, which gets all data but has no vote. It does
// not wait for the data.
func (c *Cluster) AddLearner(ctx context.Context) (*Node, error) {
	n, _, err := c.addLearner(ctx)
	return n, err
}

func (c *Cluster) addLearner(ctx context.Context) (*Node, *kvv1.Membership, error) {
	if c.backend == nil {
		return nil, nil, ErrUnsupported
	}
	c.mu.Lock()
	id := c.nodes[len(c.nodes)-1].ID + 1
	c.mu.Unlock()
	n, err := c.startNode(ctx, id, place{}, c.cfg.Node)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	c.nodes = append(c.nodes, n)
	c.mu.Unlock()
	membership, err := c.admin.AddLearner(ctx, id, n.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("add node %d: %w", id, err)
	}
	return n, membership, nil
}

// startNode starts a node, on its data folder if nodes have one.
func (c *Cluster) startNode(ctx context.Context, id uint64, at place, cfg node.Config) (*Node, error) {
	if c.data != "" {
		at.dataDir = c.DataDir(id)
	}
	return c.backend.start(ctx, id, at, cfg)
}

// DataDir is a node's data folder; "" without a durable log.
func (c *Cluster) DataDir(id uint64) string {
	if c.data == "" {
		return ""
	}
	return filepath.Join(c.data, fmt.Sprintf("node%d", id))
}

// Restart starts a node that has ended once more, at the addresses it had and on
// its data folder. It does not wait for the node to catch up.
func (c *Cluster) Restart(ctx context.Context, id uint64) (*Node, error) {
	return c.RestartWith(ctx, id, c.cfg.Node)
}

// RestartWith is Restart with other settings for that node.
func (c *Cluster) RestartWith(ctx context.Context, id uint64, cfg node.Config) (*Node, error) {
	old := c.Node(id)
	if c.backend == nil || old == nil {
		return nil, ErrUnsupported
	}
	select {
	case <-old.Done():
	default:
		return nil, fmt.Errorf("node %d has not ended", id)
	}
	n, err := c.startNode(ctx, id, place{addr: old.Addr, peerAddr: old.PeerAddr}, cfg)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.nodes {
		if c.nodes[i].ID == id {
			c.nodes[i] = n
		}
	}
	return n, nil
}

// Close ends all nodes at once and waits for them. It may be called twice.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	nodes := slices.Clone(c.nodes)
	c.mu.Unlock()

	var errs []error
	if c.admin != nil {
		errs = append(errs, c.admin.Close())
	}
	ended := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		if n.life != nil {
			wg.Go(func() { ended[i] = n.life.kill() })
		}
	}
	wg.Wait()
	errs = append(errs, ended...)
	if c.backend != nil {
		errs = append(errs, c.backend.close())
	}
	if c.data != "" {
		errs = append(errs, os.RemoveAll(c.data))
	}
	return errors.Join(errs...)
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
