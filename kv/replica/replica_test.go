package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	"raftlab/kv"
	"raftlab/kv/storage"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network carries messages between the replicas of one test by calling Step,
// and snapshots by copying them.
type network struct {
	mu       sync.RWMutex
	replicas map[uint64]*Replica
	cut      map[uint64]bool
	delay    map[uint64]time.Duration // of what a node sends; lost if it is cut off meanwhile
	loss     float64
	carrying sync.WaitGroup
}

func (n *network) send(from uint64, ms []*raftpb.Message) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, m := range ms {
		to := n.replicas[m.GetTo()]
		if to == nil || n.cut[from] || n.cut[m.GetTo()] || (n.loss > 0 && rand.Float64() < n.loss) {
			if m.GetType() == raftpb.MsgSnap {
				n.replicas[from].ReportSnapshot(m.GetTo(), false)
			}
			continue
		}
		if m.GetType() == raftpb.MsgSnap {
			n.carrying.Go(func() { n.carry(n.replicas[from], to, m) })
			continue
		}
		if d := n.delay[from]; d > 0 {
			n.carrying.Go(func() { n.later(d, from, to, m) })
			continue
		}
		to.Step(m)
	}
}

func (n *network) later(d time.Duration, from uint64, to *Replica, m *raftpb.Message) {
	time.Sleep(d)
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.cut[from] {
		to.Step(m)
	}
}

func (n *network) carry(from, to *Replica, m *raftpb.Message) {
	err := func() error {
		source, err := from.OpenSnapshot(m)
		if err != nil {
			return err
		}
		defer func() { _ = source.Close() }()
		sink, err := to.AcceptSnapshot(m)
		if err != nil {
			return err
		}
		if _, err := io.Copy(sink, source); err != nil {
			return err
		}
		return sink.Commit(m)
	}()
	from.ReportSnapshot(m.GetTo(), err == nil)
}

// startReplicas starts count replicas; the first is a cluster of one, the
// others are added by join.
func startReplicas(tb testing.TB, count int, change func(*Config)) (*network, []*Replica) {
	tb.Helper()
	n := &network{replicas: make(map[uint64]*Replica), cut: make(map[uint64]bool)}
	var all []*Replica
	for i := range count {
		all = append(all, n.start(tb, uint64(i+1), change))
	}
	return n, all
}

func (n *network) start(tb testing.TB, id uint64, change func(*Config)) *Replica {
	tb.Helper()
	cfg := testConfig(id)
	cfg.Tick = 50 * time.Millisecond // no election because a busy machine is slow
	cfg.Send = func(ms []*raftpb.Message) { n.send(id, ms) }
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg, storage.NewMemory(), kv.NewStore())
	if err != nil {
		tb.Fatal(err)
	}
	n.mu.Lock()
	n.replicas[id] = r
	n.mu.Unlock()
	r.Start()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 0)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			tb.Errorf("replica %d: %v", id, err)
		}
		n.carrying.Wait()
	})
	return r
}

func testMember(r *Replica) *kvv1.Member {
	return &kvv1.Member{
		Id: r.cfg.ID, Incarnation: r.cfg.Incarnation,
		Address: fmt.Sprintf("client%d", r.cfg.ID), PeerAddress: fmt.Sprintf("peer%d", r.cfg.ID),
	}
}

// form makes the replicas a cluster of voters, led by the first.
func form(tb testing.TB, all []*Replica) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, created, err := all[0].Init(ctx, testMember(all[0])); err != nil || !created {
		tb.Fatalf("init: created=%v err=%v", created, err)
	}
	eventually(tb, "a leader", func() bool { return all[0].Leader() == 1 })
	voters := []uint64{1}
	for _, r := range all[1:] {
		if _, err := all[0].AddLearner(ctx, testMember(r)); err != nil {
			tb.Fatal(err)
		}
		voters = append(voters, r.cfg.ID)
	}
	if _, err := all[0].ChangeVoters(ctx, voters, false); err != nil {
		tb.Fatal(err)
	}
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("no %s within 30 s", what)
		}
	}
}

// once is a Waiter for one command, and a ReadWaiter.
type once chan onceResult

type onceResult struct {
	result kv.Result
	err    error
}

func (o once) Done(_ int, r kv.Result, err error) { o <- onceResult{r, err} }
func (o once) Ready(err error)                    { o <- onceResult{err: err} }

func put(r *Replica, key, value string) (kv.Result, error) {
	w := make(once, 1)
	err := r.Propose([]Proposal{{
		Command: kv.Command{Kind: kv.KindPut, Key: []byte(key), Value: []byte(value)}, Waiter: w,
	}})
	if err != nil {
		return kv.Result{}, err
	}
	o := <-w
	return o.result, o.err
}

func read(r *Replica, key string) (string, error) {
	w := make(once, 1)
	if err := r.Read(w); err != nil {
		return "", err
	}
	if o := <-w; o.err != nil {
		return "", o.err
	}
	item, _, _ := r.store.Get([]byte(key))
	return string(item.Value), nil
}

func TestWriteIsReadEverywhere(t *testing.T) {
	_, all := startReplicas(t, 3, nil)
	form(t, all)
	for i := range 20 {
		value := fmt.Sprint(i)
		if _, err := put(all[0], "key", value); err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if got, err := read(r, "key"); err != nil || got != value {
				t.Fatalf("node %d reads %q, %v; want %q", r.cfg.ID, got, err, value)
			}
		}
	}
	if _, err := put(all[1], "key", "x"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower answers a write with %v", err)
	}
}

func TestRefusedWithoutTrace(t *testing.T) {
	_, all := startReplicas(t, 1, func(c *Config) { c.AdmissionOps, c.AdmissionBytes = 2, 1000 })
	r := all[0]
	form(t, all)
	r.SetMaxEntryBytes(500)
	_, err := put(r, "key", string(make([]byte, 500)))
	var large *TooLargeError
	if !errors.As(err, &large) || !errors.Is(err, ErrTooLarge) || large.Limit != 500 || large.Size <= 500 {
		t.Errorf("a large command gets %v", err)
	}
	r.SetMaxEntryBytes(unlimited)
	// One request may exceed the cap when nothing else is under way.
	if _, err := put(r, "key", string(make([]byte, 2000))); err != nil {
		t.Errorf("a command above admission-bytes alone gets %v", err)
	}
	r.ops.Add(2)
	if _, err := put(r, "key", "v"); !errors.Is(err, ErrOverloaded) {
		t.Errorf("above admission-ops a write gets %v", err)
	}
	if _, err := read(r, "key"); !errors.Is(err, ErrOverloaded) {
		t.Errorf("above admission-ops a read gets %v", err)
	}
	r.ops.Add(-2)
	if r.ops.Load() != 0 || r.bytes.Load() != 0 {
		t.Errorf("admission counts %d operations and %d bytes when idle", r.ops.Load(), r.bytes.Load())
	}
}

func TestLeaderLost(t *testing.T) {
	n, all := startReplicas(t, 3, nil)
	form(t, all)
	var acked atomic.Int64
	for i := range 10 {
		if _, err := put(all[0], fmt.Sprintf("k%d", i), "v"); err != nil {
			t.Fatal(err)
		}
		acked.Add(1)
	}
	n.mu.Lock()
	n.cut[1] = true
	n.mu.Unlock()
	// The old leader can't commit this and steps down: the outcome is unknown.
	if _, err := put(all[0], "lost", "v"); !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, ErrNotLeader) {
		t.Errorf("a write on a leader that is cut off gets %v", err)
	}
	var leader *Replica
	eventually(t, "new leader", func() bool {
		for _, r := range all[1:] {
			if id := r.Leader(); id == r.cfg.ID {
				leader = r
				return true
			}
		}
		return false
	})
	for i := range 10 {
		if got, err := read(leader, fmt.Sprintf("k%d", i)); err != nil || got != "v" {
			t.Errorf("k%d is %q, %v after the leader was lost", i, got, err)
		}
	}
	if _, err := put(leader, "after", "v"); err != nil {
		t.Error(err)
	}
}

// TestLeaderDiesRightAfterAChange: who was told that the voters are three may lose
// one of them at once. Those left were told of it before, or they would need the
// vote of the one that was lost.
func TestLeaderDiesRightAfterAChange(t *testing.T) {
	n, all := startReplicas(t, 3, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, _, err := all[0].Init(ctx, testMember(all[0])); err != nil {
		t.Fatal(err)
	}
	eventually(t, "leader", func() bool { return all[0].Leader() == 1 })
	for _, r := range all[1:] {
		if _, err := all[0].AddLearner(ctx, testMember(r)); err != nil {
			t.Fatal(err)
		}
	}
	n.mu.Lock()
	n.delay = map[uint64]time.Duration{1: 10 * time.Millisecond}
	n.mu.Unlock()
	if _, err := all[0].ChangeVoters(ctx, []uint64{1, 2, 3}, false); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.cut[1] = true
	n.mu.Unlock()
	eventually(t, "new leader", func() bool { return all[1].Leader() == 2 || all[2].Leader() == 3 })
}

// A node that lags behind the compacted log gets a snapshot while writes go on.
func TestSnapshotUnderWrites(t *testing.T) {
	n, all := startReplicas(t, 3, func(c *Config) { c.LogEntries = 50 })
	form(t, all)
	n.mu.Lock()
	n.cut[3] = true
	n.mu.Unlock()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := put(all[0], fmt.Sprintf("w%d-%d", w, i%500), fmt.Sprint(i)); err != nil {
					t.Errorf("put: %v", err)
					return
				}
			}
		})
	}
	eventually(t, "compaction", func() bool {
		s, err := all[0].Status(t.Context())
		return err == nil && s.FirstIndex > 200
	})
	n.mu.Lock()
	n.cut[3] = false
	n.mu.Unlock()
	eventually(t, "snapshot installed", func() bool {
		s, err := all[2].Status(t.Context())
		return err == nil && s.Counters.SnapshotsInstalled > 0
	})
	close(stop)
	writers.Wait()
	index := all[0].store.State().Index
	eventually(t, "catch-up", func() bool { return all[2].store.State().Index >= index })
	if a, b := all[0].store.View(), all[2].store.View(); a.Hash() != b.Hash() {
		t.Errorf("states differ: %+v and %+v", a.State(), b.State())
	}
}

// A heartbeat whose commit index lies beyond the log would make raft panic: the
// node refuses it and goes on (traps 14 and 19).
func TestHeartbeatBeyondTheLog(t *testing.T) {
	_, all := startReplicas(t, 1, nil)
	form(t, all)
	all[0].Step(&raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(7)), To: new(uint64(1)),
		Term: new(uint64(100)), Commit: new(uint64(1 << 40)),
	})
	s, err := all[0].Status(t.Context())
	if err != nil || s.Counters.MessagesRefused != 1 {
		t.Fatalf("status %+v, %v", s.Counters, err)
	}
	if _, err := put(all[0], "key", "v"); err != nil {
		t.Error(err)
	}
}

func TestStopHandsOver(t *testing.T) {
	// Raft gives a transfer one election timeout: long enough for a busy machine.
	_, all := startReplicas(t, 3, func(c *Config) { c.Tick = 500 * time.Millisecond })
	form(t, all)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := all[0].Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if leader := all[0].Leader(); leader == 1 || leader == 0 {
		t.Errorf("leadership was not handed over: leader is %d", leader)
	}
	if err := all[0].Propose([]Proposal{{Waiter: make(once, 1)}}); !errors.Is(err, ErrStopped) {
		t.Errorf("a stopped node answers %v", err)
	}
}

// A leader that stops when a follower has just died hands over to the other one.
func TestStopHandsOverPastADeadNode(t *testing.T) {
	for _, dead := range []uint64{2, 3} {
		t.Run(fmt.Sprint(dead), func(t *testing.T) {
			n, all := startReplicas(t, 3, func(c *Config) { c.Tick = 200 * time.Millisecond })
			form(t, all)
			n.mu.Lock()
			n.cut[dead] = true
			n.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := all[0].Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if leader := all[0].Leader(); leader != 5-dead {
				t.Errorf("the leader is %d after node 1 stopped", leader)
			}
		})
	}
}

func TestHeirs(t *testing.T) {
	status := Status{ID: 1, Progress: []Progress{
		{ID: 1, Match: 100, RecentActive: true},
		{ID: 2, Match: 90, RecentActive: true, SilentTicks: 2},
		{ID: 3, Match: 100, RecentActive: true, SilentTicks: 4},
		{ID: 4, Match: 100, RecentActive: true, Learner: true},
		{ID: 5, Match: 100, SilentTicks: 20},
		{ID: 6, Match: 95, RecentActive: true, SilentTicks: 1},
	}}
	if got := heirs(status, 1); !slices.Equal(got, []uint64{6, 2, 3}) {
		t.Errorf("heirs are %v", got)
	}
}

// What the raft goroutine began and did not answer before it ended may have
// happened; what it never saw did not.
func TestOutcomeOfACallThatTheEndCuts(t *testing.T) {
	_, all := startReplicas(t, 1, nil)
	r := all[0]
	_, err := ask(t.Context(), r, func(*Core, func(int, error)) { r.end() }, nil)
	if !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("a call that was begun gets %v", err)
	}
	if _, err := r.Status(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("a call after the end gets %v", err)
	}
}

// When a node can't go on, all who wait hear of it.
func TestFailureTellsEveryWaiter(t *testing.T) {
	r, err := New(testConfig(1), storage.NewMemory(), kv.NewStore())
	if err != nil {
		t.Fatal(err)
	}
	r.ops.Add(2)
	applying, refused := make(once, 1), make(once, 1)
	err = r.perform(&Effects{
		Applies: []*ApplyTask{
			{Entries: make([]*raftpb.Entry, 1), waiters: []*inFlight{{refs: []waiterRef{{applying, 0}}}}},
			{Restore: &raftpb.SnapshotMetadata{Index: new(uint64(7))}},
		},
		Answers: []Answer{{refs: []waiterRef{{refused, 0}}, err: ErrNotLeader}},
	}, &appender{replica: r})
	if err == nil {
		t.Fatal("a snapshot that never came was installed")
	}
	if len(applying) != 1 || len(refused) != 1 || r.ops.Load() != 0 {
		t.Fatalf("heard: %d, %d; %d operations under way", len(applying), len(refused), r.ops.Load())
	}
	if o := <-applying; !errors.Is(o.err, ErrUnknownOutcome) {
		t.Errorf("a write that is committed gets %v", o.err)
	}
}

// leaderAtAnswer notes who was said to lead when it was answered.
type leaderAtAnswer struct {
	replica *Replica
	leader  uint64
}

func (l *leaderAtAnswer) Done(int, kv.Result, error) { l.leader = l.replica.Leader() }

// Who is refused for want of leadership is told of the new leader, not of the
// node that refuses.
func TestLeaderIsKnownBeforeTheRefusal(t *testing.T) {
	r, err := New(testConfig(1), storage.NewMemory(), kv.NewStore())
	if err != nil {
		t.Fatal(err)
	}
	r.leader.Store(1)
	w := &leaderAtAnswer{replica: r}
	err = r.perform(&Effects{
		Leader: new(uint64(2)), Answers: []Answer{{refs: []waiterRef{{w, 0}}, err: ErrNotLeader}},
	}, &appender{replica: r})
	if err != nil || w.leader != 2 {
		t.Errorf("the leader is %d when the write is refused, %v", w.leader, err)
	}
}

// Two leaders may send a snapshot at the same time: raft takes the newer one,
// whichever came last.
func TestSnapshotsThatCross(t *testing.T) {
	cfg := testConfig(1)
	cfg.Send = func([]*raftpb.Message) {}
	r, err := New(cfg, storage.NewMemory(), kv.NewStore())
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{20, 10} {
		source := kv.NewStore()
		source.SetMembership(index, 2, &kvv1.Membership{ClusterId: 1, Voters: []uint64{2}, Learners: []uint64{1}})
		m := &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(3)),
			Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: new(index), Term: new(uint64(2)), ConfState: ConfState(source.Membership()),
			}},
		}
		sink, err := r.AcceptSnapshot(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := kv.WriteSnapshot(sink, source.View()); err != nil {
			t.Fatal(err)
		}
		if err := sink.Commit(m); err != nil {
			t.Fatal(err)
		}
	}
	r.Start()
	defer func() {
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "snapshot", func() bool {
		select {
		case <-r.Done():
			return true
		default:
			return r.store.State().Index == 20
		}
	})
	eventually(t, "memory given back", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.incoming) == 0
	})
}

// A peer with a lower limit than this node packs for gets entries that fit.
func TestPackedEntriesFitTheSmallestPeer(t *testing.T) {
	env := newRandomCluster(t, 1, 10, 1)
	env.found()
	n := env.nodes[0]
	n.core.cfg.Packer.Size = 1 << 20
	const limit = 300
	n.core.SetMaxEntryBytes(limit)
	for range 5 {
		n.propose(4)
	}
	n.pump()
	last, _ := n.log.LastIndex()
	entries, err := n.log.Entries(3, last+1, unlimited)
	if err != nil || len(entries) < 2 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		if size := EntrySize(len(e.GetData()), e.GetTerm(), e.GetIndex()); size > limit {
			t.Errorf("entry %d has %d bytes, limit %d", e.GetIndex(), size, limit)
		}
	}
}

// With linger, a lone command is proposed when its time has come, no earlier and
// no later; what comes meanwhile goes with it.
func TestLingerIsHonoured(t *testing.T) {
	for _, wait := range []time.Duration{50 * time.Microsecond, 777 * time.Microsecond, 5 * time.Millisecond, 25 * time.Millisecond} {
		t.Run(wait.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, all := startReplicas(t, 1, func(c *Config) {
					c.Batcher = linger{caps{1000, 1 << 20}, wait}
				})
				form(t, all)
				for range 3 {
					time.Sleep(13 * time.Millisecond)
					start := time.Now()
					var first, second kv.Result
					var later sync.WaitGroup
					later.Go(func() { time.Sleep(wait / 2); second, _ = put(all[0], "second", "value") })
					first, err := put(all[0], "first", "value")
					if took := time.Since(start); took != wait || err != nil {
						t.Errorf("took %s, %v", took, err)
					}
					later.Wait()
					if took := time.Since(start); took != wait || first.Index != second.Index {
						t.Errorf("both took %s and have index %d and %d", took, first.Index, second.Index)
					}
				}
			})
		})
	}
}

// Commands that wait for others are admitted, and are answered when they can't
// be proposed any more.
func TestWaitingCommandsAreAnswered(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*network, []*Replica)
		want error
	}{
		{"leadership lost", func(n *network, _ []*Replica) {
			n.mu.Lock()
			n.cut[1] = true
			n.mu.Unlock()
		}, ErrNotLeader},
		{"stopped", func(_ *network, all []*Replica) {
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			_ = all[0].Stop(ended)
		}, ErrStopped},
		{"handed over", func(_ *network, all []*Replica) {
			_, _, _ = all[0].TransferLeadership(context.Background(), 2)
		}, ErrNotLeader},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, all := startReplicas(t, 3, func(c *Config) {
					c.Batcher, c.AdmissionOps = linger{caps{1000, 1 << 20}, time.Hour}, 3
				})
				form(t, all)
				answered := make(once, 3)
				for range 3 {
					if err := all[0].Propose([]Proposal{{
						Command: kv.Command{Kind: kv.KindPut, Key: []byte("key"), Value: []byte("value")}, Waiter: answered,
					}}); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := put(all[0], "key", "value"); !errors.Is(err, ErrOverloaded) {
					t.Errorf("beyond the cap: %v", err)
				}
				time.Sleep(time.Second)
				if len(answered) > 0 {
					t.Fatal("answered while it waits")
				}
				c.end(n, all)
				for range 3 {
					if o := <-answered; !errors.Is(o.err, c.want) {
						t.Errorf("answered %v, want %v", o.err, c.want)
					}
				}
				if ops, bytes := all[0].ops.Load(), all[0].bytes.Load(); ops != 0 || bytes != 0 {
					t.Errorf("%d operations of %d bytes stay admitted", ops, bytes)
				}
			})
		})
	}
}

// Every waiter hears exactly once, whatever happens to leader and network.
func TestEveryWaiterHearsOnce(t *testing.T) {
	n, all := startReplicas(t, 3, nil)
	form(t, all)
	n.mu.Lock()
	n.loss = 0.1
	n.mu.Unlock()
	var proposed, heard atomic.Int64
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			r := all[w%3]
			for i := range 200 {
				done := make(once, 2)
				ps := []Proposal{
					{Command: kv.Command{Kind: kv.KindPut, Key: fmt.Appendf(nil, "a%d", i), Value: []byte("v")}, Waiter: done},
					{Command: kv.Command{Kind: kv.KindDelete, Key: fmt.Appendf(nil, "b%d", i)}, Waiter: done, Tag: 1},
				}
				if err := r.Propose(ps); err != nil {
					continue
				}
				proposed.Add(2)
				for range ps {
					<-done
					heard.Add(1)
				}
				if i == 100 && w == 0 {
					n.mu.Lock()
					n.cut[1] = true
					n.mu.Unlock()
				}
			}
		})
	}
	writers.Wait()
	if proposed.Load() != heard.Load() || proposed.Load() == 0 {
		t.Errorf("%d commands proposed, %d heard of", proposed.Load(), heard.Load())
	}
	for _, r := range all {
		eventually(t, "idle admission", func() bool { return r.ops.Load() == 0 && r.bytes.Load() == 0 })
	}
}

// snapshotBytes is the MsgSnap of a store at an index, and its bytes.
func snapshotBytes(t *testing.T, index uint64, value string) (*raftpb.Message, []byte) {
	t.Helper()
	s := kv.NewStore()
	command := kv.Command{Kind: kv.KindPut, Key: []byte("key"), Value: bytes.Repeat([]byte(value), 1000)}
	if _, err := s.Apply(1, 1, kv.AppendCommand(kv.AppendHeader(nil, kv.EntryHeader{}), &command), nil); err != nil {
		t.Fatal(err)
	}
	s.SetMembership(index, 2, &kvv1.Membership{ClusterId: 1, Voters: []uint64{2}, Learners: []uint64{1}})
	var b bytes.Buffer
	if err := kv.WriteSnapshot(&b, s.View()); err != nil {
		t.Fatal(err)
	}
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(3)),
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(index), Term: new(uint64(2)), ConfState: ConfState(s.Membership()),
		}},
	}, b.Bytes()
}

// Whatever halves a sink was given, only what is whole and what was announced is
// handed to raft.
func TestSnapshotSinkVerifies(t *testing.T) {
	r, err := New(testConfig(1), storage.NewMemory(), kv.NewStore())
	if err != nil {
		t.Fatal(err)
	}
	m, data := snapshotBytes(t, 20, "a")
	_, other := snapshotBytes(t, 20, "b")
	later, _ := snapshotBytes(t, 21, "a")
	stranger, _ := snapshotBytes(t, 20, "a")
	stranger.Snapshot.Metadata.ConfState.Voters = []uint64{2, 3}
	half := len(data) / 2
	for name, test := range map[string]struct {
		data []byte
		as   *raftpb.Message
		want string
	}{
		"halves of two states":  {append(data[:half:half], other[half:]...), m, "checksum"},
		"half":                  {data[:half], m, "truncated"},
		"another index":         {data, later, "snapshot is of index 20 term 2, announced as index 21 term 2"},
		"another configuration": {data, stranger, "snapshot at index 20 has configuration"},
	} {
		sink, err := r.AcceptSnapshot(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = sink.Write(test.data); err == nil {
			err = sink.Commit(test.as)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if len(r.incoming) > 0 || len(r.inbox.take().messages) > 0 {
		t.Error("raft was told of a snapshot that is wrong")
	}
	sink, err := r.AcceptSnapshot(m)
	if err != nil || !sink.Needed() {
		t.Fatalf("not needed at the beginning, %v", err)
	}
	r.commit.Store(20)
	if sink.Needed() {
		t.Error("needed by a node that has committed as much")
	}
}
