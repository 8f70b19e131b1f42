package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"raftlab/bench/cluster"
	"raftlab/bench/target"
	"raftlab/kv/node"
)

// Commands of SelfBin that serve ceilings in processes of their own.
const (
	EchoCommand     = "echo-server"
	FollowerCommand = "echo-follower"
)

// isEcho tells whether a target is driven without a cluster: it has a server of
// its own, and can be another's ceiling.
func isEcho(name string) bool { return name == TargetWire || name == TargetRelay }

// echo is what stands where the nodes would be in one trial: an echo server, or
// the leader of a relay with its followers.
type echo struct {
	addr    string // of the server that clients talk to
	network *network
	pids    map[string]int // by process name; none in this process
	closers []func() error
}

// close ends the servers, the last started first: a relay's leader before its
// followers.
func (e *echo) close() error {
	var errs []error
	for _, c := range slices.Backward(e.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// startEcho starts the servers of target wire or relay.
func (r *runner) startEcho(ctx context.Context, s *Settings) (_ *echo, err error) {
	e := &echo{network: &network{memory: s.Load.Listener == cluster.ListenBufconn}, pids: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	var followers []string
	if s.Load.Target == TargetRelay {
		for i := 2; i <= s.Load.Nodes; i++ {
			addr, err := r.startServer(ctx, e, s, fmt.Sprintf("follower%d", i), FollowerCommand, nil)
			if err != nil {
				return nil, err
			}
			followers = append(followers, addr)
		}
	}
	e.addr, err = r.startServer(ctx, e, s, s.Load.Target, EchoCommand, followers)
	return e, err
}

// startServer starts one server, in this process or one of its own as the nodes
// would be, and returns its address.
func (r *runner) startServer(ctx context.Context, e *echo, s *Settings, name, command string, followers []string) (string, error) {
	if s.Load.Topology == TopologyProcesses {
		args := []string{command}
		if command == EchoCommand {
			args = append(args, "--value-size", strconv.Itoa(s.Load.ValueSize.Most()))
		}
		if len(followers) > 0 {
			args = append(args, "--followers", strings.Join(followers, ","))
		}
		p, err := cluster.StartProcess(ctx, nil, r.SelfBin, append(args, cluster.ServerFlags(s.Node)...)...)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		e.pids[name] = p.PID
		e.closers = append(e.closers, p.Kill)
		return p.Ready.Addr, nil
	}
	lis, addr, err := e.network.listen(ctx, name)
	if err != nil {
		return "", err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- e.serve(life, lis, s.Node, s.Load.ValueSize.Most(), command, followers) }()
	e.closers = append(e.closers, func() error {
		cancel()
		return <-served
	})
	return addr, nil
}

func (e *echo) serve(ctx context.Context, lis net.Listener, cfg node.Config, valueSize int, command string, followers []string) error {
	switch {
	case command == FollowerCommand:
		return target.ServeFollower(ctx, lis, cfg)
	case len(followers) > 0:
		return target.ServeRelay(ctx, lis, cfg, valueSize, followers, e.network.dialer())
	}
	return target.ServeWire(ctx, lis, cfg, valueSize)
}

// network is where servers in this process listen: loopback TCP, or memory. Its
// listeners are all made before the first dial.
type network struct {
	memory    bool
	listeners map[string]*bufconn.Listener
}

// listen makes the port of a server and its address.
func (n *network) listen(ctx context.Context, name string) (net.Listener, string, error) {
	if n.memory {
		if n.listeners == nil {
			n.listeners = map[string]*bufconn.Listener{}
		}
		lis, addr := bufconn.Listen(1<<20), name+".bufconn:1"
		n.listeners[addr] = lis
		return lis, addr, nil
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	return lis, lis.Addr().String(), nil
}

// dialer is how to reach the servers; nil is TCP.
func (n *network) dialer() cluster.Dialer {
	if !n.memory {
		return nil
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		lis := n.listeners[addr]
		if lis == nil {
			return nil, fmt.Errorf("no server listens on %s", addr)
		}
		return lis.DialContext(ctx)
	}
}

// options are those of the target that drives an echo.
func (e *echo) options(s *Settings) target.Options {
	return target.Options{
		Endpoints: []string{e.addr}, Dialer: e.network.dialer(), Conns: s.Load.Conns,
		OpsPerMessage: s.Load.OpsPerMsg, Stream: s.Load.Wire == "stream",
		MaxRequest: int(s.Node.MaxRequest), GRPCWindow: int(s.Node.GRPCWindow), GRPCWriteBuffer: int(s.Node.GRPCWriteBuffer),
	}
}

func (b *rig) openEcho(ctx context.Context) error {
	s := &b.variant.Settings
	var err error
	if b.echo, err = b.r.startEcho(ctx, s); err != nil {
		return err
	}
	b.closers = append(b.closers, b.echo.close)
	if b.target, err = target.New(s.Load.Target, b.echo.options(s)); err != nil {
		return err
	}
	b.closers = append(b.closers, b.target.Close)
	return nil
}

// What finding the best number of connections takes for each number tried.
const calibrateTime = 450 * time.Millisecond

// ceilingTries is how many numbers of connections are tried for a ceiling.
func ceilingTries(clients int) int {
	switch {
	case clients < 4:
		return 0 // one is all there is
	case clients < 16:
		return 2
	}
	return 3
}

// calibrate does what has to be known before the first block.
func (r *runner) calibrate(ctx context.Context) error {
	if err := r.calibrateCeilings(ctx); err != nil {
		return err
	}
	return r.calibrateRates(ctx)
}

// calibrateCeilings finds the number of connections at which each ceiling is highest: only
// the best that gRPC does is a ceiling. It is done once, before the first block.
func (r *runner) calibrateCeilings(ctx context.Context) error {
	for i := range r.Matrix.Variants {
		v := &r.Matrix.Variants[i]
		if v.Role != RoleCeiling || ceilingTries(v.Settings.Load.Clients) == 0 {
			continue
		}
		conns, err := r.bestConns(ctx, v, job{variant: i, kind: TrialMeasured})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		v.Settings.Load.Conns = conns
		r.run.Variants[i].Config["conns"] = strconv.Itoa(conns)
	}
	return nil
}

// bestConns is the number of connections at which one ceiling is highest.
func (r *runner) bestConns(ctx context.Context, v *Planned, j job) (conns int, err error) {
	b, err := r.openRig(ctx, v, j)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	return target.BestConns(ctx, v.Settings.Load.Target, b.echo.options(&v.Settings), b.loadConfig())
}
