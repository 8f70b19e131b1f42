package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// What a membership may become, and what it is afterwards: functions of their
// arguments only, so that all nodes agree.

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}

func planLearner(m *kvv1.Membership, node *kvv1.Member) (*raftpb.ConfChangeV2, error) {
	for _, n := range m.GetNodes() {
		switch {
		case n.GetId() == node.GetId() && n.GetIncarnation() != node.GetIncarnation():
			return nil, refused("node %d is a member with another memory (incarnation %x, not %x): remove node %d, add it again under a new id",
				n.GetId(), n.GetIncarnation(), node.GetIncarnation(), n.GetId())
		case n.GetId() == node.GetId() && n.GetAddress() != node.GetAddress():
			return nil, refused("node %d is a member at %s, not %s", n.GetId(), n.GetAddress(), node.GetAddress())
		case n.GetId() == node.GetId():
			return nil, nil
		case n.GetAddress() == node.GetAddress() || n.GetPeerAddress() == node.GetPeerAddress():
			return nil, refused("address %s belongs to node %d", node.GetAddress(), n.GetId())
		}
	}
	if slices.Contains(m.GetRemovedIds(), node.GetId()) {
		return nil, refused("node %d was removed: an id is not used twice, add it again under a new id", node.GetId())
	}
	return planOf(changeOf(raftpb.ConfChangeAddLearnerNode, node.GetId())), nil
}

func planVoters(m *kvv1.Membership, voters []uint64, retain bool) (*raftpb.ConfChangeV2, error) {
	if len(voters) == 0 {
		return nil, refused("a cluster needs at least one voter")
	}
	request := planOf()
	for _, id := range voters {
		if memberOf(m, id) == nil {
			return nil, refused("node %d is not a member: add it as a learner first", id)
		}
		if !slices.Contains(m.GetVoters(), id) {
			request.Changes = append(request.Changes, changeOf(raftpb.ConfChangeAddNode, id))
		}
	}
	for _, id := range m.GetVoters() {
		if slices.Contains(voters, id) {
			continue
		}
		kind := raftpb.ConfChangeRemoveNode
		if retain {
			kind = raftpb.ConfChangeAddLearnerNode
		}
		request.Changes = append(request.Changes, changeOf(kind, id))
	}
	if len(request.Changes) == 0 && !joint(m) {
		return nil, nil
	}
	// By joint consensus even where a simple change would do: the way is then
	// the same for every change, and the configuration is left by itself.
	request.Transition = raftpb.ConfChangeTransitionJointImplicit.Enum()
	return request, nil
}

func planRemoval(m *kvv1.Membership, id uint64) (*raftpb.ConfChangeV2, error) {
	switch {
	case memberOf(m, id) == nil && slices.Contains(m.GetRemovedIds(), id):
		return nil, nil
	case memberOf(m, id) == nil:
		return nil, refused("node %d is not a member", id)
	case len(m.GetVoters()) == 1 && m.GetVoters()[0] == id:
		return nil, refused("node %d is the last voter", id)
	}
	return planOf(changeOf(raftpb.ConfChangeRemoveNode, id)), nil
}

func planOf(changes ...*raftpb.ConfChangeSingle) *raftpb.ConfChangeV2 {
	return &raftpb.ConfChangeV2{Changes: changes}
}

func changeOf(t raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeSingle {
	return &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(id)}
}

// joint tells that a change of voters is between its two configurations.
func joint(m *kvv1.Membership) bool { return len(m.GetVotersOutgoing()) > 0 }

// promoted are the learners that a change gives a vote.
func promoted(request *raftpb.ConfChangeV2) (ids []uint64) {
	for _, change := range request.GetChanges() {
		if change.GetType() == raftpb.ConfChangeAddNode {
			ids = append(ids, change.GetNodeId())
		}
	}
	return ids
}

// nextMembership combines raft's new configuration with what the change says
// about nodes. It depends on its arguments only, so all nodes agree.
func nextMembership(old *kvv1.Membership, cs *raftpb.ConfState, change *kvv1.MembershipChange) *kvv1.Membership {
	m := &kvv1.Membership{
		ClusterId: old.GetClusterId(),
		Voters:    cs.GetVoters(), Learners: cs.GetLearners(),
		VotersOutgoing: cs.GetVotersOutgoing(), LearnersNext: cs.GetLearnersNext(),
		AutoLeave:  cs.GetAutoLeave(),
		RemovedIds: old.GetRemovedIds(),
	}
	if m.GetClusterId() == 0 {
		m.ClusterId = change.GetClusterId()
	}
	nodes := slices.Clone(old.GetNodes())
	for _, n := range change.GetNodes() {
		nodes = slices.DeleteFunc(nodes, func(o *kvv1.Member) bool { return o.GetId() == n.GetId() })
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *kvv1.Member) int {
		if a.GetId() < b.GetId() {
			return -1
		}
		return 1
	})
	for _, n := range nodes {
		if hasRole(m, n.GetId()) {
			m.Nodes = append(m.Nodes, n)
		} else {
			m.RemovedIds = append(slices.Clip(m.RemovedIds), n.GetId())
		}
	}
	return m
}

func hasRole(m *kvv1.Membership, id uint64) bool {
	return slices.Contains(m.GetVoters(), id) || slices.Contains(m.GetLearners(), id) ||
		slices.Contains(m.GetVotersOutgoing(), id) || slices.Contains(m.GetLearnersNext(), id)
}

func memberOf(m *kvv1.Membership, id uint64) *kvv1.Member {
	for _, n := range m.GetNodes() {
		if n.GetId() == id {
			return n
		}
	}
	return nil
}

func sorted(ids []uint64) []uint64 {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

// protoMember copies a member, since what goes into the membership is shared.
func protoMember(m *kvv1.Member) *kvv1.Member { return proto.Clone(m).(*kvv1.Member) }
