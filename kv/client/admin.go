package client

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var (
	methodInit             = method{clusterv1.Cluster_Init_FullMethodName, "Init", write}
	methodDescribe         = method{clusterv1.Cluster_Describe_FullMethodName, "Describe", read}
	methodAddLearner       = method{clusterv1.Cluster_AddLearner_FullMethodName, "AddLearner", settled}
	methodChangeMembership = method{clusterv1.Cluster_ChangeMembership_FullMethodName, "ChangeMembership", settled}
	methodRemoveNode       = method{clusterv1.Cluster_RemoveNode_FullMethodName, "RemoveNode", settled}
	methodTransfer         = method{clusterv1.Cluster_TransferLeadership_FullMethodName, "TransferLeadership", write}
	methodSnapshot         = method{clusterv1.Cluster_Snapshot_FullMethodName, "Snapshot", write}
	methodStatus           = method{clusterv1.Cluster_Status_FullMethodName, "Status", read}
)

// Init makes the node at an address, the first endpoint if empty, a cluster of
// one.
func (c *Client) Init(ctx context.Context, address string) (*clusterv1.InitResponse, error) {
	resp := &clusterv1.InitResponse{}
	if err := c.callAt(ctx, methodInit, address, &clusterv1.InitRequest{}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// AddLearner adds the node id, whose client address is given, without a vote. As
// ChangeMembership and RemoveNode it is sent again when its outcome is unknown
// because a leader was lost: asking for what is already so succeeds.
func (c *Client) AddLearner(ctx context.Context, id uint64, address string) (*kvv1.Membership, error) {
	resp := &clusterv1.AddLearnerResponse{}
	if err := c.call(ctx, methodAddLearner, &clusterv1.AddLearnerRequest{Id: id, Address: address}, resp); err != nil {
		return nil, err
	}
	return c.learned(resp.GetMembership()), nil
}

// ChangeMembership sets the voters; retain keeps removed ones as learners. It
// waits for learners to catch up. When ctx ends first the change may still
// finish: asking again for the same is safe.
func (c *Client) ChangeMembership(ctx context.Context, voters []uint64, retain bool) (*kvv1.Membership, error) {
	resp := &clusterv1.ChangeMembershipResponse{}
	req := &clusterv1.ChangeMembershipRequest{Voters: voters, Retain: retain}
	if err := c.call(ctx, methodChangeMembership, req, resp); err != nil {
		return nil, err
	}
	return c.learned(resp.GetMembership()), nil
}

// RemoveNode removes a node for good.
func (c *Client) RemoveNode(ctx context.Context, id uint64) (*kvv1.Membership, error) {
	resp := &clusterv1.RemoveNodeResponse{}
	if err := c.call(ctx, methodRemoveNode, &clusterv1.RemoveNodeRequest{Id: id}, resp); err != nil {
		return nil, err
	}
	return c.learned(resp.GetMembership()), nil
}

func (c *Client) learned(m *kvv1.Membership) *kvv1.Membership {
	c.router.learn(m)
	return m
}

// TransferLeadership hands leadership to a voter and returns when it leads.
func (c *Client) TransferLeadership(ctx context.Context, to uint64) (*clusterv1.TransferLeadershipResponse, error) {
	resp := &clusterv1.TransferLeadershipResponse{}
	if err := c.call(ctx, methodTransfer, &clusterv1.TransferLeadershipRequest{To: to}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Snapshot makes the node at an address, the first endpoint if empty, write a
// snapshot and compact its log.
func (c *Client) Snapshot(ctx context.Context, address string) (*clusterv1.SnapshotResponse, error) {
	resp := &clusterv1.SnapshotResponse{}
	if err := c.callAt(ctx, methodSnapshot, address, &clusterv1.SnapshotRequest{}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Status asks the node at an address, the first endpoint if empty, about
// itself; withHash also for the hash of its state, which reads every key. One
// attempt: that a node does not answer is an answer too.
func (c *Client) Status(ctx context.Context, address string, withHash bool) (*clusterv1.StatusResponse, error) {
	return c.status(ctx, address, 0, withHash)
}

func (c *Client) status(ctx context.Context, address string, limit time.Duration, withHash bool) (*clusterv1.StatusResponse, error) {
	n, err := c.node(address)
	if err != nil {
		return nil, notSent(methodStatus.name, codes.InvalidArgument, "%v", err)
	}
	resp := &clusterv1.StatusResponse{}
	if e := c.try(ctx, methodStatus, n, limit, &clusterv1.StatusRequest{WithStateHash: withHash}, resp); e != nil {
		return nil, e
	}
	return resp, nil
}

// FirstStatus is the Status of the first of these addresses that answers, within
// Config.AttemptTimeout if there is one. When none does, the error says why of each.
func (c *Client) FirstStatus(ctx context.Context, addresses []string, withHash bool) (*clusterv1.StatusResponse, error) {
	var (
		st  *clusterv1.StatusResponse
		err error
		why []string
	)
	for _, address := range addresses {
		if st, err = c.status(ctx, address, c.cfg.AttemptTimeout, withHash); err == nil {
			return st, nil
		}
		if e, ok := errors.AsType[*Error](err); ok && e.unconnected {
			why = append(why, address+": "+unconnected(address, e))
		}
	}
	if len(why) > 0 && len(why) == len(addresses) {
		return nil, notSent(methodStatus.name, codes.Unavailable, "no node answers: %s", strings.Join(why, ", "))
	}
	return nil, err
}

// Describe asks the node at an address, the first endpoint if empty, who it
// is. One attempt.
func (c *Client) Describe(ctx context.Context, address string) (*clusterv1.DescribeResponse, error) {
	n, err := c.node(address)
	if err != nil {
		return nil, notSent(methodDescribe.name, codes.InvalidArgument, "%v", err)
	}
	resp := &clusterv1.DescribeResponse{}
	if e := c.try(ctx, methodDescribe, n, 0, &clusterv1.DescribeRequest{}, resp); e != nil {
		return nil, e
	}
	return resp, nil
}
