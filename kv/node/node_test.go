package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	"raftlab/transport"
)

// member is a running node with a connection to its client port.
type member struct {
	*Node
	conn    *grpc.ClientConn
	kv      kvv1.KVClient
	cluster clusterv1.ClusterClient
}

func testConfig(id uint64) Config {
	c := DefaultConfig()
	c.ID, c.Addr, c.Tick = id, "127.0.0.1:0", 50*time.Millisecond
	return c
}

// start runs a node until the test ends; set may change its options.
func start(t *testing.T, id uint64, set func(*Options)) *member {
	t.Helper()
	o := Options{Config: testConfig(id), Version: "test"}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if set != nil {
		set(&o)
	}
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, n) })
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if o.ClientDial != nil {
		options = append(options, grpc.WithContextDialer(o.ClientDial))
	}
	conn, err := grpc.NewClient("passthrough:///"+n.Addr(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &member{Node: n, conn: conn, kv: kvv1.NewKVClient(conn), cluster: clusterv1.NewClusterClient(conn)}
}

// stopTime is how long a node that stops may wait for others.
const stopTime = 30 * time.Second

func stopNode(t *testing.T, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		t.Errorf("node %d stopped with %v", n.ID(), err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for what other goroutines are about to bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// startCluster runs n nodes, all voters, led by the first.
func startCluster(t *testing.T, n int, set func(*Options)) []*member {
	t.Helper()
	ctx := within(t, 3*time.Minute)
	members := []*member{start(t, 1, set)}
	if _, err := members[0].cluster.Init(ctx, &clusterv1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	voters := []uint64{1}
	for i := range n - 1 {
		id := uint64(i + 2)
		m := start(t, id, set)
		members, voters = append(members, m), append(voters, id)
		if _, err := members[0].cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: id, Address: m.Addr()}); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := members[0].cluster.ChangeMembership(ctx, &clusterv1.ChangeMembershipRequest{Voters: voters})
	if err != nil {
		t.Fatal(err)
	}
	if m := resp.GetMembership(); !slices.Equal(m.GetVoters(), voters) || len(m.GetVotersOutgoing()) > 0 {
		t.Fatalf("membership is %v", m)
	}
	return members
}

// A lease read on a real cluster: refused by followers, and without rounds once there
// is a lease, which the round of the membership change may have brought.
func TestLeaseReadOfACluster(t *testing.T) {
	members := startCluster(t, 3, nil)
	leader, others := leaderOf(t, members)
	ctx := within(t, 3*time.Minute)
	req := &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_LEASE}
	_, err := others[0].kv.Get(ctx, req)
	if code, _, told := outcome(err); code != codes.FailedPrecondition || told.GetLeaderAddress() != leader.Addr() {
		t.Errorf("a follower says %v, leader %v", err, told)
	}
	for i := range 20 {
		value := []byte{byte(i)}
		if _, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: value}); err != nil {
			t.Fatal(err)
		}
		if got, err := leader.kv.Get(ctx, req); err != nil || !slices.Equal(got.GetValue(), value) {
			t.Fatalf("write %d: read %v, %v", i, got, err)
		}
	}
	// A slow machine may lose the lease at times, but not always.
	eventually(t, "reads are answered under the lease", func() bool {
		if _, err := leader.kv.Get(ctx, req); err != nil {
			t.Fatal(err)
		}
		st, err := leader.cluster.Status(ctx, &clusterv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.GetCounters()["lease_reads"] > 0
	})
}

// leaderOf waits for a leader and returns it with the others.
func leaderOf(t *testing.T, members []*member) (leader *member, others []*member) {
	t.Helper()
	eventually(t, "a node leads", func() bool {
		leader, others = nil, nil
		for _, m := range members {
			if m.Replica().Leader() == m.ID() {
				leader = m
			} else {
				others = append(others, m)
			}
		}
		return leader != nil
	})
	return leader, others
}

func TestOneNode(t *testing.T) {
	m := start(t, 1, nil)
	ctx := within(t, 3*time.Minute)

	described, err := m.cluster.Describe(ctx, &clusterv1.DescribeRequest{})
	if err != nil || described.GetClusterId() != 0 || described.GetNode().GetAddress() != m.Addr() || described.GetNode().GetIncarnation() == 0 {
		t.Fatalf("Describe before Init: %v, %v", described, err)
	}
	_, err = m.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if code, applied, leader := outcome(err); code != codes.FailedPrecondition || applied != kvv1.Applied_APPLIED_NO || leader == nil || leader.GetLeaderId() != 0 {
		t.Errorf("put before Init: %v, %v", err, leader)
	}

	first, err := m.cluster.Init(ctx, &clusterv1.InitRequest{})
	if err != nil || !first.GetCreated() || first.GetClusterId() == 0 || first.GetNodeId() != 1 {
		t.Fatalf("Init: %v, %v", first, err)
	}
	again, err := m.cluster.Init(ctx, &clusterv1.InitRequest{})
	if err != nil || again.GetCreated() || again.GetClusterId() != first.GetClusterId() {
		t.Errorf("second Init: %v, %v", again, err)
	}

	w, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if err != nil || w.GetVersion() != 1 || w.GetRevision() != 2 || w.GetAppliedIndex() == 0 {
		t.Fatalf("Put right after Init: %v, %v", w, err)
	}
	g, err := m.kv.Get(ctx, &kvv1.GetRequest{Key: []byte("k")})
	if err != nil || string(g.GetValue()) != "v" || !g.GetFound() || g.GetModRevision() != 2 {
		t.Errorf("Get: %v, %v", g, err)
	}
	c, err := m.kv.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{Key: []byte("k"), ExpectAbsent: true, Value: []byte("x")})
	if err != nil || c.GetSucceeded() || !c.GetFound() || string(c.GetValue()) != "v" || c.GetVersion() != 1 {
		t.Errorf("CompareAndSwap that does not match: %v, %v", c, err)
	}
	c, err = m.kv.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{Key: []byte("k"), Expect: []byte("v"), Value: []byte("w")})
	if err != nil || !c.GetSucceeded() || c.GetVersion() != 2 {
		t.Errorf("CompareAndSwap: %v, %v", c, err)
	}
	b, err := m.kv.Batch(ctx, &kvv1.BatchRequest{Operations: []*kvv1.Operation{op(7, opPut, "a", "1"), op(8, opGet, "k", ""), op(9, opDel, "k", "")}})
	if err != nil || !b.GetSucceeded() || len(b.GetResults()) != 3 || string(b.GetResults()[1].GetValue()) != "w" || b.GetResults()[2].GetId() != 9 {
		t.Errorf("Batch: %v, %v", b, err)
	}
	refused := op(2, opSwap, "a", "3")
	refused.Expect = []byte("2")
	b, err = m.kv.Batch(ctx, &kvv1.BatchRequest{Operations: []*kvv1.Operation{op(1, opPut, "b", "1"), refused, op(3, opPut, "c", "1")}})
	if err != nil || b.GetSucceeded() || len(b.GetResults()) != 2 || string(b.GetResults()[1].GetValue()) != "1" {
		t.Errorf("Batch that does not match: %v, %v", b, err)
	}
	d, err := m.kv.Delete(ctx, &kvv1.DeleteRequest{Key: []byte("k")})
	if err != nil || d.GetDeleted() {
		t.Errorf("Delete of a deleted key: %v, %v", d, err)
	}
	keys, _ := scanAll(t, &kvv1.ScanRequest{Limit: 1}, func(req *kvv1.ScanRequest) (*kvv1.ScanResponse, error) { return m.kv.Scan(ctx, req) }, func() {})
	if !slices.Equal(keys, []string{"a"}) {
		t.Errorf("Scan gave %q", keys)
	}
	s, err := m.cluster.Snapshot(ctx, &clusterv1.SnapshotRequest{})
	if err != nil || s.GetKeys() != 1 || s.GetIndex() == 0 || s.GetTerm() == 0 {
		t.Errorf("Snapshot: %v, %v", s, err)
	}
}

func TestStatus(t *testing.T) {
	m := startCluster(t, 1, func(o *Options) { o.Config.MaxMessage = 64 << 10 })[0]
	ctx := within(t, 3*time.Minute)
	if _, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	s, err := m.cluster.Status(ctx, &clusterv1.StatusRequest{WithStateHash: true})
	if err != nil {
		t.Fatal(err)
	}
	hash := m.Store().View().Hash()
	for _, check := range []struct {
		what string
		ok   bool
	}{
		{"node and cluster", s.GetNodeId() == 1 && s.GetIncarnation() != 0 && s.GetClusterId() != 0},
		{"role", s.GetRole() == clusterv1.Role_ROLE_LEADER && s.GetLeaderId() == 1 && s.GetLeaderAddress() == m.Addr() && s.GetTerm() > 0},
		{"log", s.GetCommitIndex() >= s.GetAppliedIndex() && s.GetAppliedIndex() > 0 && s.GetLogLastIndex() >= s.GetCommitIndex() && s.GetLogFirstIndex() > 0 && s.GetLogBytes() > 0},
		{"membership", slices.Equal(s.GetMembership().GetVoters(), []uint64{1}) && s.GetMembership().GetNodes()[0].GetAddress() == m.Addr()},
		{"store", s.GetRevision() == 2 && s.GetKeys() == 1},
		{"hash", hex.EncodeToString(s.GetStateHash()) == hex.EncodeToString(hash[:])},
		{"limits", s.GetLimits().GetMaxMessageBytes() == 64<<10 && s.GetLimits().GetChunkSizeBytes() == 64<<10 && s.GetLimits().GetChunking() == "fragment" && s.GetLimits().GetMaxEntryBytes() > 0},
		{"counters", s.GetCounters()["elected"] == 1 && s.GetCounters()["commands_proposed"] == 1},
		{"version", s.GetVersion() == "test"},
		{"config", s.GetConfig()["max-message"] == "64KiB" && len(s.GetConfig()) == len(Knobs(&Config{}))},
	} {
		if !check.ok {
			t.Errorf("%s: %v", check.what, s)
		}
	}
	if s, err = m.cluster.Status(ctx, &clusterv1.StatusRequest{}); err != nil || len(s.GetStateHash()) > 0 {
		t.Errorf("a hash that was not asked for: %x, %v", s.GetStateHash(), err)
	}
}

// Three nodes, over each transport: writes on the leader, reads on every node,
// what a follower answers, and a change of leader.
func TestThreeNodes(t *testing.T) {
	for name, set := range map[string]func() func(*Options){
		"stream": func() func(*Options) { return nil },
		"unary":  func() func(*Options) { return func(o *Options) { o.Config.Transport = transport.KindUnary } },
		"memory connections": func() func(*Options) {
			var listeners sync.Map // by address
			dial := func(ctx context.Context, addr string) (net.Conn, error) {
				l, _ := listeners.Load(addr)
				return l.(*bufconn.Listener).DialContext(ctx)
			}
			listen := func(addr string) *bufconn.Listener {
				l := bufconn.Listen(1 << 20)
				listeners.Store(addr, l)
				return l
			}
			return func(o *Options) {
				client, peer := fmt.Sprintf("client:%d", o.Config.ID), fmt.Sprintf("peer:%d", o.Config.ID)
				o.ClientListener, o.PeerListener = listen(client), listen(peer)
				o.ClientDial, o.PeerDial = dial, dial
				o.Config.Advertise, o.Config.AdvertisePeer = client, peer
			}
		},
		"local": func() func(*Options) {
			network := transport.NewNetwork()
			return func(o *Options) { o.Network = network }
		},
	} {
		t.Run(name, func(t *testing.T) {
			members := startCluster(t, 3, set())
			leader, followers := leaderOf(t, members)
			ctx := within(t, 3*time.Minute)

			w, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range members {
				g, err := m.kv.Get(ctx, &kvv1.GetRequest{Key: []byte("k")})
				if err != nil || string(g.GetValue()) != "v" || g.GetModRevision() != w.GetModRevision() {
					t.Errorf("linearizable get on node %d: %v, %v", m.ID(), g, err)
				}
			}
			_, err = followers[0].kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("x")})
			if code, applied, to := outcome(err); code != codes.FailedPrecondition || applied != kvv1.Applied_APPLIED_NO || to.GetLeaderId() != leader.ID() || to.GetLeaderAddress() != leader.Addr() {
				t.Errorf("put on a follower: %v, %v", err, to)
			}
			stream, err := followers[0].kv.Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r := exchangeOps(t, stream, op(1, opPut, "k", "x"), op(2, opGet, "k", "")); r[0].GetError().GetNotLeader().GetLeaderAddress() != leader.Addr() || string(r[1].GetValue()) != "v" {
				t.Errorf("stream on a follower: %v", r)
			}

			to := followers[1]
			moved, err := leader.cluster.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{To: to.ID()})
			if err != nil || moved.GetLeaderId() != to.ID() {
				t.Fatalf("TransferLeadership: %v, %v", moved, err)
			}
			eventually(t, "the new leader knows", func() bool { return to.Replica().Leader() == to.ID() })
			if _, err := to.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("w")}); err != nil {
				t.Errorf("put on the new leader: %v", err)
			}
			var hashes []string
			for _, m := range members {
				if _, err := m.kv.Get(ctx, &kvv1.GetRequest{Key: []byte("k")}); err != nil {
					t.Fatal(err)
				}
				s, err := m.cluster.Status(ctx, &clusterv1.StatusRequest{WithStateHash: true})
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, hex.EncodeToString(s.GetStateHash()))
				if len(s.GetTransport()) != 2 {
					t.Errorf("node %d knows %d peers", m.ID(), len(s.GetTransport()))
				}
				if want := m.ID() == to.ID(); (len(s.GetProgress()) == 2) != want {
					t.Errorf("node %d reports progress %v", m.ID(), s.GetProgress())
				}
			}
			if hashes[0] != hashes[1] || hashes[1] != hashes[2] {
				t.Errorf("state hashes differ: %v", hashes)
			}
		})
	}
}

// The node takes itself down when it cannot go on, and tells why.
func TestFatalError(t *testing.T) {
	m := startCluster(t, 1, nil)[0]
	why := fmt.Errorf("remove node 1, add it again under a new id")
	peerHandler{m.Node}.Refused(why)
	peerHandler{m.Node}.Refused(fmt.Errorf("a second reason"))
	select {
	case <-m.Done():
	case <-time.After(3 * time.Minute):
		t.Fatal("the node goes on")
	}
	if m.Err() != why { //nolint:errorlint // the very error
		t.Errorf("it ended with %v", m.Err())
	}
	if err := m.Stop(t.Context()); err != why { //nolint:errorlint // the very error
		t.Errorf("Stop says %v", err)
	}
	m.err = nil // for the cleanup
}

func TestNewRefuses(t *testing.T) {
	running := start(t, 1, nil)
	for _, test := range []struct {
		set  func(*Config)
		want string
	}{
		{func(c *Config) { c.ID = 0 }, "id 0 must be at least 1"},
		{func(c *Config) { c.Addr = running.Addr() }, "addr " + running.Addr() + ": listen tcp " + running.Addr() + ": bind: address already in use"},
		{func(c *Config) { c.PeerAddr = running.PeerAddr() }, "peer-addr " + running.PeerAddr() + ": listen tcp " + running.PeerAddr() + ": bind: address already in use"},
		{func(c *Config) { c.Addr, c.PeerAddr = "0.0.0.0:0", "127.0.0.1:0" }, "advertise must be set: addr 0.0.0.0:0 is every interface, which is no address to tell others"},
		{func(c *Config) { c.PeerAddr = "0.0.0.0:0" }, "advertise-peer must be set: peer-addr 0.0.0.0:0 is every interface, which is no address to tell others"},
	} {
		c := testConfig(2)
		test.set(&c)
		if n, err := New(Options{Config: c}); err == nil {
			t.Errorf("New succeeded, want %q", test.want)
			stopNode(t, n)
		} else if err.Error() != test.want {
			t.Errorf("got  %s\nwant %s", err, test.want)
		}
	}
}

func TestStopWithoutStart(t *testing.T) {
	n, err := New(Options{Config: testConfig(1)})
	if err != nil {
		t.Fatal(err)
	}
	stopNode(t, n)
	stopNode(t, n)
	if err := n.Start(); err == nil {
		t.Error("a stopped node started")
	}
	c := testConfig(1)
	c.Addr, c.PeerAddr = n.Addr(), n.PeerAddr()
	again, err := New(Options{Config: c})
	if err != nil {
		t.Fatalf("the ports were not given back: %v", err)
	}
	stopNode(t, again)
}

// A leader that stops hands over: writes go on at once elsewhere, and every
// write it acknowledged is there.
func TestGracefulStop(t *testing.T) {
	members := startCluster(t, 3, nil)
	leader, followers := leaderOf(t, members)
	ctx := within(t, 3*time.Minute)
	acked := make(chan int, 1)
	go func() {
		n := 0
		defer func() { acked <- n }()
		for {
			_, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "%06d", n), Value: []byte("v")})
			if err != nil {
				if _, applied, _ := outcome(err); applied == kvv1.Applied_APPLIED_UNKNOWN {
					t.Errorf("a write was left unknown by a graceful stop: %v", err)
				}
				return
			}
			n++
		}
	}()
	eventually(t, "writes flow", func() bool { return leader.Store().State().Keys > 10 })
	stopNode(t, leader.Node)
	n := <-acked
	next, _ := leaderOf(t, followers)
	for i := range n {
		key := fmt.Appendf(nil, "%06d", i)
		if resp, err := next.kv.Get(ctx, &kvv1.GetRequest{Key: key}); err != nil || !resp.GetFound() {
			t.Fatalf("acknowledged write %d of %d: %v, %v", i, n, resp, err)
		}
	}
}
