package cluster

import (
	"context"

	"raftlab/kv/node"
)

// Node is one node of a cluster.
type Node struct {
	ID uint64
	// Addr is its client address and PeerAddr its peer address. Of an external
	// cluster only Addr is known.
	Addr, PeerAddr string
	// DebugAddr is the address of the debug port; "" when it has none.
	DebugAddr string
	// PID is the process, 0 for a node in this one.
	PID int

	life life
}

// life is what can be done to a node.
type life interface {
	// kill ends the node at once, without handing anything over.
	kill() error
	// stop ends it in good order.
	stop(ctx context.Context) error
	// done is closed when the node has ended.
	done() <-chan struct{}
	// local is the node itself when it runs in this process.
	local() *node.Node
	signal(s faultSignal) error
}

type faultSignal int

const (
	signalPause faultSignal = iota
	signalResume
)

// Kill ends a node at once, as a crash does. A process gets SIGKILL; a node in
// this process is stopped without handing leadership over.
func (n *Node) Kill() error {
	if n.life == nil {
		return ErrUnsupported
	}
	return n.life.kill()
}

// Stop ends a node in good order.
func (n *Node) Stop(ctx context.Context) error {
	if n.life == nil {
		return ErrUnsupported
	}
	return n.life.stop(ctx)
}

// Pause stops a process with SIGSTOP until Resume. Nodes in this process cannot
// be paused.
func (n *Node) Pause() error {
	if n.life == nil {
		return ErrUnsupported
	}
	return n.life.signal(signalPause)
}

// Resume lets a paused process go on.
func (n *Node) Resume() error {
	if n.life == nil {
		return ErrUnsupported
	}
	return n.life.signal(signalResume)
}

// Done is closed when the node has ended; nil for an external one.
func (n *Node) Done() <-chan struct{} {
	if n.life == nil {
		return nil
	}
	return n.life.done()
}

// Local is the node itself when it runs in this process, else nil.
func (n *Node) Local() *node.Node {
	if n.life == nil {
		return nil
	}
	return n.life.local()
}
