package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"raftlab/kv/node"
	"raftlab/transport"
)

// inProcess starts nodes in this process.
type inProcess struct {
	cfg     Config
	network *transport.Network // in-process: no gRPC between nodes

	mu        sync.Mutex
	listeners map[string]*bufconn.Listener // by address, with listener bufconn
}

const bufconnBytes = 1 << 20

func newInProcess(cfg Config) *inProcess {
	b := &inProcess{cfg: cfg, listeners: map[string]*bufconn.Listener{}}
	if cfg.Topology == InProcess {
		b.network = transport.NewNetwork()
	}
	return b
}

func (b *inProcess) bufconn() bool {
	return b.cfg.Topology == InProcessGRPC && b.cfg.Listener == ListenBufconn
}

func (b *inProcess) start(_ context.Context, id uint64, at place, cfg node.Config) (*Node, error) {
	cfg.ID, cfg.DebugAddr, cfg.Advertise, cfg.AdvertisePeer = id, "", "", ""
	cfg.Addr, cfg.PeerAddr, cfg.DataDir = cmp.Or(at.addr, freePort), cmp.Or(at.peerAddr, freePort), at.dataDir
	options := node.Options{Config: cfg, Logger: b.cfg.Logger, Network: b.network}
	if b.bufconn() {
		options.Config.Addr, options.ClientListener = b.listen(id, 1)
		options.Config.PeerAddr, options.PeerListener = b.listen(id, 2)
		options.Config.Advertise, options.Config.AdvertisePeer = options.Config.Addr, options.Config.PeerAddr
		options.ClientDial, options.PeerDial = b.dial, b.dial
	}
	n, err := node.New(options)
	if err != nil {
		return nil, fmt.Errorf("node %d: %w", id, err)
	}
	if err := n.Start(); err != nil {
		return nil, fmt.Errorf("node %d: %w", id, err)
	}
	started := &Node{ID: id, Addr: n.Addr(), PeerAddr: n.PeerAddr(), life: localLife{n}}
	if b.bufconn() {
		started.Addr, started.PeerAddr = options.Config.Addr, options.Config.PeerAddr
	}
	return started, nil
}

// listen makes an in-memory port; its address is known to dial only.
func (b *inProcess) listen(id uint64, port int) (string, net.Listener) {
	address := fmt.Sprintf("node%d.bufconn:%d", id, port)
	l := bufconn.Listen(bufconnBytes)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners[address] = l
	return address, l
}

func (b *inProcess) dial(ctx context.Context, address string) (net.Conn, error) {
	b.mu.Lock()
	l := b.listeners[address]
	b.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("no node listens on %s", address)
	}
	return l.DialContext(ctx)
}

func (b *inProcess) dialer() Dialer {
	if !b.bufconn() {
		return nil
	}
	return b.dial
}

func (b *inProcess) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, l := range b.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

type localLife struct{ n *node.Node }

// What a node that is to be killed may still take to end its goroutines.
const killPatience = 5 * time.Second

// kill stops the node with a deadline that has passed: there is no time to hand
// anything over, only to end.
func (l localLife) kill() error {
	ctx, cancel := context.WithDeadline(context.Background(), time.Now())
	defer cancel()
	// That there was no time is what was asked for.
	_ = l.n.Stop(ctx)
	timer := time.NewTimer(killPatience)
	defer timer.Stop()
	select {
	case <-l.n.Done():
		return nil
	case <-timer.C:
		return fmt.Errorf("node %d did not end within %v", l.n.ID(), killPatience)
	}
}

func (l localLife) stop(ctx context.Context) error { return l.n.Stop(ctx) }
func (l localLife) done() <-chan struct{}          { return l.n.Done() }
func (l localLife) local() *node.Node              { return l.n }
func (l localLife) signal(faultSignal) error       { return ErrUnsupported }
