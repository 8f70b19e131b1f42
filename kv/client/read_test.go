package client_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestReadNames(t *testing.T) {
	for _, name := range client.ReadNames() {
		if how, err := client.ParseRead(name); err != nil || how.String() != name {
			t.Errorf("%s: %v, %v", name, how, err)
		}
	}
	_, err := client.ParseRead("dirty")
	if want := `read "dirty" is not one of linearizable, lease, follower, stale`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if got := client.Read(9).String(); got != "read(9)" {
		t.Errorf("a Read without a name is %s", got)
	}
}

// Which nodes answer nine reads of each kind, of a client that begins at node 2
// while node 1 leads. Each read of a node that does not answer it counts too.
func TestReadsGoWhereTheyMay(t *testing.T) {
	for _, tt := range []struct {
		how  client.Read
		want [3]int
	}{
		{client.ReadLinearizable, [3]int{0, 9, 0}}, // where it does not know better
		{client.ReadLease, [3]int{9, 1, 0}},        // refused once
		{client.ReadFollower, [3]int{3, 3, 3}},
		{client.ReadStale, [3]int{3, 3, 3}},
	} {
		cluster := clienttest.Start(t, 3)
		c := open(t, cluster, 2, 3, 1)
		ctx := within(t, time.Minute)
		for range 9 {
			if _, err := c.Get(ctx, []byte("k"), tt.how); err != nil {
				t.Fatalf("%s: %v", tt.how, err)
			}
		}
		for i, want := range tt.want {
			if got := cluster.Node(uint64(i + 1)).Calls(clienttest.Get); got != want {
				t.Errorf("%s: node %d was asked %d times, want %d", tt.how, i+1, got, want)
			}
		}
	}
}

func TestRefreshFindsTheLeaderForReads(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	c := open(t, cluster, 2)
	ctx := within(t, time.Minute)
	if err := c.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(ctx, []byte("k"), lin); err != nil {
		t.Fatal(err)
	}
	if n := cluster.Node(1).Calls(clienttest.Get); n != 1 {
		t.Errorf("the leader was asked %d times", n)
	}
	// What the refresh has learned of takes its share of the others.
	for range 3 {
		if _, err := c.Get(ctx, []byte("k"), stale); err != nil {
			t.Fatal(err)
		}
	}
	if n := cluster.Node(3).Calls(clienttest.Get); n != 1 {
		t.Errorf("a member beyond the endpoints was asked %d times", n)
	}
}

// A node that is down is left out, and comes back in by itself.
func TestSpreadReadsSkipANodeThatIsDown(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	c := open(t, cluster)
	ctx := within(t, time.Minute)
	read := func() {
		t.Helper()
		if _, err := c.Get(ctx, []byte("k"), client.ReadFollower); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Node(2).Stop()
	for range 30 {
		read()
	}
	if a, b := cluster.Node(1).Calls(clienttest.Get), cluster.Node(3).Calls(clienttest.Get); a+b != 30 || a < 10 || b < 10 {
		t.Errorf("30 reads went to the others %d and %d times", a, b)
	}
	if err := cluster.Node(2).Restart(); err != nil {
		t.Fatal(err)
	}
	for cluster.Node(2).Calls(clienttest.Get) == 0 {
		read()
		time.Sleep(time.Millisecond)
	}
	// One that says itself that it can't answer is left out too.
	before := cluster.Node(3).Calls(clienttest.Get)
	cluster.Node(3).Script(clienttest.Get, clienttest.Step{Err: clienttest.Refusal(codes.Unavailable, "no leader")})
	began := time.Now()
	for range 12 {
		read()
	}
	// It is left out for a second.
	if n := cluster.Node(3).Calls(clienttest.Get) - before; n < 1 || n > 1+int(time.Since(began)/time.Second) {
		t.Errorf("a node without a leader was asked %d times in %v", n, time.Since(began))
	}
}

func TestReadPipelines(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	c := open(t, cluster)
	ctx := within(t, time.Minute)
	var pipelines []*client.Pipeline
	for range 3 {
		p, err := c.NewReadPipeline(ctx, client.ReadFollower)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close() //nolint:errcheck // always nil
		pipelines = append(pipelines, p)
	}
	ask := func() {
		t.Helper()
		for _, p := range pipelines {
			results, err := p.Do(ctx, []*kvv1.Operation{get("k")})
			if err != nil || client.ResultError(results[0]) != nil {
				t.Fatalf("%v, %v", results, err)
			}
		}
	}
	ask()
	for id := uint64(1); id <= 3; id++ {
		if n := cluster.Node(id).Calls(clienttest.Stream); n != 1 {
			t.Errorf("node %d has %d streams of 3", id, n)
		}
	}
	cluster.Node(2).Stop()
	for range 3 {
		ask()
	}
	// A lease read goes where writes go.
	p, err := c.NewReadPipeline(ctx, client.ReadLease)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close() //nolint:errcheck // always nil
	cluster.SetLeader(3)
	op := get("k")
	op.Consistency = kvv1.Consistency_CONSISTENCY_LEASE
	if results, err := p.Do(ctx, []*kvv1.Operation{op}); err != nil || client.ResultError(results[0]) != nil {
		t.Fatalf("lease read after leadership moved: %v, %v", results, err)
	}
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

func TestNoNodeAnswers(t *testing.T) {
	a, b := deadAddress(t), deadAddress(t)
	c := openConfig(t, client.Config{
		Endpoints: []string{a, b}, RefreshInterval: -1, RetryTime: time.Hour, UnreachableTime: 50 * time.Millisecond,
	})
	ctx := within(t, time.Minute)
	both := "no node answers: " + a + ": connection refused, " + b + ": connection refused"
	_, put := c.Put(ctx, []byte("k"), nil)
	_, read := c.Get(ctx, []byte("k"), stale)
	_, status := c.FirstStatus(ctx, []string{a, b}, false)
	_, first := c.Init(ctx, "")
	for _, tt := range []struct {
		name, want string
		err        error
	}{
		{"put", both, put},
		{"get", both, read},
		{"status", both, status},
		{"init", "no node answers: " + a + ": connection refused", first},
	} {
		var e *client.Error
		if !errors.As(tt.err, &e) || e.Code != codes.Unavailable || e.Applied != no || !strings.HasSuffix(e.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, tt.err, tt.want)
		}
	}
}

// Nodes that answer, but have no leader, are waited for.
func TestElectionIsWaitedFor(t *testing.T) {
	cluster := clienttest.Start(t, 2)
	cluster.SetLeader(0)
	c := openConfig(t, client.Config{
		Endpoints: append(cluster.Addresses(), deadAddress(t)), RefreshInterval: -1, UnreachableTime: time.Nanosecond,
	})
	timer := time.AfterFunc(300*time.Millisecond, func() { cluster.SetLeader(2) })
	defer timer.Stop()
	if _, err := c.Put(within(t, time.Minute), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
}
