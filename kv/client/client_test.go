package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestOperations(t *testing.T) {
	c := open(t, clienttest.Start(t, 1))
	ctx := within(t, time.Minute)
	if got, err := c.Get(ctx, []byte("a"), lin); err != nil || got.GetFound() {
		t.Fatalf("get of a missing key: %v, %v", got, err)
	}
	for version := range uint64(2) {
		w, err := c.Put(ctx, []byte("a"), []byte{byte(version)})
		if err != nil || w.GetVersion() != version+1 {
			t.Fatalf("put: %v, %v", w, err)
		}
	}
	got, err := c.Get(ctx, []byte("a"), stale)
	if err != nil || !got.GetFound() || string(got.GetValue()) != "\x01" {
		t.Fatalf("get: %v, %v", got, err)
	}
	swap, err := c.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{Key: []byte("a"), ExpectAbsent: true, Value: []byte("x")})
	if err != nil || swap.GetSucceeded() || string(swap.GetValue()) != "\x01" {
		t.Fatalf("mismatch: %v, %v", swap, err)
	}
	swap, err = c.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{Key: []byte("a"), Expect: []byte{1}, Value: []byte("x")})
	if err != nil || !swap.GetSucceeded() {
		t.Fatalf("swap: %v, %v", swap, err)
	}
	batch, err := c.Batch(ctx, []*kvv1.Operation{put("b", "1"), put("c", "2")})
	if err != nil || !batch.GetSucceeded() || len(batch.GetResults()) != 2 {
		t.Fatalf("batch: %v, %v", batch, err)
	}
	del, err := c.Delete(ctx, []byte("c"))
	if err != nil || !del.GetDeleted() {
		t.Fatalf("delete: %v, %v", del, err)
	}
}

func put(key, value string) *kvv1.Operation {
	return &kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: []byte(key), Value: []byte(value)}
}

func get(key string) *kvv1.Operation {
	return &kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_GET, Key: []byte(key)}
}

// What befalls the first call of a write or read, whether it is tried again,
// and what the caller is told.
func TestRetryRules(t *testing.T) {
	step := func(err error) clienttest.Step { return clienttest.Step{Err: err} }
	applied := func(err error) clienttest.Step { return clienttest.Step{Err: err, Apply: true} }
	plain := status.Error
	cases := []struct {
		name  string
		step  clienttest.Step
		write bool
		calls int // that reach the node
		code  codes.Code
		want  kvv1.Applied
	}{
		{"refused while stopping", step(clienttest.Refusal(codes.Unavailable, "stopping")), true, 2, codes.OK, 0},
		{"refused by admission", step(clienttest.Refusal(codes.ResourceExhausted, "overloaded")), true, 2, codes.OK, 0},
		{"invalid", step(clienttest.Refusal(codes.InvalidArgument, "empty key")), true, 1, codes.InvalidArgument, no},
		{"deadline on arrival", step(clienttest.Refusal(codes.DeadlineExceeded, "late")), true, 1, codes.DeadlineExceeded, no},
		{"unknown after a lost leadership", applied(clienttest.Unknown(codes.Unavailable, "leadership lost")), true, 1, codes.Unavailable, unknown},
		{"no details, applied", applied(plain(codes.Unavailable, "gone")), true, 1, codes.Unavailable, unknown},
		{"no details, not applied", step(plain(codes.Unavailable, "gone")), true, 1, codes.Unavailable, unknown},
		{"no details, overloaded", step(plain(codes.ResourceExhausted, "too many")), true, 1, codes.ResourceExhausted, unknown},
		{"no details, precondition", step(plain(codes.FailedPrecondition, "no")), true, 1, codes.FailedPrecondition, unknown},
		{"not implemented by gRPC", step(plain(codes.Unimplemented, "unknown service")), true, 1, codes.Unimplemented, no},
		{"read, unavailable", step(plain(codes.Unavailable, "gone")), false, 2, codes.OK, 0},
		{"read, unknown makes no sense but is harmless", step(clienttest.Unknown(codes.Unavailable, "x")), false, 2, codes.OK, 0},
		{"read, invalid", step(clienttest.Refusal(codes.InvalidArgument, "empty key")), false, 1, codes.InvalidArgument, no},
		{"read, internal", step(plain(codes.Internal, "broken")), false, 1, codes.Internal, no},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			cluster := clienttest.Start(t, 1)
			c := open(t, cluster)
			ctx := within(t, time.Minute)
			method, err := clienttest.Get, error(nil)
			if tc.write {
				method = clienttest.Put
				cluster.Node(1).Script(method, tc.step)
				_, err = c.Put(ctx, []byte("k"), []byte("v"))
			} else {
				cluster.Node(1).Script(method, tc.step)
				_, err = c.Get(ctx, []byte("k"), lin)
			}
			if status.Code(err) != tc.code || client.Applied(err) != tc.want {
				t.Errorf("error %v, code %v, applied %v; want %v, %v", err, status.Code(err), client.Applied(err), tc.code, tc.want)
			}
			if n := cluster.Node(1).Calls(method); n != tc.calls {
				t.Errorf("%d calls arrived, want %d", n, tc.calls)
			}
			if n := cluster.Applied("k"); n > 1 {
				t.Errorf("the write was applied %d times", n)
			}
			var e *client.Error
			if err != nil && (!errors.As(err, &e) || e.Method != method) {
				t.Errorf("error is %T of method %q", err, e.Method)
			}
		})
	}
}

func TestFollowsTheLeader(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	cluster.SetLeader(3)
	c := open(t, cluster, 1)
	ctx := within(t, time.Minute)
	for i := range 10 {
		if _, err := c.Put(ctx, []byte("k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			cluster.SetLeader(2)
		}
	}
	// One refusal each time leadership moved, no more.
	for id, want := range map[uint64]int{1: 1, 2: 5, 3: 6} {
		if n := cluster.Node(id).Calls(clienttest.Put); n != want {
			t.Errorf("node %d got %d puts, want %d", id, n, want)
		}
	}
	if n := cluster.Applied("k"); n != 10 {
		t.Errorf("%d writes applied, want 10", n)
	}
}

func TestWaitsForALeader(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	cluster.SetLeader(0)
	elect := clienttest.Step{Before: func() { cluster.SetLeader(2) }}
	// The election is over once every node was asked twice.
	cluster.Node(3).Script(clienttest.Put, clienttest.Step{}, elect)
	c := open(t, cluster)
	if _, err := c.Put(within(t, time.Minute), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	if cluster.Node(2).Calls(clienttest.Put) < 2 {
		t.Error("node 2 was not asked before the election")
	}
}

func TestRotatesAwayFromDeadNodes(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	cluster.SetLeader(3)
	cluster.Node(1).Stop()
	c := open(t, cluster)
	if _, err := c.Put(within(t, time.Minute), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
}

// A follower that still names the dead leader must not keep the client from
// asking the third node.
func TestStaleLeaderHint(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	dead := &kvv1.NotLeader{LeaderId: 1, LeaderAddress: cluster.Node(1).Address}
	st, err := status.New(codes.FailedPrecondition, "not the leader").WithDetails(&kvv1.Outcome{Applied: no}, dead)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		cluster.Node(2).Script(clienttest.Put, clienttest.Step{Err: st.Err()})
	}
	cluster.SetLeader(3)
	cluster.Node(1).Stop()
	c := open(t, cluster)
	if _, err := c.Put(within(t, time.Minute), []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
}

func TestUnreachable(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	cluster.Node(1).Stop()
	c := open(t, cluster)
	ctx := within(t, soon)
	_, err := c.Put(ctx, []byte("k"), nil)
	if status.Code(err) != codes.Unavailable || client.Applied(err) != no {
		t.Errorf("%v, applied %v; want unavailable and not applied", err, client.Applied(err))
	}
	want := "Put: Unavailable: dial tcp " + cluster.Node(1).Address + ": connect: connection refused"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if _, err := c.Get(ctx, []byte("k"), lin); client.Applied(err) != no {
		t.Errorf("get: %v", err)
	}
}

func TestDeadline(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c := open(t, cluster)
	if _, err := c.Put(within(t, time.Minute), []byte("warm"), nil); err != nil {
		t.Fatal(err)
	}
	cluster.Node(1).Script(clienttest.Put, clienttest.Step{Delay: time.Minute})
	_, err := c.Put(within(t, soon), []byte("k"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != unknown {
		t.Errorf("a write cut short: %v, applied %v", err, client.Applied(err))
	}
	cluster.Node(1).Script(clienttest.Get, clienttest.Step{Delay: time.Minute})
	_, err = c.Get(within(t, soon), []byte("k"), lin)
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != no {
		t.Errorf("a read cut short: %v, applied %v", err, client.Applied(err))
	}
	cluster.Node(1).Script(clienttest.Get, clienttest.Step{Err: clienttest.Refusal(codes.Unavailable, "no leader")},
		clienttest.Step{Err: clienttest.Refusal(codes.DeadlineExceeded, "too late")})
	_, err = c.Get(within(t, time.Minute), []byte("k"), lin)
	if want := "Get: DeadlineExceeded: too late; before that: no leader"; err == nil || err.Error() != want {
		t.Errorf("a read cut short when it was tried again: %v, want %s", err, want)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	calls := cluster.Node(1).Calls(clienttest.Put)
	_, err = c.Put(ended, []byte("k"), nil)
	if !errors.Is(err, context.Canceled) || client.Applied(err) != no || cluster.Node(1).Calls(clienttest.Put) != calls {
		t.Errorf("a write that was over before it began: %v, applied %v", err, client.Applied(err))
	}
}

// A node that is silent, though its connection holds, is given up for another, but
// not by a write that it may still apply.
func TestAttemptTimeout(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	const patience = soon // answers that are not held back come before
	c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), RefreshInterval: -1, AttemptTimeout: patience})
	silent := func(method string) {
		t.Helper()
		if _, err := c.Put(t.Context(), []byte("warm"), nil); err != nil { // node 1 leads, and is where calls go
			t.Fatal(err)
		}
		cluster.Node(1).Script(method, clienttest.Step{Delay: time.Minute, Before: func() { cluster.SetLeader(2) }})
	}

	silent(clienttest.Get)
	if _, err := c.Get(t.Context(), []byte("k"), lin); err != nil {
		t.Errorf("a read: %v", err)
	}

	cluster.SetLeader(1)
	silent(clienttest.Put)
	_, err := c.Put(t.Context(), []byte("k"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != unknown || !strings.Contains(err.Error(), "within attempt timeout "+patience.String()) {
		t.Errorf("a write: %v, applied %v", err, client.Applied(err))
	}
	if _, err := c.Put(t.Context(), []byte("k"), nil); err != nil {
		t.Errorf("the write after it: %v", err)
	}

	// What may take long for good reason is not bounded.
	cluster.SetLeader(1)
	if _, err := c.Put(t.Context(), []byte("warm"), nil); err != nil {
		t.Fatal(err)
	}
	cluster.Node(1).Script(clienttest.AddLearner, clienttest.Step{Delay: 2 * patience})
	if _, err := c.AddLearner(t.Context(), 4, "127.0.0.1:4"); err != nil {
		t.Errorf("add-learner: %v", err)
	}
}

// The last refusal says more than "deadline exceeded".
func TestDeadlineTellsTheReason(t *testing.T) {
	cluster := clienttest.Start(t, 2)
	cluster.SetLeader(0)
	c := open(t, cluster)
	for range 20 {
		_, err := c.Put(within(t, soon), []byte("k"), nil)
		var e *client.Error
		switch {
		case errors.As(err, &e) && e.NotLeader && e.Applied == no:
			return
		case status.Code(err) != codes.DeadlineExceeded: // that met an attempt, not a pause between two
			t.Fatalf("error is %v", err)
		}
	}
	t.Fatal("all that was said is that the deadline passed")
}

func TestNoRetries(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	cluster.Node(1).Script(clienttest.Put, clienttest.Step{Err: clienttest.Refusal(codes.ResourceExhausted, "overloaded")})
	c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), RetryTime: -1, RefreshInterval: -1})
	if _, err := c.Put(t.Context(), []byte("k"), nil); status.Code(err) != codes.ResourceExhausted {
		t.Fatal(err)
	}
}

func TestSizeLimits(t *testing.T) {
	t.Run("refused here", func(t *testing.T) {
		cluster := clienttest.Start(t, 1)
		c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), MaxRequest: 1000, RefreshInterval: -1})
		// 2 bytes before the key, 3 before the value.
		const fits = 1000 - 3 - 3
		if _, err := c.Put(t.Context(), []byte("k"), make([]byte, fits)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Put(t.Context(), []byte("k"), make([]byte, fits+1))
		if status.Code(err) != codes.ResourceExhausted || client.Applied(err) != no {
			t.Fatalf("%v, applied %v", err, client.Applied(err))
		}
		if !strings.Contains(err.Error(), "1001 bytes exceeds max-request 1000 bytes") {
			t.Errorf("sizes are not told: %v", err)
		}
		if n := cluster.Node(1).Calls(clienttest.Put); n != 1 {
			t.Errorf("%d puts arrived", n)
		}
	})
	t.Run("refused by the server", func(t *testing.T) {
		cluster := clienttest.Start(t, 1)
		cluster.Node(1).Options = []grpc.ServerOption{grpc.MaxRecvMsgSize(1000)}
		if err := cluster.Node(1).Restart(); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, cluster).Put(t.Context(), []byte("k"), make([]byte, 2000))
		if status.Code(err) != codes.ResourceExhausted || client.Applied(err) != no {
			t.Fatalf("%v, applied %v; the server never decoded it", err, client.Applied(err))
		}
	})
	t.Run("the answer is too large", func(t *testing.T) {
		cluster := clienttest.Start(t, 1)
		big := open(t, cluster)
		if _, err := big.Put(t.Context(), []byte("k"), make([]byte, 3<<20)); err != nil {
			t.Fatal(err)
		}
		// Answers up to 1 MiB + 1000 bytes.
		c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), MaxRequest: 1000, RefreshInterval: -1})
		_, err := c.Batch(t.Context(), []*kvv1.Operation{put("other", ""), get("k")})
		if status.Code(err) != codes.ResourceExhausted || client.Applied(err) != unknown {
			t.Fatalf("%v, applied %v; it was applied", err, client.Applied(err))
		}
	})
}

func TestScan(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	c := open(t, cluster)
	ctx := within(t, time.Minute)
	for i := range 25 {
		if _, err := c.Put(ctx, fmt.Appendf(nil, "s/%02d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	scan := func() (keys []string, err error) {
		for item, err := range c.Scan(ctx, &kvv1.ScanRequest{Prefix: []byte("s/"), Limit: 10}, lin) {
			if err != nil {
				return keys, err
			}
			keys = append(keys, string(item.GetKey()))
		}
		return keys, nil
	}
	keys, err := scan()
	if err != nil || len(keys) != 25 || keys[0] != "s/00" || keys[24] != "s/24" {
		t.Fatalf("%v, %v", keys, err)
	}
	// A page fails for a moment: it is asked for again, of the same node.
	cluster.Node(1).Script(clienttest.Scan, clienttest.Step{}, clienttest.Step{Err: status.Error(codes.Unavailable, "")})
	if keys, err = scan(); err != nil || len(keys) != 25 {
		t.Fatalf("%v, %v", keys, err)
	}
	// The client turns to another node between two pages: the token still goes
	// to the node that gave it.
	moved := false
	keys = nil
	for item, err := range c.Scan(ctx, &kvv1.ScanRequest{Prefix: []byte("s/"), Limit: 10}, lin) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(item.GetKey()))
		if !moved {
			moved = true
			cluster.SetLeader(2)
			if _, err := c.Put(ctx, []byte("other"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(keys) != 25 || cluster.Node(2).Calls(clienttest.Scan) != 0 {
		t.Fatalf("%d keys, node 2 was asked %d times", len(keys), cluster.Node(2).Calls(clienttest.Scan))
	}
	// An error ends the scan, after the keys that came.
	cluster.Node(2).Script(clienttest.Scan, clienttest.Step{}, clienttest.Step{Err: clienttest.Refusal(codes.FailedPrecondition, "token expired")})
	if keys, err = scan(); status.Code(err) != codes.FailedPrecondition || len(keys) != 10 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
}

func TestRefreshFindsNodesBeyondTheEndpoints(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	c := open(t, cluster, 1)
	ctx := within(t, time.Minute)
	if err := c.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	cluster.SetLeader(3)
	cluster.Node(1).Stop()
	// A read, since a write might go out just as the connection ends.
	if _, err := c.Get(ctx, []byte("k"), lin); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
}

func TestRefreshesByItself(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	asked := make(chan struct{}, 10)
	for range 3 {
		cluster.Node(1).Script(clienttest.Status, clienttest.Step{Before: func() { asked <- struct{}{} }})
	}
	openConfig(t, client.Config{Endpoints: cluster.Addresses(), RefreshInterval: time.Millisecond})
	for range 3 {
		select {
		case <-asked:
		case <-within(t, time.Minute).Done():
			t.Fatal("the client does not ask for the members")
		}
	}
}

func TestSeveralConnections(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), Conns: 3, RefreshInterval: -1})
	for range 9 {
		if _, err := c.Put(t.Context(), []byte("k"), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClosed(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c, err := client.New(client.Config{Endpoints: cluster.Addresses()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), []byte("k"), nil); client.Applied(err) != no {
		t.Errorf("put: %v, applied %v", err, client.Applied(err))
	}
	if _, err := c.NewPipeline(t.Context()); err == nil {
		t.Error("a closed client opened a pipeline")
	}
}

func TestConfigRefused(t *testing.T) {
	for _, cfg := range []client.Config{
		{},
		{Endpoints: []string{""}},
		{Endpoints: []string{"a:1"}, Conns: -1},
		{Endpoints: []string{"a:1"}, MaxRequest: -1},
	} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestAppliedOfForeignErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want kvv1.Applied
	}{
		{nil, kvv1.Applied_APPLIED_UNSPECIFIED},
		{errors.New("something"), unknown},
		{status.Error(codes.Unavailable, ""), unknown},
		{clienttest.Refusal(codes.Unavailable, ""), no},
		{fmt.Errorf("put: %w", clienttest.Refusal(codes.Unavailable, "")), no},
	} {
		if got := client.Applied(tc.err); got != tc.want {
			t.Errorf("Applied(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
}
