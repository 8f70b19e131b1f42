package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// node is one client address and the connections to it.
type node struct {
	address string
	conns   []*grpc.ClientConn
	next    atomic.Uint32
	made    time.Time    // what down counts from
	down    atomic.Int64 // nanoseconds: spread reads skip the node until then; 0 after an answer
}

// downTime is how long a node that failed is not asked by spread reads.
const downTime = time.Second

func (n *node) failed() { n.down.Store(int64(time.Since(n.made) + downTime)) }

func (n *node) answered() {
	if n.down.Load() != 0 {
		n.down.Store(0)
	}
}

// isDown tells that the node failed and there is no sign of life since.
func (n *node) isDown() bool {
	until := n.down.Load()
	if until == 0 {
		return false
	}
	if int64(time.Since(n.made)) < until {
		return true
	}
	state := n.conns[0].GetState()
	return state == connectivity.TransientFailure || state == connectivity.Connecting
}

// conn takes the connections in turn.
func (n *node) conn() *grpc.ClientConn {
	if len(n.conns) == 1 {
		return n.conns[0]
	}
	return n.conns[int(n.next.Add(1)%uint32(len(n.conns)))]
}

// router knows the cluster's nodes and which of them calls go to: the one
// believed to lead. Any goroutine.
type router struct {
	dial   func(address string) ([]*grpc.ClientConn, error)
	target atomic.Pointer[node]
	all    atomic.Pointer[[]*node] // those of ring
	turns  atomic.Uint32           // of spread

	mu        sync.Mutex
	closed    bool
	nodes     map[string]*node // every address ever used; connections stay
	endpoints []string
	ring      []string // endpoints, then the members beyond them
	cursor    int      // last place in ring that was turned to
}

func newRouter(endpoints []string, dial func(string) ([]*grpc.ClientConn, error)) (*router, error) {
	r := &router{dial: dial, nodes: map[string]*node{}}
	for _, e := range endpoints {
		if !slices.Contains(r.endpoints, e) {
			r.endpoints = append(r.endpoints, e)
		}
	}
	r.ring = r.endpoints
	first, err := r.at(endpoints[0])
	if err != nil {
		return nil, err
	}
	r.target.Store(first)
	r.spreadOver(r.ring)
	return r, nil
}

var errClosed = errors.New("client: closed")

// at returns the node of an address, which need not be known yet.
func (r *router) at(address string) (*node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.atLocked(address)
}

func (r *router) atLocked(address string) (*node, error) {
	if n := r.nodes[address]; n != nil {
		return n, nil
	}
	if r.closed {
		return nil, errClosed
	}
	conns, err := r.dial(address)
	if err != nil {
		return nil, fmt.Errorf("client: endpoint %q: %w", address, err)
	}
	n := &node{address: address, conns: conns, made: time.Now()}
	r.nodes[address] = n
	return n, nil
}

// follow makes the leader that was named the target, unless calls have moved
// on from n already. It reports whether there is somewhere new to go.
func (r *router) follow(n *node, leader string) bool {
	if leader == "" || leader == n.address {
		return false
	}
	to, err := r.at(leader)
	if err != nil {
		return false
	}
	r.target.CompareAndSwap(n, to)
	return true
}

// leave turns from n to the next node of the ring, unless another call has
// done so already. The cursor, not n's place, says which is next: a follower
// that keeps naming a dead leader must not hide the third node.
func (r *router) leave(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target.Load() != n {
		return
	}
	for range r.ring {
		r.cursor = (r.cursor + 1) % len(r.ring)
		if address := r.ring[r.cursor]; address != n.address {
			if to, err := r.atLocked(address); err == nil {
				r.target.CompareAndSwap(n, to)
				return
			}
		}
	}
}

// learn takes in the members' addresses.
func (r *router) learn(m *kvv1.Membership) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ring := slices.Clone(r.endpoints)
	for _, member := range m.GetNodes() {
		if a := member.GetAddress(); a != "" && !slices.Contains(ring, a) {
			ring = append(ring, a)
		}
	}
	if !slices.Equal(r.ring, ring) {
		r.ring = ring
		r.spreadOver(ring)
	}
	r.cursor %= len(ring)
}

// spreadOver makes these addresses the ones that spread takes in turn. r.mu is
// held, or r not yet shared.
func (r *router) spreadOver(ring []string) {
	all := make([]*node, 0, len(ring))
	for _, address := range ring {
		if n, err := r.atLocked(address); err == nil {
			all = append(all, n)
		}
	}
	if len(all) > 0 {
		r.all.Store(&all)
	}
}

// spread takes the nodes in turn, but for those that are down while others are
// not.
func (r *router) spread() *node {
	all := *r.all.Load()
	first := int(r.turns.Add(1))
	for i := range all {
		if n := all[(first+i)%len(all)]; !n.isDown() {
			return n
		}
	}
	return all[first%len(all)]
}

// addresses are those that calls turn to.
func (r *router) addresses() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ring)
}

func (r *router) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, n := range r.nodes {
		for _, c := range n.conns {
			// It fails only for a connection that is closed already.
			_ = c.Close()
		}
	}
}

// Refresh asks the present target who leads and for the cluster's members, so
// that reads find the leader without a write before them, and the client its way
// when every endpoint it was given is gone.
func (c *Client) Refresh(ctx context.Context) error {
	n := c.router.target.Load()
	st, err := c.Status(ctx, n.address, false)
	if err != nil {
		return err
	}
	c.router.learn(st.GetMembership())
	c.router.follow(n, st.GetLeaderAddress())
	return nil
}

// refreshLoop keeps the members' addresses fresh until the client is closed.
func (c *Client) refreshLoop() {
	const first = 500 * time.Millisecond // a short-lived client never asks
	timer := time.NewTimer(min(first, c.cfg.RefreshInterval))
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		// A failed refresh changes nothing; calls find out by themselves.
		_ = c.Refresh(ctx)
		cancel()
		timer.Reset(c.cfg.RefreshInterval)
	}
}
