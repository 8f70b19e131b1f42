package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"time"

	"raftlab/bench/cluster"
	"raftlab/bench/load"
	"raftlab/bench/target"
)

// How long a trial's cluster may take to be ready.
const startTime = 30 * time.Second

// rig is one trial's set-up: a fresh cluster or echo server, and the target
// that drives it.
type rig struct {
	r       *runner
	variant *Planned
	job     job

	cluster *cluster.Cluster // nil for wire, relay, etcd and bare
	echo    *echo            // nil for others
	target  target.Target
	closers []func() error
	// debug ports by process name, and the name of this process.
	debug map[string]string
	self  string
	// restore puts back this process's settings.
	restore func()
}

// openRig starts what a trial needs.
func (r *runner) openRig(ctx context.Context, v *Planned, j job) (_ *rig, err error) {
	b := &rig{r: r, variant: v, job: j, debug: map[string]string{}, self: processShared}
	b.restore = b.setProcess()
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	l := &v.Settings.Load
	if !l.inProcess() {
		b.self = processGenerator
	}
	switch {
	case isEcho(l.Target):
		err = b.openEcho(ctx)
	case l.Target == TargetBare:
		err = b.openBare(ctx)
	case l.Target == TargetEtcd:
		err = b.openEtcd(ctx)
	default:
		err = b.openCluster(ctx)
	}
	if err != nil {
		return nil, err
	}
	// Garbage of the trial before is not this one's to collect.
	runtime.GC()
	return b, nil
}

// setProcess gives this process the settings of the nodes: those that are in it, or
// else of its garbage collector alone, since the generator is not what a limit of
// the nodes is about.
func (b *rig) setProcess() (restore func()) {
	cfg := b.variant.Settings.Node
	if !b.variant.Settings.Load.inProcess() {
		cfg.GOMEMLIMIT, cfg.GOMAXPROCS = 0, 0
	}
	return cfg.SetProcess()
}

func (b *rig) openCluster(ctx context.Context) error {
	s := &b.variant.Settings
	var err error
	b.cluster, err = cluster.Start(ctx, cluster.Config{
		Topology: s.Load.Topology, Nodes: s.Load.Nodes, Node: s.Node, Listener: s.Load.Listener, DataRoot: b.r.Folder.Dir,
		ServerBin: cmp.Or(s.Load.ServerBin, b.r.ServerBin), Endpoints: b.r.Endpoints,
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.cluster.Close)
	for _, n := range b.cluster.Nodes() {
		if n.DebugAddr != "" {
			b.debug[nodeName(n.ID)] = n.DebugAddr
		}
	}
	if b.target, err = b.openTarget(s.Load.Target, s.Load.Read); err != nil {
		return err
	}
	return b.preload(ctx)
}

// preload writes all keys if some are going to be read.
func (b *rig) preload(ctx context.Context) error {
	if b.variant.Settings.Load.Op == "put" {
		return nil
	}
	filler, cfg, err := b.openFast(b.loadConfig())
	if err != nil {
		return err
	}
	cfg.Clients = min(cfg.Clients, 16)
	return load.Preload(ctx, cfg, filler)
}

// openFast makes the fastest target there is, for what is not measured: what
// drives the window drives that alone. It returns the config with messages for it.
func (b *rig) openFast(cfg load.Config) (target.Target, load.Config, error) {
	fast := TargetPipeline
	cfg.OpsPerMessage = max(1, min(fastOps, (1<<20)/(b.variant.Settings.Load.ValueSize.Most()+1)))
	switch own := b.variant.Settings.Load.Target; own {
	case TargetBare:
		return b.target, cfg, nil // another would have a store of its own
	case TargetDirect, TargetEtcd:
		fast = own
	}
	t, err := b.openTarget(fast, "")
	return t, cfg, err
}

// openTarget makes a target of the rig's cluster; it is closed with the rig.
func (b *rig) openTarget(name, read string) (target.Target, error) {
	s := &b.variant.Settings
	o := target.Options{
		Endpoints: b.r.Endpoints, Conns: s.Load.Conns, Read: read, AttemptTimeout: s.Load.AttemptTimeout,
		MaxRequest: int(s.Node.MaxRequest), GRPCWindow: int(s.Node.GRPCWindow), GRPCWriteBuffer: int(s.Node.GRPCWriteBuffer),
	}
	if b.cluster != nil {
		o.Endpoints, o.Dialer = b.cluster.Endpoints(), b.cluster.Dialer()
	}
	if name != TargetUnary && name != TargetCoalesce {
		o.OpsPerMessage = max(s.Load.OpsPerMsg, fastOps)
	}
	if name == TargetDirect {
		for _, n := range b.cluster.Nodes() {
			o.Direct = append(o.Direct, n.Local())
		}
	}
	var t target.Target
	var err error
	// What its connections do is not the nodes' doing.
	asGenerator(context.Background(), func(context.Context) { t, err = target.New(name, o) })
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, t.Close)
	return t, nil
}

// Most operations of a message to or from openFast's target.
const fastOps = 64

// loadConfig is the load of the variant.
func (b *rig) loadConfig() load.Config {
	l, m := &b.variant.Settings.Load, b.r.Experiment.Measure
	cfg := load.Config{
		Clients: l.Clients, Rate: l.Rate, Arrivals: l.Arrivals, ThinkTime: l.ThinkTime, OpsPerMessage: l.OpsPerMsg,
		Keys: l.Keys, KeySize: l.KeySize.Sizes, KeyDistribution: l.Distribution, ValueSize: l.ValueSize.Sizes,
		// Each block has keys, values and arrivals of its own, so that the interval over
		// blocks holds what they do to a figure.
		Seed: b.r.Seed + uint64(b.job.block), Warmup: m.Warmup, Duration: m.Duration, Interval: m.interval(), Drain: drainTime,
	}
	switch l.Op {
	case "get":
		cfg.ReadRatio = 1
	case "mixed":
		cfg.ReadRatio = l.ReadRatio
	}
	if l.Topology == TopologyExternal {
		// Not fresh: what a trial reads and checks has to be its own.
		cfg.KeyPrefix = fmt.Sprintf("%s%d-%d/", b.variant.ID, b.job.block, b.r.Seed%1000)
		cfg.KeySize = cfg.KeySize.AtLeast(len(cfg.KeyPrefix) + len(strconv.Itoa(l.Keys)))
	}
	if b.r.Verify && b.job.kind == TrialMeasured {
		cfg.Sample = historyKeys
	}
	if b.r.Matrix.hasEvents() {
		cfg.Completions = maxCompletions
	}
	if b.job.kind == TrialProfile {
		cfg.Duration = m.Profile.Truncate(time.Second)
	}
	return cfg
}

// close takes everything down, the last first.
func (b *rig) close() error {
	b.restore()
	var errs []error
	for _, c := range slices.Backward(b.closers) {
		errs = append(errs, c())
	}
	b.closers = nil
	return errors.Join(errs...)
}
