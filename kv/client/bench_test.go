package client_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// BenchmarkClient drives a node of clienttest over loopback: what the client
// and gRPC cost, without raft. ns/op is of one operation.
func BenchmarkClient(b *testing.B) {
	value := make([]byte, 256)
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("target=unary/clients=%d", clients), func(b *testing.B) {
			c := open(b, clienttest.Start(b, 1))
			drive(b, clients, 1, func(client int) func() error {
				key := fmt.Appendf(nil, "key-%012d", client)
				return func() error {
					_, err := c.Put(b.Context(), key, value)
					return err
				}
			})
		})
	}
	for _, clients := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("target=coalesce/clients=%d", clients), func(b *testing.B) {
			g := coalescer(b, open(b, clienttest.Start(b, 1)), client.ReadLinearizable)
			drive(b, clients, 1, func(client int) func() error {
				key := fmt.Appendf(nil, "key-%012d", client)
				return func() error {
					_, err := g.Put(b.Context(), key, value)
					return err
				}
			})
		})
	}
	for _, operations := range []int{1, 64} {
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("target=pipeline/clients=%d/ops-per-message=%d", clients, operations), func(b *testing.B) {
				p := openPipeline(b, open(b, clienttest.Start(b, 1)))
				drive(b, clients, operations, func(client int) func() error {
					message := make([]*kvv1.Operation, operations)
					for i := range message {
						message[i] = put(fmt.Sprintf("key-%04d-%07d", client, i), string(value))
					}
					return func() error {
						_, err := p.Do(b.Context(), message)
						return err
					}
				})
			})
		}
	}
}

// drive has clients call until about b.N operations are done, perCall in each
// call, and reports rate and latencies of calls.
func drive(b *testing.B, clients, perCall int, open func(client int) func() error) {
	b.Helper()
	b.ReportAllocs()
	calls := make([]func() error, clients)
	for i := range calls {
		calls[i] = open(i)
		if err := calls[i](); err != nil { // dials
			b.Fatal(err)
		}
	}
	total := (b.N + perCall - 1) / perCall
	latencies := make([]time.Duration, total)
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for _, call := range calls {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(total); i = next.Add(1) - 1 {
				begin := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				latencies[i] = time.Since(begin)
			}
		})
	}
	group.Wait()
	elapsed := time.Since(start)
	b.StopTimer()
	slices.Sort(latencies)
	b.ReportMetric(float64(total*perCall)/elapsed.Seconds(), "ops/s")
	b.ReportMetric(float64(latencies[total/2]), "p50-latency-ns")
	b.ReportMetric(float64(latencies[total*99/100]), "p99-latency-ns")
}
