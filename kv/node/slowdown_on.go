//go:build slowdown

package node

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// slowdownShare is how much longer an operation takes in this build, which is made
// to be found out: `make detect-slowdown` checks that the lab tells it from the
// plain one.
const slowdownShare = 0.1

// slowdownMost keeps a pause of the client from being taken for a long operation.
const slowdownMost = 5 * time.Millisecond

// slowdown holds up the answers of unary calls. A lone client in a closed loop sends
// when it has its answer, so the time between two of its calls, less the last
// delay, is what an operation takes to it, network and all; the delay is a share of
// that. It is spent computing: a timer is not exact enough. With more clients the
// delay is shorter than the share.
func slowdown() []grpc.ServerOption {
	var (
		mu      sync.Mutex
		arrived time.Time
		delayed time.Duration
	)
	next := func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		took := now.Sub(arrived) - delayed
		arrived, delayed = now, min(max(time.Duration(slowdownShare*float64(took)), 0), slowdownMost)
		return delayed
	}
	return []grpc.ServerOption{grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			delay := next()
			resp, err := handler(ctx, req)
			for start := time.Now(); time.Since(start) < delay; {
			}
			return resp, err
		})}
}
