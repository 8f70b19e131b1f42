package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// mischief loses answers, and sends requests twice, on their way to the cluster.
type mischief struct{ lost, doubled atomic.Int64 }

func (m *mischief) intercept(
	ctx context.Context, method string, req, resp any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	if method != kvv1.KV_Put_FullMethodName {
		return invoke(ctx, method, req, resp, conn, opts...)
	}
	if rand.IntN(10) == 0 {
		m.doubled.Add(1)
		_ = invoke(ctx, method, req, &kvv1.WriteResponse{}, conn, opts...)
	}
	err := invoke(ctx, method, req, resp, conn, opts...)
	if err == nil && rand.IntN(5) == 0 {
		m.lost.Add(1)
		return status.Error(codes.Unavailable, "the answer was lost")
	}
	return err
}

// Answers are lost, requests come twice, the leader dies, a snapshot takes the
// place of the log: each write of a session is applied once.
func TestSessionsApplyOnce(t *testing.T) {
	cfg := node.DefaultConfig()
	cfg.LogEntries = 50
	c := start(t, cluster.Config{Topology: cluster.InProcessGRPC, Node: cfg})
	ctx := within(t, time.Minute)
	m := &mischief{}
	cl, err := client.New(client.Config{
		Endpoints: c.Endpoints(), DialOptions: []grpc.DialOption{grpc.WithUnaryInterceptor(m.intercept)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })

	const writers, puts = 4, 100
	var half, all sync.WaitGroup
	half.Add(writers)
	for w := range writers {
		all.Go(func() {
			s, err := cl.OpenSession(ctx, 0)
			if err != nil {
				t.Error(err)
				half.Done()
				return
			}
			for i := range puts {
				if i == puts/2 {
					half.Done()
				}
				r, err := s.Put(ctx, fmt.Append(nil, w), fmt.Append(nil, i))
				if err != nil || r.GetVersion() != uint64(i)+1 {
					t.Errorf("put %d of writer %d: version %d, %v", i, w, r.GetVersion(), err)
					if i < puts/2 {
						half.Done()
					}
					return
				}
			}
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	half.Wait()
	late, err := c.AddNode(ctx) // by a snapshot, as the log is short
	if err != nil {
		t.Fatal(err)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if t.Failed() {
		return
	}
	if m.lost.Load() == 0 || m.doubled.Load() == 0 {
		t.Errorf("%d answers were lost, %d requests came twice", m.lost.Load(), m.doubled.Load())
	}
	if st, err := c.Status(ctx, late); err != nil || st.GetCounters()["snapshots_installed"] == 0 {
		t.Errorf("node %d joined without a snapshot, %v", late.ID, err)
	}
	sameState(ctx, t, c)
}

// The leader is stopped, which breaks no connection. With a limit for one attempt,
// a session writes on once another leads; without, until gRPC breaks the connection,
// which here it does not.
func TestSessionLeavesAStoppedLeader(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.Processes, ServerBin: serverBin})
	cl, err := client.New(client.Config{
		Endpoints: c.Endpoints(), AttemptTimeout: 500 * time.Millisecond,
		DialOptions: []grpc.DialOption{grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Hour})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	s, err := cl.OpenSession(within(t, time.Minute), 0)
	if err != nil {
		t.Fatal(err)
	}
	leader, err := c.Leader(within(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := leader.Resume(); err != nil {
			t.Error(err)
		}
	}()
	r, err := s.Put(within(t, time.Minute), []byte("k"), nil)
	if err != nil || r.GetVersion() != 1 {
		t.Errorf("version %d, %v", r.GetVersion(), err)
	}
}

// A session that is left alone ends; its client is told that it cannot know
// what became of a write.
func TestSessionEnds(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.InProcess, Nodes: 1})
	ctx := within(t, 2*time.Minute)
	leaves, stays := newClient(t, c), newClient(t, c)
	// It is kept each third of that: a machine may stand still for 2 s.
	const ttl = 4 * time.Second
	kept, err := stays.OpenSession(ctx, ttl)
	if err != nil {
		t.Fatal(err)
	}
	s, err := leaves.OpenSession(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := leaves.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(c.Nodes()[0].Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	raw := kvv1.NewKVClient(conn)
	put := &kvv1.PutRequest{Key: []byte("k"), Session: &kvv1.SessionCommand{SessionId: s.ID(), Sequence: 1}}
	if _, err := raw.Put(ctx, put); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "end of the session", func() bool {
		if _, err := kept.Put(ctx, []byte("other"), nil); err != nil { // moves the clock
			t.Fatal(err)
		}
		_, err := raw.KeepSession(ctx, &kvv1.KeepSessionRequest{SessionId: s.ID() + 1000})
		if status.Code(err) != codes.FailedPrecondition {
			t.Fatalf("a session that never was: %v", err)
		}
		st := status.Convert(func() error { _, err := raw.Put(ctx, put); return err }())
		if st.Code() == codes.OK {
			time.Sleep(ttl + ttl/8) // each put keeps it
			return false
		}
		for _, d := range st.Details() {
			if o, ok := d.(*kvv1.Outcome); ok && o.GetApplied() != kvv1.Applied_APPLIED_UNKNOWN {
				t.Fatalf("a write that was applied before is said to be %v", o.GetApplied())
			}
		}
		return true
	})
	if _, err := kept.Put(ctx, []byte("other"), nil); err != nil {
		t.Errorf("the session that was kept: %v", err)
	}
	var e *client.Error
	if _, err := s.Put(ctx, []byte("k"), nil); !errors.As(err, &e) {
		t.Errorf("a write after Close: %v", err)
	}
}

func TestSessionRequestsAreChecked(t *testing.T) {
	c := start(t, cluster.Config{Topology: cluster.InProcess, Nodes: 1})
	conn, err := grpc.NewClient(c.Nodes()[0].Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	raw := kvv1.NewKVClient(conn)
	put := func(s *kvv1.SessionCommand) error {
		_, err := raw.Put(t.Context(), &kvv1.PutRequest{Key: []byte("k"), Session: s})
		return err
	}
	open := func(ttl uint64) error {
		_, err := raw.OpenSession(t.Context(), &kvv1.OpenSessionRequest{TtlMillis: ttl})
		return err
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{put(&kvv1.SessionCommand{Sequence: 1}), "session.session_id is 0, which is no session"},
		{put(&kvv1.SessionCommand{SessionId: 1}), "session.sequence is 0; it counts from 1"},
		{put(&kvv1.SessionCommand{SessionId: 1, Sequence: 2, Acknowledged: 3}), "session.acknowledged 3 is beyond sequence 2"},
		{open(999), "ttl_millis 999 is outside 1000 to 86400000"},
		{open(1 << 63), "ttl_millis 9223372036854775808 is outside 1000 to 86400000"},
	} {
		if st := status.Convert(c.err); st.Code() != codes.InvalidArgument || st.Message() != c.want {
			t.Errorf("got %v, want %s", st, c.want)
		}
	}
}
