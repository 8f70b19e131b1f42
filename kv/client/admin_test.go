package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// What needs the leader finds it; what is about one node goes there.
func TestAdministration(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	cluster.SetLeader(3)
	c := open(t, cluster)
	ctx := within(t, time.Minute)
	if r, err := c.Init(ctx, ""); err != nil || r.GetNodeId() != 1 {
		t.Errorf("init: %v, %v", r, err)
	}
	if r, err := c.Init(ctx, cluster.Node(2).Address); err != nil || r.GetNodeId() != 2 {
		t.Errorf("init of node 2: %v, %v", r, err)
	}
	if r, err := c.Describe(ctx, cluster.Node(2).Address); err != nil || r.GetNode().GetId() != 2 {
		t.Errorf("describe: %v, %v", r, err)
	}
	if _, err := c.Snapshot(ctx, cluster.Node(2).Address); err != nil || cluster.Node(2).Calls(clienttest.Snapshot) != 1 {
		t.Errorf("snapshot: %v", err)
	}
	if m, err := c.AddLearner(ctx, 4, "127.0.0.1:9"); err != nil || !slices.Equal(m.GetLearners(), []uint64{4}) {
		t.Errorf("add learner: %v, %v", m, err)
	}
	if m, err := c.ChangeMembership(ctx, []uint64{1, 2, 3, 4}, true); err != nil || len(m.GetVoters()) != 4 {
		t.Errorf("change membership: %v, %v", m, err)
	}
	if m, err := c.RemoveNode(ctx, 4); err != nil || len(m.GetVoters()) != 3 {
		t.Errorf("remove node: %v, %v", m, err)
	}
	if r, err := c.TransferLeadership(ctx, 2); err != nil || r.GetLeaderId() != 2 {
		t.Errorf("transfer: %v, %v", r, err)
	}
	if st, err := c.Status(ctx, cluster.Node(3).Address, true); err != nil || st.GetNodeId() != 3 || len(st.GetStateHash()) != 32 {
		t.Errorf("status: %v, %v", st, err)
	}
}

func TestAdministrationRetries(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c := open(t, cluster)
	node := cluster.Node(1)
	ctx := within(t, time.Minute)

	node.Script(clienttest.ChangeMembership, clienttest.Step{Err: clienttest.Refusal(codes.Unavailable, "stopping")})
	if _, err := c.ChangeMembership(ctx, []uint64{1}, false); err != nil {
		t.Errorf("not sent again: %v", err)
	}
	node.Script(clienttest.RemoveNode, clienttest.Step{Err: clienttest.Refusal(codes.FailedPrecondition, "another change is under way")})
	if _, err := c.RemoveNode(ctx, 2); status.Code(err) != codes.FailedPrecondition || client.Applied(err) != no {
		t.Errorf("refused: %v", err)
	}
	node.Script(clienttest.Init, clienttest.Step{Delay: time.Minute})
	if _, err := c.Init(within(t, soon), ""); !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != unknown {
		t.Errorf("cut short: %v", err)
	}
	// A node that does not answer has said enough.
	node.Script(clienttest.Status, clienttest.Step{Err: status.Error(codes.Unavailable, "stopping")})
	if _, err := c.Status(ctx, "", false); status.Code(err) != codes.Unavailable || node.Calls(clienttest.Status) != 1 {
		t.Errorf("status: %v", err)
	}
}

// A membership change whose leader is lost is asked for again, and again while
// the first may be what is under way. What stays in doubt is said to be.
func TestMembershipChangesAreRepeated(t *testing.T) {
	for _, test := range []struct {
		rpc  string
		call func(context.Context, *client.Client) error
	}{
		{clienttest.AddLearner, func(ctx context.Context, c *client.Client) error {
			_, err := c.AddLearner(ctx, 4, "127.0.0.1:9")
			return err
		}},
		{clienttest.ChangeMembership, func(ctx context.Context, c *client.Client) error {
			_, err := c.ChangeMembership(ctx, []uint64{1, 2}, true)
			return err
		}},
		{clienttest.RemoveNode, func(ctx context.Context, c *client.Client) error {
			_, err := c.RemoveNode(ctx, 2)
			return err
		}},
	} {
		t.Run(test.rpc, func(t *testing.T) {
			cluster := clienttest.Start(t, 2)
			c, node := open(t, cluster), cluster.Node(1)
			lost := clienttest.Step{Err: clienttest.Unknown(codes.Unavailable, "leadership was lost")}
			busy := clienttest.Step{Err: clienttest.Refusal(codes.FailedPrecondition, "another change is under way")}
			cluster.Node(2).Script(test.rpc, busy)
			node.Script(test.rpc, lost, busy, busy)
			if err := test.call(within(t, time.Minute), c); err != nil {
				t.Errorf("not asked again: %v", err)
			}
			node.Script(test.rpc, clienttest.Step{Err: clienttest.Unknown(codes.DeadlineExceeded, "time is up")})
			if err := test.call(within(t, time.Minute), c); status.Code(err) != codes.DeadlineExceeded || client.Applied(err) != unknown {
				t.Errorf("the deadline ended it: %v", err)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	cluster := clienttest.Start(t, 2)
	cluster.SetLeader(2)
	c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), RetryTime: -1, RefreshInterval: -1})
	_, err := c.Put(t.Context(), []byte("k"), nil)
	want := "Put: FailedPrecondition: not the leader (leader is node 2 at " + cluster.Node(2).Address + ")"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if inner := errors.Unwrap(err); status.Code(inner) != codes.FailedPrecondition || len(status.Convert(inner).Details()) != 2 {
		t.Errorf("unwraps to %v", inner)
	}
	cluster.Node(2).Script(clienttest.Put, clienttest.Step{Err: status.Error(codes.Internal, "broken")})
	_, err = c.Put(t.Context(), []byte("k"), nil)
	if want := "Put: Internal: broken (outcome unknown: it may have been applied)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// The opening of a pipeline keeps its deadline, and so does a Do that has to
// open a stream.
func TestPipelineOpening(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	p := openPipeline(t, open(t, cluster))
	cluster.Node(1).Stop()
	// By a client that has no connection which might still look alive.
	if _, err := open(t, cluster).NewPipeline(within(t, 200*time.Millisecond)); err == nil || client.Applied(err) != no {
		t.Errorf("opened to nobody: %v", err)
	}
	// The stream broke by itself; a read tells so without leaving a doubt.
	if _, err := p.Do(within(t, 200*time.Millisecond), []*kvv1.Operation{get("k")}); err == nil || client.Applied(err) != no {
		t.Errorf("read from nobody: %v", err)
	}
	if err := cluster.Node(1).Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Do(within(t, time.Minute), []*kvv1.Operation{put("k", "v")}); err != nil {
		t.Error(err)
	}
}
