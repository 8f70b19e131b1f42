package node

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

func TestHealthAndReflection(t *testing.T) {
	m := start(t, 1, nil)
	ctx := within(t, 3*time.Minute)
	health := grpc_health_v1.NewHealthClient(m.conn)
	serving := func(service string) bool {
		resp, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		return err == nil && resp.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
	}
	if !serving("") || serving(serviceKV) {
		t.Error("before Init the process serves, and KV does not")
	}
	watch, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: serviceKV})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if resp, err := watch.Recv(); err != nil || resp.GetStatus() != want {
			t.Errorf("watched %v, %v; want %v", resp, err, want)
		}
	}
	expect(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if _, err := m.cluster.Init(ctx, &clusterv1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	expect(grpc_health_v1.HealthCheckResponse_SERVING)

	info, err := grpc_reflection_v1.NewServerReflectionClient(m.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := info.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	list, err := info.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{"raftlab.kv.v1.KV", "raftlab.cluster.v1.Cluster", "grpc.health.v1.Health"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, not %s", names, want)
		}
	}
	if err := info.CloseSend(); err != nil {
		t.Fatal(err)
	}

	// A watch hears of the end, and does not hold it up.
	began := time.Now()
	stopNode(t, m.Node)
	if took := time.Since(began); took > stopTime/2 {
		t.Errorf("stopping took %v with a watch open", took)
	}
	expect(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
}

func TestRequestLimits(t *testing.T) {
	m := startCluster(t, 1, func(o *Options) { o.Config.MaxRequest = 1 << 20 })[0]
	ctx := within(t, 3*time.Minute)
	fits := &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20-100)}
	if _, err := m.kv.Put(ctx, fits, grpc.UseCompressor(gzip.Name)); err != nil {
		t.Errorf("a compressed request within the limit: %v", err)
	}
	beyond := &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)}
	if _, err := m.kv.Put(ctx, beyond); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request over max-request: %v", err)
	}
	bomb := &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 16<<20)} // 16 KiB on the wire
	if _, err := m.kv.Put(ctx, bomb, grpc.UseCompressor(gzip.Name)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a gzip bomb: %v", err)
	}
	stream, err := m.kv.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	exchangeOps(t, stream, op(1, opPut, "k", "v"))
	if err := stream.Send(&kvv1.StreamRequest{Operations: []*kvv1.Operation{{Kind: opPut, Key: []byte("k"), Value: beyond.GetValue()}}}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if code, applied, _ := outcome(err); code != codes.ResourceExhausted || applied == kvv1.Applied_APPLIED_NO {
		t.Errorf("a stream message over max-request: %v", err)
	}
}

func TestDebugPort(t *testing.T) {
	m := start(t, 42, func(o *Options) { o.Config.DebugAddr = "127.0.0.1:0" })
	ctx := within(t, 3*time.Minute)
	get := func(path string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.DebugAddr()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to its end
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
		return string(body)
	}
	if index := get("/debug/pprof/"); !strings.Contains(index, "goroutine") {
		t.Errorf("the index is %q", index)
	}
	// Goroutines of the node are labelled, so that a profile can be split.
	if stacks := get("/debug/pprof/goroutine?debug=1"); !strings.Contains(stacks, `"node":"42"`) {
		t.Error("no goroutine is labelled node=42")
	}
	if profile := get("/debug/pprof/profile?seconds=1"); len(profile) == 0 {
		t.Error("the CPU profile is empty")
	}

	conn, err := grpc.NewClient("passthrough:///"+m.DebugAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	lab := labv1.NewLabClient(conn)
	u, err := lab.Usage(ctx, &labv1.UsageRequest{CollectGarbage: true})
	if err != nil {
		t.Fatal(err)
	}
	if u.GetCpuUserNanos() == 0 || u.GetRssBytes() == 0 || u.GetHeapLiveBytes() == 0 || u.GetAllocatedBytes() == 0 || u.GetGcCycles() == 0 || u.GetGoroutines() == 0 {
		t.Errorf("usage is %v", u)
	}
	later, err := lab.Usage(ctx, &labv1.UsageRequest{CollectGarbage: true})
	if err != nil || later.GetGcCycles() <= u.GetGcCycles() || later.GetAllocatedObjects() <= u.GetAllocatedObjects() {
		t.Errorf("later usage is %v, %v", later, err)
	}
}
