package bench

import (
	"context"

	"raftlab/bench/target"
)

// openBare makes the target of a trial that drives the raft library itself, and
// is all of its cluster.
func (b *rig) openBare(ctx context.Context) error {
	s := &b.variant.Settings
	var err error
	b.target, err = target.New(TargetBare, target.Options{
		Node: s.Node, Nodes: s.Load.Nodes, OpsPerMessage: s.Load.OpsPerMsg, Read: s.Load.Read,
	})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, b.target.Close)
	return b.preload(ctx)
}
