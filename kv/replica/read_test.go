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

// An answer that raft hands out together with a new term is not trusted: the read
// is asked for again (trap 12).
func TestReadAnswerOfAnEarlierTerm(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	n, term := env.nodes[1], env.nodes[0].core.term
	w := new(readResult)
	n.core.Read(w)
	n.advance()
	ask := env.wire[len(env.wire)-1]
	if ask.GetType() != raftpb.MsgReadIndex {
		t.Fatalf("a follower's read sends %s", ask.GetType())
	}
	env.wire = nil
	answer := func(term uint64, m *raftpb.Message) {
		n.core.Step(&raftpb.Message{
			Type: raftpb.MsgReadIndexResp.Enum(), From: new(uint64(1)), To: new(n.id), Term: &term,
			Index: new(n.store.State().Index), Entries: m.GetEntries(),
		})
	}
	answer(term, ask)
	term++
	n.core.Step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(3)), To: new(n.id), Term: &term})
	n.pump()
	if w.heard != 0 {
		t.Fatal("answered by a leader that another has followed")
	}
	for _, m := range env.wire {
		if m.GetType() == raftpb.MsgReadIndex && m.GetTo() == 3 {
			answer(term, m)
		}
	}
	n.pump()
	if w.heard != 1 || w.err != nil {
		t.Fatalf("heard %d times, %v; sent %v", w.heard, w.err, env.wire)
	}
}

// A read that was confirmed ends although the node never hears of the entries it
// must see, as one that is removed from the cluster does not.
func TestReadOnANodeThatStaysBehind(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	n, w := env.nodes[1], new(readResult)
	n.core.Read(w)
	n.advance()
	ask := env.wire[len(env.wire)-1]
	n.core.Step(&raftpb.Message{
		Type: raftpb.MsgReadIndexResp.Enum(), From: new(uint64(1)), To: new(n.id), Term: new(n.core.term),
		Index: new(n.store.State().Index + 1), Entries: ask.GetEntries(),
	})
	n.pump()
	for range n.core.reads.giveUpTicks - 1 {
		n.core.Tick()
		n.pump()
	}
	if w.heard != 0 {
		t.Fatalf("given up early: %v", w.err)
	}
	n.core.Tick()
	n.pump()
	if w.heard != 1 || !errors.Is(w.err, ErrBehind) {
		t.Fatalf("the read heard %d times, %v", w.heard, w.err)
	}
}
