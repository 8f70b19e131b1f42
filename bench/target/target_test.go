package target_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"raftlab/bench/cluster"
	"raftlab/bench/load"
	"raftlab/bench/target"
	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNewRefuses(t *testing.T) {
	some := []string{"127.0.0.1:1"}
	for _, tt := range []struct {
		name    string
		options target.Options
		want    string
	}{
		{"telnet", target.Options{Endpoints: some}, `target "telnet" is not one of unary, pipeline, coalesce, direct, bare, wire, relay, etcd`},
		{target.Unary, target.Options{Endpoints: some, OpsPerMessage: 64}, "ops-per-message 64 needs pipeline"},
		{target.Coalesce, target.Options{Endpoints: some, OpsPerMessage: 2}, "target coalesce makes calls of one operation"},
		{target.Unary, target.Options{}, "target unary has no endpoints"},
		{target.Wire, target.Options{}, "target wire has no endpoints"},
		{target.Direct, target.Options{Endpoints: some}, "target direct needs the nodes in this process"},
	} {
		if _, err := target.New(tt.name, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// echo starts an echo server and returns how to reach it.
func echo(t *testing.T, overMemory bool) target.Options {
	t.Helper()
	var o target.Options
	var lis net.Listener
	if overMemory {
		memory := bufconn.Listen(1 << 20)
		lis, o.Endpoints = memory, []string{"echo"}
		o.Dialer = func(ctx context.Context, _ string) (net.Conn, error) { return memory.DialContext(ctx) }
	} else {
		tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lis, o.Endpoints = tcp, []string{tcp.Addr().String()}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- target.ServeWire(ctx, lis, node.DefaultConfig(), 100) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return o
}

func open(t *testing.T, name string, o target.Options) load.Session {
	t.Helper()
	tg, err := target.New(name, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := tg.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), tg.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func do(t *testing.T, s load.Session, ops ...load.Op) []load.Result {
	t.Helper()
	results := make([]load.Result, len(ops))
	if err := s.Do(t.Context(), ops, results); err != nil {
		t.Fatal(err)
	}
	return results
}

func put(key, value string) load.Op {
	return load.Op{Kind: load.Put, Key: []byte(key), Value: []byte(value)}
}
func get(key string) load.Op { return load.Op{Kind: load.Get, Key: []byte(key)} }

func TestWireAnswersEverything(t *testing.T) {
	for _, memory := range []bool{false, true} {
		for _, ops := range []int{1, 3} {
			for _, stream := range []bool{false, true} {
				o := echo(t, memory)
				o.OpsPerMessage, o.Stream, o.Conns = ops, stream, 2
				s := open(t, target.Wire, o)
				// Fewer operations than fit a message, and messages of other sizes.
				for n := 1; n <= ops; n++ {
					for i, r := range do(t, s, []load.Op{put("a", "1"), get("b"), put("c", "3")}[:n]...) {
						if r.Err != nil || r.ModRevision == 0 || r.Found != (i == 1) {
							t.Errorf("operation %d of %d: %+v", i, n, r)
						}
					}
				}
			}
		}
	}
}

func TestEchoRemembersTheSizeOfValues(t *testing.T) {
	s := target.NewEchoServer(100)
	for _, size := range []int{100, 0, 5000, 10, 5001} {
		if size != 100 {
			if _, err := s.Put(t.Context(), &kvv1.PutRequest{Value: make([]byte, size)}); err != nil {
				t.Fatal(err)
			}
		}
		r, err := s.Get(t.Context(), &kvv1.GetRequest{})
		if err != nil || len(r.GetValue()) != size || !r.GetFound() {
			t.Errorf("value of %d bytes, want %d", len(r.GetValue()), size)
		}
	}
	r, err := s.Get(t.Context(), nil)
	if err != nil || bytes.Count(r.Value, r.Value[:1]) > len(r.Value)/10 {
		t.Error("the value is one byte again and again")
	}
}

// TestWireMendsItself: the server goes and comes back on its address.
func TestWireMendsItself(t *testing.T) {
	for _, stream := range []bool{false, true} {
		var lis *bufconn.Listener
		start := func() (stop func()) {
			lis = bufconn.Listen(1 << 16)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func(l net.Listener) { done <- target.ServeWire(ctx, l, node.DefaultConfig(), 1) }(lis)
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		stop := start()
		o := target.Options{
			Endpoints: []string{"echo"}, Stream: stream,
			Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) },
		}
		s := open(t, target.Wire, o)
		do(t, s, put("a", "1"))
		stop()
		results := make([]load.Result, 1)
		err := s.Do(t.Context(), []load.Op{put("a", "1")}, results)
		if errors.Join(err, results[0].Err) == nil {
			t.Error("a dead server answered")
		}
		stop = start()
		defer stop()
		for deadline := time.Now().Add(20 * time.Second); ; {
			results[0] = load.Result{}
			if err = errors.Join(s.Do(t.Context(), []load.Op{put("a", "1")}, results), results[0].Err); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("stream %v: %v", stream, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	// A listener that takes connections and says nothing.
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close() //nolint:errcheck // not what is tested
	o := echo(t, true)
	o.Stream = true
	s := open(t, target.Wire, o)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Do(ctx, []load.Op{put("a", "1")}, make([]load.Result, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Do(ctx, []load.Op{put("a", "1")}, make([]load.Result, 1)); err == nil {
		t.Error("no error from a context that ended")
	}
	do(t, s, put("a", "1")) // with another context all is well again

	dead, err := target.New(target.Wire, target.Options{Endpoints: []string{lis.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close() //nolint:errcheck // not what is tested
	silent, err := dead.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	results := make([]load.Result, 1)
	if err := errors.Join(silent.Do(ctx, []load.Op{put("a", "1")}, results), results[0].Err); err == nil {
		t.Error("a silent server answered")
	}
}

func TestBestConns(t *testing.T) {
	o := echo(t, true)
	c := loadConfig()
	for _, tt := range []struct {
		clients int
		among   []int
	}{{1, []int{1}}, {4, []int{1, 4}}} {
		c.Clients = tt.clients
		got, err := target.BestConns(t.Context(), target.Wire, o, c)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, n := range tt.among {
			found = found || n == got
		}
		if !found {
			t.Errorf("%d clients: %d connections", tt.clients, got)
		}
	}
	if _, err := target.BestConns(t.Context(), "telnet", o, c); err == nil {
		t.Error("an unknown target has a best number of connections")
	}
}

func loadConfig() load.Config {
	return load.Config{
		Clients: 4, OpsPerMessage: 1, ReadRatio: 0.5, Keys: 50, KeySize: load.FixedSize(8), KeyDistribution: load.Uniform, ValueSize: load.FixedSize(64),
		Seed: 1, Warmup: 50 * time.Millisecond, Duration: 200 * time.Millisecond,
	}
}

// calm starts three nodes of which none is elected but at the start, though the
// machine stands still for seconds.
func calm(t *testing.T, topology string) *cluster.Cluster {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.Tick = 500 * time.Millisecond
	c, err := cluster.Start(t.Context(), cluster.Config{Topology: topology, Nodes: 3, Node: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestClusterTargets drives a real cluster through each target, and finds in
// the store what was acknowledged.
func TestClusterTargets(t *testing.T) {
	for _, topology := range []string{cluster.InProcess, cluster.InProcessGRPC} {
		c := calm(t, topology)
		var nodes []*node.Node
		for _, n := range c.Nodes() {
			nodes = append(nodes, n.Local())
		}
		for _, tt := range []struct {
			name string
			ops  int
			read string
		}{
			{target.Unary, 1, ""},
			{target.Unary, 1, "lease"},
			{target.Unary, 1, "follower"},
			{target.Unary, 1, "stale"},
			{target.Coalesce, 1, ""},
			{target.Coalesce, 1, "follower"},
			{target.Pipeline, 1, "linearizable"},
			{target.Pipeline, 8, "lease"},
			{target.Pipeline, 8, "follower"},
			{target.Pipeline, 8, "stale"},
			{target.Direct, 1, ""},
			{target.Direct, 8, "lease"},
			{target.Direct, 8, "follower"},
			{target.Direct, 8, "stale"},
		} {
			o := target.Options{
				Endpoints: c.Endpoints(), Dialer: c.Dialer(), Conns: 2, OpsPerMessage: tt.ops, Read: tt.read, Direct: nodes,
			}
			tg, err := target.New(tt.name, o)
			if err != nil {
				t.Fatal(err)
			}
			cfg := loadConfig()
			cfg.OpsPerMessage = tt.ops
			if err := load.Preload(t.Context(), cfg, tg); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			var r *load.Recording
			// A busy machine may do nothing for a whole short window.
			for _, cfg.Duration = range []time.Duration{200 * time.Millisecond, 5 * time.Second} {
				if r, err = load.Run(t.Context(), cfg, tg, nil); err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				if r.Operations > 0 {
					break
				}
			}
			if r.Operations == 0 || r.Errors != 0 || r.Missing != 0 && tt.read != "stale" {
				t.Errorf("%s %+v: %d operations, %v, %d missing", topology, tt, r.Operations, r.ErrorsByCode, r.Missing)
			}
			verify(t, tg, r, tt.read == "stale")
			if err := tg.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// verify reads every key back; stale reads may come to it late.
func verify(t *testing.T, tg target.Target, r *load.Recording, stale bool) {
	t.Helper()
	s, err := tg.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // not what is tested
	for i, revision := range r.Acked {
		read := func() load.Result { return do(t, s, load.Op{Kind: load.Get, Key: r.Config.AppendKey(nil, i)})[0] }
		got := read()
		for deadline := time.Now().Add(30 * time.Second); stale && got.ModRevision < revision && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
			got = read()
		}
		if got.Err != nil || !got.Found || got.ModRevision < revision || len(got.Value) != r.Config.ValueSize.Most() {
			t.Errorf("key %d: %+v, acknowledged at %d", i, got, revision)
		}
	}
}

// Which nodes hear of gets, for each way to read.
func TestReadsAreSharedOut(t *testing.T) {
	c := calm(t, cluster.InProcessGRPC)
	var nodes []*node.Node
	for _, n := range c.Nodes() {
		nodes = append(nodes, n.Local())
	}
	count := func(name string) (of []uint64) {
		for _, n := range c.Nodes() {
			st, err := c.Status(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			of = append(of, st.GetCounters()[name])
		}
		return of
	}
	const gets = 30
	for _, name := range []string{target.Unary, target.Pipeline, target.Direct} {
		for read, counters := range map[string][]string{
			"linearizable": {"reads"}, "follower": {"reads"}, "lease": {"lease_reads", "lease_fallbacks"}, "stale": nil,
		} {
			ops := 1
			if name != target.Unary {
				ops = 2
			}
			tg, err := target.New(name, target.Options{
				Endpoints: c.Endpoints(), Dialer: c.Dialer(), OpsPerMessage: ops, Read: read, Direct: nodes,
			})
			if err != nil {
				t.Fatal(err)
			}
			before := make(map[string][]uint64)
			for _, counter := range []string{"reads", "lease_reads", "lease_fallbacks"} {
				before[counter] = count(counter)
			}
			for session := range 3 { // a pipeline has one node for its gets
				s, err := tg.Open(t.Context(), session)
				if err != nil {
					t.Fatal(err)
				}
				for range gets / 3 {
					message := []load.Op{put("a", "1"), get("a")}[2-ops:]
					for _, r := range do(t, s, message...) {
						if r.Err != nil {
							t.Fatalf("%s %s: %v", name, read, r.Err)
						}
					}
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := tg.Close(); err != nil {
				t.Error(err)
			}
			total, nodesAsked := uint64(0), 0
			for _, counter := range counters {
				for i, n := range count(counter) {
					if n -= before[counter][i]; n > 0 {
						total += n
						nodesAsked++
					}
				}
			}
			want := map[string]int{"linearizable": 1, "follower": 3, "stale": 0}
			if nodes, known := want[read]; known && nodesAsked != nodes || total != gets && read != "stale" {
				t.Errorf("%s %s: %d gets at %d nodes", name, read, total, nodesAsked)
			}
		}
	}
	_, err := target.New(target.Unary, target.Options{Endpoints: c.Endpoints(), Read: "dirty"})
	if want := `target unary: read "dirty" is not one of linearizable, lease, follower, stale`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDirectWithoutALeader(t *testing.T) {
	cfg := node.DefaultConfig()
	cfg.ID, cfg.Addr, cfg.PeerAddr = 1, "127.0.0.1:0", "127.0.0.1:0"
	n, err := node.New(node.Options{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	defer n.Stop(t.Context()) //nolint:errcheck // not what is tested
	s := open(t, target.Direct, target.Options{Direct: []*node.Node{n}})
	err = s.Do(t.Context(), []load.Op{put("a", "1")}, make([]load.Result, 1))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
