package replica

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
)

// reads gathers linearizable reads into ReadIndex rounds (Raft thesis, section
// 6.4). One context is in flight at a time, since each broadcasts heartbeats
// (trap 18); reads that come meanwhile share the next one.
type reads struct {
	incarnation uint64
	retryTicks  int // a context that long without an answer is given up for a new one, at the least
	giveUpTicks int // reads without an answer by then fail

	// What retryTicks is at present: more where rounds take longer, or none would
	// ever be answered in time.
	patience    int
	maxPatience int

	sequence uint64
	waiting  []waitingRead
	inFlight []waitingRead
	context  uint64 // sequence of the context in flight; 0 for none
	term     uint64 // in which it was sent
	began    time.Time
	age      int // ticks since then

	ready   []readyReads // confirmed, waiting to be applied, by rising index
	applied uint64
	ticks   int
	looked  int // tick at which ready was last searched for what is late
}

type waitingRead struct {
	waiter ReadWaiter
	since  int // tick
}

type readyReads struct {
	index uint64
	since int // tick
	reads []waitingRead
}

func (r *reads) init(cfg Config) {
	r.incarnation = cfg.Incarnation
	// A lost round must not cost a read much more than a heartbeat does.
	r.retryTicks = max(2, cfg.ElectionTicks/4)
	r.patience, r.maxPatience = r.retryTicks, max(r.retryTicks, cfg.ElectionTicks)
	r.giveUpTicks = 3 * cfg.ElectionTicks
}

func (r *reads) add(w ReadWaiter) {
	r.waiting = append(r.waiting, waitingRead{w, r.ticks})
}

func (r *reads) tick() {
	r.ticks++
	if r.context == 0 {
		return
	}
	if r.age++; r.age >= r.patience {
		r.patience = min(2*r.patience, r.maxPatience)
		r.retry()
	}
}

// retry puts the reads in flight back in the queue; they go out with a fresh
// context, since an answer to the old one may still come (trap 12).
func (r *reads) retry() {
	r.waiting = append(r.inFlight, r.waiting...)
	r.inFlight = nil
	r.context = 0
}

// start begins a round when none is in flight and reads, the lease or a change of
// members need one. One of an earlier term is not waited for: confirmed would not take its answer.
func (r *reads) start(c *Core) {
	if r.context != 0 && r.term != c.term {
		r.retry()
	}
	if r.context != 0 || c.leader == raft.None || len(r.waiting) == 0 && len(c.changes.heard) == 0 && !c.leaseDue() {
		return
	}
	r.sequence++
	r.context, r.term, r.began, r.age = r.sequence, c.term, c.now, 0
	c.lease.wanted = false
	r.inFlight, r.waiting = r.waiting, nil
	ctx := make([]byte, 16)
	binary.LittleEndian.PutUint64(ctx, r.context)
	binary.LittleEndian.PutUint64(ctx[8:], r.incarnation)
	c.rn.ReadIndex(ctx)
	c.count.ReadRounds++
}

// confirmed takes raft's answer to a context. One from an earlier term is asked
// again: leadership may have changed hands between question and answer. The
// answer renews the lease, which only the leader looks at.
func (r *reads) confirmed(c *Core, rs raft.ReadState) {
	if len(rs.RequestCtx) != 16 || r.context == 0 ||
		binary.LittleEndian.Uint64(rs.RequestCtx) != r.context ||
		binary.LittleEndian.Uint64(rs.RequestCtx[8:]) != r.incarnation {
		return
	}
	if r.term != c.term {
		r.retry()
		return
	}
	c.lease.renew(r.began, r.term)
	c.changes.confirmed(r.context)
	r.patience = min(max(r.retryTicks, 2*(r.age+1)), r.maxPatience)
	if len(r.inFlight) > 0 {
		r.await(rs.Index, r.inFlight)
	}
	r.inFlight = nil
	r.context = 0
}

// await lets reads go on once an index is applied.
func (r *reads) await(index uint64, reads []waitingRead) {
	at := len(r.ready)
	for at > 0 && r.ready[at-1].index > index {
		at--
	}
	r.ready = slices.Insert(r.ready, at, readyReads{index, r.ticks, reads})
}

// release answers reads whose index is applied.
func (r *reads) release(eff *Effects) {
	n := 0
	for n < len(r.ready) && r.ready[n].index <= r.applied {
		eff.Reads = append(eff.Reads, ReadAnswer{Waiters: waitersOf(r.ready[n].reads)})
		n++
	}
	r.ready = r.ready[n:]
}

// giveUp fails reads that no leader answered for too long. A learner never stops
// believing in a leader that is gone, so this does not ask whether there is one.
func (r *reads) giveUp(eff *Effects) {
	late := 0
	for late < len(r.waiting) && r.ticks-r.waiting[late].since >= r.giveUpTicks {
		late++
	}
	if late > 0 {
		eff.Reads = append(eff.Reads, ReadAnswer{Waiters: waitersOf(r.waiting[:late]), Err: ErrNoLeader})
		r.waiting = r.waiting[late:]
	}
	if r.looked != r.ticks && len(r.ready) > 0 {
		r.looked = r.ticks
		r.giveUpReady(eff)
	}
}

// giveUpReady fails reads whose index this node has not applied for as long: one
// that was removed from the cluster never will.
func (r *reads) giveUpReady(eff *Effects) {
	r.ready = slices.DeleteFunc(r.ready, func(ready readyReads) bool {
		late := ready.index > r.applied && r.ticks-ready.since >= r.giveUpTicks
		if late {
			eff.Reads = append(eff.Reads, ReadAnswer{Waiters: waitersOf(ready.reads), Err: ErrBehind})
		}
		return late
	})
}

// drain gives up every read.
func (r *reads) drain(err error, eff *Effects) {
	r.retry()
	for _, ready := range r.ready {
		r.waiting = append(r.waiting, ready.reads...)
	}
	eff.Reads = append(eff.Reads, ReadAnswer{Waiters: waitersOf(r.waiting), Err: err})
	r.waiting, r.ready = nil, nil
}

func waitersOf(reads []waitingRead) []ReadWaiter {
	ws := make([]ReadWaiter, len(reads))
	for i := range reads {
		ws[i] = reads[i].waiter
	}
	return ws
}
