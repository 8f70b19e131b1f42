package transport

import (
	"fmt"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

// BenchmarkLoopback sends appends of one entry over loopback TCP, some at a
// time, as raft's window of messages in flight does.
func BenchmarkLoopback(b *testing.B) {
	const window = 32
	for _, kind := range []string{KindStream, KindUnary} {
		for _, size := range []int{256, 64 << 10, 1 << 20} {
			for _, chunk := range []int{64 << 10, 1 << 20} {
				b.Run(fmt.Sprintf("transport=%s/size=%d/chunk=%d", kind, size, chunk), func(b *testing.B) {
					from, to := pair(b, Config{Kind: kind, ChunkSize: chunk, GRPCWindow: 1 << 20})
					var arrived atomic.Int64
					slots := make(chan struct{}, window)
					counting := &countingNode{fakeNode: to.fakeNode, step: func() {
						arrived.Add(1)
						<-slots
					}}
					to.transport.(*server).handler = counting
					m := appendMessage(5, size)
					b.SetBytes(int64(size))
					b.ReportAllocs()
					sent := int64(0)
					for b.Loop() {
						slots <- struct{}{}
						from.transport.Send([]*pb.Message{m})
						sent++
					}
					for range window {
						slots <- struct{}{}
					}
					if arrived.Load() != sent {
						b.Fatalf("%d of %d arrived", arrived.Load(), sent)
					}
					b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "ops/s")
				})
			}
		}
	}
}

// countingNode counts steps and keeps nothing.
type countingNode struct {
	*fakeNode
	step func()
}

func (n *countingNode) Step(*pb.Message) { n.step() }

// BenchmarkSend is what the raft goroutine pays for a message.
func BenchmarkSend(b *testing.B) {
	from, to := pair(b, Config{})
	to.keep = false
	messages := []*pb.Message{appendMessage(5, 256), heartbeat(1, 2)}
	b.ReportAllocs()
	for b.Loop() {
		from.transport.Send(messages)
	}
}
