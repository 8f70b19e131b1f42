package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestMembershipIsIdempotent(t *testing.T) {
	members := startCluster(t, 2, nil)
	leader, _ := leaderOf(t, members)
	ctx := within(t, 3*time.Minute)
	stranger := start(t, 9, nil)
	foreign := start(t, 8, nil)
	if _, err := foreign.cluster.Init(ctx, &clusterv1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	add := func(id uint64, address string) error {
		_, err := leader.cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: id, Address: address})
		return err
	}
	change := func(voters ...uint64) error {
		_, err := leader.cluster.ChangeMembership(ctx, &clusterv1.ChangeMembershipRequest{Voters: voters})
		return err
	}
	remove := func(id uint64) error {
		_, err := leader.cluster.RemoveNode(ctx, &clusterv1.RemoveNodeRequest{Id: id})
		return err
	}
	const refused, invalid = codes.FailedPrecondition, codes.InvalidArgument
	localhost := strings.Replace(members[1].Addr(), "127.0.0.1", "localhost", 1)
	for _, test := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"the same again", add(2, members[1].Addr()), codes.OK, ""},
		{"the same by another name", add(2, localhost), codes.OK, ""},
		{"an id at another's address", add(2, stranger.Addr()), refused, "is node 9, not 2"},
		{"a member elsewhere", add(2, "127.0.0.1:1"), refused, "node 2 is a member at " + members[1].Addr() + ", not 127.0.0.1:1"},
		{"a member's address for a new id", add(3, members[1].Addr()), refused, "is node 2, not 3"},
		{"nobody there", add(3, "127.0.0.1:1"), refused, "the node at 127.0.0.1:1 does not answer"},
		{"of another cluster", add(8, foreign.Addr()), refused, "node 8 belongs to another cluster"},
		{"no address", add(3, ""), invalid, `address "" is not host:port`},
		{"no id", add(0, stranger.Addr()), invalid, "id 0 is outside 1 to 18446744073709551613"},
		{"the same voters", change(1, 2), codes.OK, ""},
		{"no voters", change(), refused, "at least one voter"},
		{"unknown voter", change(1, 2, 7), refused, "node 7 is not a member"},
		{"a reserved voter", change(1, 1<<64-1), invalid, "voters 18446744073709551615 is outside"},
		{"removal of an unknown node", remove(7), refused, "node 7 is not a member"},
		{"a new node", add(9, stranger.Addr()), codes.OK, ""},
		{"its removal", remove(9), codes.OK, ""},
		{"its removal again", remove(9), codes.OK, ""},
		{"its id again", add(9, stranger.Addr()), refused, "node 9 was removed"},
	} {
		st := status.Convert(test.err)
		if st.Code() != test.code || !strings.Contains(st.Message(), test.text) {
			t.Errorf("%s: %v %q, want %v %q", test.name, st.Code(), st.Message(), test.code, test.text)
		}
		if _, applied, _ := outcome(test.err); test.err != nil && applied != kvv1.Applied_APPLIED_NO {
			t.Errorf("%s: applied is %v", test.name, applied)
		}
	}
	_, err := members[1].cluster.RemoveNode(ctx, &clusterv1.RemoveNodeRequest{Id: 1})
	if _, _, to := outcome(err); to.GetLeaderAddress() != leader.Addr() {
		t.Errorf("a change on a follower: %v", err)
	}
}

// A change that takes too long says what it waits for, in time for its caller to
// hear it.
func TestChangeTooSlow(t *testing.T) {
	members := startCluster(t, 1, nil)
	ctx := within(t, 3*time.Minute)
	late := start(t, 2, nil)
	if _, err := members[0].cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: 2, Address: late.Addr()}); err != nil {
		t.Fatal(err)
	}
	stopNode(t, late.Node)
	eventually(t, "the leader notices", func() bool {
		s, err := members[0].cluster.Status(ctx, &clusterv1.StatusRequest{})
		return err == nil && len(s.GetProgress()) == 1 && !s.GetProgress()[0].GetRecentActive()
	})
	_, err := members[0].cluster.ChangeMembership(within(t, 3*time.Second), &clusterv1.ChangeMembershipRequest{Voters: []uint64{1, 2}})
	if code, applied, _ := outcome(err); code != codes.DeadlineExceeded || applied != kvv1.Applied_APPLIED_NO || !strings.Contains(err.Error(), "node 2 has not caught up") {
		t.Errorf("got %v", err)
	}
	// Nothing is left under way.
	if _, err := members[0].cluster.RemoveNode(ctx, &clusterv1.RemoveNodeRequest{Id: 2}); err != nil {
		t.Errorf("the next change: %v", err)
	}
}

// A node that lost its memory and comes back under its id would break the
// cluster's promises: it is told to end, and the cluster stays up.
func TestForgetfulNodeIsRefused(t *testing.T) {
	members := startCluster(t, 3, nil)
	leader, followers := leaderOf(t, members)
	ctx := within(t, 3*time.Minute)
	lost := followers[0]
	stopNode(t, lost.Node)
	back, err := New(Options{Config: func() Config {
		c := testConfig(lost.ID())
		c.Addr, c.PeerAddr = lost.Addr(), lost.PeerAddr()
		return c
	}()})
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Start(); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("remove node %d, add it again under a new id", lost.ID())
	select {
	case <-back.Done():
	case <-time.After(3 * time.Minute):
		stopNode(t, back)
		t.Fatal("the node goes on")
	}
	if back.Err() == nil || !strings.Contains(back.Err().Error(), want) || strings.Contains(back.Err().Error(), "rpc error") {
		t.Errorf("it ended with %v, want %q", back.Err(), want)
	}
	if _, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Errorf("the cluster: %v", err)
	}
	// Under a new id it joins.
	again := start(t, 7, nil)
	if _, err := leader.cluster.RemoveNode(ctx, &clusterv1.RemoveNodeRequest{Id: lost.ID()}); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: 7, Address: again.Addr()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new node has the write", func() bool {
		_, _, found := again.Store().Get([]byte("k"))
		return found
	})
}
