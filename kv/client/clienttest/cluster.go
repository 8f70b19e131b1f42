package clienttest

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func (c *Cluster) members(change func(m *kvv1.Membership)) *kvv1.Membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	if change != nil {
		change(c.membership)
	}
	return proto.CloneOf(c.membership)
}

// Init implements Cluster.
func (n *Node) Init(ctx context.Context, _ *clusterv1.InitRequest) (*clusterv1.InitResponse, error) {
	return serve(ctx, n, Init, false, func() (*clusterv1.InitResponse, error) {
		return &clusterv1.InitResponse{ClusterId: 7, NodeId: n.ID, Created: true}, nil
	})
}

// Describe implements Cluster.
func (n *Node) Describe(context.Context, *clusterv1.DescribeRequest) (*clusterv1.DescribeResponse, error) {
	return &clusterv1.DescribeResponse{ClusterId: 7, Node: &kvv1.Member{Id: n.ID, Address: n.Address}}, nil
}

// AddLearner implements Cluster.
func (n *Node) AddLearner(ctx context.Context, req *clusterv1.AddLearnerRequest) (*clusterv1.AddLearnerResponse, error) {
	return serve(ctx, n, AddLearner, true, func() (*clusterv1.AddLearnerResponse, error) {
		return &clusterv1.AddLearnerResponse{Membership: n.cluster.members(func(m *kvv1.Membership) {
			m.Learners = append(m.Learners, req.GetId())
			m.Nodes = append(m.Nodes, &kvv1.Member{Id: req.GetId(), Address: req.GetAddress()})
		})}, nil
	})
}

// ChangeMembership implements Cluster.
func (n *Node) ChangeMembership(ctx context.Context, req *clusterv1.ChangeMembershipRequest) (*clusterv1.ChangeMembershipResponse, error) {
	return serve(ctx, n, ChangeMembership, true, func() (*clusterv1.ChangeMembershipResponse, error) {
		return &clusterv1.ChangeMembershipResponse{Membership: n.cluster.members(func(m *kvv1.Membership) {
			m.Voters, m.Learners = req.GetVoters(), nil
		})}, nil
	})
}

// RemoveNode implements Cluster.
func (n *Node) RemoveNode(ctx context.Context, req *clusterv1.RemoveNodeRequest) (*clusterv1.RemoveNodeResponse, error) {
	return serve(ctx, n, RemoveNode, true, func() (*clusterv1.RemoveNodeResponse, error) {
		if len(n.cluster.members(nil).GetVoters()) == 1 {
			return nil, Refusal(codes.FailedPrecondition, "node 1 is the last voter")
		}
		return &clusterv1.RemoveNodeResponse{Membership: n.cluster.members(func(m *kvv1.Membership) {
			m.Voters = slices.DeleteFunc(m.GetVoters(), func(id uint64) bool { return id == req.GetId() })
			m.Nodes = slices.DeleteFunc(m.GetNodes(), func(member *kvv1.Member) bool { return member.GetId() == req.GetId() })
		})}, nil
	})
}

// TransferLeadership implements Cluster.
func (n *Node) TransferLeadership(ctx context.Context, req *clusterv1.TransferLeadershipRequest) (*clusterv1.TransferLeadershipResponse, error) {
	return serve(ctx, n, TransferLeadership, true, func() (*clusterv1.TransferLeadershipResponse, error) {
		n.cluster.SetLeader(req.GetTo())
		return &clusterv1.TransferLeadershipResponse{LeaderId: req.GetTo(), Term: 4}, nil
	})
}

// Snapshot implements Cluster.
func (n *Node) Snapshot(ctx context.Context, _ *clusterv1.SnapshotRequest) (*clusterv1.SnapshotResponse, error) {
	return serve(ctx, n, Snapshot, false, func() (*clusterv1.SnapshotResponse, error) {
		return &clusterv1.SnapshotResponse{Index: 12, Term: 3, Keys: 2}, nil
	})
}

// Status implements Cluster.
func (n *Node) Status(ctx context.Context, req *clusterv1.StatusRequest) (*clusterv1.StatusResponse, error) {
	return serve(ctx, n, Status, false, func() (*clusterv1.StatusResponse, error) {
		c := n.cluster
		membership := c.members(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		st := &clusterv1.StatusResponse{
			NodeId: n.ID, Incarnation: 0xabc, ClusterId: 7, Role: clusterv1.Role_ROLE_FOLLOWER, Term: 3,
			LeaderId: c.leader, CommitIndex: c.index, AppliedIndex: c.index, LogFirstIndex: 1, LogLastIndex: c.index,
			LogBytes: 4096, Membership: membership, Revision: c.revision, Keys: uint64(len(c.items)),
			Limits: &clusterv1.Limits{
				MaxMessageBytes: 4 << 20, MaxRequestBytes: 64 << 20, ChunkSizeBytes: 1 << 20,
				Chunking: "fragment", MaxEntryBytes: 1 << 62,
			},
			Counters: map[string]uint64{"proposals": 5, "raft_elections": 1},
			Version:  "test",
		}
		if c.leader != 0 {
			st.LeaderAddress = c.Node(c.leader).Address
		}
		if req.GetWithStateHash() {
			st.StateHash = make([]byte, 32)
		}
		if c.leader != n.ID {
			return st, nil
		}
		st.Role = clusterv1.Role_ROLE_LEADER
		for _, peer := range c.nodes {
			if peer.ID == n.ID {
				continue
			}
			st.Progress = append(st.Progress, &clusterv1.PeerProgress{
				Id: peer.ID, MatchIndex: c.index, NextIndex: c.index + 1, State: "replicate", RecentActive: true,
			})
			st.Transport = append(st.Transport, &clusterv1.PeerTransport{
				Id: peer.ID, PeerAddress: "127.0.0.1:1", Connected: true, ReceiveLimitBytes: 4 << 20, Dials: 1,
				MessagesSent: 9, FramesSent: 9, BytesSent: 900, MessagesReceived: 8, BytesReceived: 300,
			})
		}
		return st, nil
	})
}
