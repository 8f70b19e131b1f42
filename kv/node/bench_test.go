package node

import (
	"context"
	"fmt"
	"testing"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// What the services add to the replica and the store, without raft: the replica
// here applies at once.

func benchService() *kvService {
	return &kvService{
		store: kv.NewStore(), replica: nil, errors: testTranslator, page: 1000, answer: 64 << 20, life: context.Background(),
	}
}

func BenchmarkServicePut(b *testing.B) {
	s := benchService()
	s.replica = &fakeReplica{store: s.store}
	req := &kvv1.PutRequest{Key: []byte("key"), Value: make([]byte, 256)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Put(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkServiceGet(b *testing.B) {
	s := benchService()
	s.replica = &fakeReplica{store: s.store}
	for _, c := range []kvv1.Consistency{
		kvv1.Consistency_CONSISTENCY_LINEARIZABLE, kvv1.Consistency_CONSISTENCY_LEASE, kvv1.Consistency_CONSISTENCY_STALE,
	} {
		b.Run("consistency="+c.String(), func(b *testing.B) {
			req := &kvv1.GetRequest{Key: []byte("key"), Consistency: c}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkServiceStream(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("ops-per-message=%d", n), func(b *testing.B) {
			s := benchService()
			f := &fakeReplica{store: s.store}
			req := &kvv1.StreamRequest{}
			for i := range n {
				req.Operations = append(req.Operations, op(uint64(i), opPut, "key", "value"))
			}
			finished := make(chan *exchange, 1)
			slots := make(chan struct{})
			b.ReportAllocs()
			for b.Loop() {
				x := exchanges.Get().(*exchange)
				x.errors, x.finished, x.held = s.errors, finished, &s.streams
				x.reset(req)
				x.start(f)
				(<-finished).release(slots)
				f.proposed = f.proposed[:0]
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}
