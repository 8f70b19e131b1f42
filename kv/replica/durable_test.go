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
	if err := write(&b); err != nil {
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
