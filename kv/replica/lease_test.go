package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
)

// walkStep is how much time a step of the random walk takes: so little that the
// nodes' tickers are late more often than not, and so much that most of their
// ticks are taken.
const walkStep = 250 * time.Microsecond

// clock is the node's: it runs up to 9 % faster or slower than another's.
func (n *randomNode) clock() time.Time {
	start := time.Unix(1700000000, 0)
	passed := n.env.now.Sub(start)
	return start.Add(passed * time.Duration(94+3*n.id) / 100)
}

// tickDue ticks a node whose ticker has fired, n or the next; n is returned when
// there is none. As a time.Ticker does, each holds one tick for who comes late,
// and drops others.
func (env *randomCluster) tickDue(n *randomNode) *randomNode {
	for i := range env.nodes {
		due := env.nodes[(int(n.id)+i-1)%len(env.nodes)]
		fired := due.clock().UnixNano() / int64(due.core.cfg.Tick)
		if fired > due.ticked {
			due.ticked = fired
			due.core.Tick()
			return due
		}
	}
	return n
}

func (env *randomCluster) leaseReads() (n uint64) {
	for _, node := range env.nodes {
		n += node.core.count.LeaseReads
	}
	return n
}

// A node that was restarted does not remember which leader it acknowledged, and
// keeps its promise all the same.
func TestRestartKeepsThePromise(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	old, candidate := env.nodes[1], env.nodes[2]
	core, err := NewCore(old.core.cfg, old.log, old.store.State(), old.store.Membership(), env.now)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (granted bool) {
		old.core = core
		term, last := candidate.core.term+1, candidate.store.State()
		core.Step(&raftpb.Message{
			Type: raftpb.MsgPreVote.Enum(), From: new(uint64(3)), To: new(uint64(2)),
			Term: &term, Index: &last.Index, LogTerm: &last.Term,
		})
		old.pump()
		for _, m := range env.wire {
			granted = granted || m.GetType() == raftpb.MsgPreVoteResp && !m.GetReject()
		}
		env.wire = nil
		return granted
	}
	for tick := range core.cfg.ElectionTicks {
		if ask() {
			t.Fatalf("it votes %d ticks after its start", tick)
		}
		core.Tick()
		old.pump()
	}
	if !ask() {
		t.Fatal("it never votes again")
	}
}

// A leader whose messages are dropped answers by itself only until its lease ends,
// and nobody else leads before.
func TestLeaseOfALeaderThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, all := startReplicas(t, 3, nil)
		form(t, all)
		old := all[0]
		if _, err := put(old, "key", "old"); err != nil {
			t.Fatal(err)
		}
		// The lease is kept while it is in demand, with few rounds.
		before := counters(t, old)
		for range 1000 {
			if got, _, err := leaseRead(old, "key"); err != nil || got != "old" {
				t.Fatalf("a lease read gets %q, %v", got, err)
			}
			time.Sleep(time.Millisecond)
		}
		after := counters(t, old)
		rounds, fallbacks := after.ReadRounds-before.ReadRounds, after.LeaseFallbacks-before.LeaseFallbacks
		if reads := after.LeaseReads - before.LeaseReads; fallbacks > 2 || reads+fallbacks != 1000 || rounds > 50 {
			t.Fatalf("1000 reads in 1 s: %d under the lease, %d not, %d rounds", reads, fallbacks, rounds)
		}

		n.mu.Lock()
		n.cut[1] = true
		n.mu.Unlock()
		cut := time.Now()
		overwritten := make(chan time.Time, 1)
		go func() {
			for {
				for _, r := range all[1:] {
					if _, err := put(r, "key", "new"); err == nil {
						overwritten <- time.Now()
						return
					}
				}
				time.Sleep(time.Millisecond)
			}
		}()
		var last time.Time
		for {
			_, now, err := leaseRead(old, "key")
			if err != nil && !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrNoLeader) {
				t.Fatal(err)
			}
			if !now {
				break
			}
			last = time.Now()
			time.Sleep(100 * time.Microsecond)
		}
		over := <-overwritten
		if last.Sub(cut) < 20*time.Millisecond || !last.Before(over) {
			t.Fatalf("the last lease read was answered %s after the cut, the first write of another leader %s", last.Sub(cut), over.Sub(cut))
		}
		// It stays so, however long that leader believes in itself.
		for range 300 {
			if got, now, _ := leaseRead(old, "key"); now {
				t.Fatalf("the old leader answers %q %s after another leader's write", got, time.Since(over))
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// Idle, nobody keeps the lease.
func TestLeaseIsKeptOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := startReplicas(t, 3, nil)
		form(t, all)
		if _, _, err := leaseRead(all[0], "key"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		before := counters(t, all[0])
		time.Sleep(time.Second)
		if after := counters(t, all[0]); after.ReadRounds != before.ReadRounds {
			t.Fatalf("%d rounds in a second without reads", after.ReadRounds-before.ReadRounds)
		}
		if _, _, err := leaseRead(all[1], "key"); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("a follower answers a lease read with %v", err)
		}
	})
}

// A read under the lease goes on when the leader has applied what followers may
// have, on the fast way too.
func TestLeaseReadWaitsForWhatIsCommitted(t *testing.T) {
	l := &sharedLease{epoch: time.Now()}
	l.end.Store(int64(time.Hour))
	l.commit.Store(7)
	for _, tt := range []struct {
		applied uint64
		held    bool
	}{{6, false}, {7, true}, {8, true}} {
		l.applied.Store(tt.applied)
		if l.held() != tt.held {
			t.Errorf("with %d applied of 7: %v", tt.applied, !tt.held)
		}
	}
	l.end.Store(int64(time.Since(l.epoch)))
	if l.held() {
		t.Error("held after its end")
	}
}

// counters are the replica's at present.
func counters(t *testing.T, r *Replica) Counters {
	t.Helper()
	s, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Counters
}

// leaseRead reads a key under the lease and tells whether that was at once. Where
// it takes a round, it waits for it no longer than a second.
func leaseRead(r *Replica, key string) (value string, now bool, err error) {
	w := make(once, 1)
	if now, err = r.ReadUnderLease(w); err != nil {
		return "", false, err
	}
	if !now {
		select {
		case o := <-w:
			if o.err != nil {
				return "", false, o.err
			}
		case <-time.After(time.Second):
			return "", false, nil
		}
	}
	var item kv.Item
	item, _, _ = r.store.Get([]byte(key))
	return string(item.Value), now, nil
}

// TestRandomLeases is a walk that looks for a lease outlived: three cores, whose
// leader is cut off or told to hand over again and again, links that lose messages
// one way, and reads on every node that believes to lead. Each read must see what
// was acknowledged, or read, before. See TestRandomCluster for the seed.
func TestRandomLeases(t *testing.T) {
	seeds := []uint64{*randomSeed}
	if *randomSeed == 0 {
		seeds = seeds[:0]
		for range 24 {
			seeds = append(seeds, rand.Uint64()|1)
		}
	}
	var leaders, leased, refused int
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &leaseWalk{randomCluster: newRandomCluster(t, 3, 5, seed), lost: make(map[[2]uint64]bool)}
			w.form()
			for range 20000 {
				w.step()
			}
			clear(w.lost)
			w.heal()
			leaders += len(w.leaders)
			leased += int(w.leaseReads())
			for _, n := range w.nodes {
				refused += int(n.core.count.VotesRefused)
			}
		})
	}
	t.Logf("%d leaders, %d reads under a lease, %d votes refused", leaders, leased, refused)
	if *randomSeed == 0 && (leaders < 5*len(seeds) || leased < 20*len(seeds) || refused == 0) && !t.Failed() {
		t.Errorf("the walk tests too little: %d leaders, %d reads under a lease, %d votes refused", leaders, leased, refused)
	}
}

type leaseWalk struct {
	*randomCluster
	lost map[[2]uint64]bool // links, from and to, that lose everything
}

// believer is a node that believes to lead, or any.
func (w *leaseWalk) believer() *randomNode {
	n := w.node()
	for range w.nodes {
		if n.core.role == raft.StateLeader {
			return n
		}
		n = w.nodes[int(n.id)%len(w.nodes)]
	}
	return n
}

func (w *leaseWalk) step() {
	w.now = w.now.Add(100 * time.Microsecond)
	n := w.node()
	switch p := w.rng.IntN(10000); {
	case p < 5000:
		w.carryOne()
		return
	case p < 5600:
		n.append()
	case p < 6200:
		n.apply()
	case p < 7200:
		n = w.tickDue(n)
	case p < 7700:
		n = w.believer()
		n.propose(1)
	case p < 9200:
		n = w.believer()
		n.core.ReadUnderLease(&randomRead{n, w.waiter(), w.highest})
	case p < 9300:
		n.core.Read(&randomRead{n, w.waiter(), w.highest})
	case p < 9312:
		w.cut = w.believer().id
	case p < 9322:
		w.cut = 0
	case p < 9342:
		w.lost[[2]uint64{n.id, w.node().id}] = true
	case p < 9352:
		clear(w.lost)
	case p < 9362:
		n = w.believer()
		n.core.Transfer(w.node().id, func(error) {})
	default: // storage and store keep up most of the time
		n.pump()
	}
	n.advance()
}

// carryOne takes a message to its node, mostly in the order of its link.
func (w *leaseWalk) carryOne() {
	if len(w.wire) == 0 {
		return
	}
	i := 0
	if w.rng.IntN(10) == 0 {
		i = w.rng.IntN(len(w.wire))
	}
	m := w.wire[i]
	if w.lost[[2]uint64{m.GetFrom(), m.GetTo()}] {
		cut := w.cut
		w.cut = m.GetTo()
		w.deliver(i)
		w.cut = cut
		return
	}
	w.deliver(i)
}
