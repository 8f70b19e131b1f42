package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"raftlab/kv"
	"raftlab/kv/replica"
	"raftlab/kv/storage"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	"raftlab/transport"
)

// Options is what a node is made of beside its settings. Listeners that are
// given belong to the node from then on.
type Options struct {
	Config Config
	// Logger gets the node's log lines; nil drops them.
	Logger *slog.Logger
	// Network connects nodes of one process without serialisation; nil means
	// gRPC on the peer port.
	Network *transport.Network
	// Listeners of the two ports; nil binds the addresses of Config.
	ClientListener, PeerListener net.Listener
	// How this node dials another's client port and peer port; nil is TCP.
	ClientDial, PeerDial func(ctx context.Context, addr string) (net.Conn, error)
	// PeerServerOptions are added to the peer port's server, for those who want
	// to see each message, such as by a stats handler.
	PeerServerOptions []grpc.ServerOption
	// FS holds the data folder; nil is the operating system's.
	FS storage.FS
	// Version that Status reports.
	Version string
}

// Node is one member of a cluster, or one that waits to become it. All methods
// may be called from any goroutine.
type Node struct {
	cfg     Config // effective
	log     *slog.Logger
	version string
	self    *kvv1.Member // never changed
	run     uint64       // random: this run of the node
	dial    func(ctx context.Context, addr string) (net.Conn, error)

	disk      *storage.Disk // nil without a durable log
	store     *kv.Store
	replica   *replica.Replica
	transport transport.Transport

	clientListener, peerListener, debugListener net.Listener // the last two may be nil
	clientServer, peerServer                    *grpc.Server // the last may be nil
	debugServer                                 *http.Server // may be nil
	health                                      *health.Server
	pins                                        *pins

	life    context.Context // ends when open streams have to
	endLife context.CancelFunc
	serving sync.WaitGroup // the Serve goroutines

	started  atomic.Bool
	failed   chan error // capacity 1: the first fatal error
	stopOnce sync.Once
	stopping chan context.Context // capacity 1: how long the first Stop waits
	done     chan struct{}
	err      error // written before done is closed
}

// serviceKV is what health calls the KV service.
const serviceKV = "raftlab.kv.v1.KV"

// New checks the settings, binds the ports and puts the parts together. Nothing
// runs before Start. Errors about settings are *FieldError. A node that is not
// started has to be stopped all the same, to give back its ports.
func New(o Options) (*Node, error) {
	cfg := o.Config.Effective()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, version: o.Version, log: o.Logger, dial: o.ClientDial,
		clientListener: o.ClientListener, peerListener: o.PeerListener,
		failed: make(chan error, 1), stopping: make(chan context.Context, 1), done: make(chan struct{}),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.log = n.log.With("node", cfg.ID)
	n.life, n.endLife = context.WithCancel(context.Background())

	var err error
	n.labelled(func() {
		if err = n.bind(o.Network == nil); err == nil {
			err = n.assemble(o)
		}
	})
	if err != nil {
		n.endLife()
		n.closeListeners()
		return nil, errors.Join(err, n.closeDisk())
	}
	return n, nil
}

// labelled runs f so that the goroutines it starts are known as this node's.
func (n *Node) labelled(f func()) {
	labels := pprof.Labels("node", strconv.FormatUint(n.cfg.ID, 10))
	pprof.Do(context.Background(), labels, func(context.Context) { f() })
}

// bind listens on the ports that no listener was given for.
func (n *Node) bind(withPeerPort bool) error {
	for _, port := range []struct {
		field, addr string
		listener    *net.Listener
		wanted      bool
	}{
		{"addr", n.cfg.Addr, &n.clientListener, true},
		{"peer-addr", n.cfg.PeerAddr, &n.peerListener, withPeerPort},
		{"debug-addr", n.cfg.DebugAddr, &n.debugListener, n.cfg.DebugAddr != ""},
	} {
		if *port.listener != nil || !port.wanted {
			continue
		}
		l, err := listen(n.life, port.addr)
		if err != nil {
			return fmt.Errorf("%s %s: %w", port.field, port.addr, err)
		}
		*port.listener = l
	}
	return nil
}

func (n *Node) closeListeners() {
	for _, l := range []net.Listener{n.clientListener, n.peerListener, n.debugListener} {
		if l != nil {
			_ = l.Close() // closed already by the server that had it
		}
	}
}

// assemble makes the parts, from the store outwards.
func (n *Node) assemble(o Options) error {
	n.store = kv.NewStore()
	memory, err := n.recover(o.FS)
	if err != nil {
		return err
	}
	n.run = newIncarnation()
	incarnation := n.run
	if n.disk != nil {
		incarnation = n.disk.Incarnation()
	}
	if n.self, err = n.describe(incarnation); err != nil {
		return err
	}
	batcher, err := replica.NewBatcher(replica.Batching{
		Strategy: n.cfg.Batching, MaxCount: n.cfg.BatchCount, MaxBytes: int(n.cfg.BatchSize),
		Linger: n.cfg.Linger.Wait, LingerAuto: n.cfg.Linger.Auto,
	})
	if err != nil {
		return err
	}
	cfg := n.cfg.replica()
	cfg.Incarnation, cfg.Journal, cfg.Batcher = n.run, n.journal(), batcher
	cfg.Packer = replica.Packer{Packed: n.cfg.Packing == replica.PackPacked, Size: packSize(n.cfg, o.Network != nil)}
	cfg.Send = func(ms []*raftpb.Message) { n.transport.Send(ms) }
	cfg.MembershipChanged, cfg.LeaderChanged, cfg.Logger = n.membershipChanged, n.leaderChanged, n.log
	n.replica, err = replica.New(cfg, memory, n.store)
	if err != nil {
		return err
	}
	n.assembleServices()
	n.assembleTransport(o)
	if m := n.store.Membership(); m.GetClusterId() != 0 { // of the snapshot it came back with
		n.membershipChanged(m)
	}
	return nil
}

func (n *Node) assembleServices() {
	errs := translator{leader: n.notLeader}
	n.pins = newPins(n.run, n.cfg.ScanPins, n.cfg.ScanPinTime)
	n.health = health.NewServer()
	n.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	n.health.SetServingStatus(serviceKV, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	n.clientServer = newClientServer(n.life, n.cfg)
	kvv1.RegisterKVServer(n.clientServer, &kvService{
		store: n.store, replica: n.replica, errors: errs, pins: n.pins, page: n.cfg.ScanPage, answer: int(n.cfg.MaxRequest),
		streams: holding{limit: n.cfg.underWay()}, life: n.life,
	})
	clusterv1.RegisterClusterServer(n.clientServer, &clusterService{n: n, errors: errs})
	grpc_health_v1.RegisterHealthServer(n.clientServer, n.health)
	reflection.Register(n.clientServer)
	if n.debugListener != nil {
		n.debugServer = newDebugServer(n)
	}
}

func (n *Node) assembleTransport(o Options) {
	cfg := transport.Config{
		Kind: n.cfg.Transport, Codec: n.cfg.Codec, Compression: n.cfg.Compression, Lanes: n.cfg.Lanes, Chunking: n.cfg.Chunking,
		MaxMessage: int(n.cfg.MaxMessage), ChunkSize: int(n.cfg.startChunk()), ChunkAuto: n.cfg.ChunkSize == AutoChunk, ChunkCount: n.cfg.ChunkCount,
		QueueBytes: int64(n.cfg.PeerQueue), Faults: n.cfg.Faults(),
		SnapshotWindow: int64(n.cfg.SnapshotWindow), SnapshotRate: int64(n.cfg.SnapshotRate),
		SnapshotTimeout: n.cfg.SnapshotTimeout, SnapshotKeep: n.cfg.SnapshotKeep, SnapshotLimit: int64(n.cfg.SnapshotLimit),
		GRPCWindow: int(n.cfg.GRPCWindow), GRPCWriteBuffer: int(n.cfg.GRPCWriteBuffer), Dial: o.PeerDial, Logger: n.log,
	}
	if o.Network != nil {
		n.transport = o.Network.Join(n.cfg.ID, cfg, peerHandler{n})
		return
	}
	server := transport.New(cfg, peerHandler{n})
	n.peerServer = newPeerServer(n.cfg, o.PeerServerOptions)
	server.Register(n.peerServer)
	n.transport = server
}

// describe says who this node is, once its ports are bound.
func (n *Node) describe(incarnation uint64) (*kvv1.Member, error) {
	m := &kvv1.Member{Id: n.cfg.ID, Incarnation: incarnation, Address: n.cfg.Advertise, PeerAddress: n.cfg.AdvertisePeer}
	if m.Address == "" {
		m.Address = n.clientListener.Addr().String()
		if everyInterface(n.clientListener) {
			return nil, &FieldError{Field: "advertise", Problem: "must be set: addr " + n.cfg.Addr + " is every interface, which is no address to tell others"}
		}
	}
	if m.PeerAddress != "" {
		return m, nil
	}
	if n.peerListener == nil {
		m.PeerAddress = fmt.Sprintf("local:%d", n.cfg.ID)
		return m, nil
	}
	m.PeerAddress = n.peerListener.Addr().String()
	if everyInterface(n.peerListener) {
		return nil, &FieldError{Field: "advertise-peer", Problem: "must be set: peer-addr " + n.cfg.PeerAddr + " is every interface, which is no address to tell others"}
	}
	return m, nil
}

func everyInterface(l net.Listener) bool {
	addr, ok := l.Addr().(*net.TCPAddr)
	return ok && addr.IP.IsUnspecified()
}

// newIncarnation names one run of a node, or one life of its memory: random,
// never 0.
func newIncarnation() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return max(1, binary.BigEndian.Uint64(b[:]))
}

// packFraming is room for what a frame adds to the commands of one entry: the
// message's header, tags, lengths and the entry's own fields.
const packFraming = 256

// packSize is how many bytes of commands share an entry: no more than raft puts
// in one append, and what one frame carries. Where nothing is cut at chunk-size,
// a frame is what the peer port takes; a local transport has no frames.
func packSize(cfg Config, local bool) int {
	size := cfg.AppendSize
	switch {
	case local:
	case transport.ReadsChunk(cfg.Chunking):
		size = min(size, cfg.startChunk()-packFraming)
	default:
		size = min(size, cfg.MaxMessage-packFraming)
	}
	return int(max(min(size, cfg.BatchSize), packFraming))
}

// Start begins to serve. The ports answer from here on.
func (n *Node) Start() error {
	if !n.started.CompareAndSwap(false, true) {
		return errors.New("the node was started or stopped before")
	}
	n.labelled(func() {
		n.replica.Start()
		go n.watch()
		n.serve("client port", func() error { return n.clientServer.Serve(n.clientListener) })
		if n.peerServer != nil {
			n.serve("peer port", func() error { return n.peerServer.Serve(n.peerListener) })
		}
		if n.debugServer != nil {
			n.serve("debug port", func() error {
				if err := n.debugServer.Serve(n.debugListener); !errors.Is(err, http.ErrServerClosed) {
					return err
				}
				return nil
			})
		}
	})
	n.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	n.log.Info("started", "addr", n.Addr(), "peer_addr", n.PeerAddr(), "debug_addr", n.DebugAddr(),
		"incarnation", fmt.Sprintf("%016x", n.self.GetIncarnation()), "version", n.version)
	return nil
}

func (n *Node) serve(port string, serve func() error) {
	n.serving.Go(func() {
		if err := serve(); err != nil {
			n.fail(fmt.Errorf("%s: %w", port, err))
		}
	})
}

// leaderChanged is called by the replica; 0 is nobody.
func (n *Node) leaderChanged(id uint64) {
	serving := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if id != 0 {
		serving = grpc_health_v1.HealthCheckResponse_SERVING
	}
	n.health.SetServingStatus(serviceKV, serving)
}

// ID returns the node's id.
func (n *Node) ID() uint64 { return n.cfg.ID }

// Addr returns the address of the client port, as others are told.
func (n *Node) Addr() string { return n.self.GetAddress() }

// PeerAddr returns the address of the peer port, as others are told.
func (n *Node) PeerAddr() string { return n.self.GetPeerAddress() }

// DebugAddr returns the address of the debug port; empty when it is off.
func (n *Node) DebugAddr() string {
	if n.debugListener == nil {
		return ""
	}
	return n.debugListener.Addr().String()
}

// Replica returns the node's replica, for those who drive it without RPC.
func (n *Node) Replica() *replica.Replica { return n.replica }

// Store returns the node's store, for reading.
func (n *Node) Store() *kv.Store { return n.store }

// Config returns the settings in effect.
func (n *Node) Config() Config { return n.cfg }
