package client

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// kind says what a failed call may have left behind.
type kind uint8

const (
	write kind = iota
	read
	// once is a write in a session: sent again, it is not applied again.
	once
	// settled asks for a state of the cluster: sent again, it finds what is so
	// already, or waits for what is under way.
	settled
)

// attempt holds what one unary RPC needs beside its messages; reused.
type attempt struct {
	// gRPC fills it in once the request is on a transport. Empty after a failure
	// means that nothing was sent.
	peer    peer.Peer
	options []grpc.CallOption
}

func newAttempt(common []grpc.CallOption) *attempt {
	a := &attempt{}
	a.options = append(append(a.options, common...), grpc.Peer(&a.peer))
	return a
}

// method is an RPC by its full path and the name errors give it.
type method struct {
	path, name string
	kind       kind
}

// call makes one RPC against the node believed to lead, again where that is
// safe, until it is answered or ctx, or Config.RetryTime, runs out. It returns
// nil or an *Error.
func (c *Client) call(ctx context.Context, m method, req, resp proto.Message) error {
	_, err := c.retry(ctx, m, destination{}, req, resp)
	return err
}

// destination is where a call goes: to one node, to all nodes in turn, or to the
// one believed to lead.
type destination struct {
	pinned *node
	spread bool
}

func (c *Client) pick(to destination) *node {
	switch {
	case to.pinned != nil:
		return to.pinned
	case to.spread:
		return c.router.spread()
	}
	return c.router.target.Load()
}

// callAt is call with one node that alone can answer.
func (c *Client) callAt(ctx context.Context, m method, address string, req, resp proto.Message) error {
	n, err := c.node(address)
	if err != nil {
		return notSent(m.name, codes.InvalidArgument, "%v", err)
	}
	_, err = c.retry(ctx, m, destination{pinned: n}, req, resp)
	return err
}

// node is the node of an address; of the first endpoint without one.
func (c *Client) node(address string) (*node, error) {
	if address == "" {
		address = c.cfg.Endpoints[0]
	}
	return c.router.at(address)
}

// retry is the loop of every call. It also returns the node that answered.
func (c *Client) retry(ctx context.Context, m method, to destination, req, resp proto.Message) (*node, error) {
	if size := proto.Size(req); size > c.cfg.MaxRequest {
		return nil, c.tooLarge(m.name, size)
	}
	var p patience
	var limit time.Duration // of an attempt, where others may follow it at other nodes
	if to.pinned == nil && m.kind != settled {
		limit = c.cfg.AttemptTimeout
	}
	maybe := false    // an attempt before may have been applied
	var before *Error // the last attempt's, of those that reached a node if there are any
	for {
		n := c.pick(to)
		e := c.try(ctx, m, n, limit, req, resp)
		if e == nil {
			n.answered()
			return n, nil
		}
		again := e.retryable() || m.kind.repeats(e, maybe)
		followed := again && c.turn(n, to, e)
		maybe = maybe || e.Applied == unknown
		silent := p.silent(c, to, n, e)
		if silent != "" {
			e = notSent(m.name, codes.Unavailable, "no node answers: %s", silent)
		}
		if silent != "" || !again || !p.wait(ctx, c, followed) {
			if maybe {
				e.Applied = unknown
			}
			if e.Code == codes.DeadlineExceeded {
				e.before = before
			}
			return nil, e
		}
		if before == nil || !e.unconnected {
			before = e
		}
	}
}

// repeats tells that e is no reason to give up for calls that are safe to repeat
// whatever became of them. maybe says that an attempt before may have taken
// effect: a refusal is then possibly for that one, still under way.
func (k kind) repeats(e *Error, maybe bool) bool {
	if k != once && k != settled {
		return false
	}
	refused := k == settled && maybe && e.Applied == no && e.Code == codes.FailedPrecondition
	return e.silent() || refused
}

// try makes one attempt, for as long as ctx and the limit, if there is one, allow.
func (c *Client) try(ctx context.Context, m method, n *node, limit time.Duration, req, resp proto.Message) *Error {
	a := c.attempts.Get().(*attempt)
	a.peer = peer.Peer{}
	bounded, cancel := within(ctx, limit)
	defer cancel()
	err := n.conn().Invoke(bounded, m.path, req, resp, a.options...)
	sent := a.peer.Addr != nil
	c.attempts.Put(a)
	if err == nil {
		return nil
	}
	e := c.newError(m.name, m.kind, err, sent)
	e.unconnected = !sent && e.Code == codes.Unavailable
	e.late(ctx, n, limit)
	return e
}

// within is ctx for an attempt with a limit, if there is one.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// late notes in e, the end of an attempt at n for a caller with ctx, if it was the
// limit that ended it: whether the client noticed or the server, which is told of
// the deadline.
func (e *Error) late(ctx context.Context, n *node, limit time.Duration) {
	if limit <= 0 || e.Code != codes.DeadlineExceeded || ctx.Err() != nil {
		return
	}
	e.overdue = true
	e.status = status.Newf(e.Code, "no answer from %s within attempt timeout %v", n.address, limit)
}

// turn points later attempts to where they have a better chance than at n. It
// reports whether a leader was named.
func (c *Client) turn(n *node, to destination, e *Error) (followed bool) {
	if e.silent() {
		n.failed()
	}
	switch {
	case to.pinned != nil, to.spread:
	case e.NotLeader && c.router.follow(n, e.LeaderAddress):
		return true
	case e.NotLeader, e.silent():
		c.router.leave(n)
	}
	return false
}

func (c *Client) tooLarge(method string, size int) *Error {
	return notSent(method, codes.ResourceExhausted, "request of %d bytes exceeds max-request %d bytes", size, c.cfg.MaxRequest)
}

// patience spaces the attempts of one call.
type patience struct {
	start    time.Time
	delay    time.Duration
	followed int
	// Why there is no connection, by address; empty once any node answers.
	unconnected map[string]string
	silence     time.Time // since when
}

// silent tells why, when no node could be connected to for too long.
func (p *patience) silent(c *Client, to destination, n *node, e *Error) string {
	if !e.unconnected || c.cfg.UnreachableTime <= 0 {
		p.unconnected = nil
		return ""
	}
	if p.unconnected == nil {
		p.unconnected, p.silence = map[string]string{}, time.Now()
	}
	p.unconnected[n.address] = unconnected(n.address, e)
	if time.Since(p.silence) < c.cfg.UnreachableTime {
		return ""
	}
	addresses := []string{n.address}
	if to.pinned == nil {
		addresses = c.router.addresses()
	}
	var all []string
	for _, a := range addresses {
		why, ok := p.unconnected[a]
		if !ok {
			return "" // it has not been tried yet
		}
		all = append(all, a+": "+why)
	}
	return strings.Join(all, ", ")
}

// unconnected is the reason in an error of a connection that was not made,
// without what its address already says.
func unconnected(address string, e *Error) string {
	why := plain(e.status.Message())
	why = strings.TrimPrefix(why, "dial tcp "+address+": ")
	return strings.TrimPrefix(why, "connect: ")
}

const (
	firstDelay = 4 * time.Millisecond
	// An election takes a second or so; nobody should come late for its end.
	delayMax = 100 * time.Millisecond
	// Leaders followed without a pause: one hop is usual, two when leadership
	// moves under way, more is nodes that disagree.
	freeHops = 2
)

// wait pauses before the next attempt, not at all when a leader was named. It
// is false when there is no time for another.
func (p *patience) wait(ctx context.Context, c *Client, followed bool) bool {
	if c.cfg.RetryTime < 0 || ctx.Err() != nil || c.ctx.Err() != nil {
		return false
	}
	now := time.Now()
	if p.start.IsZero() {
		p.start = now
	}
	if followed && p.followed < freeHops {
		p.followed++
		return true
	}
	if p.delay = min(2*p.delay, delayMax); p.delay == 0 {
		p.delay = firstDelay
	}
	// Half of it random, so that clients that failed together don't come
	// back together.
	pause := p.delay/2 + rand.N(p.delay/2) //nolint:gosec // jitter
	until, ok := ctx.Deadline()
	if !ok {
		until = p.start.Add(c.cfg.RetryTime)
	}
	if now.Add(pause).After(until) {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	return false
}
