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
