package transport

import (
	"flag"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Every buffer that goes back to a pool, the transport's or gRPC's, is overwritten,
// so that a test sees other bytes where something is still in use. Not in
// benchmarks.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		buffers = poisoned{buffers}
		experimental.SetDefaultBufferPool(poisoned{mem.DefaultBufferPool()})
	}
	goleak.VerifyTestMain(m)
}

type poisoned struct{ mem.BufferPool }

func (p poisoned) Put(b *[]byte) {
	all := (*b)[:cap(*b)]
	all[0] = 0xdb
	for n := 1; n < len(all); n *= 2 { // a byte at a time is slow under the race detector
		copy(all[n:], all[:n])
	}
	p.BufferPool.Put(b)
}

// randomBytes are the same for the same seed.
func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b) //nolint:errcheck // never fails
	return b
}

// appendMessage is a MsgApp from node 1 to node 2 with entries of those data
// sizes after index.
func appendMessage(index uint64, sizes ...int) *pb.Message {
	m := &pb.Message{
		Type: pb.MsgApp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(3)),
		LogTerm: new(min(index, 2)), Index: new(index), Commit: new(index + 100),
	}
	for i, n := range sizes {
		m.Entries = append(m.Entries, &pb.Entry{
			Type: pb.EntryNormal.Enum(), Term: new(uint64(3)), Index: new(index + 1 + uint64(i)), Data: randomBytes(n, uint64(i)),
		})
	}
	return m
}

// entryOf makes an entry whose encoding has exactly that many bytes.
func entryOf(t testing.TB, index uint64, encoded int) *pb.Entry {
	t.Helper()
	e := &pb.Entry{Type: pb.EntryNormal.Enum(), Term: new(uint64(3)), Index: new(index), Data: []byte{}}
	for n := encoded - entrySize(e) - 8; n <= encoded; n++ {
		if e.Data = randomBytes(max(0, n), 1); entrySize(e) == encoded {
			return e
		}
	}
	t.Fatalf("no entry of %d bytes", encoded)
	return nil
}

// stock is the generated message that a frame stands for.
func stock(t testing.TB, f *Frame) *transportv1.Frame {
	t.Helper()
	g := &transportv1.Frame{Sequence: f.Sequence, Epoch: f.Epoch, From: f.From, To: f.To}
	if f.Message != nil {
		g.Header = appendHeader(nil, f.Message, f.padded())
		m := new(pb.Message)
		if err := proto.Unmarshal(g.Header, m); err != nil {
			t.Fatalf("stock decoder refuses the header: %v", err)
		}
		want := proto.Clone(f.Message).(*pb.Message)
		want.Entries = nil
		if !proto.Equal(m, want) {
			t.Fatalf("stock decoder reads %v, want %v", m, want)
		}
	}
	for _, e := range f.Entries {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		g.Entries = append(g.Entries, b)
	}
	if p := &f.Fragment; p.Total > 0 {
		data := append(append([]byte(nil), p.head...), p.body...)
		g.Fragment = &transportv1.Fragment{Message: p.Message, Offset: p.Offset, Total: p.Total, Data: data, Crc32C: checksum(data)}
	}
	return g
}

func stamp(frames []Frame) {
	fragmented := uint64(0)
	for i := range frames {
		f := &frames[i]
		f.Sequence, f.Epoch, f.From, f.To = uint64(i)+1, 7, 1, 2
		if f.Fragment.Total > 0 {
			if f.Fragment.Offset == 0 {
				fragmented++
			}
			f.Fragment.Message = fragmented
		}
	}
}

// messages draws raft messages as raft makes them.
func messages() *rapid.Generator[*pb.Message] {
	return rapid.Custom(func(t *rapid.T) *pb.Message {
		number := rapid.OneOf(rapid.Uint64Range(1, 300), rapid.Uint64Range(1, 1<<40), rapid.Uint64Range(1<<60, 1<<62))
		term := number.Draw(t, "term")
		m := &pb.Message{To: new(uint64(2)), From: new(uint64(1)), Term: new(term)}
		kind := rapid.SampledFrom([]pb.MessageType{
			pb.MsgApp, pb.MsgApp, pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgHeartbeat, pb.MsgReadIndexResp,
		}).Draw(t, "type")
		m.Type = kind.Enum()
		m.Index, m.Commit = new(number.Draw(t, "index")), new(number.Draw(t, "commit"))
		m.LogTerm = new(rapid.Uint64Range(1, term).Draw(t, "log term"))
		switch kind { //nolint:exhaustive // those drawn above
		case pb.MsgApp:
			for i := range rapid.IntRange(0, 20).Draw(t, "entries") {
				size := rapid.OneOf(rapid.IntRange(0, 64), rapid.IntRange(300, 600), rapid.IntRange(0, 9000)).Draw(t, "size")
				e := &pb.Entry{Term: new(term), Index: new(m.GetIndex() + 1 + uint64(i))}
				if rapid.Bool().Draw(t, "type set") {
					e.Type = rapid.SampledFrom([]pb.EntryType{pb.EntryNormal, pb.EntryConfChangeV2}).Draw(t, "entry type").Enum()
				}
				if size > 0 || rapid.Bool().Draw(t, "data set") {
					e.Data = randomBytes(size, uint64(i))
				}
				m.Entries = append(m.Entries, e)
			}
		case pb.MsgAppResp:
			m.Reject, m.RejectHint = new(rapid.Bool().Draw(t, "reject")), new(rapid.Uint64Range(0, m.GetIndex()).Draw(t, "hint"))
		case pb.MsgVote:
			m.Context = []byte("CampaignTransfer")
		case pb.MsgHeartbeat:
			m.Context = randomBytes(8, 1)
		case pb.MsgReadIndexResp:
			m.Entries = []*pb.Entry{{Data: randomBytes(24, 2)}}
		}
		return m
	})
}
