package transport

import (
	"runtime"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pieces are the frames of one entry of 3000 bytes in fragments of 512.
func pieces(t testing.TB) []Frame {
	t.Helper()
	frames, err := chunker(t, ChunkFragment).Plan(nil, appendMessage(5, 3000), Limits{Chunk: 512})
	if err != nil {
		t.Fatal(err)
	}
	stamp(frames)
	out := make([]Frame, len(frames))
	for i := range frames {
		if err := Decode([][]byte{appendFrame(nil, &frames[i])}, &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestReassemblerAbuse(t *testing.T) {
	// change applies a fault to the second frame, or replaces the sequence.
	tests := []struct {
		name   string
		change func(f []Frame) []Frame
		code   codes.Code
	}{
		{"whole", func(f []Frame) []Frame { return f }, codes.OK},
		{"each piece twice", func(f []Frame) []Frame {
			var twice []Frame
			for i := range f {
				twice = append(twice, f[i], f[i])
			}
			return twice
		}, codes.OK},
		{"total of 0", func(f []Frame) []Frame { f[1].Fragment.Total = 0; return f }, codes.InvalidArgument},
		{"total of 2^31", func(f []Frame) []Frame { f[0].Fragment.Total = 1 << 31; return f }, codes.InvalidArgument},
		{"total of 2^64-1", func(f []Frame) []Frame { f[0].Fragment.Total = 1<<64 - 1; return f }, codes.InvalidArgument},
		{"total above the cap", func(f []Frame) []Frame { f[0].Fragment.Total = 1<<31 - 1; return f }, codes.ResourceExhausted},
		{"total changes", func(f []Frame) []Frame { f[1].Fragment.Total++; return f }, codes.InvalidArgument},
		{"offset past total", func(f []Frame) []Frame { f[1].Fragment.Offset = f[1].Fragment.Total; return f }, codes.InvalidArgument},
		{"offset far past total", func(f []Frame) []Frame { f[1].Fragment.Offset = 1<<64 - 1; return f }, codes.InvalidArgument},
		{"offset that wraps", func(f []Frame) []Frame { f[1].Fragment.Offset = 1<<64 - 300; return f }, codes.InvalidArgument},
		{"first piece passes total", func(f []Frame) []Frame { f[0].Fragment.Total = 10; return f[:1] }, codes.InvalidArgument},
		{"piece passes total", func(f []Frame) []Frame { f[1].Fragment.Offset = f[1].Fragment.Total - 1; return f }, codes.InvalidArgument},
		{"gap", func(f []Frame) []Frame { return slices.Delete(f, 2, 3) }, codes.InvalidArgument},
		{"first missing", func(f []Frame) []Frame { return f[1:] }, codes.InvalidArgument},
		{"overlap", func(f []Frame) []Frame { f[1].Fragment.Offset--; return f }, codes.InvalidArgument},
		{"no data", func(f []Frame) []Frame { f[1].Fragment.body = nil; return f }, codes.InvalidArgument},
		{"duplicate with other bytes", func(f []Frame) []Frame {
			other := f[1]
			other.Fragment.body = slices.Clone(other.Fragment.body)
			other.Fragment.body[7]++
			other.Fragment.CRC = checksum(other.Fragment.body)
			return []Frame{f[0], f[1], other}
		}, codes.InvalidArgument},
		{"checksum wrong", func(f []Frame) []Frame { f[2].Fragment.CRC++; return f }, codes.DataLoss},
		{"byte flipped", func(f []Frame) []Frame { f[2].Fragment.body[0] ^= 1; return f }, codes.DataLoss},
		{"old epoch", func(f []Frame) []Frame { f[2].Epoch = 6; return f }, codes.InvalidArgument},
		{"new epoch in between", func(f []Frame) []Frame { f[2].Epoch = 8; return f }, codes.InvalidArgument},
		{"no header", func(f []Frame) []Frame { f[0].Message = nil; return f }, codes.InvalidArgument},
		{"not an append", func(f []Frame) []Frame { f[0].Message.Type = pb.MsgVote.Enum(); return f }, codes.InvalidArgument},
		{"not an entry", func(f []Frame) []Frame {
			body := []byte{0x22, 0xff}
			f[0].Fragment = Fragment{Message: 1, Total: 2, CRC: checksum(body), body: body}
			return f[:1]
		}, codes.InvalidArgument},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := NewReassembler()
			messages := 0
			var err error
			for _, f := range test.change(pieces(t)) {
				var m *pb.Message
				if m, err = r.Add(&f, time.Unix(0, 0)); err != nil {
					break
				}
				if m != nil {
					messages++
				}
			}
			if status.Code(err) != test.code {
				t.Fatalf("error %v, want %v", err, test.code)
			}
			if want := 0; test.code == codes.OK {
				if want = 1; messages != want {
					t.Fatalf("%d messages, want %d", messages, want)
				}
			}
			if test.name != "old epoch" { // which leaves what the new one has open
				if open, bytes := r.Held(); open != 0 || bytes != 0 {
					t.Fatalf("%d messages of %d bytes held afterwards", open, bytes)
				}
			}
		})
	}
}

// What is measured of an entry is the time from its first piece to its last.
func TestReassemblyTakes(t *testing.T) {
	r := NewReassembler()
	f := pieces(t)
	now := time.Unix(1000, 0)
	for i := range f {
		if i > 0 {
			now = now.Add(time.Millisecond)
		}
		if _, err := r.Add(&f[i], now); err != nil {
			t.Fatal(err)
		}
	}
	want := uint64(len(f)-1) * uint64(time.Millisecond)
	if s := r.took.Snapshot(); s.Count() != 1 || s.Sum != want {
		t.Errorf("%d entries took %d ns, want one of %d", s.Count(), s.Sum, want)
	}
}

func TestReassemblerLastMissing(t *testing.T) {
	r := NewReassembler()
	f := pieces(t)
	now := time.Unix(1000, 0)
	for i := range f[:len(f)-1] {
		if m, err := r.Add(&f[i], now); m != nil || err != nil {
			t.Fatal(m, err)
		}
	}
	r.Expire(now.Add(maxFragmentAge))
	if open, bytes := r.Held(); open != 1 || bytes == 0 {
		t.Fatalf("%d messages of %d bytes held before the time", open, bytes)
	}
	r.Expire(now.Add(maxFragmentAge + 1))
	if open, bytes := r.Held(); open != 0 || bytes != 0 {
		t.Fatalf("%d messages of %d bytes held after the time", open, bytes)
	}
	// The connection's end does the same at once.
	again := pieces(t)[0]
	again.Fragment.Message = 2
	if _, err := r.Add(&again, now); err != nil {
		t.Fatal(err)
	}
	r.End(1, 6)
	if open, _ := r.Held(); open != 1 {
		t.Fatal("the end of another epoch's connection dropped the message")
	}
	r.End(1, 7)
	if open, _ := r.Held(); open != 0 {
		t.Fatal("the end of the connection left the message")
	}
}

// The pieces of an ordinary entry are copied once, to where they stay.
func TestReassembledInPlace(t *testing.T) {
	frames, err := chunker(t, ChunkFragment).Plan(nil, appendMessage(5, 1<<20), Limits{Chunk: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	stamp(frames)
	received := make([]Frame, len(frames))
	for i := range frames {
		if err := Decode([][]byte{appendFrame(nil, &frames[i])}, &received[i]); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := NewReassembler()
	for i := range received {
		m, err := r.Add(&received[i], time.Unix(0, 0))
		if err != nil || (m != nil) != (i == len(received)-1) {
			t.Fatal(m, err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n < 1<<20 || n > 1<<20+256<<10 {
		t.Errorf("%d bytes are allocated for an entry of 1 MiB", n)
	}
}

// opened is the first piece of a message of that total.
func opened(t testing.TB, from, epoch, id, total uint64) *Frame {
	t.Helper()
	body := []byte{8, 0, 16, 1}[:min(4, total)]
	return &Frame{
		Sequence: id, Epoch: epoch, From: from, To: 2, Message: appendMessage(5),
		Fragment: Fragment{Message: id, Total: total, CRC: checksum(body), body: body},
	}
}

// Each bound holds to the byte: what is just within it is taken, what is just
// beyond is refused by name, and the peer's memory is given back.
func TestReassemblerBounds(t *testing.T) {
	const most = maxReassembled
	tests := []struct {
		name    string
		within  []*Frame // taken
		beyond  *Frame   // refused
		problem string
		left    int // bytes declared by others afterwards
	}{
		{
			"one entry",
			nil,
			opened(t, 1, 7, 1, most+1),
			"fragmented entries of 268435457 bytes exceed the limit of 268435456 a peer", 0,
		},
		{
			"bytes of a peer",
			[]*Frame{opened(t, 1, 7, 1, most-100), opened(t, 1, 7, 2, 100)},
			opened(t, 1, 7, 3, 5),
			"fragmented entries of 268435461 bytes exceed the limit of 268435456 a peer", 0,
		},
		{
			"bytes in all",
			[]*Frame{opened(t, 1, 7, 1, most), opened(t, 3, 7, 1, most), opened(t, 4, 7, 1, most), opened(t, 5, 7, 1, most-9), opened(t, 6, 7, 1, 9)},
			opened(t, 6, 7, 2, 5),
			"fragmented entries of 1073741829 bytes exceed the limit of 1073741824 in all", 4*most - 9,
		},
		{
			"open messages",
			func() (f []*Frame) {
				for id := range uint64(maxOpenMessages) {
					f = append(f, opened(t, 1, 7, id+1, 50))
				}
				return f
			}(),
			opened(t, 1, 7, maxOpenMessages+1, 50),
			"more than 16 fragmented messages open", 0,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			base := heap()
			r := NewReassembler()
			declared := 0
			for i, f := range test.within {
				if m, err := r.Add(f, time.Unix(0, 0)); m != nil || err != nil {
					t.Fatalf("piece %d: %v, %v", i, m, err)
				}
				declared += int(f.Fragment.Total)
			}
			if open, bytes := r.Held(); open != len(test.within) || bytes != declared {
				t.Fatalf("%d messages of %d bytes held, want %d of %d", open, bytes, len(test.within), declared)
			}
			// A declaration is no allocation.
			if grown := heap() - base; grown > 1<<20 {
				t.Errorf("the heap grew by %d bytes", grown)
			}
			_, err := r.Add(test.beyond, time.Unix(0, 0))
			if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != test.problem {
				t.Fatalf("got %v, want %s", err, test.problem)
			}
			if _, bytes := r.Held(); bytes != test.left {
				t.Errorf("%d bytes held afterwards, want %d", bytes, test.left)
			}
			// The next epoch of the refused peer begins at nothing.
			again := *test.beyond
			again.Epoch, again.Fragment.Message, again.Fragment.Total = 8, 1, 100
			if test.left < maxReassembledTotal-100 {
				if _, err := r.Add(&again, time.Unix(0, 0)); err != nil {
					t.Errorf("after the refusal: %v", err)
				}
			}
			runtime.KeepAlive(r)
		})
	}
}

// What is allocated for an entry keeps in proportion to what came of it.
func TestReassemblerAllocatesWhatComes(t *testing.T) {
	r := NewReassembler()
	f := opened(t, 1, 7, 1, 100<<20)
	if _, err := r.Add(f, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	o := r.peers[1].open[1]
	piece := f.Fragment.Len()
	for n := piece; n < 1<<20; n = len(o.data) {
		if most := max(2*n, allocateAhead*piece); cap(o.data) > most {
			t.Fatalf("%d bytes came, %d are allocated, want no more than %d", n, cap(o.data), most)
		}
		next := Frame{Epoch: 7, From: 1, To: 2, Fragment: Fragment{Message: 1, Offset: uint64(n), Total: 100 << 20}}
		next.Fragment.body = make([]byte, piece)
		next.Fragment.CRC = checksum(next.Fragment.body)
		piece = min(2*piece, 64<<10)
		if _, err := r.Add(&next, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// An old epoch adds nothing; a new one drops what the old had open, and the
// numbers of messages begin again.
func TestReassemblerEpochs(t *testing.T) {
	r := NewReassembler()
	add := func(epoch, id uint64) error {
		_, err := r.Add(opened(t, 1, epoch, id, 100), time.Unix(0, 0))
		return err
	}
	for id := range uint64(10) {
		if err := add(7, id+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(8, 1); err != nil {
		t.Fatal(err)
	}
	if open, bytes := r.Held(); open != 1 || bytes != 100 {
		t.Errorf("a new epoch leaves %d messages of %d bytes, want its own", open, bytes)
	}
	if err := add(7, 11); status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != "fragment of epoch 7, now is 8" {
		t.Errorf("old epoch: %v", err)
	}
	if open, bytes := r.Held(); open != 1 || bytes != 100 {
		t.Errorf("an old epoch's piece leaves %d messages of %d bytes", open, bytes)
	}
	// Age is counted by message, from its last piece.
	now := time.Unix(0, 0).Add(maxFragmentAge)
	if _, err := r.Add(opened(t, 1, 8, 2, 50), now); err != nil {
		t.Fatal(err)
	}
	r.Expire(now.Add(1))
	if open, bytes := r.Held(); open != 1 || bytes != 50 {
		t.Errorf("%d messages of %d bytes are left, want the younger", open, bytes)
	}
}

// Ten thousand open messages of absurd totals, of one peer and of many, cost
// next to nothing.
func TestReassemblerBoundedMemory(t *testing.T) {
	first := pieces(t)[0]
	before := heap()
	r := NewReassembler()
	refused := map[codes.Code]int{}
	for peer := range uint64(100) {
		for id := range uint64(100) {
			f := first
			f.From, f.Fragment.Message = peer+1, id+1
			f.Fragment.Total = 200 << 20
			if peer%2 == 0 {
				f.Fragment.Total = 1 << 20
			}
			if _, err := r.Add(&f, time.Unix(0, 0)); err != nil {
				refused[status.Code(err)]++
			}
		}
	}
	if len(refused) != 1 || refused[codes.ResourceExhausted] == 0 {
		t.Fatalf("refused: %v", refused)
	}
	open, declared := r.Held()
	if declared > maxReassembledTotal || open > 100*maxOpenMessages {
		t.Fatalf("%d messages of %d bytes are open", open, declared)
	}
	if grown := heap() - before; grown > 64<<20 {
		t.Fatalf("heap grew by %d bytes", grown)
	}
	for peer := range uint64(100) {
		r.Forget(peer + 1)
	}
	if open, bytes := r.Held(); open != 0 || bytes != 0 || len(r.peers) != 0 {
		t.Fatalf("%d messages of %d bytes held at the end", open, bytes)
	}
	runtime.KeepAlive(r)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// FuzzFragment gives a reassembler pieces with fields of any value, two of them
// on top of one that is open. Whatever they are, its books are right, it holds
// no more memory than what came allows, and errors have the codes that are
// promised.
func FuzzFragment(f *testing.F) {
	f.Add(uint64(1), uint64(0), uint64(100), uint32(0), []byte{1, 2, 3}, true, uint64(7))
	f.Add(uint64(1), uint64(4), uint64(100), uint32(1), []byte{1, 2, 3}, false, uint64(7))
	f.Add(uint64(2), uint64(1<<63), uint64(1<<31), uint32(0), []byte{0}, true, uint64(8))
	f.Add(uint64(1), uint64(4), uint64(7), uint32(0), []byte{26, 1, 0}, false, uint64(7))
	f.Add(uint64(1), uint64(0), uint64(4), uint32(0), []byte{8, 0, 16, 1}, true, uint64(6))
	f.Fuzz(func(t *testing.T, message, offset, total uint64, crc uint32, body []byte, header bool, epoch uint64) {
		r := NewReassembler()
		if _, err := r.Add(opened(t, 1, 7, 1, 100), time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
		p := Frame{Epoch: epoch, From: 1, To: 2, Fragment: Fragment{Message: message, Offset: offset, Total: total, CRC: crc ^ checksum(body), body: body}}
		for range 2 {
			if header {
				p.Message = appendMessage(5)
			}
			m, err := r.Add(&p, time.Unix(0, 0))
			switch code := status.Code(err); {
			case code != codes.OK && code != codes.InvalidArgument && code != codes.ResourceExhausted && code != codes.DataLoss:
				t.Fatal(err)
			case crc != 0 && m != nil:
				t.Fatal("a wrong checksum was taken")
			case m != nil && (len(m.Entries) != 1 || !header && message != 1):
				t.Fatalf("came out whole: %v", m)
			}
			declared, held := 0, 0
			for _, o := range r.peers[1].open {
				declared += o.total
				held += cap(o.data)
			}
			if open, bytes := r.Held(); bytes != declared || declared != r.peers[1].declared || open > maxOpenMessages || declared > maxReassembled {
				t.Fatalf("%d messages of %d bytes held, %d declared, %d of the peer", open, bytes, declared, r.peers[1].declared)
			}
			if most := allocateAhead*(2*len(body)+4) + allocateAtOnce; held > most {
				t.Fatalf("%d bytes allocated for pieces of %d", held, len(body))
			}
		}
	})
}

func FuzzReassemble(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7}, uint8(0))
	f.Add([]byte{0, 2, 1, 1, 0}, uint8(3))
	f.Fuzz(func(t *testing.T, order []byte, flip uint8) {
		all := pieces(t)
		r := NewReassembler()
		for i, n := range order {
			p := all[int(n)%len(all)]
			p.Fragment.Message = uint64(n)/uint64(len(all)) + 1
			if flip > 0 && i%int(flip) == 1 {
				p.Fragment.Offset += uint64(flip)
			}
			m, err := r.Add(&p, time.Unix(int64(i), 0))
			if m != nil {
				if err := Validate(m, 2, 1); err != nil {
					t.Fatalf("reassembled what is not the message: %v", err)
				}
			}
			if code := status.Code(err); code != codes.OK && code != codes.InvalidArgument && code != codes.ResourceExhausted {
				t.Fatal(err)
			}
		}
		if _, bytes := r.Held(); bytes < 0 || bytes > maxReassembledTotal {
			t.Fatalf("%d bytes held", bytes)
		}
	})
}
