package transport

import (
	"sync/atomic"
	"time"
)

// counters are the totals of one peer. They outlive its connections.
type counters struct {
	receiveLimit atomic.Uint64
	roundTrip    atomic.Int64 // nanoseconds

	dials, messagesSent, messagesDropped, messagesSplit  atomic.Uint64
	framesSent, fragmentsSent, bytesSent, largest        atomic.Uint64
	wireBytesSent                                        atomic.Uint64
	compressed, uncompressed                             atomic.Uint64 // all messages to the peer, with compression only
	refusals                                             atomic.Uint64
	snapshotsSent, snapshotChunksSent, snapshotBytesSent atomic.Uint64
	messagesReceived, framesReceived, bytesReceived      atomic.Uint64
	messagesLost, messagesDuplicated, messagesReordered  atomic.Uint64 // by faults
	snapshotsResumed, snapshotBytesResumed               atomic.Uint64

	snapshotsReceived, snapshotChunksReceived, snapshotBytesReceived atomic.Uint64
	snapshotsReceivedResumed, snapshotBytesReceivedResumed           atomic.Uint64

	unreachable atomic.Bool            // reported since the last connection
	problem     atomic.Pointer[string] // of the last snapshot, or of a local peer
}

// sent counts one frame.
func (c *counters) sent(f *Frame) {
	size := uint64(f.Size())
	c.framesSent.Add(1)
	c.bytesSent.Add(size)
	if f.Fragment.Total > 0 {
		c.fragmentsSent.Add(1)
	}
	c.largestFrame(size)
}

func (c *counters) largestFrame(size uint64) {
	for {
		largest := c.largest.Load()
		if size <= largest || c.largest.CompareAndSwap(largest, size) {
			return
		}
	}
}

func (c *counters) received(bytes int) {
	c.framesReceived.Add(1)
	c.bytesReceived.Add(uint64(bytes))
}

// fill copies the counters.
func (c *counters) fill(s *PeerStats) {
	s.ReceiveLimitBytes = c.receiveLimit.Load()
	s.RoundTrip = time.Duration(c.roundTrip.Load())
	s.Dials = c.dials.Load()
	s.MessagesSent = c.messagesSent.Load()
	s.MessagesDropped = c.messagesDropped.Load()
	s.MessagesSplit = c.messagesSplit.Load()
	s.FramesSent = c.framesSent.Load()
	s.FragmentsSent = c.fragmentsSent.Load()
	s.BytesSent = c.bytesSent.Load()
	s.WireBytesSent = c.wireBytesSent.Load()
	s.LargestFrame = c.largest.Load()
	s.Refusals = c.refusals.Load()
	s.SnapshotsSent = c.snapshotsSent.Load()
	s.SnapshotChunksSent = c.snapshotChunksSent.Load()
	s.SnapshotBytesSent = c.snapshotBytesSent.Load()
	s.MessagesReceived = c.messagesReceived.Load()
	s.FramesReceived = c.framesReceived.Load()
	s.BytesReceived = c.bytesReceived.Load()
	s.SnapshotsResumed = c.snapshotsResumed.Load()
	s.SnapshotBytesResumed = c.snapshotBytesResumed.Load()
	s.SnapshotsReceived = c.snapshotsReceived.Load()
	s.SnapshotChunksReceived = c.snapshotChunksReceived.Load()
	s.SnapshotBytesReceived = c.snapshotBytesReceived.Load()
	s.SnapshotsReceivedResumed = c.snapshotsReceivedResumed.Load()
	s.SnapshotBytesReceivedResumed = c.snapshotBytesReceivedResumed.Load()
}
