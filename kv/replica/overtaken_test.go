package replica

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// A change that waits to be proposed while one that was given up is applied ends
// for what it asked for, or with the reason why that can't be had any more.
func TestChangeOvertakenByOneGivenUp(t *testing.T) {
	type change = func(*Core, func(*kvv1.Membership, error)) *Change
	voters := func(ids ...uint64) change {
		return func(c *Core, done func(*kvv1.Membership, error)) *Change { return c.ChangeVoters(ids, true, done) }
	}
	remove := func(id uint64) change {
		return func(c *Core, done func(*kvv1.Membership, error)) *Change { return c.RemoveNode(id, done) }
	}
	for _, test := range []struct {
		name            string
		givenUp, second change
		voters          []uint64
		problem         string
	}{
		{"other voters", voters(1, 2, 4), voters(1, 2, 5), []uint64{1, 2, 5}, ""},
		{"the same voters", voters(1, 2, 4), voters(1, 2, 4), []uint64{1, 2, 4}, ""},
		{"voters of which one is removed", remove(5), voters(1, 2, 5), []uint64{1, 2, 3}, "node 5 is not a member"},
		{"removal of what became the last voter", voters(1), remove(1), []uint64{1}, "node 1 is the last voter"},
		{"removal of what is removed", remove(5), remove(5), []uint64{1, 2, 3}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := newRandomCluster(t, 5, 10, 1)
			env.form()
			leader := env.nodes[0]
			var unknown error
			first := test.givenUp(leader.core, func(_ *kvv1.Membership, err error) { unknown = err })
			leader.core.Cancel(first, errors.New("given up"))
			if !errors.Is(unknown, ErrUnknownOutcome) {
				t.Fatalf("the change that was given up gets %v", unknown)
			}
			// Raft takes no proposals while leadership is on its way to another node.
			leader.core.Transfer(2, func(error) {})
			heard, result := 0, error(nil)
			if test.second(leader.core, func(_ *kvv1.Membership, err error) { heard, result = heard+1, err }) == nil {
				t.Fatalf("the second change did not wait: %v", result)
			}
			for range 4 * leader.core.cfg.ElectionTicks {
				env.settleWithout(raftpb.MsgTimeoutNow)
			}
			if heard != 1 || test.problem == "" && result != nil ||
				test.problem != "" && (!errors.Is(result, ErrRefused) || !strings.Contains(result.Error(), test.problem)) {
				t.Errorf("the second change heard %d times, %v", heard, result)
			}
			if got := sorted(leader.core.membership.GetVoters()); !slices.Equal(got, test.voters) {
				t.Errorf("voters are %v, not %v", got, test.voters)
			}
		})
	}
}

// settleWithout is one tick in which all arrives but messages of one type.
func (env *randomCluster) settleWithout(lost raftpb.MessageType) {
	for _, n := range env.nodes {
		n.core.Tick()
		n.pump()
	}
	for len(env.wire) > 0 {
		if env.wire[0].GetType() == lost {
			env.wire = env.wire[1:]
			continue
		}
		env.deliver(0)
	}
}
