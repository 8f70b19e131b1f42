package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"raftlab/kv"
	"raftlab/kv/storage"
)

// disk is a Journal that survives its replica. Writes wait while it is held.
type disk struct {
	held atomic.Bool
	free chan struct{}
	fail atomic.Pointer[error]
	save func() // called before each write to a snapshot, if set

	mu       sync.Mutex
	appends  []*raftpb.Message // since the last snapshot, and some before
	writes   []int             // appends a Write
	meta     *raftpb.SnapshotMetadata
	snapshot []byte
	released uint64
}

func newDisk() *disk { return &disk{free: make(chan struct{}, 1000)} }

func (d *disk) Write(appends []*raftpb.Message) error {
	if d.held.Load() {
		<-d.free
	}
	if err := d.fail.Load(); err != nil {
		return *err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = append(d.writes, len(appends))
	for _, m := range appends {
		m = proto.Clone(m).(*raftpb.Message)
		m.Responses = nil
		d.appends = append(d.appends, m)
	}
	return nil
}

func (d *disk) SaveSnapshot(meta *raftpb.SnapshotMetadata, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(snapshotWriter{d, &b}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if meta.GetIndex() <= d.meta.GetIndex() {
		return fmt.Errorf("a snapshot at %d after one at %d", meta.GetIndex(), d.meta.GetIndex())
	}
	d.meta, d.snapshot = meta, b.Bytes()
	return nil
}

// snapshotWriter is as slow as the test wants the disk to be.
type snapshotWriter struct {
	disk *disk
	data *bytes.Buffer
}

func (w snapshotWriter) Write(p []byte) (int, error) {
	if w.disk.save != nil {
		w.disk.save()
	}
	return w.data.Write(p)
}

func (d *disk) Release(index uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if index > d.meta.GetIndex() {
		return fmt.Errorf("released up to %d, the snapshot is at %d", index, d.meta.GetIndex())
	}
	d.released = index
	return nil
}

// recover is what a node finds when it starts again.
func (d *disk) recover(tb testing.TB) (*storage.Memory, *kv.Store) {
	tb.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	log, store := storage.NewMemory(), kv.NewStore()
	if d.meta != nil {
		decoder := kv.NewSnapshotDecoder()
		if _, err := decoder.Write(d.snapshot); err != nil {
			tb.Fatal(err)
		}
		view, err := decoder.Finish()
		if err != nil {
			tb.Fatal(err)
		}
		store.Restore(view)
		if err := log.Restore(d.meta); err != nil {
			tb.Fatal(err)
		}
	}
	for _, m := range d.appends {
		if s := m.GetSnapshot(); !raft.IsEmptySnap(s) && s.GetMetadata().GetIndex() > d.meta.GetIndex() {
			tb.Fatalf("the log restarts at %d without a snapshot", s.GetMetadata().GetIndex())
		}
		var hs *raftpb.HardState
		if m.Term != nil {
			hs = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
		if err := log.Append(m.GetEntries(), hs); err != nil {
			tb.Fatal(err)
		}
	}
	return log, store
}

func TestNothingIsAcknowledgedBeforeTheJournalHasIt(t *testing.T) {
	disks := []*disk{newDisk(), newDisk(), newDisk()}
	next := 0
	_, all := startReplicas(t, 3, func(c *Config) {
		c.Journal, c.SaveAfter = disks[next], 1<<30
		next++
	})
	t.Cleanup(func() {
		for _, d := range disks {
			d.held.Store(false)
			close(d.free)
		}
	})
	form(t, all)
	if _, err := put(all[0], "k", "before"); err != nil {
		t.Fatal(err)
	}
	// Two of three cannot write: no quorum, whoever has it in memory.
	disks[1].held.Store(true)
	disks[2].held.Store(true)
	w := make(once, 1)
	if err := all[0].Propose([]Proposal{{Command: kv.Command{Kind: kv.KindPut, Key: []byte("k"), Value: []byte("v")}, Waiter: w}}); err != nil {
		t.Fatal(err)
	}
	last := all[0].lastIndex.Load
	eventually(t, "append on the leader", func() bool {
		d := disks[0]
		d.mu.Lock()
		defer d.mu.Unlock()
		m := d.appends[len(d.appends)-1]
		n := len(m.GetEntries())
		return n > 0 && bytes.HasSuffix(m.GetEntries()[n-1].GetData(), []byte("v")) && last() >= m.GetEntries()[n-1].GetIndex()
	})
	select {
	case o := <-w:
		t.Fatalf("acknowledged by one durable copy of three: %v", o)
	case <-time.After(20 * time.Millisecond):
	}
	disks[1].held.Store(false)
	disks[1].free <- struct{}{}
	if o := <-w; o.err != nil {
		t.Fatal(o.err)
	}
}

func TestWhatQueuesUpIsOneWrite(t *testing.T) {
	d := newDisk()
	_, all := startReplicas(t, 1, func(c *Config) {
		c.Journal, c.SaveAfter, c.Batcher = d, 1<<30, single{}
	})
	form(t, all)
	d.held.Store(true)
	const puts = 50
	w := make(once, puts)
	for i := range puts {
		err := all[0].Propose([]Proposal{{Command: kv.Command{Kind: kv.KindPut, Key: []byte{byte(i)}}, Waiter: w}})
		if err != nil {
			t.Fatal(err)
		}
		// Each in a Ready of its own, so that there is something to gather.
		if _, err := all[0].Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.held.Store(false)
	close(d.free)
	for range puts {
		if o := <-w; o.err != nil {
			t.Fatal(o.err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.writes) > puts/2 || slices.Max(d.writes) < puts/2 {
		t.Errorf("%d puts in writes of %v appends", puts, d.writes)
	}
}

func TestJournalErrorEndsTheReplica(t *testing.T) {
	d := newDisk()
	cfg := testConfig(1)
	cfg.Send = func([]*raftpb.Message) {}
	cfg.Journal, cfg.SaveAfter = d, 1<<30
	r, err := New(cfg, storage.NewMemory(), kv.NewStore())
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	if _, _, err := r.Init(t.Context(), testMember(r)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a leader", func() bool { return r.Leader() == 1 })
	broken := errors.New("fsync: input/output error")
	d.fail.Store(&broken)
	if _, err := put(r, "k", "v"); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("a write that the journal lost gets %v", err)
	}
	<-r.Done()
	if !errors.Is(r.Err(), broken) {
		t.Errorf("the replica ended with %v", r.Err())
	}
}

// A replica that comes back has what was acknowledged, takes up its part, and
// does not take the entries of its former run for its own.
func TestReplicaComesBackWithItsMemory(t *testing.T) {
	for _, saveAfter := range []int64{1, 2000, 1 << 30} {
		t.Run(fmt.Sprint("save-after=", saveAfter), func(t *testing.T) {
			d := newDisk()
			want := ""
			for run := range uint64(4) {
				cfg := testConfig(1)
				cfg.Incarnation = 100 + run
				cfg.Send = func([]*raftpb.Message) {}
				cfg.Journal, cfg.SaveAfter = d, saveAfter
				log, store := d.recover(t)
				r, err := New(cfg, log, store)
				if err != nil {
					t.Fatal(err)
				}
				r.Start()
				if run == 0 {
					if _, _, err := r.Init(t.Context(), testMember(r)); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "a leader", func() bool { return r.Leader() == 1 })
				if run > 0 {
					if got, err := read(r, "key"); err != nil || got != want {
						t.Fatalf("run %d reads %q, %v; want %q", run, got, err, want)
					}
				}
				for i := range 30 {
					want = fmt.Sprintf("%d of run %d", i, run)
					if _, err := put(r, "key", want); err != nil {
						t.Fatal(err)
					}
				}
				if saveAfter < 1<<30 {
					eventually(t, "a saved snapshot", func() bool { return r.saved.count.Load() > 0 })
				}
				ctx, cancel := context.WithTimeout(t.Context(), 0)
				if err := r.Stop(ctx); err != nil {
					t.Fatal(err)
				}
				cancel()
			}
			if saveAfter == 1 && d.released == 0 {
				t.Error("the journal was never cut")
			}
		})
	}
}

// A follower that takes in a snapshot has it on disk before its log restarts.
func TestInstalledSnapshotIsSavedFirst(t *testing.T) {
	disks := []*disk{newDisk(), newDisk()}
	next := 0
	n, all := startReplicas(t, 1, func(c *Config) {
		c.Journal, c.SaveAfter, c.LogEntries = disks[next], 1<<30, 10
		next++
	})
	form(t, all)
	for i := range 100 {
		if _, err := put(all[0], fmt.Sprint(i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	late := n.start(t, 2, func(c *Config) { c.Journal, c.SaveAfter = disks[1], 1<<30 })
	if _, err := all[0].AddLearner(t.Context(), testMember(late)); err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].ChangeVoters(t.Context(), []uint64{1, 2}, false); err != nil {
		t.Fatal(err)
	}
	if late.saved.count.Load() == 0 {
		t.Fatal("node 2 joined without a snapshot")
	}
	if _, err := put(all[0], "last", "v"); err != nil {
		t.Fatal(err)
	}
	log, store := disks[1].recover(t)
	last, err := log.LastIndex()
	if err != nil || last < all[0].lastIndex.Load() {
		t.Errorf("node 2 would come back with index %d, %v; acknowledged %d", last, err, all[0].lastIndex.Load())
	}
	if _, _, found := store.Get([]byte("0")); !found {
		t.Error("node 2 would come back without the snapshot's keys")
	}
}

// stuckSave is a disk whose first write to a snapshot does not end before stopping
// begins. It tells when that write has begun.
func stuckSave(stopping func() bool) (d *disk, begun chan struct{}, writes *atomic.Int64) {
	d, begun, writes = newDisk(), make(chan struct{}), new(atomic.Int64)
	d.save = func() {
		if writes.Add(1) > 1 {
			return
		}
		close(begun)
		for deadline := time.Now().Add(30 * time.Second); !stopping() && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	return d, begun, writes
}

// A replica that stops does not wait until a large state is on a slow disk.
func TestStopGivesUpASnapshotBeingSaved(t *testing.T) {
	var r *Replica
	d, begun, writes := stuckSave(func() bool { return r.stopping.Load() })
	_, all := startReplicas(t, 1, func(c *Config) { c.Journal, c.SaveAfter = d, 2<<20 })
	r = all[0]
	form(t, all)
	value := string(make([]byte, 64<<10))
	for i := 0; !r.saved.busy.Load(); i++ {
		if _, err := put(r, fmt.Sprint(i), value); err != nil {
			t.Fatal(err)
		}
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if n := writes.Load(); n != 1 || d.meta != nil {
		t.Errorf("the snapshot was written on, %d times; saved: %v", n, d.meta)
	}
	if log, _ := d.recover(t); log.Bytes() < 2<<20 {
		t.Errorf("the journal has %d bytes of what was written", log.Bytes())
	}
}

// The log is about to restart at a snapshot that is installed: it is saved to its
// end.
func TestStopLetsAnInstalledSnapshotBeSaved(t *testing.T) {
	n, all := startReplicas(t, 1, func(c *Config) { c.LogEntries = 10 })
	form(t, all)
	for i := range 100 {
		if _, err := put(all[0], fmt.Sprint(i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	var late *Replica
	d, begun, _ := stuckSave(func() bool { return late.stopping.Load() })
	late = n.start(t, 2, func(c *Config) { c.Journal, c.SaveAfter = d, 1<<30 })
	if _, err := all[0].AddLearner(t.Context(), testMember(late)); err != nil {
		t.Fatal(err)
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := late.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, store := d.recover(t); store.State().Keys != 100 {
		t.Errorf("%d of 100 keys are on disk", store.State().Keys)
	}
}
