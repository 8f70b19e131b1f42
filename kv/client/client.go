package client

import (
	"context"
	"sync"

	"google.golang.org/grpc"
)

// Client talks to one cluster. All methods may be called from any goroutine.
type Client struct {
	cfg    Config
	router *router
	// Of every RPC; shared, so that a call allocates no options.
	callOptions []grpc.CallOption
	attempts    sync.Pool // *attempt

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // orders run before Close
	tasks  sync.WaitGroup
}

// New makes a client. Nothing is dialled before the first call.
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg,
		callOptions: []grpc.CallOption{
			grpc.MaxCallRecvMsgSize(cfg.answerLimit()),
			grpc.MaxCallSendMsgSize(cfg.MaxRequest),
		},
	}
	c.attempts.New = func() any { return newAttempt(c.callOptions) }
	options := cfg.dialOptions()
	c.router, err = newRouter(cfg.Endpoints, func(address string) ([]*grpc.ClientConn, error) {
		conns := make([]*grpc.ClientConn, 0, cfg.Conns)
		for range cfg.Conns {
			conn, err := grpc.NewClient("passthrough:///"+address, options...)
			if err != nil {
				return nil, err
			}
			conns = append(conns, conn)
		}
		return conns, nil
	})
	if err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if cfg.RefreshInterval > 0 {
		c.run(c.refreshLoop)
	}
	return c, nil
}

// run starts a goroutine that Close waits for; false once the client is closed.
func (c *Client) run(task func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.tasks.Go(task)
	return true
}

// Close ends the client, its pipelines and their streams. Calls under way
// fail; the outcome of their writes is unknown. Close is an io.Closer and always
// returns nil.
func (c *Client) Close() error {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	c.router.close()
	c.tasks.Wait()
	return nil
}
