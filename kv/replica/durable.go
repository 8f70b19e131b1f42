package replica

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
)

// appender makes appends durable, in order, and reports each to the core.
// Without a journal that is done at once, on the raft goroutine; with one, a
// goroutine writes what has queued up while raft goes on (trap 7). While a
// snapshot is being installed by the apply goroutine, later appends wait behind
// it (trap 8).
type appender struct {
	replica    *Replica
	waiting    []*raftpb.Message
	installing bool // the snapshot of waiting[0]

	received time.Duration // batch.received of what was just handed to the core
	sampler  sampler
	measured []appending // in the order of the appends
}

// append takes in what the effects want durable.
func (a *appender) append(ms []*raftpb.Message) error {
	for _, m := range ms {
		a.begin(m)
	}
	a.waiting = append(a.waiting, ms...)
	return a.proceed()
}

func (a *appender) proceed() error {
	for len(a.waiting) > 0 && !a.installing {
		if !raft.IsEmptySnap(a.waiting[0].GetSnapshot()) {
			a.installing = true
			return nil
		}
		if err := a.write(); err != nil {
			return err
		}
	}
	return nil
}

// write makes the first of those that wait durable.
func (a *appender) write() error {
	m := a.waiting[0]
	a.waiting = slices.Delete(a.waiting, 0, 1)
	if a.replica.cfg.Journal == nil {
		return a.keep(m)
	}
	a.replica.writes.put(m)
	return nil
}

// installed ends the wait for a snapshot.
func (a *appender) installed() {
	a.installing = false
	err := a.write()
	if err == nil {
		err = a.proceed()
	}
	if err != nil {
		a.replica.fail(err)
	}
}

// written hears that the journal has an append.
func (a *appender) written(m *raftpb.Message) {
	if err := a.keep(m); err != nil {
		a.replica.fail(err)
	}
}

// keep puts a durable append where raft reads it, and tells raft and peers.
func (a *appender) keep(m *raftpb.Message) error {
	r := a.replica
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		if err := r.log.Restore(snap.GetMetadata()); err != nil {
			return fmt.Errorf("restoring the log: %w", err)
		}
	}
	var hs *raftpb.HardState
	if m.Term != nil {
		hs = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if err := r.log.Append(m.GetEntries(), hs); err != nil {
		return fmt.Errorf("appending to the log: %w", err)
	}
	a.end(m)
	r.send(r.core.Appended(m))
	return nil
}

// saved is what is known of the snapshots on disk.
type saved struct {
	mu    sync.Mutex    // one is written at a time
	index atomic.Uint64 // of the last
	bytes atomic.Int64  // its size
	count atomic.Uint64
	busy  atomic.Bool // one was asked for

	// Of the goroutine that writes the journal.
	since    int64  // bytes written since the last was asked for
	released uint64 // the index up to which the journal was cut
}

// writeJournal writes what has queued up, until the replica ends.
func (r *Replica) writeJournal() {
	for {
		appends, ok := r.writes.take()
		if !ok {
			return
		}
		if r.failed.Load() {
			continue
		}
		if err := r.writeAppends(appends); err != nil {
			r.fail(err)
		}
	}
}

func (r *Replica) writeAppends(appends []*raftpb.Message) error {
	if index := r.saved.index.Load(); index > r.saved.released {
		if err := r.cfg.Journal.Release(index); err != nil {
			return fmt.Errorf("cutting the journal: %w", err)
		}
		r.saved.released = index
	}
	if err := r.cfg.Journal.Write(appends); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	r.inbox.put(func(b *batch) { b.written = append(b.written, appends...) })
	for _, m := range appends {
		for _, e := range m.GetEntries() {
			r.saved.since += int64(len(e.GetData())) + entryFraming
		}
	}
	// What is written again and again is at most what was written first, and
	// recovery reads at most about twice the state.
	if r.saved.since >= max(r.cfg.SaveAfter, r.saved.bytes.Load()) && r.saved.busy.CompareAndSwap(false, true) {
		r.saved.since = 0
		r.tasks.put(&ApplyTask{save: true})
	}
	return nil
}

// saveInBackground saves a view that was asked for; the store goes on. A replica
// that stops does not wait for it: the journal has all that it would hold.
func (r *Replica) saveInBackground(v *kv.View) {
	r.running.Go(func() {
		if err := r.saveSnapshot(v, r.unlessStopping); err != nil && !errors.Is(err, ErrStopped) {
			r.fail(err)
		}
		r.saved.busy.Store(false)
	})
}

// unlessStopping ends a write that goes on while the replica stops.
func (r *Replica) unlessStopping() error {
	if r.stopping.Load() {
		return ErrStopped
	}
	return nil
}

// installing lets a leader's snapshot be saved to its end: the log is about to
// restart at it.
func installing() error { return nil }

// saveSnapshot writes a view to disk, unless there is a newer one. What proceed
// returns before each of its records ends it.
func (r *Replica) saveSnapshot(v *kv.View, proceed func() error) error {
	if r.cfg.Journal == nil {
		return nil
	}
	r.saved.mu.Lock()
	defer r.saved.mu.Unlock()
	state := v.State()
	if state.Index <= r.saved.index.Load() {
		return nil
	}
	meta := &raftpb.SnapshotMetadata{
		Index: new(state.Index), Term: new(state.Term), ConfState: ConfState(v.Membership()),
	}
	var size int64
	err := r.cfg.Journal.SaveSnapshot(meta, func(w io.Writer) error {
		counted := &countingWriter{w: w, proceed: proceed}
		err := kv.WriteSnapshot(counted, v)
		size = counted.n
		return err
	})
	if err != nil {
		return fmt.Errorf("saving a snapshot at index %d: %w", state.Index, err)
	}
	r.saved.bytes.Store(size)
	r.saved.index.Store(state.Index)
	r.saved.count.Add(1)
	return nil
}

type countingWriter struct {
	w       io.Writer
	n       int64
	proceed func() error
}

func (c *countingWriter) Write(p []byte) (int, error) {
	if err := c.proceed(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
