package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"raftlab/kv"
	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// dialService serves s on a connection in memory.
func dialService(t *testing.T, s *kvService) kvv1.KVClient {
	t.Helper()
	server := newClientServer(s.life, validConfig().Effective())
	kvv1.RegisterKVServer(server, s)
	l := bufconn.Listen(1 << 20)
	go server.Serve(l) //nolint:errcheck // ends with the listener
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///buf", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return kvv1.NewKVClient(conn)
}

func openStream(t *testing.T, s *kvService) grpc.BidiStreamingClient[kvv1.StreamRequest, kvv1.StreamResponse] {
	t.Helper()
	stream, err := dialService(t, s).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

const (
	opPut  = kvv1.OperationKind_OPERATION_KIND_PUT
	opGet  = kvv1.OperationKind_OPERATION_KIND_GET
	opDel  = kvv1.OperationKind_OPERATION_KIND_DELETE
	opSwap = kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP
)

func op(id uint64, kind kvv1.OperationKind, key, value string) *kvv1.Operation {
	return &kvv1.Operation{Id: id, Kind: kind, Key: []byte(key), Value: []byte(value)}
}

func exchangeOps(t *testing.T, stream grpc.BidiStreamingClient[kvv1.StreamRequest, kvv1.StreamResponse], ops ...*kvv1.Operation) []*kvv1.Result {
	t.Helper()
	if err := stream.Send(&kvv1.StreamRequest{Operations: ops}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetResults()
}

// Reads of one message have a barrier for each consistency, and the fate of one is
// not another's.
func TestStreamConsistencies(t *testing.T) {
	s, f := newTestService(t)
	put(t, s, "a", "1")
	stream := openStream(t, s)
	get := func(id uint64, c kvv1.Consistency) *kvv1.Operation {
		o := op(id, opGet, "a", "")
		o.Consistency = c
		return o
	}
	for _, tt := range []struct {
		name        string
		read, lease error
		fails       []bool // linearizable, stale, lease
	}{
		{"all well", nil, nil, []bool{false, false, false}},
		{"no lease", nil, replica.ErrNotLeader, []bool{false, false, true}},
		{"no leader", replica.ErrNoLeader, nil, []bool{true, false, false}},
	} {
		f.read = func(w replica.ReadWaiter) error { w.Ready(tt.read); return nil }
		f.lease = func(replica.ReadWaiter) (bool, error) { return tt.lease == nil, tt.lease }
		results := exchangeOps(t, stream,
			get(1, kvv1.Consistency_CONSISTENCY_LINEARIZABLE), get(2, kvv1.Consistency_CONSISTENCY_STALE), get(3, kvv1.Consistency_CONSISTENCY_LEASE))
		for i, r := range results {
			if (r.GetError() != nil) != tt.fails[i] || !tt.fails[i] && string(r.GetValue()) != "1" {
				t.Errorf("%s: read %d gets %v", tt.name, i+1, r)
			}
		}
		if e := results[2].GetError(); tt.lease != nil && e.GetNotLeader().GetLeaderAddress() == "" {
			t.Errorf("%s: no leader's address in %v", tt.name, e)
		}
	}
}

// One message carries operations of every kind and fate; one that is refused
// leaves the others and the stream alone.
func TestStreamOperations(t *testing.T) {
	s, f := newTestService(t)
	f.fate = func(c *kv.Command) error {
		if string(c.Key) == "lost" {
			return replica.ErrUnknownOutcome
		}
		return nil
	}
	stream := openStream(t, s)
	swap := op(16, opSwap, "a", "3")
	swap.Expect = []byte("nothing")
	stale := op(17, opGet, "a", "")
	stale.Consistency = kvv1.Consistency_CONSISTENCY_STALE
	results := exchangeOps(t, stream,
		op(10, opPut, "a", "1"), op(11, opPut, "a", "2"), op(12, opGet, "a", ""), op(13, opPut, "", "x"),
		op(14, opPut, "lost", "x"), op(15, 9, "a", ""), swap, stale, op(18, opDel, "none", ""))
	if len(results) != 9 {
		t.Fatalf("%d results", len(results))
	}
	for i, r := range results {
		if r.GetId() != uint64(10+i) {
			t.Errorf("result %d has id %d", i, r.GetId())
		}
	}
	if r := results[1]; r.GetVersion() != 2 || !r.GetSucceeded() || r.GetAppliedIndex() == 0 {
		t.Errorf("second put: %v", r)
	}
	if r := results[2]; !r.GetFound() || string(r.GetValue()) != "2" || !r.GetSucceeded() {
		t.Errorf("get: %v", r)
	}
	if e := results[3].GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument || e.GetApplied() != kvv1.Applied_APPLIED_NO {
		t.Errorf("put without a key: %v", e)
	}
	if e := results[4].GetError(); codes.Code(e.GetCode()) != codes.Unavailable || e.GetApplied() != kvv1.Applied_APPLIED_UNKNOWN {
		t.Errorf("lost put: %v", e)
	}
	if e := results[5].GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument {
		t.Errorf("unknown kind: %v", e)
	}
	if r := results[6]; r.GetSucceeded() || !r.GetFound() || string(r.GetValue()) != "2" || r.GetError() != nil {
		t.Errorf("failed swap: %v", r)
	}
	if r := results[7]; string(r.GetValue()) != "2" {
		t.Errorf("stale get: %v", r)
	}
	if r := results[8]; r.GetFound() || !r.GetSucceeded() {
		t.Errorf("delete of nothing: %v", r)
	}
	if f.calls != 1 {
		t.Errorf("writes of one message came in %d proposals", f.calls)
	}
	// What pooled exchanges held before must not show.
	for range 3 {
		if r := exchangeOps(t, stream, op(1, opGet, "missing", ""), op(2, opGet, "missing", ""), op(3, opGet, "missing", ""), op(4, opGet, "missing", "")); r[3].GetError() != nil || r[3].GetFound() || len(r[3].GetValue()) != 0 || r[3].GetVersion() != 0 {
			t.Fatalf("get of nothing: %v", r[3])
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

// Many reads of one value ask for more than an answer may be: the first are
// answered, the others refused, one by one.
func TestAnswersAreBounded(t *testing.T) {
	s, _ := newTestService(t) // an answer has at most 100 bytes of values
	put(t, s, "k", strings.Repeat("v", 40))
	put(t, s, "large", strings.Repeat("v", 140))
	check := func(what string, results []*kvv1.Result, full ...int) {
		t.Helper()
		for i, r := range results {
			switch e := r.GetError(); {
			case slices.Contains(full, i):
				if len(r.GetValue()) < 40 || e != nil || r.GetValueOmitted() {
					t.Errorf("%s: result %d is %v", what, i, r)
				}
			case r.GetKind() == opSwap:
				if len(r.GetValue()) > 0 || e != nil || !r.GetValueOmitted() || !r.GetFound() || r.GetSucceeded() {
					t.Errorf("%s: swap %d is %v", what, i, r)
				}
			case len(r.GetValue()) > 0 || codes.Code(e.GetCode()) != codes.ResourceExhausted || e.GetApplied() != kvv1.Applied_APPLIED_NO ||
				!strings.Contains(e.GetMessage(), "exceed max-request, 100 bytes"):
				t.Errorf("%s: result %d is %v", what, i, r)
			}
		}
	}
	stream := openStream(t, s)
	check("stream", exchangeOps(t, stream, op(1, opGet, "k", ""), op(2, opGet, "k", ""), op(3, opGet, "k", ""), op(4, opSwap, "k", "x")), 0, 1)
	check("a value larger than an answer", exchangeOps(t, stream, op(1, opGet, "large", ""), op(2, opGet, "k", "")), 0)
	check("the next message", exchangeOps(t, stream, op(1, opGet, "k", "")), 0)
	resp, err := s.Batch(t.Context(), &kvv1.BatchRequest{Operations: []*kvv1.Operation{
		op(1, opGet, "k", ""), op(2, opGet, "k", ""), op(3, opGet, "k", ""), op(4, opPut, "other", "v"),
	}})
	if err != nil || !resp.GetSucceeded() {
		t.Fatal(resp, err)
	}
	check("batch", resp.GetResults()[:3], 0, 1)
	if r := resp.GetResults()[3]; r.GetError() != nil || !r.GetSucceeded() {
		t.Errorf("the put of the batch is %v", r)
	}
}

func TestStreamRefusals(t *testing.T) {
	s, f := newTestService(t)
	f.admit = func(ps []replica.Proposal) error {
		for _, p := range ps {
			if len(p.Command.Value) > 10 {
				return &replica.TooLargeError{Size: uint64(len(p.Command.Value)), Limit: 10}
			}
		}
		return nil
	}
	f.read = func(replica.ReadWaiter) error { return replica.ErrNoLeader }
	stream := openStream(t, s)
	big := string(make([]byte, 11))
	r := exchangeOps(t, stream, op(1, opPut, "a", "1"), op(2, opPut, "b", big), op(3, opPut, "c", "3"), op(4, opGet, "a", ""))
	if r[0].GetError() != nil || r[2].GetError() != nil {
		t.Errorf("the neighbours of a large value were refused: %v", r)
	}
	if e := r[1].GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument || e.GetMessage() != "entry of 11 bytes exceeds the limit of 10 bytes" {
		t.Errorf("large value: %v", e)
	}
	if e := r[3].GetError(); codes.Code(e.GetCode()) != codes.Unavailable || r[3].GetSucceeded() {
		t.Errorf("get without a leader: %v", r[3])
	}
	f.mu.Lock()
	f.admit = func([]replica.Proposal) error { return replica.ErrOverloaded }
	f.mu.Unlock()
	r = exchangeOps(t, stream, op(5, opPut, "a", "1"), op(6, opPut, "b", "2"))
	for _, r := range r {
		if e := r.GetError(); codes.Code(e.GetCode()) != codes.ResourceExhausted || e.GetApplied() != kvv1.Applied_APPLIED_NO {
			t.Errorf("overloaded: %v", r)
		}
	}
	if r := exchangeOps(t, stream); len(r) != 0 {
		t.Errorf("an empty request got %v", r)
	}
}

// Writes reach the replica in the order they were sent, over many messages.
func TestStreamKeepsOrder(t *testing.T) {
	s, f := newTestService(t)
	stream := openStream(t, s)
	want := make([][]byte, 0, 1000)
	go func() {
		for i := range 200 {
			ops := make([]*kvv1.Operation, 5)
			for j := range ops {
				ops[j] = op(uint64(i*5+j), opPut, fmt.Sprintf("%04d", i*5+j), "v")
			}
			_ = stream.Send(&kvv1.StreamRequest{Operations: ops})
		}
		_ = stream.CloseSend()
	}()
	for i := range 1000 {
		want = append(want, fmt.Appendf(nil, "%04d", i))
	}
	answered := 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		answered += len(resp.GetResults())
	}
	if answered != 1000 {
		t.Errorf("%d answers", answered)
	}
	if !slices.EqualFunc(f.proposed, want, slices.Equal) {
		t.Errorf("%d writes in another order than sent", len(f.proposed))
	}
}

// A stream takes no more requests than it may have in flight, however many the
// client sends.
func TestStreamHoldsBack(t *testing.T) {
	s, f := newTestService(t)
	f.hold = true
	t.Cleanup(f.answer)
	stream := openStream(t, s)
	for i := range 2 * streamInFlight {
		if err := stream.Send(&kvv1.StreamRequest{Operations: []*kvv1.Operation{op(uint64(i), opPut, "k", "v")}}); err != nil {
			t.Fatal(err)
		}
	}
	calls := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.calls
	}
	for calls() < streamInFlight {
		time.Sleep(time.Millisecond)
	}
	for range 20 { // long enough for one too many to show
		time.Sleep(time.Millisecond)
		if n := calls(); n > streamInFlight {
			t.Fatalf("%d requests in flight, more than %d", n, streamInFlight)
		}
	}
}

// What requests on streams hold counts until the client has the answer, or until
// the replica is done with what the client did not wait for. Without room a
// request is refused, and a swap answered without the value it found.
func TestStreamsHold(t *testing.T) {
	s, f := newTestService(t)
	value := string(make([]byte, 90))
	put(t, s, "k", value)
	s.streams.limit = 10000
	stream := openStream(t, s)
	all := func() bool { return s.streams.bytes.Load() == 0 }
	for room, omitted := range map[int64]bool{1000: false, 800: true} {
		eventually(t, "all is given back", all)
		s.streams.bytes.Add(s.streams.limit - room)
		r := exchangeOps(t, stream, op(1, opSwap, "k", "x"))[0]
		s.streams.bytes.Add(room - s.streams.limit)
		if r.GetError() != nil || !r.GetFound() || r.GetValueOmitted() != omitted || (len(r.GetValue()) == 0) != omitted {
			t.Errorf("a swap with room for %d bytes: %v", room, r)
		}
	}
	eventually(t, "all is given back", all)
	s.streams.bytes.Add(s.streams.limit - waiterBytes)
	for i, r := range exchangeOps(t, stream, op(1, opGet, "k", ""), op(2, opPut, "k", "x"), op(3, opPut, "", "")) {
		if e := r.GetError(); codes.Code(e.GetCode()) != codes.ResourceExhausted || e.GetApplied() != kvv1.Applied_APPLIED_NO || r.GetId() != uint64(i+1) {
			t.Errorf("without room: %v", r)
		}
	}
	s.streams.bytes.Add(waiterBytes - s.streams.limit)
	eventually(t, "all is given back", all)
	if r := exchangeOps(t, stream, op(1, opGet, "k", ""))[0]; string(r.GetValue()) != value {
		t.Errorf("afterwards: %v", r)
	}

	f.hold = true
	ctx, leave := context.WithCancel(t.Context())
	left, err := dialService(t, s).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 { // the share of a stream has room for three of them
		if err := left.Send(&kvv1.StreamRequest{Operations: []*kvv1.Operation{op(uint64(i), opPut, "k", "x")}}); err != nil {
			t.Fatal(err)
		}
	}
	const held = 4 * waiterBytes
	eventually(t, "all are held", func() bool { return s.streams.bytes.Load() >= held })
	leave()
	eventually(t, "the one that waited is given back", func() bool { return s.streams.bytes.Load() < held })
	if n := s.streams.bytes.Load(); n < 3*waiterBytes {
		t.Errorf("%d bytes are held of three writes under way", n)
	}
	f.answer()
	eventually(t, "the rest is given back", all)
}

// When the node stops, a stream sends the answers it owes and then says why it
// ends.
func TestStreamEndsWithTheNode(t *testing.T) {
	s, f := newTestService(t)
	life, end := context.WithCancel(t.Context())
	s.life = life
	stream := openStream(t, s)
	exchangeOps(t, stream, op(1, opPut, "k", "v"))
	release := make(chan replica.ReadWaiter, 1)
	f.read = func(w replica.ReadWaiter) error { release <- w; return nil }
	if err := stream.Send(&kvv1.StreamRequest{Operations: []*kvv1.Operation{op(2, opGet, "k", "")}}); err != nil {
		t.Fatal(err)
	}
	w := <-release
	end()
	w.Ready(nil)
	resp, err := stream.Recv()
	if err != nil || string(resp.GetResults()[0].GetValue()) != "v" {
		t.Fatalf("the answer that was owed: %v, %v", resp, err)
	}
	_, err = stream.Recv()
	if code, applied, _ := outcome(err); code != codes.Unavailable || applied != kvv1.Applied_APPLIED_NO {
		t.Errorf("the end: %v", err)
	}
}
