package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"raftlab/bench/cluster"
	"raftlab/bench/target"
)

// wireServer is the echo server of one trial: where the nodes would be.
type wireServer struct {
	addr   string
	dialer cluster.Dialer
	pid    int // 0 in this process
	close  func() error
}

// startWire starts an echo server.
func (r *runner) startWire(ctx context.Context, s *Settings) (*wireServer, error) {
	if s.Load.Topology == TopologyProcesses {
		return r.startWireProcess(ctx, s)
	}
	w := &wireServer{}
	var lis net.Listener
	if s.Load.Listener == cluster.ListenBufconn {
		b := bufconn.Listen(1 << 20)
		lis, w.addr = b, "wire.bufconn:1"
		w.dialer = func(ctx context.Context, _ string) (net.Conn, error) { return b.DialContext(ctx) }
	} else {
		var lc net.ListenConfig
		var err error
		if lis, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		w.addr = lis.Addr().String()
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- target.ServeWire(life, lis, s.Node, int(s.Load.ValueSize)) }()
	w.close = func() error {
		cancel()
		return <-served
	}
	return w, nil
}

// startWireProcess starts one in a process of its own, as the nodes have.
func (r *runner) startWireProcess(ctx context.Context, s *Settings) (*wireServer, error) {
	args := append([]string{"wire-server", "--value-size", strconv.FormatInt(int64(s.Load.ValueSize), 10)}, cluster.ServerFlags(s.Node)...)
	p, err := cluster.StartProcess(ctx, nil, r.SelfBin, args...)
	if err != nil {
		return nil, fmt.Errorf("wire server: %w", err)
	}
	return &wireServer{addr: p.Ready.Addr, pid: p.PID, close: p.Kill}, nil
}

// wireOptions are those of the target that drives an echo server.
func (w *wireServer) options(s *Settings) target.Options {
	return target.Options{
		Endpoints: []string{w.addr}, Dialer: w.dialer, Conns: s.Load.Conns,
		OpsPerMessage: s.Load.OpsPerMsg, Stream: s.Load.Wire == "stream",
		MaxRequest: int(s.Node.MaxRequest), GRPCWindow: int(s.Node.GRPCWindow),
	}
}

func (b *rig) openWire(ctx context.Context) error {
	s := &b.variant.Settings
	var err error
	if b.wire, err = b.r.startWire(ctx, s); err != nil {
		return err
	}
	b.closers = append(b.closers, b.wire.close)
	if b.target, err = target.New(TargetWire, b.wire.options(s)); err != nil {
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

// calibrate finds the number of connections at which each echo is fastest: only
// the best that gRPC does is a ceiling. It is done once, before the first block.
func (r *runner) calibrate(ctx context.Context) error {
	for i := range r.Matrix.Variants {
		v := &r.Matrix.Variants[i]
		if v.Role != RoleCeiling || ceilingTries(v.Settings.Load.Clients) == 0 {
			continue
		}
		b, err := r.openRig(ctx, v, job{variant: i, kind: TrialMeasured})
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		conns, err := target.BestConns(ctx, TargetWire, b.wire.options(&v.Settings), b.loadConfig())
		if err := errors.Join(err, b.close()); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		v.Settings.Load.Conns = conns
		r.run.Variants[i].Config["conns"] = strconv.Itoa(conns)
	}
	return nil
}
