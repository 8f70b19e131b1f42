package node

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	transportv1 "raftlab/proto/raftlab/transport/v1"
	"raftlab/transport"
)

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// One who speaks for node 1 sends its follower what no node would: each is
// refused by name, and the cluster works on with the memory it had before.
func TestHostilePeer(t *testing.T) {
	members := startCluster(t, 2, nil)
	leader, followers := leaderOf(t, members)
	victim := followers[0]
	conn, err := grpc.NewClient("passthrough:///"+victim.PeerAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	peer := transportv1.NewRaftTransportClient(conn)
	ctx := within(t, 3*time.Minute)
	const oldEpoch, epoch = 1 << 61, 1 << 62 // later than any real one
	for _, e := range []uint64{oldEpoch, epoch} {
		if _, err := peer.Hello(ctx, &transportv1.HelloRequest{
			Protocol: 1, ClusterId: victim.Replica().Membership().GetClusterId(), ReceiveLimitBytes: 4096, Epoch: e,
			From: leader.ID(), FromIncarnation: leader.self.GetIncarnation(), To: victim.ID(), ToIncarnation: victim.self.GetIncarnation(),
		}); err != nil {
			t.Fatal(err)
		}
	}
	term := uint64(1000)
	header := func(kind pb.MessageType, change func(*pb.Message)) []byte {
		m := &pb.Message{Type: kind.Enum(), From: new(leader.ID()), To: new(victim.ID()), Term: &term}
		if change != nil {
			change(m)
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	frame := func(header []byte) *transportv1.Frame {
		return &transportv1.Frame{From: leader.ID(), To: victim.ID(), Epoch: epoch, Header: header}
	}
	data := []byte("0123456789")
	appendTo := header(pb.MsgApp, func(m *pb.Message) { m.Index, m.LogTerm = new(uint64(1)), new(uint64(1)) })
	piece := func(message, offset, total uint64, data []byte, withHeader bool) *transportv1.Frame {
		f := frame(nil)
		if withHeader {
			f.Header = appendTo
		}
		f.Fragment = &transportv1.Fragment{
			Message: message, Offset: offset, Total: total, Data: data, Crc32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)),
		}
		return f
	}
	change := func(f *transportv1.Frame, do func(*transportv1.Frame)) *transportv1.Frame {
		do(f)
		return f
	}
	before := heap()
	for _, test := range []struct {
		name  string
		frame *transportv1.Frame
		code  codes.Code
		text  string
	}{
		{"wrong To", frame(header(pb.MsgVote, func(m *pb.Message) { m.To = new(uint64(9)) })), codes.PermissionDenied, "to node 9"},
		{"From another", frame(header(pb.MsgVote, func(m *pb.Message) { m.From = new(uint64(9)) })), codes.PermissionDenied, "from node 9"},
		{"From reserved", frame(header(pb.MsgStorageAppendResp, func(m *pb.Message) { m.From = new(uint64(math.MaxUint64)) })), codes.PermissionDenied, "reserved node id 18446744073709551615"},
		{"local type", frame(header(pb.MsgHup, nil)), codes.PermissionDenied, "MsgHup"},
		{"junk", frame([]byte{0xff}), codes.InvalidArgument, ""},
		{"first missing", piece(1, 10, 30, data, false), codes.InvalidArgument, "first piece never came"},
		{"total 0", piece(2, 0, 0, data, true), codes.InvalidArgument, "total of 0 bytes, outside 1 to 2147483647"},
		{"total 2^31", piece(3, 0, 1<<31, data, true), codes.InvalidArgument, "total of 2147483648 bytes"},
		{"offset past total", piece(4, 31, 30, data, true), codes.InvalidArgument, "at offset 31 passes the total of 30"},
		{"checksum", change(piece(5, 0, 30, data, true), func(f *transportv1.Frame) { f.Fragment.Crc32C++ }), codes.DataLoss, "checksum"},
		{"a first piece", piece(6, 0, 30, data, true), codes.OK, ""},
		{"the same again", piece(6, 0, 30, data, true), codes.OK, ""},
		{"a gap", piece(6, 20, 30, data, false), codes.InvalidArgument, "one is missing"},
		{"another first piece", piece(7, 0, 30, data, true), codes.OK, ""},
		{"again with other bytes", piece(7, 0, 30, []byte("9876543210"), true), codes.InvalidArgument, "came again with other bytes"},
		{"old epoch", change(piece(8, 0, 30, data, true), func(f *transportv1.Frame) { f.Epoch = oldEpoch }), codes.InvalidArgument, "fragment of epoch"},
		// Raft would panic of it; only the replica can know.
		{"commit beyond the log", frame(header(pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = new(uint64(1 << 40)) })), codes.OK, ""},
	} {
		_, err := peer.Send(ctx, test.frame)
		if st := status.Convert(err); st.Code() != test.code || !strings.Contains(st.Message(), test.text) {
			t.Errorf("%s: %v, want %v %q", test.name, err, test.code, test.text)
		}
	}
	exhausted := 0
	for i := range uint64(10000) {
		if _, err := peer.Send(ctx, piece(100+i, 0, 1<<20, data, true)); status.Code(err) == codes.ResourceExhausted {
			exhausted++
		}
	}
	// Each refusal drops what was open before it.
	if exhausted < 500 {
		t.Errorf("%d refusals of 10,000 open messages", exhausted)
	}
	if err := victim.Err(); err != nil {
		t.Fatalf("the node is down: %v", err)
	}
	eventually(t, "a write commits", func() bool {
		l, _ := leaderOf(t, members)
		_, err := l.kv.Put(within(t, time.Second), &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
		return err == nil
	})
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

// One who is no member sends a heartbeat of a term after which there is hardly
// another: the cluster writes and elects as before. In no cluster, it is not even
// listened to.
func TestStrangerAtTheEndOfTerms(t *testing.T) {
	members := startCluster(t, 3, nil)
	leader, followers := leaderOf(t, members)
	ctx := within(t, 3*time.Minute)
	const stranger, term = 99, math.MaxUint64 - 1
	for i, victim := range []*member{followers[0], leader} {
		conn, err := grpc.NewClient("passthrough:///"+victim.PeerAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // the test is over
		peer := transportv1.NewRaftTransportClient(conn)
		call := func(cluster uint64) (hello, sent error) {
			_, hello = peer.Hello(ctx, &transportv1.HelloRequest{
				Protocol: 1, ClusterId: cluster, ReceiveLimitBytes: 4096, Epoch: 1, From: stranger, FromIncarnation: 1, To: victim.ID(),
			})
			header, err := proto.Marshal(&pb.Message{
				Type: pb.MsgHeartbeat.Enum(), From: new(uint64(stranger)), To: new(victim.ID()), Term: new(uint64(term)), Commit: new(uint64(0)),
			})
			if err != nil {
				t.Fatal(err)
			}
			_, sent = peer.Send(ctx, &transportv1.Frame{From: stranger, To: victim.ID(), Epoch: 1, Header: header})
			return hello, sent
		}
		if hello, sent := call(0); status.Code(hello) != codes.FailedPrecondition || status.Code(sent) != codes.PermissionDenied {
			t.Errorf("a stranger in no cluster: Hello %v, Send %v", hello, sent)
		}
		if hello, sent := call(victim.Replica().Membership().GetClusterId()); hello != nil || sent != nil {
			t.Errorf("a stranger that knows the cluster: Hello %v, Send %v", hello, sent)
		}
		eventually(t, "the heartbeat is refused", func() bool {
			st, err := victim.cluster.Status(ctx, &clusterv1.StatusRequest{})
			return err == nil && st.GetCounters()["messages_refused"] > 0
		})
		if _, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte{byte(i)}}); err != nil {
			t.Fatalf("a write afterwards: %v", err)
		}
	}
	// An election, with pre-votes: the leader is gone.
	stopNode(t, leader.Node)
	leader, _ = leaderOf(t, followers)
	if _, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Errorf("a write after an election: %v", err)
	}
	st, err := leader.cluster.Status(ctx, &clusterv1.StatusRequest{})
	if err != nil || st.GetTerm() > 1000 {
		t.Errorf("term %d, %v", st.GetTerm(), err)
	}
}

// A request of a few kilobytes that inflates to millions of operations is refused
// for their number, and costs no more than its bytes.
func TestOperationBomb(t *testing.T) {
	m := startCluster(t, 1, nil)[0]
	ctx := within(t, 5*time.Minute) // a race build encodes for long
	bomb := make([]*kvv1.Operation, 2<<20)
	none := new(kvv1.Operation)
	for i := range bomb {
		bomb[i] = none
	}
	const want = "operations has more elements than the limit of 65536"
	refused := func(by string, send func() error) {
		t.Helper()
		var err error
		bytes := allocated(func() { err = send() })
		if code, applied, _ := outcome(err); code != codes.InvalidArgument || applied != kvv1.Applied_APPLIED_NO || status.Convert(err).Message() != want {
			t.Errorf("%s: %v", by, err)
		}
		if bytes > 128<<20 {
			t.Errorf("%s: %d bytes allocated", by, bytes)
		}
	}
	refused("Batch", func() error {
		_, err := m.kv.Batch(ctx, &kvv1.BatchRequest{Operations: bomb}, grpc.UseCompressor("gzip"))
		return err
	})
	stream, err := m.kv.Stream(ctx, grpc.UseCompressor("gzip"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&kvv1.StreamRequest{Operations: []*kvv1.Operation{op(1, opPut, "k", "v")}}); err != nil {
		t.Fatal(err)
	}
	refused("Stream", func() error {
		if err := stream.Send(&kvv1.StreamRequest{Operations: bomb}); err != nil {
			return err
		}
		// What came before has its answer.
		if resp, err := stream.Recv(); err != nil || len(resp.GetResults()) != 1 || resp.GetResults()[0].GetError() != nil {
			t.Errorf("the request before: %v, %v", resp, err)
		}
		_, err := stream.Recv()
		return err
	})
	if _, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// Voters are refused for their number before they are decoded to eight times their
// bytes; as many as may be are judged by their ids.
func TestVotersBomb(t *testing.T) {
	m := startCluster(t, 1, nil)[0]
	for n, want := range map[int]string{
		maxVoters:     "voters 0 is outside",
		maxVoters + 1: "voters has more elements than the limit of 1024",
		32 << 20:      "voters has more elements than the limit of 1024",
	} {
		req := &clusterv1.ChangeMembershipRequest{Voters: make([]uint64, n)}
		codec := newClientCodec()
		data, err := codec.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if bytes := allocated(func() { err = codec.Unmarshal(data, new(clusterv1.ChangeMembershipRequest)) }); err != nil || bytes > 1<<20 {
			t.Errorf("%d voters: %d bytes allocated, %v", n, bytes, err)
		}
		_, err = m.cluster.ChangeMembership(within(t, 3*time.Minute), req)
		if st := status.Convert(err); st.Code() != codes.InvalidArgument || !strings.Contains(st.Message(), want) {
			t.Errorf("%d voters: %v", n, err)
		}
	}
	// The greatest ids that there are fit.
	largest := slices.Repeat([]uint64{maxNodeID}, maxVoters)
	if size := proto.Size(&clusterv1.ChangeMembershipRequest{Voters: largest}); size > maxVotersBytes {
		t.Errorf("%d bytes of voters, at most %d", size, maxVotersBytes)
	}
}

// Streams that read no answers, and send what is refused and so passes no
// admission: they hold what the node says they may, others are served, or told that
// there is no room, and when they are gone so is what they held.
func TestStreamsThatReadNothing(t *testing.T) {
	const streams, messages = 8, 40
	m := startCluster(t, 1, func(o *Options) { o.Config.AdmissionBytes, o.Config.AdmissionOps = 32<<20, 1000 })[0]
	ctx := within(t, 3*time.Minute)
	invalid := &kvv1.StreamRequest{}
	for range 1024 { // with answers that fill the windows soon
		invalid.Operations = append(invalid.Operations, op(1, opPut, "", string(make([]byte, 2000))))
	}
	size := int64(proto.Size(invalid))
	before := heap()
	hostile, leave := context.WithCancel(ctx)
	defer leave()
	var sending sync.WaitGroup
	for range streams {
		stream, err := m.kv.Stream(hostile)
		if err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			for i := 0; i < messages && stream.Send(invalid) == nil; i++ {
			}
		})
	}
	// Once there is no room for theirs, there is none for another's.
	other, err := m.kv.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the room is taken", func() bool {
		return exchangeOps(t, other, invalid.GetOperations()...)[0].GetError().GetCode() == uint32(codes.ResourceExhausted)
	})
	st, err := m.cluster.Status(ctx, &clusterv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// Beside that, of each stream the client has up to two messages, and gRPC one.
	most := int64(st.GetLimits().GetMemoryCapsBytes()["streams"]) + 4*streams*size
	var grown int64
	eventually(t, "no more than that is held", func() bool { grown = heap() - before; return grown <= most })
	t.Logf("the heap grew by %d bytes of at most %d", grown, most)
	if _, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)}); err != nil {
		t.Errorf("another client: %v", err)
	}
	leave()
	sending.Wait()
	eventually(t, "memory is given back", func() bool { return heap()-before < 16<<20 })
	if r := exchangeOps(t, other, invalid.GetOperations()...)[0]; r.GetError().GetCode() != uint32(codes.InvalidArgument) {
		t.Errorf("afterwards: %v", r)
	}
}

// 20,000 streams at once on one connection, from one who does not read the
// settings: those over the limit are refused, and the port serves others.
func TestStreamFlood(t *testing.T) {
	m := startCluster(t, 1, nil)[0]
	framer := dialHTTP2(t, m.Addr())
	const flood = 20000
	go func() {
		var block strings.Builder
		encoder := hpack.NewEncoder(&block)
		for i := range uint32(flood) {
			block.Reset()
			for _, h := range [][2]string{
				{":method", "POST"},
				{":scheme", "http"},
				{":path", "/raftlab.kv.v1.KV/Stream"},
				{":authority", "x"},
				{"content-type", "application/grpc"},
				{"te", "trailers"},
			} {
				if encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) != nil {
					return
				}
			}
			if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: []byte(block.String()), EndHeaders: true}) != nil {
				return // sent away
			}
		}
	}()
	refused := 0
	for refused < flood-maxStreams {
		f, err := framer.ReadFrame()
		if err != nil {
			if refused == 0 {
				t.Fatal(err)
			}
			break
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			if f.ErrCode != http2.ErrCodeRefusedStream {
				t.Fatalf("stream %d ended with %v", f.StreamID, f.ErrCode)
			}
			refused++
		case *http2.GoAwayFrame:
			t.Logf("sent away with %v after %d refusals", f.ErrCode, refused)
		}
	}
	t.Logf("%d of %d streams refused", refused, flood)
	if _, err := m.kv.Put(within(t, 3*time.Minute), &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// One who speaks for both followers of a leader, on either transport: a storm of
// lies, messages that inflate beyond any limit, snapshots that are none and
// snapshots that never end. The leader stays up and leads, and afterwards has the
// memory that it had.
func TestHostileStorm(t *testing.T) {
	for _, kind := range []string{transport.KindStream, transport.KindUnary} {
		t.Run(kind, func(t *testing.T) {
			members := startCluster(t, 3, func(o *Options) {
				o.Config.Transport, o.Config.SnapshotTimeout = kind, 2*time.Second
				o.Config.Tick = 200 * time.Millisecond // whoever leads does so to the end
			})
			leader, followers := leaderOf(t, members)
			s := &storm{t: t, ctx: within(t, 3*time.Minute), victim: leader, voices: followers}
			write := func() {
				eventually(t, "a write commits", func() bool {
					_, err := leader.kv.Put(within(t, time.Second), &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
					return err == nil
				})
			}
			write()
			s.connect()
			before := heap()
			s.lies()
			s.bombs()
			s.snapshots()
			write()
			if err := leader.Err(); err != nil {
				t.Fatalf("the node is down: %v", err)
			}
			if now := leader.Replica().Leader(); now != leader.ID() {
				t.Errorf("node %d leads", now)
			}
			var grown int64
			eventually(t, "memory is given back", func() bool { grown = heap() - before; return grown < 16<<20 })
			t.Logf("the heap grew by %d bytes", grown)
		})
	}
}

// storm is what TestHostileStorm does to a node, in the name of its peers.
type storm struct {
	t      *testing.T
	ctx    context.Context //nolint:containedctx // of one test
	victim *member
	voices []*member
	peer   transportv1.RaftTransportClient
}

const stormEpoch = 1 << 62 // later than any real one

func (s *storm) connect() {
	s.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.victim.PeerAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	s.peer = transportv1.NewRaftTransportClient(conn)
	for _, v := range s.voices {
		if _, err := s.peer.Hello(s.ctx, &transportv1.HelloRequest{
			Protocol: 1, ClusterId: s.victim.Replica().Membership().GetClusterId(), ReceiveLimitBytes: 4 << 20, Epoch: stormEpoch,
			From: v.ID(), FromIncarnation: v.self.GetIncarnation(), To: s.victim.ID(), ToIncarnation: s.victim.self.GetIncarnation(),
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *storm) frame(from *member, m *pb.Message) *transportv1.Frame {
	m.From, m.To = new(from.ID()), new(s.victim.ID())
	header, err := proto.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return &transportv1.Frame{From: from.ID(), To: s.victim.ID(), Epoch: stormEpoch, Header: header}
}

// lies sends what only the replica can know to be wrong, as fast as it goes.
func (s *storm) lies() {
	s.t.Helper()
	st, err := s.victim.cluster.Status(s.ctx, &clusterv1.StatusRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	term, refused := st.GetTerm(), st.GetCounters()["messages_refused"]
	lies := []func() *pb.Message{
		func() *pb.Message {
			return &pb.Message{Type: pb.MsgHeartbeatResp.Enum(), Term: &term, Context: []byte("\xff\xff\xff\xff\xff\xff\xff\x7f")}
		},
		func() *pb.Message {
			return &pb.Message{Type: pb.MsgAppResp.Enum(), Term: &term, Index: new(uint64(1 << 50))}
		},
		func() *pb.Message {
			return &pb.Message{Type: pb.MsgHeartbeat.Enum(), Term: &term, Commit: new(uint64(1 << 50))}
		},
	}
	const rounds = 5000
	for _, v := range s.voices {
		stream, err := s.peer.Channel(s.ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		for i := range uint64(rounds) {
			for k, lie := range lies {
				f := s.frame(v, lie())
				f.Sequence = i*uint64(len(lies)) + uint64(k) + 1
				if err := stream.Send(f); err != nil {
					s.t.Fatal(err)
				}
			}
		}
		if err := stream.CloseSend(); err != nil {
			s.t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if !errors.Is(err, io.EOF) {
			s.t.Fatal(err)
		}
		for _, lie := range lies {
			if _, err := s.peer.Send(s.ctx, s.frame(v, lie())); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	want := refused + uint64(len(s.voices)*len(lies)*(rounds+1))
	eventually(s.t, "every lie is refused", func() bool {
		st, err := s.victim.cluster.Status(s.ctx, &clusterv1.StatusRequest{})
		return err == nil && st.GetCounters()["messages_refused"] >= want
	})
}

// bombs sends messages that are small on the wire and inflate to more than any
// limit, by either kind of call.
func (s *storm) bombs() {
	s.t.Helper()
	bomb := s.frame(s.voices[0], &pb.Message{Type: pb.MsgApp.Enum(), Term: new(uint64(1))})
	bomb.Entries = [][]byte{make([]byte, 16<<20)}
	for _, compression := range []string{transport.CompressionGzip, transport.CompressionZstd, transport.CompressionSnappy, transport.CompressionS2} {
		_, err := s.peer.Send(s.ctx, bomb, grpc.UseCompressor(compression), grpc.MaxCallSendMsgSize(math.MaxInt32))
		if status.Code(err) != codes.ResourceExhausted {
			s.t.Errorf("unary, %s: %v", compression, err)
		}
		stream, err := s.peer.Channel(s.ctx, grpc.UseCompressor(compression), grpc.MaxCallSendMsgSize(math.MaxInt32))
		if err != nil {
			s.t.Fatal(err)
		}
		if err = stream.Send(bomb); err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.ResourceExhausted {
			s.t.Errorf("stream, %s: %v", compression, err)
		}
	}
}

// snapshots offers the node what is no snapshot, and ones that bring nothing.
func (s *storm) snapshots() {
	s.t.Helper()
	st, err := s.victim.cluster.Status(s.ctx, &clusterv1.StatusRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	offer := func(v *member, compression string) grpc.BidiStreamingClient[transportv1.SnapshotFrame, transportv1.SnapshotAck] {
		f := s.frame(v, &pb.Message{
			Type: pb.MsgSnap.Enum(), Term: new(st.GetTerm()),
			Snapshot: &pb.Snapshot{Metadata: &pb.SnapshotMetadata{
				Index: new(uint64(1 << 40)), Term: new(st.GetTerm()), ConfState: &pb.ConfState{Voters: []uint64{1, 2, 3}},
			}},
		})
		stream, err := s.peer.Snapshot(s.ctx, grpc.UseCompressor(compression), grpc.MaxCallSendMsgSize(math.MaxInt32))
		if err != nil {
			s.t.Fatal(err)
		}
		if err := stream.Send(&transportv1.SnapshotFrame{Offer: &transportv1.SnapshotOffer{
			ClusterId: s.victim.Replica().Membership().GetClusterId(), From: v.ID(), To: s.victim.ID(),
			ToIncarnation: s.victim.self.GetIncarnation(), Epoch: stormEpoch, Message: f.GetHeader(), Index: 1 << 40, Term: st.GetTerm(),
		}}); err != nil {
			s.t.Fatal(err)
		}
		return stream
	}
	end := func(stream grpc.BidiStreamingClient[transportv1.SnapshotFrame, transportv1.SnapshotAck]) error {
		var err error
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	chunk := func(data []byte) *transportv1.SnapshotFrame {
		return &transportv1.SnapshotFrame{Data: data, Crc32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))}
	}
	record := func(length uint64) []byte { return binary.AppendUvarint(nil, length) }
	for name, test := range map[string]struct {
		frame *transportv1.SnapshotFrame
		code  codes.Code
	}{
		"junk":                {chunk([]byte("\x04junk")), codes.DataLoss},
		"an absurd record":    {chunk(record(math.MaxUint64)), codes.DataLoss},
		"a record of 2^40":    {chunk(record(1 << 40)), codes.DataLoss},
		"another offset":      {&transportv1.SnapshotFrame{Offset: math.MaxUint64, Data: []byte("x")}, codes.InvalidArgument},
		"a checksum":          {&transportv1.SnapshotFrame{Data: []byte("x"), Crc32C: 1}, codes.DataLoss},
		"a bomb":              {chunk(make([]byte, 5<<20)), codes.ResourceExhausted},
		"nothing, as it were": {&transportv1.SnapshotFrame{}, codes.InvalidArgument},
	} {
		for _, v := range s.voices {
			// The one before has ended for its sender a moment before its place is
			// free: until then the answer is ResourceExhausted.
			var err error
			for deadline := time.Now().Add(time.Minute); status.Code(err) != test.code; {
				if time.Now().After(deadline) || err != nil && status.Code(err) != codes.ResourceExhausted {
					s.t.Errorf("snapshot, %s: %v, want %v", name, err, test.code)
					break
				}
				stream := offer(v, transport.CompressionZstd)
				if sent := stream.Send(test.frame); sent != nil && !errors.Is(sent, io.EOF) {
					s.t.Fatal(sent)
				}
				err = end(stream)
			}
		}
	}
	// Of those that bring nothing each sender has one, which ends by itself.
	idle := map[codes.Code]int{}
	for _, v := range s.voices {
		first := offer(v, "identity")
		if _, err := first.Recv(); err != nil {
			s.t.Fatal(err)
		}
		for range 50 {
			idle[status.Code(end(offer(v, "identity")))]++
		}
		idle[status.Code(end(first))]++
	}
	if n := len(s.voices); idle[codes.ResourceExhausted] < 49*n || idle[codes.DeadlineExceeded] == 0 {
		s.t.Errorf("snapshots that bring nothing: %v", idle)
	}
}
