package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"raftlab/kv/replica"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// clusterService serves raftlab.cluster.v1.Cluster.
type clusterService struct {
	clusterv1.UnimplementedClusterServer

	n      *Node
	errors translator
}

// Init implements Cluster. It returns once the new cluster has its leader, so
// that what comes next finds one.
func (s *clusterService) Init(ctx context.Context, _ *clusterv1.InitRequest) (*clusterv1.InitResponse, error) {
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	id, created, err := s.n.replica.Init(ctx, s.n.self)
	if err != nil {
		return nil, s.errors.status(changing(err))
	}
	if created {
		s.awaitLeader(ctx)
	}
	return &clusterv1.InitResponse{ClusterId: id, NodeId: s.n.ID(), Created: created}, nil
}

// awaitLeader waits for a leader, but not for one that does not come: the
// caller's answer does not depend on it.
func (s *clusterService) awaitLeader(ctx context.Context) {
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for s.n.replica.Leader() == 0 {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return
		case <-s.n.replica.Done():
			return
		}
	}
}

// Describe implements Cluster.
func (s *clusterService) Describe(context.Context, *clusterv1.DescribeRequest) (*clusterv1.DescribeResponse, error) {
	return &clusterv1.DescribeResponse{Node: s.n.self, ClusterId: s.n.replica.Membership().GetClusterId()}, nil
}

// AddLearner implements Cluster.
func (s *clusterService) AddLearner(ctx context.Context, req *clusterv1.AddLearnerRequest) (*clusterv1.AddLearnerResponse, error) {
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	m, err := s.addLearner(ctx, req)
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &clusterv1.AddLearnerResponse{Membership: m}, nil
}

func (s *clusterService) addLearner(ctx context.Context, req *clusterv1.AddLearnerRequest) (*kvv1.Membership, error) {
	if err := checkNodeID("id", req.GetId()); err != nil {
		return nil, err
	}
	if err := checkAddress("address", req.GetAddress()); err != nil {
		return nil, invalidf("%v", err)
	}
	if err := s.checkLeader(ctx); err != nil {
		return nil, err
	}
	membership := s.n.replica.Membership()
	if slices.Contains(membership.GetRemovedIds(), req.GetId()) {
		return nil, fmt.Errorf("%w: node %d was removed: an id is not used twice, add it again under a new id", replica.ErrRefused, req.GetId())
	}
	there, err := s.describe(ctx, req.GetAddress())
	if err != nil {
		known := findMember(membership, req.GetId())
		switch {
		case known == nil:
			return nil, fmt.Errorf("%w: the node at %s does not answer: %w", replica.ErrRefused, req.GetAddress(), err)
		case known.GetAddress() != req.GetAddress():
			return nil, fmt.Errorf("%w: node %d is a member at %s, not %s", replica.ErrRefused, req.GetId(), known.GetAddress(), req.GetAddress())
		}
		return membership, nil // down just now, but what was asked is so
	}
	switch {
	case there.GetNode().GetId() != req.GetId():
		return nil, fmt.Errorf("%w: the node at %s is node %d, not %d", replica.ErrRefused, req.GetAddress(), there.GetNode().GetId(), req.GetId())
	case there.GetClusterId() != 0 && there.GetClusterId() != membership.GetClusterId():
		return nil, fmt.Errorf("%w: node %d belongs to another cluster (%x, not %x)",
			replica.ErrRefused, req.GetId(), there.GetClusterId(), membership.GetClusterId())
	}
	return s.n.replica.AddLearner(ctx, there.GetNode())
}

// describe asks another node who it is.
func (s *clusterService) describe(ctx context.Context, address string) (*clusterv1.DescribeResponse, error) {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if s.n.dial != nil {
		options = append(options, grpc.WithContextDialer(s.n.dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // closing a connection that has done its work
	return clusterv1.NewClusterClient(conn).Describe(ctx, &clusterv1.DescribeRequest{})
}

// ChangeMembership implements Cluster.
func (s *clusterService) ChangeMembership(ctx context.Context, req *clusterv1.ChangeMembershipRequest) (*clusterv1.ChangeMembershipResponse, error) {
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	if err := checkVoters(req.GetVoters()); err != nil {
		return nil, s.errors.status(err)
	}
	if err := s.checkLeader(ctx); err != nil {
		return nil, s.errors.status(err)
	}
	m, err := s.n.replica.ChangeVoters(ctx, req.GetVoters(), req.GetRetain())
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &clusterv1.ChangeMembershipResponse{Membership: m}, nil
}

// RemoveNode implements Cluster.
func (s *clusterService) RemoveNode(ctx context.Context, req *clusterv1.RemoveNodeRequest) (*clusterv1.RemoveNodeResponse, error) {
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	if err := checkNodeID("id", req.GetId()); err != nil {
		return nil, s.errors.status(err)
	}
	if err := s.checkLeader(ctx); err != nil {
		return nil, s.errors.status(err)
	}
	m, err := s.n.replica.RemoveNode(ctx, req.GetId())
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &clusterv1.RemoveNodeResponse{Membership: m}, nil
}

// TransferLeadership implements Cluster.
func (s *clusterService) TransferLeadership(ctx context.Context, req *clusterv1.TransferLeadershipRequest) (*clusterv1.TransferLeadershipResponse, error) {
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	if err := checkNodeID("to", req.GetTo()); err != nil {
		return nil, s.errors.status(err)
	}
	if err := s.checkLeader(ctx); err != nil {
		return nil, s.errors.status(err)
	}
	leader, term, err := s.n.replica.TransferLeadership(ctx, req.GetTo())
	if err != nil {
		return nil, s.errors.status(changing(err))
	}
	return &clusterv1.TransferLeadershipResponse{LeaderId: leader, Term: term}, nil
}

// Snapshot implements Cluster.
func (s *clusterService) Snapshot(ctx context.Context, _ *clusterv1.SnapshotRequest) (*clusterv1.SnapshotResponse, error) {
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	state, err := s.n.replica.Snapshot(ctx)
	if err != nil {
		return nil, s.errors.status(changing(err))
	}
	return &clusterv1.SnapshotResponse{Index: state.Index, Term: state.Term, Keys: state.Keys}, nil
}

// checkLeader refuses what only the leader does, and what comes too late.
func (s *clusterService) checkLeader(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.n.replica.Leader() != s.n.ID() {
		return replica.ErrNotLeader
	}
	return nil
}

// changing marks the end of a caller's patience as what it is: the change may
// still happen. ChangeVoters and its like tell that by themselves.
func changing(err error) error {
	if contextCode(err) != 0 && !errors.Is(err, replica.ErrUnknownOutcome) {
		return &interruptedError{cause: err, note: noteChange}
	}
	return err
}

// answerInTime ends a little before the caller does, so that the caller hears
// why its call took too long rather than only that it did.
func answerInTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	margin := min(time.Until(deadline)/10, 200*time.Millisecond)
	return context.WithDeadline(ctx, deadline.Add(-max(margin, 0)))
}
