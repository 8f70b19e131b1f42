package node

import (
	"bytes"
	"runtime"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// sameAsStock checks that the client port's codec reads what the stock one reads,
// and refuses what that refuses.
func sameAsStock(t interface{ Fatalf(string, ...any) }, data []byte) {
	codec := newClientCodec()
	for _, m := range []func() proto.Message{
		func() proto.Message { return new(kvv1.StreamRequest) },
		func() proto.Message { return new(kvv1.PutRequest) },
		func() proto.Message { return new(kvv1.BatchRequest) },
		func() proto.Message { return new(kvv1.GetRequest) },
	} {
		want, got := m(), m()
		wantErr := proto.Unmarshal(data, want)
		cut := len(data) / 2
		arrived := mem.BufferSlice{mem.SliceBuffer(bytes.Clone(data[:cut])), mem.SliceBuffer(bytes.Clone(data[cut:]))}
		err := codec.Unmarshal(arrived, got)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%T of %x: %v, the stock codec says %v", got, data, err, wantErr)
		}
		for _, b := range arrived { // pooled memory is used again
			clear(b.(mem.SliceBuffer))
		}
		if err == nil && !proto.Equal(got, want) {
			t.Fatalf("%T of %x:\n%v\nthe stock codec reads\n%v", got, data, got, want)
		}
	}
}

func TestClientCodecIsStock(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		some := rapid.SliceOfN(rapid.Byte(), 0, 20)
		stream := &kvv1.StreamRequest{}
		for range rapid.IntRange(0, 5).Draw(rt, "operations") {
			stream.Operations = append(stream.Operations, &kvv1.Operation{
				Id: rapid.Uint64().Draw(rt, "id"), Kind: kvv1.OperationKind(rapid.Int32().Draw(rt, "kind")),
				Key: some.Draw(rt, "key"), Value: some.Draw(rt, "value"), Expect: some.Draw(rt, "expect"),
				ExpectAbsent: rapid.Bool().Draw(rt, "absent"), Consistency: kvv1.Consistency(rapid.Int32().Draw(rt, "consistency")),
			})
		}
		put := &kvv1.PutRequest{Key: some.Draw(rt, "key"), Value: some.Draw(rt, "value")}
		if rapid.Bool().Draw(rt, "session") {
			put.Session = &kvv1.SessionCommand{SessionId: 1, Sequence: 2, Acknowledged: 1}
		}
		for _, m := range []proto.Message{stream, put} {
			data, err := proto.Marshal(m)
			if err != nil {
				rt.Fatal(err)
			}
			sameAsStock(rt, data)
			sameAsStock(rt, append(data, data...)) // merges
			sameAsStock(rt, append(data, some.Draw(rt, "more")...))
			sameAsStock(rt, data[:rapid.IntRange(0, len(data)).Draw(rt, "cut")])
		}
	})
}

// allocated is how many bytes a call allocates, whether or not they stay.
func allocated(call func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	call()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Operations that are too many are not decoded, wherever in the request they
// are: each takes two bytes of it, and would take a hundred and more of memory.
func TestTooManyOperationsAreNotDecoded(t *testing.T) {
	codec := newClientCodec()
	many := bytes.Repeat([]byte{10, 0}, 4<<20)
	unknown := []byte{15 << 3, 1}
	for name, data := range map[string][]byte{
		"operations":         many,
		"unknown, then many": slices.Concat(unknown, many),
		"many, then unknown": slices.Concat(many, unknown),
		"many, then junk":    append(bytes.Clone(many), 0xff),
	} {
		for _, m := range []interface {
			proto.Message
			GetOperations() []*kvv1.Operation
		}{new(kvv1.StreamRequest), new(kvv1.BatchRequest)} {
			var err error
			bytes := allocated(func() { err = codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, m) })
			if err != nil || checkOperations(len(m.GetOperations())) == nil {
				t.Errorf("%T of %s: %d operations, %v", m, name, len(m.GetOperations()), err)
			}
			if bytes > uint64(4*len(data)) {
				t.Errorf("%T of %s: %d bytes allocated for %d", m, name, bytes, len(data))
			}
		}
	}
	// As many as may be are.
	for _, m := range []proto.Message{new(kvv1.StreamRequest), new(kvv1.BatchRequest)} {
		if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(many[:2*maxOperations])}, m); err != nil {
			t.Fatal(err)
		}
		if data, err := proto.Marshal(m); err != nil || !bytes.Equal(data, many[:2*maxOperations]) {
			t.Errorf("%T of %d operations: %d bytes, %v", m, maxOperations, len(data), err)
		}
	}
}

func FuzzClientCodec(f *testing.F) {
	data, err := proto.Marshal(&kvv1.StreamRequest{Operations: []*kvv1.Operation{
		op(1, opPut, "key", "value"), {Id: 2, Kind: opGet, Key: []byte("key"), ExpectAbsent: true},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{10, 2, 10, 0})
	f.Fuzz(func(t *testing.T, data []byte) { sameAsStock(t, data) })
}

func BenchmarkClientCodec(b *testing.B) {
	stream := &kvv1.StreamRequest{}
	for i := range 64 {
		stream.Operations = append(stream.Operations, op(uint64(i), opPut, "0123456789abcdef", string(make([]byte, 256))))
	}
	for name, m := range map[string]proto.Message{
		"put/1MiB": &kvv1.PutRequest{Key: []byte("key"), Value: make([]byte, 1<<20)}, "stream/64x256B": stream,
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		var arrived mem.BufferSlice
		for rest := data; len(rest) > 0; rest = rest[min(len(rest), 16<<10):] {
			arrived = append(arrived, mem.SliceBuffer(rest[:min(len(rest), 16<<10)]))
		}
		codec := newClientCodec().(clientCodec)
		b.Run(name+"/codec=stock", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := codec.CodecV2.Unmarshal(arrived, m.ProtoReflect().New().Interface()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/codec=ours", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := codec.Unmarshal(arrived, m.ProtoReflect().New().Interface()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
