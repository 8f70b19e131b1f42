package transport

import (
	"sync/atomic"
	"time"

	"raftlab/kv/metric"
)

// counters are the totals of one peer. They outlive its connections.
type counters struct {
	receiveLimit atomic.Uint64
	roundTrip    atomic.Int64 // nanoseconds

	dials, messagesSent, messagesSplit, messagesResent   atomic.Uint64
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

	dropped    [dropReasons]atomic.Uint64
	histograms peerHistograms

	unreachable atomic.Bool            // reported since the last connection
	problem     atomic.Pointer[string] // of the last snapshot, or of a local peer
}

func newCounters() *counters {
	c := new(counters)
	metric.Make(&c.histograms)
	return c
}

// peerHistograms are shown by PeerStats.
type peerHistograms struct {
	FrameBytes, RoundTrip *metric.Histogram
}

// dropReason says why a message was not sent.
type dropReason int

const (
	notDropped dropReason = iota
	droppedQueueFull
	droppedUnconnected
	droppedBroken
	droppedCannotFollow
	droppedBusy
	dropReasons
)

// drop counts messages that were not sent.
func (c *counters) drop(why dropReason, messages uint64) {
	if why != notDropped {
		c.dropped[why].Add(messages)
	}
}

// tookRoundTrip notes how long a frame and its acknowledgement were on their way.
func (c *counters) tookRoundTrip(d time.Duration) {
	c.roundTrip.Store(int64(d))
	c.histograms.RoundTrip.Record(int64(d))
}

// firstRoundTrip notes that of a Hello, which takes longer than a frame's, only
// until there is a better one.
func (c *counters) firstRoundTrip(d time.Duration) { c.roundTrip.CompareAndSwap(0, int64(d)) }

// sent counts one frame.
func (c *counters) sent(f *Frame) {
	size := uint64(f.Size())
	c.framesSent.Add(1)
	c.bytesSent.Add(size)
	if f.Fragment.Total > 0 {
		c.fragmentsSent.Add(1)
	}
	c.histograms.FrameBytes.Record(int64(size))
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
	s.DroppedQueueFull = c.dropped[droppedQueueFull].Load()
	s.DroppedUnconnected = c.dropped[droppedUnconnected].Load()
	s.DroppedBroken = c.dropped[droppedBroken].Load()
	s.DroppedCannotFollow = c.dropped[droppedCannotFollow].Load()
	s.DroppedBusy = c.dropped[droppedBusy].Load()
	s.MessagesDropped = s.DroppedQueueFull + s.DroppedUnconnected + s.DroppedBroken + s.DroppedCannotFollow + s.DroppedBusy
	s.MessagesLost = c.messagesLost.Load()
	s.MessagesDuplicated = c.messagesDuplicated.Load()
	s.MessagesReordered = c.messagesReordered.Load()
	s.MessagesResent = c.messagesResent.Load()
	s.FrameBytes, s.RoundTrips = c.histograms.FrameBytes, c.histograms.RoundTrip
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
