package transport

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

func TestCheckHello(t *testing.T) {
	self := Identity{ClusterID: 77, Node: 2, Incarnation: 20}
	known := Peer{ID: 1, Incarnation: 10}
	good := func() *transportv1.HelloRequest {
		return &transportv1.HelloRequest{Protocol: 1, ClusterId: 77, From: 1, FromIncarnation: 10, To: 2, ToIncarnation: 20, ReceiveLimitBytes: 4096, Epoch: 1}
	}
	tests := []struct {
		name   string
		change func(*Identity, *transportv1.HelloRequest)
		code   codes.Code
		text   string
		fatal  bool
	}{
		{"good", func(*Identity, *transportv1.HelloRequest) {}, codes.OK, "", false},
		{"another protocol", func(_ *Identity, r *transportv1.HelloRequest) { r.Protocol = 2 }, codes.FailedPrecondition, "protocol 2", false},
		{"from nobody", func(_ *Identity, r *transportv1.HelloRequest) { r.From = 0 }, codes.PermissionDenied, "node id 0", false},
		{"from itself", func(_ *Identity, r *transportv1.HelloRequest) { r.From = 2 }, codes.PermissionDenied, "", false},
		{"from 2^64-1", func(_ *Identity, r *transportv1.HelloRequest) { r.From = 1<<64 - 1 }, codes.PermissionDenied, "", false},
		{"limit of 511", func(_ *Identity, r *transportv1.HelloRequest) { r.ReceiveLimitBytes = 511 }, codes.InvalidArgument, "511 is below the minimum 512", false},
		{"long address", func(_ *Identity, r *transportv1.HelloRequest) { r.FromAddress = strings.Repeat("x", 1025) }, codes.InvalidArgument, "address of 1025 bytes exceeds the limit of 1024", false},
		{"another cluster", func(_ *Identity, r *transportv1.HelloRequest) { r.ClusterId = 78 }, codes.FailedPrecondition, "cluster", false},
		{"member without cluster", func(_ *Identity, r *transportv1.HelloRequest) { r.ClusterId = 0 }, codes.OK, "", false},
		{"stranger of the cluster", func(_ *Identity, r *transportv1.HelloRequest) { r.From = 3 }, codes.OK, "", false},
		{"stranger without cluster", func(_ *Identity, r *transportv1.HelloRequest) { r.From, r.ClusterId = 3, 0 }, codes.FailedPrecondition, "node 3 is in no cluster, and no member of cluster 000000000000004d", false},
		{"both without cluster", func(i *Identity, r *transportv1.HelloRequest) { i.ClusterID, r.From, r.ClusterId = 0, 3, 0 }, codes.OK, "", false},
		{"new node", func(i *Identity, _ *transportv1.HelloRequest) { i.ClusterID = 0 }, codes.OK, "", false},
		{"another node", func(_ *Identity, r *transportv1.HelloRequest) { r.To = 3 }, codes.FailedPrecondition, "this is node 2, not node 3", false},
		{"caller forgot", func(_ *Identity, r *transportv1.HelloRequest) { r.FromIncarnation = 11 }, codes.FailedPrecondition, "remove node 1, add it again under a new id", false},
		{"caller is wrong about me", func(_ *Identity, r *transportv1.HelloRequest) { r.ToIncarnation = 19 }, codes.FailedPrecondition, "remove node 2, add it again under a new id", false},
		{"I forgot", func(i *Identity, r *transportv1.HelloRequest) { i.ClusterID, r.ToIncarnation = 0, 19 }, codes.FailedPrecondition, "remove node 2, add it again under a new id", true},
		{"nobody's word that I forgot", func(i *Identity, r *transportv1.HelloRequest) { i.ClusterID, r.ClusterId, r.ToIncarnation = 0, 0, 19 }, codes.FailedPrecondition, "", false},
	}
	for _, test := range tests {
		id, r := self, good()
		test.change(&id, r)
		member, peer := r.GetFrom() == known.ID, Peer{}
		if member {
			peer = known
		}
		fatal, err := checkHello(id, peer, member, r)
		if status.Code(err) != test.code || fatal != test.fatal || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: fatal %v, %v", test.name, fatal, err)
		}
	}
}

// A node that came back without its memory hears of it from the leader, who
// goes on calling: it ends, and the leader shows why.
func TestForgottenNodeIsToldToEnd(t *testing.T) {
	a, b := pair(t, Config{})
	b.stop(t)
	fresh := newFakeNode(2)
	fresh.identity = Identity{Node: 2, Incarnation: 5}
	startServerAt(t, fresh, Config{}, b.address)
	const want = "remove node 2, add it again under a new id"
	deadline := time.Now().Add(15 * time.Second)
	for told := false; !told; {
		a.transport.Send([]*pb.Message{heartbeat(1, 2)})
		time.Sleep(5 * time.Millisecond)
		fresh.change(func() { told = len(fresh.refused) > 0 })
		if time.Now().After(deadline) {
			t.Fatal("never told")
		}
	}
	if err := fresh.refused[0]; !strings.Contains(err.Error(), want) {
		t.Errorf("told %v", err)
	}
	a.await(t, "problem", func() bool { return strings.Contains(a.stat().Problem, want) })
	if a.stat().Connected || fresh.steps != 0 {
		t.Error("messages get through")
	}
	// Its own calls are refused as well.
	fresh.identity.ClusterID = 77
	back := New(Config{}, fresh)
	back.SetPeers([]Peer{a.peer()})
	fresh.await(t, "refusal", func() bool { return strings.Contains(back.Stats()[0].Problem, want) })
	if err := back.Close(); err != nil {
		t.Error(err)
	}
}

func TestForeignClusterRefused(t *testing.T) {
	a, b := startServer(t, 1, Config{}), startServer(t, 2, Config{})
	b.identity.ClusterID = 78
	a.transport.SetPeers([]Peer{b.peer()})
	a.await(t, "problem", func() bool { return strings.Contains(a.stat().Problem, "cluster") })
	for range 20 {
		a.transport.Send([]*pb.Message{heartbeat(1, 2)})
	}
	if b.steps != 0 {
		t.Error("messages get through")
	}
}

// raw calls a node by the generated client and the stock codec, as any gRPC
// tool would.
func raw(t *testing.T, s *testServer) transportv1.RaftTransportClient {
	t.Helper()
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return transportv1.NewRaftTransportClient(conn)
}

func hello(t *testing.T, c transportv1.RaftTransportClient, epoch uint64) {
	t.Helper()
	answer, err := c.Hello(t.Context(), &transportv1.HelloRequest{
		Protocol: 1, ClusterId: 77, From: 1, FromIncarnation: 1001, To: 2, ToIncarnation: 1002, ReceiveLimitBytes: 4096, Epoch: epoch,
	})
	if err != nil || answer.GetNode() != 2 || answer.GetIncarnation() != 1002 || answer.GetReceiveLimitBytes() != 4<<20 {
		t.Fatal(answer, err)
	}
}

func TestHostileFrames(t *testing.T) {
	b := startServer(t, 2, Config{})
	c := raw(t, b)
	vote := appendHeader(nil, &pb.Message{Type: pb.MsgVote.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(1))}, false)
	appended := appendHeader(nil, appendMessage(5), false)
	tests := []struct {
		name  string
		frame *transportv1.Frame
		code  codes.Code
	}{
		{"before Hello", &transportv1.Frame{From: 1, To: 2, Epoch: 4, Header: vote}, codes.PermissionDenied},
		{"empty", &transportv1.Frame{}, codes.PermissionDenied},
		{"of another node", &transportv1.Frame{From: 3, To: 2, Epoch: 5, Header: vote}, codes.PermissionDenied},
		{"for another node", &transportv1.Frame{From: 1, To: 3, Epoch: 5, Header: vote}, codes.PermissionDenied},
		{"without a message", &transportv1.Frame{From: 1, To: 2, Epoch: 5}, codes.InvalidArgument},
		{"junk", &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: []byte{0xff}}, codes.InvalidArgument},
		{"MsgHup", &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: appendHeader(nil, &pb.Message{Type: pb.MsgHup.Enum(), To: new(uint64(2)), From: new(uint64(1))}, false)}, codes.PermissionDenied},
		{"from 2^64-1", &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: appendHeader(nil, &pb.Message{Type: pb.MsgStorageAppendResp.Enum(), To: new(uint64(2)), From: new(uint64(1<<64 - 1))}, false)}, codes.PermissionDenied},
		{"absurd total", &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: appended, Fragment: &transportv1.Fragment{Message: 1, Total: 1<<31 - 1, Data: []byte("x"), Crc32C: checksum([]byte("x"))}}, codes.ResourceExhausted},
		{"checksum", &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: appended, Fragment: &transportv1.Fragment{Message: 1, Total: 9, Data: []byte("x"), Crc32C: 1}}, codes.DataLoss},
	}
	hello(t, c, 5)
	for _, test := range tests {
		if _, err := c.Send(t.Context(), test.frame); status.Code(err) != test.code {
			t.Errorf("unary, %s: %v, want %v", test.name, err, test.code)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.Channel(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(test.frame); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != test.code {
			t.Errorf("stream, %s: %v, want %v", test.name, err, test.code)
		}
		cancel()
	}
	// One sender's stream can't carry another's frames.
	stream, err := c.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []uint64{1, 3} {
		if err := stream.Send(&transportv1.Frame{Sequence: 1, From: from, To: 2, Epoch: 5, Header: vote}); err != nil {
			t.Fatal(err)
		}
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("two senders on one stream: %v", err)
	}
	// Ten thousand open messages.
	before, exhausted := heap(), 0
	for i := range uint64(10000) {
		data := []byte("0123456789")
		_, err := c.Send(t.Context(), &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: appended, Fragment: &transportv1.Fragment{
			Message: i + 10, Total: 200 << 20, Data: data, Crc32C: checksum(data),
		}})
		if status.Code(err) == codes.ResourceExhausted {
			exhausted++
		}
	}
	if grown := heap() - before; exhausted < 4999 || grown > 32<<20 {
		t.Errorf("refused %d, heap grew by %d bytes", exhausted, grown)
	}
	// The node is as before.
	if _, err := c.Send(t.Context(), &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: vote}); err != nil {
		t.Error(err)
	}
	hello(t, c, 9)
	data := []byte("x")
	if _, err := c.Send(t.Context(), &transportv1.Frame{From: 1, To: 2, Epoch: 9, Header: appended, Fragment: &transportv1.Fragment{Message: 1, Total: 9, Data: data, Crc32C: checksum(data)}}); err != nil {
		t.Error(err)
	}
	if open, bytes := b.transport.(*server).reassembler.Held(); open != 1 || bytes != 9 {
		t.Errorf("the new epoch left %d messages of %d bytes", open, bytes)
	}
	if _, err := c.Send(t.Context(), &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: appended, Fragment: &transportv1.Fragment{Message: 99, Total: 9, Data: data, Crc32C: checksum(data)}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("old epoch: %v", err)
	}
}

// What is small and would become large is refused before it does: from one who did
// not say Hello for that, from others for what it is. Both decoders are asked.
func TestDecodingBombs(t *testing.T) {
	b := startServer(t, 2, Config{})
	c := raw(t, b)
	const size = 4<<20 - 1<<10
	ours := grpc.CallContentSubtype(wireName)
	entries := &transportv1.Frame{From: 1, To: 2, Epoch: 5, Entries: make([][]byte, size/2)}
	proper := &transportv1.Frame{From: 1, To: 2, Epoch: 5, Entries: make([][]byte, size/6)}
	for i := range proper.GetEntries() {
		proper.Entries[i] = []byte{2 << 3, 1, 3 << 3, 1}
	}
	header := &transportv1.Frame{From: 1, To: 2, Epoch: 5, Header: bytes.Repeat([]byte{7<<3 | 2, 0}, size/2)}
	refused := func(what string, code codes.Code, send func() error) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := send()
		runtime.ReadMemStats(&after)
		if status.Code(err) != code {
			t.Errorf("%s: %v, want %v", what, err, code)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16*size {
			t.Errorf("%s: %d bytes allocated for %d", what, n, size)
		}
	}
	frames := func(who string, code codes.Code, frames map[string]*transportv1.Frame) {
		t.Helper()
		for how, options := range map[string][]grpc.CallOption{"stock": nil, "ours": {ours}} {
			for what, f := range frames {
				refused(fmt.Sprintf("unary %s, %s, %s", what, how, who), code, func() error {
					_, err := c.Send(t.Context(), f, options...)
					return err
				})
				refused(fmt.Sprintf("stream %s, %s, %s", what, how, who), code, func() error {
					stream, err := c.Channel(t.Context(), options...)
					if err == nil {
						err = stream.Send(f)
					}
					if err == nil {
						_, err = stream.Recv()
					}
					return err
				})
			}
		}
	}
	offer := func(who string, code codes.Code) {
		refused("snapshot, "+who, code, func() error {
			stream, err := c.Snapshot(t.Context())
			if err == nil {
				err = stream.Send(&transportv1.SnapshotFrame{Offer: &transportv1.SnapshotOffer{From: 1, To: 2, Epoch: 5, Message: header.GetHeader()}})
			}
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		})
	}
	frames("a stranger's", codes.PermissionDenied, map[string]*transportv1.Frame{"entries": proper})
	offer("a stranger's", codes.PermissionDenied)
	hello(t, c, 5)
	frames("a caller's", codes.InvalidArgument, map[string]*transportv1.Frame{"entries": entries, "header": header})
	offer("a caller's", codes.InvalidArgument)
	if n := b.steps; n != 0 {
		t.Errorf("%d messages were handed up", n)
	}
}

// Members always have room. Of other callers, the one that called longest ago
// gives way.
func TestSessionsAreBounded(t *testing.T) {
	s := sessions{byNode: map[uint64]caller{}}
	const first = 100 // stranger
	if _, evicted := s.add(Peer{ID: 1, Incarnation: 1}, 1, true); evicted != 0 {
		t.Errorf("a member takes the place of %d", evicted)
	}
	for i := range uint64(maxStrangers) {
		if _, evicted := s.add(Peer{ID: first + i, Incarnation: 1}, 1, false); evicted != 0 {
			t.Fatalf("stranger %d takes the place of %d", i, evicted)
		}
	}
	if _, evicted := s.add(Peer{ID: 2, Incarnation: 1}, 1, true); evicted != 0 {
		t.Errorf("a member takes the place of %d", evicted)
	}
	if _, evicted := s.add(Peer{ID: first, Incarnation: 1}, 2, false); evicted != 0 { // it calls again
		t.Errorf("one that is known takes the place of %d", evicted)
	}
	for i := range uint64(2 * maxStrangers) {
		want := first + 1 + i
		if i == maxStrangers-1 {
			want = first // called again after those
		} else if i >= maxStrangers {
			want--
		}
		if _, evicted := s.add(Peer{ID: first + maxStrangers + i, Incarnation: 1}, 1, false); evicted != want {
			t.Fatalf("stranger %d takes the place of %d, want %d", maxStrangers+i, evicted, want)
		}
	}
	if !s.has(1, 1) || !s.has(2, 1) || s.has(first, 2) || len(s.byNode) != maxStrangers+2 {
		t.Errorf("%d callers are known; the members: %v, %v", len(s.byNode), s.has(1, 1), s.has(2, 1))
	}
	if _, evicted := s.add(Peer{ID: 1, Incarnation: 1}, 1, false); evicted == 0 || evicted == 1 { // it was removed
		t.Errorf("one that was a member takes the place of %d", evicted)
	}
}

func TestEpochsAreBounded(t *testing.T) {
	s := sessions{byNode: map[uint64]caller{}}
	for _, epoch := range []uint64{1, 30, 10, 20, 40, 60, 50, 90, 80, 70, 100} { // lanes connect in any order
		if restarted, _ := s.add(Peer{ID: 5, Incarnation: 1}, epoch, false); restarted {
			t.Fatal("another life")
		}
	}
	if !s.has(5, 100) || !s.has(5, 20) || s.has(5, 1) || s.has(5, 10) || s.has(5, 30) || len(s.byNode[5].epochs) != maxEpochs {
		t.Errorf("epochs %v", s.byNode[5])
	}
	if restarted, _ := s.add(Peer{ID: 5, Incarnation: 2}, 2, false); !restarted || s.has(5, 100) || !s.has(5, 2) {
		t.Error("another life of the caller was not noticed")
	}
}

// One who says Hello under thousands of names keeps no member out, and is not
// remembered under all of them.
func TestStrangersKeepNobodyOut(t *testing.T) {
	b := startServer(t, 2, Config{})
	b.change(func() { b.members[1] = Peer{ID: 1, Incarnation: 1001} })
	c := raw(t, b)
	vote := func(from uint64) *transportv1.Frame {
		return &transportv1.Frame{From: from, To: 2, Epoch: 5, Header: appendHeader(nil, &pb.Message{
			Type: pb.MsgVote.Enum(), To: new(uint64(2)), From: &from, Term: new(uint64(1)),
		}, false)}
	}
	const first, calls = 1000, 2 * maxStrangers
	for i := range uint64(calls) {
		_, err := c.Hello(t.Context(), &transportv1.HelloRequest{
			Protocol: 1, ClusterId: 77, From: first + i, FromIncarnation: 1, To: 2, ReceiveLimitBytes: 4096, Epoch: 5,
		})
		if err == nil {
			_, err = c.Send(t.Context(), vote(first+i))
		}
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		b.transport.Send([]*pb.Message{heartbeat(2, first+i)}) // raft answers whoever asked
	}
	hello(t, c, 5)
	if _, err := c.Send(t.Context(), vote(1)); err != nil {
		t.Errorf("a member that called last: %v", err)
	}
	if _, err := c.Send(t.Context(), vote(first)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a stranger that called long ago: %v", err)
	}
	s := b.transport.(*server)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byNode) > maxStrangers+1 || len(s.unknown) > maxStrangers {
		t.Errorf("%d callers have counters, %d receivers were reported", len(s.byNode), len(s.unknown))
	}
}

// A node that is in no cluster yet answers who calls it.
func TestCallerIsAnswered(t *testing.T) {
	a, b := startServer(t, 1, Config{}), startServer(t, 2, Config{})
	a.change(func() { a.identity.PeerAddress = a.address })
	b.change(func() { b.identity.ClusterID = 0 })
	a.change(func() { a.members[2] = b.peer() })
	a.transport.SetPeers([]Peer{b.peer()})
	a.transport.Send([]*pb.Message{appendMessage(0)})
	b.await(t, "the call", func() bool { return len(b.stepped) == 1 && len(b.transport.Stats()) == 1 })
	b.transport.Send([]*pb.Message{{Type: pb.MsgAppResp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(3))}})
	a.await(t, "the answer", func() bool { return len(a.stepped) == 1 })
}

// Strangers that say Hello in numbers take a caller's place, but not that of the
// leader: it has it back with its next message, and keeps it.
func TestStrangersDisplaceNoLeader(t *testing.T) {
	a, b := startServer(t, 1, Config{}), startServer(t, 2, Config{})
	a.change(func() { a.identity.PeerAddress = a.address })
	b.change(func() { b.identity.ClusterID = 0 })
	a.change(func() { a.members[2] = b.peer() })
	a.transport.SetPeers([]Peer{b.peer()})
	a.transport.Send([]*pb.Message{heartbeat(1, 2)})
	isPeer := func() bool { return b.statOf(1).ID == 1 }
	b.await(t, "the call", func() bool { return len(b.stepped) == 1 && isPeer() })
	c := raw(t, b)
	crowd := func() {
		for i := range uint64(2 * maxCallersAnswered) {
			if _, err := c.Hello(t.Context(), &transportv1.HelloRequest{
				Protocol: 1, ClusterId: 77, From: 1000 + i, FromIncarnation: 1, FromAddress: "127.0.0.1:1", To: 2, ReceiveLimitBytes: 4096, Epoch: 5,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	crowd()
	if isPeer() {
		t.Fatal("nobody was displaced, so that nothing is shown")
	}
	b.change(func() { b.identity.Leader = 1 })
	a.transport.Send([]*pb.Message{heartbeat(1, 2)})
	b.await(t, "the leader in its place", isPeer)
	crowd()
	b.transport.Send([]*pb.Message{{Type: pb.MsgAppResp.Enum(), To: new(uint64(1)), From: new(uint64(2)), Term: new(uint64(3))}})
	a.await(t, "the answer", func() bool { return len(a.stepped) == 1 })
}

// A lost piece costs the message, which raft sends again, and no memory.
func TestLostFragment(t *testing.T) {
	b := startServer(t, 2, Config{})
	c := raw(t, b)
	m := appendMessage(5, 5000)
	frames, err := chunker(t, ChunkFragment).Plan(nil, m, Limits{Chunk: 1024})
	if err != nil {
		t.Fatal(err)
	}
	for lost := range len(frames) + 1 {
		epoch := uint64(100 + lost)
		hello(t, c, epoch)
		stream, err := c.Channel(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stamp(frames)
		for i := range frames {
			frames[i].Epoch = epoch
			if i != lost {
				if err := stream.Send(stock(t, &frames[i])); err != nil {
					break // it was refused before
				}
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		wantCode := codes.InvalidArgument
		if lost >= len(frames)-1 {
			wantCode = codes.Unknown // io.EOF: all is well, or only the end is missing
		}
		if status.Code(err) != wantCode {
			t.Errorf("piece %d lost: %v", lost, err)
		}
		b.await(t, "memory", func() bool {
			open, bytes := b.transport.(*server).reassembler.Held()
			return open == 0 && bytes == 0
		})
	}
	if b.steps != 1 {
		t.Errorf("%d messages handed up, want the one that came whole", b.steps)
	}
}
