package transport

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// BufferPool returns the pool of the buffers that frames are written into and
// read from: for the peer port's server, the transport's own connections use it
// anyway. It is one for all nodes of a process.
//
// gRPC's default pool clears a buffer's whole capacity each time it is taken,
// and has nothing between 32 KiB and 1 MiB: a frame of 40 KiB pays for clearing
// 1 MiB. What is taken from this one is as its last user left it, which is right
// for those who write before they read, as gRPC and the codecs do.
func BufferPool() mem.BufferPool { return buffers }

var buffers mem.BufferPool = new(tieredPool)

const (
	minTier = 10 // of 1 KiB; gRPC doesn't pool less
	maxTier = 23 // of 8 MiB; what is larger is left to the garbage collector
)

// tieredPool has one pool for each power of two.
type tieredPool struct {
	tiers [maxTier - minTier + 1]sync.Pool // of *[]byte
}

// Get implements mem.BufferPool.
func (p *tieredPool) Get(length int) *[]byte {
	tier := bits.Len(uint(max(1, length) - 1))
	if tier > maxTier {
		b := make([]byte, length)
		return &b
	}
	tier = max(tier, minTier)
	b, ok := p.tiers[tier-minTier].Get().(*[]byte)
	if !ok {
		b = new([]byte)
		*b = make([]byte, 1<<tier)
	}
	*b = (*b)[:length]
	return b
}

// Put implements mem.BufferPool.
func (p *tieredPool) Put(b *[]byte) {
	tier := bits.Len(uint(cap(*b))) - 1
	if tier < minTier || tier > maxTier || cap(*b) != 1<<tier {
		return
	}
	p.tiers[tier-minTier].Put(b)
}
