package client

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Config says how a Client reaches a cluster. Only Endpoints is needed.
type Config struct {
	// Endpoints are client addresses (host:port) of any nodes of the cluster.
	// The first is asked first; Init and Status go to it unless told otherwise.
	Endpoints []string
	// Conns is the number of connections to each node, used in turn. Default 1.
	Conns int
	// MaxRequest is the largest encoded request in bytes, the node's max-request
	// knob. A larger one is refused here, before anything is sent. Answers may be
	// slightly larger. Default 64 MiB.
	MaxRequest int
	// RetryTime bounds how long after its start a call without a deadline still
	// begins another attempt; with a deadline that alone counts. Default 10 s;
	// negative: every call has one attempt.
	RetryTime time.Duration
	// AttemptTimeout bounds one attempt at a call of keys, TransferLeadership and FirstStatus, be its
	// node stopped, cut off or slow: then another node is asked. A write that the silent node may still
	// apply fails instead, its outcome unknown, unless it is one of a Session. A
	// stream of a Pipeline or Coalescer is given up with all that is under way on it
	// once a message has waited so long for its answer, in the queue of this process
	// too. It should be well above what the slowest answer takes. Default: none, an
	// attempt lasts as long as its call; a connection on which nothing arrives breaks
	// after 15 s.
	AttemptTimeout time.Duration
	// UnreachableTime is how long a call goes on while none of the nodes can be
	// connected to; then it fails with "no node answers". Default, and when
	// negative: as long as other retries do.
	UnreachableTime time.Duration
	// RefreshInterval is how often the addresses of the cluster's nodes are asked
	// for. Default 5 s; negative: never, Endpoints and what NotLeader answers name
	// is all that is known.
	RefreshInterval time.Duration
	// DialOptions come after the client's own, so they win: credentials, a dialer.
	DialOptions []grpc.DialOption
}

const (
	// What an answer may have beyond MaxRequest: a value that just fitted the
	// request comes back with revisions around it.
	answerSlack = 1 << 20
	// Static windows stop grpc-go's bandwidth probes, a ping each round trip.
	windowSize = 1 << 20
)

func (c Config) withDefaults() (Config, error) {
	if len(c.Endpoints) == 0 {
		return c, errors.New("client: no endpoints")
	}
	if slices.Contains(c.Endpoints, "") {
		return c, errors.New("client: an endpoint is empty")
	}
	if c.Conns < 0 {
		return c, fmt.Errorf("client: conns %d is negative", c.Conns)
	}
	if c.MaxRequest < 0 {
		return c, fmt.Errorf("client: max request %d is negative", c.MaxRequest)
	}
	if c.AttemptTimeout < 0 {
		return c, fmt.Errorf("client: attempt timeout %v is negative", c.AttemptTimeout)
	}
	if c.Conns == 0 {
		c.Conns = 1
	}
	if c.MaxRequest == 0 {
		c.MaxRequest = 64 << 20
	}
	if c.RetryTime == 0 {
		c.RetryTime = 10 * time.Second
	}
	if c.RefreshInterval == 0 {
		c.RefreshInterval = 5 * time.Second
	}
	return c, nil
}

// answerLimit is the largest message this client accepts.
func (c Config) answerLimit() int { return c.MaxRequest + answerSlack }

func (c Config) dialOptions() []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		// Which errors are safe to retry only the outcome details tell.
		grpc.WithDisableRetry(),
		grpc.WithStaticStreamWindowSize(windowSize),
		grpc.WithStaticConnWindowSize(windowSize),
		// A dead node's connection is tried again soon after it is back; grpc-go's
		// own back-off grows to 120 s.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		// 10 s is the least that grpc-go allows a client.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}, c.DialOptions...)
}
