package transport

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxInboundSnapshots bounds the snapshots taken in at a time, one from each
// sender.
const maxInboundSnapshots = 4

// inboundSnapshots is what this node takes in, and the one transfer that broke
// off and can be resumed. A sender, hostile or not, makes it hold at most limit
// bytes over all transfers, of at most maxInboundSnapshots+1 snapshots, and of
// each one record more that is not complete (kv.SnapshotDecoder).
type inboundSnapshots struct {
	keep  time.Duration // how long one that broke off can be resumed
	limit int64
	held  atomic.Int64 // bytes written to all that are neither committed nor aborted

	mu     sync.Mutex
	active map[uint64]*arrival // by sender
	kept   *inbound            // nil, or broken off
	large  snapshotPoint       // the last that by itself exceeded the limit
	closed bool
}

// arrival is one stream that brings a snapshot.
type arrival struct {
	epoch uint64
	stop  context.CancelCauseFunc
	ended chan struct{}
}

// snapshotPoint is what a snapshot shows. The state at an index of a term is the
// same on all nodes, and so are the bytes that it travels as: whoever sends the
// same point can go on where another stopped.
type snapshotPoint struct{ index, term uint64 }

func pointOf(m *pb.Message) snapshotPoint {
	meta := m.GetSnapshot().GetMetadata()
	return snapshotPoint{meta.GetIndex(), meta.GetTerm()}
}

// inbound is one snapshot on its way in, across the streams that bring it. It
// belongs to one goroutine at a time.
type inbound struct {
	all    *inboundSnapshots
	point  snapshotPoint
	writer SnapshotWriter
	offset uint64    // everything before it was verified and written
	moved  time.Time // when offset last grew
}

var errSuperseded = status.Error(codes.Aborted, "the sender began another transfer of its snapshot")

// begin admits a stream. A sender that begins anew has given up its stream
// before, which may not have noticed that its connection is gone: that is ended
// first, so that what it took in can be resumed. ctx and stop are of the new one.
func (i *inboundSnapshots) begin(ctx context.Context, stop context.CancelCauseFunc, from, epoch uint64) error {
	for {
		i.mu.Lock()
		old := i.active[from]
		if old == nil && len(i.active) < maxInboundSnapshots {
			i.active[from] = &arrival{epoch, stop, make(chan struct{})}
			i.mu.Unlock()
			return nil
		}
		n := len(i.active)
		i.mu.Unlock()
		if old == nil || old.epoch >= epoch {
			return status.Errorf(codes.ResourceExhausted, "already taking in %d snapshots", n)
		}
		old.stop(errSuperseded)
		select {
		case <-old.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (i *inboundSnapshots) end(from uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	close(i.active[from].ended)
	delete(i.active, from)
}

// resume returns the snapshot that broke off, if it is of this point and not too
// old. Any other is dropped: another one begins.
func (i *inboundSnapshots) resume(point snapshotPoint, now time.Time) *inbound {
	i.mu.Lock()
	in := i.kept
	i.kept = nil
	i.mu.Unlock()
	if in == nil || in.point == point && in.usable(now) {
		return in
	}
	in.abort()
	return nil
}

// park keeps a snapshot that broke off, unless it is of no more use or others
// are coming in: theirs is newer. The stream that brought it has not ended yet.
func (i *inboundSnapshots) park(in *inbound, now time.Time) {
	i.mu.Lock()
	drop := in
	if in.offset > 0 && in.usable(now) && len(i.active) <= 1 && !i.closed {
		drop, i.kept = i.kept, in
	}
	i.mu.Unlock()
	if drop != nil {
		drop.abort()
	}
}

// expire drops what broke off and was not resumed in time, or is of no more use.
func (i *inboundSnapshots) expire(now time.Time) {
	i.mu.Lock()
	in := i.kept
	if in != nil && in.usable(now) {
		in = nil
	}
	if in != nil {
		i.kept = nil
	}
	i.mu.Unlock()
	if in != nil {
		in.abort()
	}
}

// close drops what broke off and keeps nothing from now on.
func (i *inboundSnapshots) close() {
	i.mu.Lock()
	in := i.kept
	i.kept, i.closed = nil, true
	i.mu.Unlock()
	if in != nil {
		in.abort()
	}
}

// usable says whether a snapshot that broke off is worth keeping. Attempts that
// get nowhere do not prolong it.
func (in *inbound) usable(now time.Time) bool {
	return now.Sub(in.moved) < in.all.keep && in.writer.Needed()
}

// check refuses a snapshot that is known to exceed the limit, before all of that
// has come in again.
func (i *inboundSnapshots) check(point snapshotPoint) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.large == point {
		return i.exceeded()
	}
	return nil
}

func (i *inboundSnapshots) exceeded() error {
	return status.Errorf(codes.ResourceExhausted, "snapshots being taken in exceed the limit of %d bytes", i.limit)
}

// write takes the next bytes.
func (in *inbound) write(p []byte, now time.Time) error {
	if held := in.all.held.Add(int64(len(p))); held > in.all.limit {
		in.all.held.Add(-int64(len(p)))
		if in.offset+uint64(len(p)) > uint64(in.all.limit) {
			in.all.mu.Lock()
			in.all.large = in.point
			in.all.mu.Unlock()
		}
		return in.all.exceeded()
	}
	in.offset += uint64(len(p))
	in.moved = now
	if _, err := in.writer.Write(p); err != nil {
		return snapshotError("write", err)
	}
	return nil
}

// commit hands the whole snapshot up; it is done afterwards, whatever it returns.
func (in *inbound) commit(m *pb.Message) error {
	defer in.all.held.Add(-int64(in.offset))
	if err := in.writer.Commit(m); err != nil {
		return snapshotError("commit", err)
	}
	return nil
}

func (in *inbound) abort() {
	in.writer.Abort()
	in.all.held.Add(-int64(in.offset))
}

// snapshotError keeps the code that the node above gave, if any.
func snapshotError(doing string, err error) error {
	code := status.Code(err)
	if code == codes.Unknown {
		code = codes.DataLoss
	}
	return status.Errorf(code, "%s snapshot: %s", doing, status.Convert(err).Message())
}

// brokenError is an error of the stream, not of what came: the transfer can be
// resumed.
type brokenError struct{ error }

func (e brokenError) Unwrap() error { return e.error }

func isBroken(err error) bool {
	_, broken := errors.AsType[brokenError](err)
	return broken
}
