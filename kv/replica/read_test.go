package replica

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// readResult is a ReadWaiter.
type readResult struct {
	heard int
	err   error
}

func (r *readResult) Ready(err error) { r.heard, r.err = r.heard+1, err }

// Where a round trip takes longer than a context is waited for at first, reads
// are answered all the same.
func TestReadsOverALongWay(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	const delay = 3 // ticks one way
	w := new(readResult)
	leader := env.nodes[env.leader()-1]
	leader.core.Read(w)
	var way [delay][]*raftpb.Message
	for range 4 * leader.core.cfg.ElectionTicks {
		for _, n := range env.nodes {
			n.core.Tick()
			n.pump()
		}
		env.wire, way[0], way[1], way[2] = way[2], env.wire, way[0], way[1]
		for _, m := range env.wire {
			env.nodes[m.GetTo()-1].core.Step(m)
		}
		env.wire = nil
		for _, n := range env.nodes {
			n.pump()
		}
	}
	if w.heard != 1 || w.err != nil {
		t.Fatalf("the read heard %d times, %v", w.heard, w.err)
	}
}

// A learner believes in its leader for ever; a read there ends all the same
// when that leader is gone.
func TestReadOnALearnerWithoutItsLeader(t *testing.T) {
	env := newRandomCluster(t, 2, 10, 1)
	first, learner := env.nodes[0], env.nodes[1]
	env.found()
	first.core.AddLearner(learner.member(), func(_ *kvv1.Membership, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	env.settle()
	if learner.core.leader != 1 {
		t.Fatalf("the learner's leader is %d", learner.core.leader)
	}
	w := new(readResult)
	learner.core.Read(w)
	for range 10 * learner.core.cfg.ElectionTicks {
		learner.core.Tick()
		learner.pump()
		env.wire = nil
	}
	if w.heard != 1 || !errors.Is(w.err, ErrNoLeader) {
		t.Fatalf("the read heard %d times, %v", w.heard, w.err)
	}
}
