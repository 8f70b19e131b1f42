package replica

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"raftlab/kv"
)

// BenchmarkPut measures three replicas in one process that hand messages to
// each other directly: raft, batching, packing and the store, without any RPC.
func BenchmarkPut(b *testing.B) {
	for _, batching := range []string{BatchNone, BatchGreedy} {
		for _, packing := range []string{PackEntry, PackPacked} {
			for _, clients := range []int{1, 64} {
				for _, ops := range []int{1, 64} {
					name := fmt.Sprintf("batching=%s/packing=%s/clients=%d/ops-per-message=%d", batching, packing, clients, ops)
					b.Run(name, func(b *testing.B) {
						benchmarkPut(b, Batching{Strategy: batching}, packing, clients, ops, false)
					})
				}
			}
		}
	}
}

// benchStrategies are what the benchmarks of batching compare.
var benchStrategies = []struct {
	name     string
	batching Batching
}{
	{"none", Batching{Strategy: BatchNone}},
	{"greedy", Batching{Strategy: BatchGreedy}},
	{"linger-100us", Batching{Strategy: BatchLinger, Linger: 100 * time.Microsecond}},
	{"linger-1ms", Batching{Strategy: BatchLinger, Linger: time.Millisecond}},
	{"linger-auto", Batching{Strategy: BatchLinger, LingerAuto: true}},
	{"nagle", Batching{Strategy: BatchNagle}},
}

// BenchmarkBatch is BenchmarkPut over the strategies of batching, for one command
// a message.
func BenchmarkBatch(b *testing.B) {
	for _, s := range benchStrategies {
		for _, clients := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("batching=%s/clients=%d", s.name, clients), func(b *testing.B) {
				benchmarkPut(b, s.batching, PackPacked, clients, 1, false)
			})
		}
	}
}

// BenchmarkStages is BenchmarkPut without and with the measuring of stages, where
// it costs most: many entries, of one command each.
func BenchmarkStages(b *testing.B) {
	for _, packing := range []string{PackEntry, PackPacked} {
		for _, clients := range []int{1, 64} {
			for _, stages := range []string{"off", "on"} {
				b.Run(fmt.Sprintf("packing=%s/clients=%d/stages=%s", packing, clients, stages), func(b *testing.B) {
					benchmarkPut(b, Batching{Strategy: BatchGreedy}, packing, clients, 1, stages == "on")
				})
			}
		}
	}
}

// BenchmarkBatchNext measures the decision alone: one look at a queue and one
// commit.
func BenchmarkBatchNext(b *testing.B) {
	for _, s := range benchStrategies {
		b.Run("batching="+s.name, func(b *testing.B) {
			decide := decision(b, s.batching)
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}

// decision returns what BenchmarkBatchNext repeats.
func decision(tb testing.TB, batching Batching) func() {
	tb.Helper()
	batching.MaxCount, batching.MaxBytes = 4096, 8<<20
	batcher, err := NewBatcher(batching)
	if err != nil {
		tb.Fatal(err)
	}
	now := time.Unix(1700000000, 0)
	q := queueOf(now, make([]int, 64)...)
	return func() {
		now = now.Add(50 * time.Microsecond)
		q.InFlight = 1 - q.InFlight
		if take, _ := batcher.Next(q, now); take > 0 {
			q.Oldest = now
			batcher.Observe(Feedback{Commands: take, CommitLatency: 300 * time.Microsecond, Committed: now})
		}
	}
}

// A look at the queue is free of garbage: the loop takes many for each batch.
func TestNextAllocatesNothing(t *testing.T) {
	for _, s := range benchStrategies {
		if n := testing.AllocsPerRun(1000, decision(t, s.batching)); n != 0 {
			t.Errorf("%s: %.1f allocations", s.name, n)
		}
	}
}

func benchmarkPut(b *testing.B, batching Batching, packing string, clients, ops int, stages bool) {
	batching.MaxCount, batching.MaxBytes = 4096, 8<<20
	_, all := startReplicas(b, 3, func(c *Config) {
		batcher, err := NewBatcher(batching)
		if err != nil {
			b.Fatal(err)
		}
		c.Batcher, c.Packer = batcher, Packer{Packed: packing == PackPacked, Size: 1 << 20}
		c.Stages = stages
		c.Tick = 100 * time.Millisecond
		c.LogEntries, c.LogSize = 10000, 64<<20
	})
	form(b, all)
	value := make([]byte, 256)
	var latencies []time.Duration
	var mu sync.Mutex
	b.ReportAllocs()
	b.ResetTimer()
	var running sync.WaitGroup
	for client := range clients {
		running.Go(func() {
			own := make([]time.Duration, 0, b.N/clients/ops+1)
			w := make(once, ops)
			ps := make([]Proposal, ops)
			keys := make([]byte, 16*ops)
			for i := client * ops; i < b.N; i += clients * ops {
				for j := range ps {
					key := keys[16*j : 16*j+16]
					binary.BigEndian.PutUint64(key, uint64((i+j)%100000))
					ps[j] = Proposal{Command: kv.Command{Kind: kv.KindPut, Key: key, Value: value}, Waiter: w, Tag: j}
				}
				start := time.Now()
				if err := all[0].Propose(ps); err != nil {
					b.Error(err)
					return
				}
				for range ps {
					if o := <-w; o.err != nil {
						b.Error(o.err)
						return
					}
				}
				own = append(own, time.Since(start))
			}
			mu.Lock()
			latencies = append(latencies, own...)
			mu.Unlock()
		})
	}
	running.Wait()
	b.StopTimer()
	reportLatencies(b, latencies)
}

// BenchmarkRead measures linearizable read barriers on the leader.
func BenchmarkRead(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			_, all := startReplicas(b, 3, func(c *Config) { c.Tick = 100 * time.Millisecond })
			form(b, all)
			var latencies []time.Duration
			var mu sync.Mutex
			b.ReportAllocs()
			b.ResetTimer()
			var running sync.WaitGroup
			for client := range clients {
				running.Go(func() {
					own := make([]time.Duration, 0, b.N/clients+1)
					for i := client; i < b.N; i += clients {
						start := time.Now()
						if _, err := read(all[0], "key"); err != nil {
							b.Error(err)
							return
						}
						own = append(own, time.Since(start))
					}
					mu.Lock()
					latencies = append(latencies, own...)
					mu.Unlock()
				})
			}
			running.Wait()
			b.StopTimer()
			reportLatencies(b, latencies)
		})
	}
}

func reportLatencies(b *testing.B, latencies []time.Duration) {
	b.Helper()
	if len(latencies) == 0 {
		return
	}
	slices.Sort(latencies)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(latencies[len(latencies)/2]), "p50-latency-ns")
	b.ReportMetric(float64(latencies[len(latencies)*99/100]), "p99-latency-ns")
}
