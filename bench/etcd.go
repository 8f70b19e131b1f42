package bench

import (
	"context"
	"slices"

	"raftlab/bench/target"
)

// SetExternal makes an experiment drive a cluster that runs already. What that
// cluster is built from cannot be set, and what all variants then have in common is
// nothing to compare by, so the baseline loses both. Errors are *UsageError.
func (e *Experiment) SetExternal() error {
	if err := e.Set("topology", TopologyExternal); err != nil {
		return err
	}
	s := DefaultSettings()
	if err := s.apply(e.Fixed); err != nil {
		return err
	}
	e.Baseline = slices.DeleteFunc(e.Baseline, func(b Field) bool {
		fixed := slices.ContainsFunc(e.Fixed, func(f Field) bool { return f.Key == b.Key })
		// Some targets are of this process's own nodes or servers.
		own := b.Key == "target" && (b.Value == TargetDirect || isEcho(b.Value))
		return fixed || own || !s.reads(b.Key)
	})
	return nil
}

// FindEtcd says which etcd answers at the endpoints, as Options.ServerInfo tells
// it.
func FindEtcd(ctx context.Context, endpoints []string) (string, error) {
	version, err := target.EtcdVersion(ctx, endpoints)
	return "etcd " + version, err
}

// openEtcd makes the target of a trial that drives an etcd, which runs already:
// nothing of it is started, asked for counters or profiled.
func (b *rig) openEtcd(ctx context.Context) error {
	l := &b.variant.Settings.Load
	var err error
	if b.target, err = b.openTarget(l.Target, l.Read); err != nil {
		return err
	}
	return b.preload(ctx)
}
