package node

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"

	"raftlab/kv"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	"raftlab/transport"
)

// poisoned overwrites every buffer that goes back to its pool.
type poisoned struct{ mem.BufferPool }

func (p poisoned) Put(b *[]byte) {
	all := (*b)[:cap(*b)]
	all[0] = 0xdb
	for n := 1; n < len(all); n *= 2 { // a byte at a time is slow under the race detector
		copy(all[n:], all[:n])
	}
	p.BufferPool.Put(b)
}

// Stores and logs own their bytes: what gRPC received them in is overwritten as
// soon as it is given back. The log is looked at through a learner that a former
// follower brings up from it.
func TestNothingLiesInPooledBuffers(t *testing.T) {
	for _, test := range []struct{ kind, codec, compression string }{
		{transport.KindStream, transport.CodecScatter, transport.CompressionNone},
		{transport.KindStream, transport.CodecAppend, transport.CompressionS2},
		{transport.KindStream, transport.CodecProto, transport.CompressionNone},
		{transport.KindUnary, transport.CodecScatter, transport.CompressionZstd},
	} {
		t.Run(fmt.Sprintf("%s/%s/%s", test.kind, test.codec, test.compression), func(t *testing.T) {
			set := func(o *Options) {
				o.Config.Transport, o.Config.Codec, o.Config.Compression = test.kind, test.codec, test.compression
				o.Config.MaxMessage = 256 * kib
				o.Config.Tick = 200 * time.Millisecond // no election while a slow machine is busy
				o.PeerServerOptions = []grpc.ServerOption{experimental.BufferPool(poisoned{transport.BufferPool()})}
			}
			members := startCluster(t, 3, set)
			leader, others := leaderOf(t, members)
			ctx := within(t, 2*time.Minute)

			want := make(map[string][]byte)
			var writers sync.WaitGroup
			for i, size := range []int{0, 1, 255, 1000, 4 * kib, 10 * kib, 16 * kib, 40 * kib, 64 * kib, 255 * kib, 256 * kib, 1025 * kib} {
				for j := range 4 {
					key := fmt.Sprintf("%d/%d", size, j)
					value := make([]byte, size+j)
					rand.NewChaCha8([32]byte{byte(i), byte(j)}).Read(value) //nolint:errcheck // never fails
					want[key] = value
					writers.Go(func() {
						if _, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: value}); err != nil {
							t.Errorf("put %s: %v", key, err)
						}
					})
				}
			}
			writers.Wait()

			next := others[0]
			if _, err := leader.cluster.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{To: next.ID()}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the new leader knows", func() bool { return next.Replica().Leader() == next.ID() })
			late := start(t, 4, set)
			if _, err := next.cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: 4, Address: late.Addr()}); err != nil {
				t.Fatal(err)
			}
			members = append(members, late)
			for _, m := range members {
				eventually(t, fmt.Sprintf("node %d has all keys", m.ID()), func() bool { return m.Store().View().Len() == len(want) })
				m.Store().View().Scan(nil, nil, func(i kv.Item) bool {
					if !bytes.Equal(i.Value, want[string(i.Key)]) {
						t.Errorf("node %d: key %s has other bytes than were put", m.ID(), i.Key)
					}
					return true
				})
			}
			if n := next.peer(t, 4).GetSnapshotsSent(); n > 0 {
				t.Errorf("the learner came up by %d snapshots, not from the log", n)
			}
		})
	}
}
