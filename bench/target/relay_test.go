package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"raftlab/bench/load"
	"raftlab/kv/node"
)

// recorder is a follower that keeps what it gets, and that can be stopped.
type recorder struct {
	gate     sync.RWMutex // held to stop it
	mu       sync.Mutex
	entries  []entry
	messages int
}

// kept is a frame with its bytes.
type kept struct{ bytes []byte }

type keepingCodec struct{ frameCodec }

func (keepingCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(*kept).bytes)}, nil
}

func (keepingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*kept).bytes = data.Materialize()
	return nil
}

func (f *recorder) follow(_ any, stream grpc.ServerStream) error {
	for {
		var in kept
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		f.gate.RLock()
		f.keep(in.bytes[relaySequence:])
		f.gate.RUnlock()
		if err := stream.SendMsg(&kept{in.bytes[:relaySequence]}); err != nil {
			return err
		}
	}
}

func (f *recorder) keep(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages++
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		value, m := binary.Uvarint(b[n:])
		b = b[n+m:]
		f.entries = append(f.entries, entry{b[:key], b[key : key+value]})
		b = b[key+value:]
	}
}

// memory is a network of listeners in this process.
type memory map[string]*bufconn.Listener

func (m memory) dial(ctx context.Context, addr string) (net.Conn, error) {
	return m[addr].DialContext(ctx)
}

// lead starts a relay of these followers.
func lead(t *testing.T, followers ...*recorder) *relay {
	t.Helper()
	network, addrs := memory{}, []string{}
	for i, f := range followers {
		addr := fmt.Sprint("follower", i)
		lis := bufconn.Listen(1 << 20)
		network[addr], addrs = lis, append(addrs, addr)
		server := grpc.NewServer(grpc.ForceServerCodecV2(keepingCodec{}), grpc.MaxRecvMsgSize(64<<20))
		server.RegisterService(&grpc.ServiceDesc{
			ServiceName: "raftlab.bench.Relay", HandlerType: (*any)(nil),
			Streams: []grpc.StreamDesc{{StreamName: "Append", ClientStreams: true, ServerStreams: true, Handler: f.follow}},
		}, nil)
		go func() { _ = server.Serve(lis) }()
		t.Cleanup(server.Stop)
	}
	r, err := newRelay(t.Context(), node.DefaultConfig(), addrs, network.dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// TestRelayNeedsAMajority: a put is answered when half of the followers have it,
// and not before.
func TestRelayNeedsAMajority(t *testing.T) {
	for _, tt := range []struct{ followers, need int }{{0, 0}, {1, 1}, {2, 1}, {3, 2}, {4, 2}} {
		followers := make([]*recorder, tt.followers)
		for i := range followers {
			followers[i] = new(recorder)
			followers[i].gate.Lock()
		}
		r := lead(t, followers...)
		done := make(chan error, 1)
		go func() { done <- r.replicate(t.Context(), []entry{{[]byte("k"), []byte("v")}}) }()
		for i := range tt.need {
			// Everything that can happen without one more has happened when the open
			// followers' acknowledgements have been counted.
			for counted := 0; counted < i; {
				r.mu.Lock()
				counted = 0
				for _, p := range r.peers {
					counted += int(p.acked)
				}
				r.mu.Unlock()
				time.Sleep(time.Millisecond)
			}
			select {
			case err := <-done:
				t.Fatalf("%d followers: answered (%v) with %d of %d", tt.followers, err, i, tt.need)
			default:
			}
			followers[i].gate.Unlock()
		}
		if err := <-done; err != nil {
			t.Errorf("%d followers: %v", tt.followers, err)
		}
		for _, f := range followers[tt.need:] {
			f.gate.Unlock()
		}
	}
}

// TestRelayBringsEverything: each follower gets all bytes of all puts, in one
// order, whatever their sizes and however many come at a time.
func TestRelayBringsEverything(t *testing.T) {
	followers := []*recorder{new(recorder), new(recorder)}
	r := lead(t, followers...)
	sizes := []int{0, 1, 256, relayCopy - 1, relayCopy, 100_000, relayFrame, 3 * relayFrame}
	const clients, rounds = 8, 3
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for round := range rounds {
				var batch []entry
				for i := range sizes {
					size := sizes[(i+client)%len(sizes)]
					key := fmt.Sprintf("%d/%d/%d", client, round, size)
					batch = append(batch, entry{[]byte(key), bytes.Repeat([]byte{byte(client + round*8 + 1)}, size)})
				}
				if err := r.replicate(t.Context(), batch[:round+1]); err != nil {
					t.Error(err)
				}
				if err := r.replicate(t.Context(), batch[round+1:]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := clients * rounds * len(sizes)
	for _, f := range followers {
		for n := 0; n < want; time.Sleep(time.Millisecond) { // the slower one may still be at it
			f.mu.Lock()
			n = len(f.entries)
			f.mu.Unlock()
		}
	}
	same := func(a, b entry) bool { return bytes.Equal(a.key, b.key) && bytes.Equal(a.value, b.value) }
	if !slices.EqualFunc(followers[0].entries, followers[1].entries, same) {
		t.Error("followers have different puts, or in another order")
	}
	seen := map[string]bool{}
	for _, e := range followers[0].entries {
		var client, round, size int
		if _, err := fmt.Sscanf(string(e.key), "%d/%d/%d", &client, &round, &size); err != nil || seen[string(e.key)] {
			t.Fatalf("key %q, %v, seen before %v", e.key, err, seen[string(e.key)])
		}
		seen[string(e.key)] = true
		if len(e.value) != size || bytes.Count(e.value, []byte{byte(client + round*8 + 1)}) != size {
			t.Errorf("%s has other bytes", e.key)
		}
	}
	if r.bytes != 0 || len(r.log) != 0 {
		t.Errorf("%d bytes of %d puts are left in the log", r.bytes, len(r.log))
	}
}

// TestRelayGathers: what waits while a message is on its way is one message.
func TestRelayGathers(t *testing.T) {
	entries := slices.Repeat([]entry{{[]byte("key"), make([]byte, 1000)}}, 3000)
	f := new(recorder)
	if err := lead(t, f).replicate(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	if want := 3; f.messages != want { // 1003 bytes each, 1 MiB at a time
		t.Errorf("%d messages, want %d", f.messages, want)
	}
}

// TestRelayDoesNotLeaveOneBehind: puts wait for a follower that lags too far,
// though a majority goes on.
func TestRelayDoesNotLeaveOneBehind(t *testing.T) {
	stopped := new(recorder)
	stopped.gate.Lock()
	r := lead(t, new(recorder), stopped)
	value := make([]byte, 4<<20)
	const puts = relayLag/(4<<20) + 8
	done := make(chan error, puts)
	go func() {
		for range puts {
			done <- r.replicate(t.Context(), []entry{{nil, value}})
		}
	}()
	full := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.bytes+len(value) > relayLag
	}
	for !full() {
		time.Sleep(time.Millisecond)
	}
	if n := len(done); n == puts {
		t.Errorf("%d puts of %d were answered", n, puts)
	}
	stopped.gate.Unlock()
	for range puts {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestServeRelay: a client's put and a message of several through real servers.
func TestServeRelay(t *testing.T) {
	network := memory{"leader": bufconn.Listen(1 << 20), "a": bufconn.Listen(1 << 20), "b": bufconn.Listen(1 << 20)}
	ctx, cancel := context.WithCancel(t.Context())
	followers, stop := context.WithCancel(t.Context())
	cfg := node.DefaultConfig()
	served := make(chan error, 3)
	go func() { served <- ServeFollower(followers, network["a"], cfg) }()
	go func() { served <- ServeFollower(followers, network["b"], cfg) }()
	go func() { served <- ServeRelay(ctx, network["leader"], cfg, 1, []string{"a", "b"}, network.dial) }()
	for _, o := range []Options{{OpsPerMessage: 1}, {OpsPerMessage: 1, Stream: true}, {OpsPerMessage: 8}} {
		o.Endpoints, o.Dialer = []string{"leader"}, network.dial
		tg, err := New(Relay, o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := tg.Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		sizes := []int{256, 1 << 20}
		if !o.Stream {
			sizes = append(sizes, 63<<20) // about what max-request lets through
		}
		for _, size := range sizes {
			ops := []load.Op{{Kind: load.Put, Key: []byte("k"), Value: make([]byte, size/o.OpsPerMessage)}}
			ops = slices.Repeat(ops, o.OpsPerMessage)
			results := make([]load.Result, len(ops))
			if err := s.Do(t.Context(), ops, results); err != nil || results[0].Err != nil || results[len(ops)-1].ModRevision == 0 {
				t.Errorf("%d bytes by %+v: %v, %+v", size, o, err, results[0])
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-served; err != nil { // the leader first, or followers would wait for it
		t.Error(err)
	}
	stop()
	for range 2 {
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// TestRelayLosesAFollower: what waits is told.
func TestRelayLosesAFollower(t *testing.T) {
	f := new(recorder)
	f.gate.Lock()
	r := lead(t, f)
	done := make(chan error, 1)
	go func() { done <- r.replicate(t.Context(), []entry{{nil, []byte("v")}}) }()
	for sent := false; !sent; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		sent = r.peers[0].sent == 1
		r.mu.Unlock()
	}
	r.end() // as when the connection breaks
	for _, err := range []error{<-done, r.replicate(t.Context(), []entry{{nil, []byte("w")}})} {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	f.gate.Unlock()
}
