package node

import (
	"math"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
	"raftlab/transport"
)

func TestFaultsMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := transport.Faults{
			Delay: time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "delay")), Jitter: time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "jitter")),
			Rate: rapid.Int64Range(0, math.MaxInt64).Draw(t, "rate"), Drop: rapid.Float64Range(0, 1).Draw(t, "drop"),
			Duplicate: rapid.Float64Range(0, 1).Draw(t, "duplicate"), Reorder: rapid.Float64Range(0, 1).Draw(t, "reorder"),
			Partition: rapid.Bool().Draw(t, "partition"), Seed: rapid.Uint64().Draw(t, "seed"),
		}
		if back, err := FaultsOf(FaultsMessage(f)); err != nil || back != f {
			t.Fatalf("read back %+v, %v; want %+v", back, err, f)
		}
	})
}

// The Lab service changes the faults of a running node. A peer that comes later
// gets those of all.
func TestLabFaults(t *testing.T) {
	members := startCluster(t, 2, func(o *Options) { o.Config.DebugAddr, o.Config.LinkSeed = "127.0.0.1:0", 3 })
	ctx := within(t, 3*time.Minute)
	conn, err := grpc.NewClient("passthrough:///"+members[0].DebugAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	lab := labv1.NewLabClient(conn)
	expect := func(what string, got *labv1.LinksResponse, err error, others *labv1.Faults, links ...*labv1.Faults) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got.GetNodeId() != 1 || !proto.Equal(got.GetOthers(), others) || len(got.GetLinks()) != len(links) {
			t.Fatalf("%s: %v", what, got)
		}
		for i, l := range got.GetLinks() {
			if l.GetPeerId() != uint64(i)+2 || !proto.Equal(l.GetFaults(), links[i]) {
				t.Errorf("%s: node %d has %v, want %v", what, l.GetPeerId(), l.GetFaults(), links[i])
			}
		}
	}
	none, slow, cut := &labv1.Faults{}, &labv1.Faults{DelayNanos: 2e6, JitterNanos: 1e6, Duplicate: 1, Seed: 9}, &labv1.Faults{Partition: true}
	r, err := lab.GetFaults(ctx, &labv1.GetFaultsRequest{})
	expect("at first", r, err, &labv1.Faults{Seed: 3}, none)
	r, err = lab.SetFaults(ctx, &labv1.SetFaultsRequest{Faults: slow})
	expect("for all", r, err, slow, slow)
	if _, err := members[0].kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if r, err = lab.GetFaults(ctx, &labv1.GetFaultsRequest{}); err != nil || r.GetLinks()[0].GetMessagesDuplicated() == 0 {
		t.Errorf("nothing was duplicated: %v, %v", r, err)
	}
	third := start(t, 3, nil)
	if _, err := members[0].cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: 3, Address: third.Addr()}); err != nil {
		t.Fatal(err)
	}
	r, err = lab.GetFaults(ctx, &labv1.GetFaultsRequest{})
	expect("of a peer that came later", r, err, slow, slow, slow)
	r, err = lab.SetFaults(ctx, &labv1.SetFaultsRequest{PeerIds: []uint64{3}, Faults: cut})
	expect("for one", r, err, slow, slow, cut)

	for _, test := range []struct {
		req  *labv1.SetFaultsRequest
		code codes.Code
		want string
	}{
		{&labv1.SetFaultsRequest{Faults: &labv1.Faults{Drop: 1.5}}, codes.InvalidArgument, "drop 1.5 is not a probability from 0 to 1"},
		{&labv1.SetFaultsRequest{Faults: &labv1.Faults{Reorder: math.NaN()}}, codes.InvalidArgument, "reorder NaN is not a probability from 0 to 1"},
		{&labv1.SetFaultsRequest{Faults: &labv1.Faults{DelayNanos: 61e9}}, codes.InvalidArgument, "delay 1m1s exceeds the maximum 1m0s"},
		{&labv1.SetFaultsRequest{Faults: &labv1.Faults{JitterNanos: 5}}, codes.InvalidArgument, "jitter 5ns exceeds the delay of 0s"},
		{&labv1.SetFaultsRequest{Faults: &labv1.Faults{RateBytesPerSecond: 1 << 63}}, codes.InvalidArgument, "rate 9223372036854775808 exceeds the maximum 9223372036854775807"},
		{&labv1.SetFaultsRequest{PeerIds: []uint64{2, 7}}, codes.NotFound, "node 7 is not a peer; the peers are [2 3]"},
	} {
		_, err := lab.SetFaults(ctx, test.req)
		if s := status.Convert(err); s.Code() != test.code || s.Message() != test.want {
			t.Errorf("%v: %v, want %v %q", test.req, err, test.code, test.want)
		}
	}
	r, err = lab.GetFaults(ctx, &labv1.GetFaultsRequest{})
	expect("after what was refused", r, err, slow, slow, cut)
	r, err = lab.SetFaults(ctx, &labv1.SetFaultsRequest{})
	expect("healed", r, err, none, none, none)
	eventually(t, "the third node has the write", func() bool {
		_, _, found := third.Store().Get([]byte("k"))
		return found
	})
}
