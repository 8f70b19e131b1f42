package replica

import (
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Core is a replica as a machine: events in (Step, Tick, Propose, Read, admin
// calls, Appended, Applied), effects out (Advance). It has no goroutine, no
// clock and does no I/O, so that a test or a simulator can drive every
// interleaving. It is not safe for concurrent use.
type Core struct {
	cfg  Config
	log  Log
	snap *snapshotLog // log, with snapshots made on demand
	rn   *raft.RawNode
	now  time.Time

	began time.Time // commands' times count from here

	role       raft.StateType
	leader     uint64
	term       uint64
	commit     uint64 // no message that has left tells a higher one
	applied    uint64 // the store has applied this index, as told by Applied
	membership *kvv1.Membership
	confIndex  uint64 // of the last configuration change handed out to be applied

	sequence   uint64     // of the last entry proposed
	queue      []Proposal // admitted, not yet proposed
	queueBytes int        // of its commands
	wake       time.Time  // when the Batcher wants to be asked again
	held       *proposed  // entries raft did not take: try again
	pending    map[uint64]*inFlight
	rounds     int    // proposals among pending
	scratch    []byte // encodes entries; raft copies what is proposed (trap 5)
	maxEntry   uint64 // largest encoded entry that peers can be sent

	ticks uint64            // since the start
	heard map[uint64]uint64 // tick of the last message, by node

	reads    reads
	lease    lease
	leased   []ReadWaiter // reads under the lease, not yet decided on
	promised uint64       // tick before which no vote is granted
	told     told
	changes  changes

	campaign   bool            // once the entry that Init proposed is applied
	timeoutNow *raftpb.Message // waits until what is committed is applied

	count      Counters
	stages     atomic.Bool // measured; read and set by any goroutine
	histograms *Histograms
	heartbeats heartbeats
	sentIndex  map[uint64]uint64 // of the last entry sent in this leadership, by node
}

// NewCore returns the core of a node whose store has applied what its state
// says. The log must not be used by others from now on.
func NewCore(cfg Config, log Log, state kv.State, membership *kvv1.Membership, now time.Time) (*Core, error) {
	c := &Core{
		cfg: cfg, log: log, now: now, began: now,
		applied:    state.Index,
		membership: membership,
		pending:    make(map[uint64]*inFlight),
		heard:      make(map[uint64]uint64),
		maxEntry:   unlimited,
		histograms: newHistograms(),
		heartbeats: heartbeats{sent: make(map[uint64]time.Time)},
		sentIndex:  make(map[uint64]uint64),
	}
	c.stages.Store(cfg.Stages)
	c.snap = &snapshotLog{Log: log, core: c, transfers: make(map[uint64]snapshotTransfer)}
	rc, err := cfg.raftConfig(c.snap)
	if err != nil {
		return nil, err
	}
	rc.Applied = state.Index
	if c.rn, err = raft.NewRawNode(rc); err != nil {
		return nil, err
	}
	status := c.rn.BasicStatus()
	c.term, c.commit = status.GetTerm(), status.GetCommit()
	if c.term > 0 {
		c.promised = uint64(cfg.ElectionTicks) // it may have heard a leader just before it was restarted
	}
	c.lease.init(cfg)
	c.reads.init(cfg)
	c.reads.applied = c.applied
	return c, nil
}

// No cluster has as many elections as there would have to be for a term beyond
// these: some a node may have to catch up with whatever its clock says, and more for
// each second since 1970.
const (
	termsAtLeast   = 1 << 32
	termsPerSecond = 1 << 20
)

// highestTerm is the highest term to believe. Raft believes any, and after one at
// the end of what can be counted nobody can be elected. A bound relative to this
// node's own term alone was rejected: led there by steps, one node is out of the
// others' reach for ever. By the clock the bound is the same for all, once the
// slowest comes to it. The next election is always believed.
func (c *Core) highestTerm() uint64 {
	seconds := min(max(c.now.Unix(), 0), 1<<40)
	return max(c.term+1, termsAtLeast+termsPerSecond*uint64(seconds))
}

// Step takes a message from a peer.
func (c *Core) Step(m *raftpb.Message) {
	if term := m.GetTerm(); term > c.highestTerm() {
		c.count.MessagesRefused++
		c.cfg.Logger.Warn("term beyond what elections can have come to refused",
			"from", m.GetFrom(), "type", m.GetType(), "term", term, "own", c.term)
		return
	}
	if hasRole(c.membership, m.GetFrom()) { // of others there is no end
		c.heard[m.GetFrom()] = c.ticks
	}
	if m.GetType() == raftpb.MsgHeartbeatResp {
		c.heartbeats.answer(m.GetFrom())
	}
	if m.GetType() == raftpb.MsgHeartbeat {
		// A leader only tells a commit index that this node has acknowledged. A
		// higher one means this node's log is not the one the leader knows;
		// raft would panic (traps 14 and 19).
		if last, err := c.log.LastIndex(); err != nil || m.GetCommit() > last {
			c.count.MessagesRefused++
			c.cfg.Logger.Warn("heartbeat beyond the log refused",
				"from", m.GetFrom(), "commit", m.GetCommit(), "last", last)
			return
		}
	}
	if !c.told.confirms(m) {
		c.count.MessagesRefused++
		c.cfg.Logger.Warn("confirmation of what was not sent refused",
			"from", m.GetFrom(), "type", m.GetType(), "index", m.GetIndex(), "sent", c.told.index)
		return
	}
	if c.refusesVote(m) {
		c.count.VotesRefused++
		return
	}
	c.promise(m)
	if m.GetType() == raftpb.MsgTimeoutNow && c.applied < c.rn.BasicStatus().GetCommit() {
		// Raft does not campaign while a configuration change waits to be applied,
		// and the leader that hands over would not ask a second time.
		c.timeoutNow = m
		return
	}
	if err := c.rn.Step(m); err != nil {
		c.count.MessagesRefused++
	}
}

// Tick advances raft's clock by one tick.
func (c *Core) Tick() {
	c.ticks++
	c.rn.Tick()
	c.reads.tick()
	c.changes.tick(c)
	c.leave()
	c.snap.tick()
}

// ReportUnreachable tells raft that messages to a peer are being lost.
func (c *Core) ReportUnreachable(id uint64) { c.rn.ReportUnreachable(id) }

// ReportSnapshot tells raft how sending a snapshot ended (trap 16).
func (c *Core) ReportSnapshot(id uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	c.snap.sent(id, ok)
	c.rn.ReportSnapshot(id, status)
}

// Read queues a linearizable read.
func (c *Core) Read(w ReadWaiter) {
	c.reads.add(w)
	c.count.Reads++
}

// Appended tells that a MsgStorageAppend of the effects is durable. Its
// responses may be due to this node, and to peers: those are returned.
func (c *Core) Appended(m *raftpb.Message) (messages []*raftpb.Message) {
	if raft.IsEmptySnap(m.GetSnapshot()) {
		return c.respond(m)
	}
	c.applied = max(c.applied, m.GetSnapshot().GetMetadata().GetIndex())
	c.reads.applied = c.applied
	return c.respond(m)
}

func (c *Core) respond(m *raftpb.Message) (messages []*raftpb.Message) {
	for _, r := range m.GetResponses() {
		if r.GetTo() != c.cfg.ID {
			messages = append(messages, r)
			continue
		}
		if err := c.rn.Step(r); err != nil {
			c.count.MessagesRefused++
		}
	}
	return messages
}

// Applied tells that the store has done a task of the effects.
func (c *Core) Applied(t *ApplyTask) {
	if t.message == nil {
		return
	}
	for _, r := range t.message.GetResponses() {
		_ = c.rn.Step(r)
	}
	if n := len(t.Entries); n > 0 {
		c.applied = max(c.applied, t.Entries[n-1].GetIndex())
		c.reads.applied = c.applied
	}
	for _, done := range t.done {
		done()
	}
	c.leave()
	if m := c.timeoutNow; m != nil && c.applied >= c.rn.BasicStatus().GetCommit() {
		c.timeoutNow = nil
		c.Step(m)
	}
	if c.campaign && c.applied > 0 {
		c.campaign = false
		_ = c.rn.Campaign() // a node that can't is elected when its timeout ends
	}
	c.compact()
}

// Advance proposes what waits, and collects what is to be done now into eff,
// which it empties first. It returns false when there was nothing; call it until
// it does.
func (c *Core) Advance(now time.Time, eff *Effects) bool {
	c.now = now
	eff.reset()
	c.heartbeats.measure(now, c.histograms.HeartbeatTrip)
	c.propose(eff)
	c.readUnderLease(eff)
	c.reads.giveUp(eff)
	c.reads.start(c)
	if c.rn.HasReady() {
		c.ready(c.rn.Ready(), eff)
	}
	c.reads.release(eff)
	if c.snap.due() {
		eff.Applies = append(eff.Applies, &ApplyTask{View: true})
	}
	return !eff.empty()
}

// ready turns raft's Ready into effects.
func (c *Core) ready(rd raft.Ready, eff *Effects) {
	if rd.HardState != nil {
		c.term, c.commit = rd.GetTerm(), rd.GetCommit()
	}
	for _, rs := range rd.ReadStates {
		c.reads.confirmed(c, rs)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			c.append(m, eff)
		case raft.LocalApplyThread:
			c.apply(m, eff)
		default:
			c.told.note(m)
			switch m.GetType() { //nolint:exhaustive // the rest only leaves
			case raftpb.MsgTimeoutNow:
				c.lease.handed = c.term
			case raftpb.MsgSnap:
				c.snap.sending(m)
			}
			c.measureSend(m)
			eff.Messages = append(eff.Messages, m)
		}
	}
	if rd.SoftState != nil {
		c.follow(*rd.SoftState, eff)
	}
}

// follow takes note of a new role or leader.
func (c *Core) follow(soft raft.SoftState, eff *Effects) {
	lost := c.role == raft.StateLeader && soft.RaftState != raft.StateLeader
	if soft.RaftState == raft.StateLeader && c.role != raft.StateLeader {
		c.count.Elected++
		clear(c.sentIndex)
		clear(c.heartbeats.sent)
		c.cfg.Logger.Info("leading", "term", c.term)
	}
	c.role = soft.RaftState
	if soft.Lead != c.leader {
		c.leader = soft.Lead
		eff.Leader = new(soft.Lead)
		c.count.LeaderChanges++
		c.cfg.Logger.Info("leader changed", "leader", c.leader, "term", c.term)
	}
	if lost {
		c.loseLeadership(eff)
	}
	c.changes.leaderChanged(c)
}

// loseLeadership fails what was proposed: another leader may keep it or not.
func (c *Core) loseLeadership(eff *Effects) {
	if c.held != nil {
		for _, s := range c.held.sequences {
			c.fail(s, ErrNotLeader, eff)
		}
		c.held = nil
	}
	for s := range c.pending {
		c.fail(s, ErrUnknownOutcome, eff)
	}
}

// stop fails everything under way.
func (c *Core) stop(eff *Effects) {
	c.refuseQueue(ErrStopped, eff)
	if c.held != nil {
		for _, s := range c.held.sequences {
			c.fail(s, ErrStopped, eff)
		}
		c.held = nil
	}
	for s := range c.pending {
		c.fail(s, ErrUnknownOutcome, eff)
	}
	for _, w := range c.leased {
		c.reads.add(w)
	}
	c.leased = nil
	c.reads.drain(ErrStopped, eff)
	c.changes.finishApplied()
	if ch := c.changes.current; ch != nil {
		err := ErrStopped
		if ch.sequence != 0 {
			err = ErrUnknownOutcome
		}
		c.changes.refuse(err)
	}
}

// fail completes the waiters of an entry with an error.
func (c *Core) fail(sequence uint64, err error, eff *Effects) {
	f := c.settle(sequence)
	if f == nil {
		return
	}
	eff.Answers = append(eff.Answers, Answer{refs: f.refs, bytes: f.bytes, err: err})
}

// append hands entries, hard state and snapshots to the log.
func (c *Core) append(m *raftpb.Message, eff *Effects) {
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		// The store is replaced in the apply queue, behind older entries; the
		// append is done when that is.
		c.count.SnapshotsInstalled++
		eff.Applies = append(eff.Applies, &ApplyTask{Restore: snap.GetMetadata()})
		c.confIndex = snap.GetMetadata().GetIndex()
	}
	eff.Appends = append(eff.Appends, m)
}

// Restore tells the membership that comes with the snapshot which the effects
// want installed.
func (c *Core) Restore(membership *kvv1.Membership) { c.membership = membership }

// apply hands committed entries to the store, with their waiters.
func (c *Core) apply(m *raftpb.Message, eff *Effects) {
	t := &ApplyTask{Entries: m.GetEntries(), message: m, committed: c.now.Sub(c.began)}
	if n := len(t.Entries); n > 0 {
		c.histograms.ApplyLag.Record(int64(t.Entries[n-1].GetIndex() - c.applied))
	}
	for i, e := range t.Entries {
		switch e.GetType() {
		case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
			c.applyConfChange(e, t, eff)
			c.lease.until = time.Time{}
			continue
		case raftpb.EntryNormal:
		}
		if len(c.pending) == 0 || len(e.GetData()) == 0 {
			continue
		}
		h, err := kv.DecodeHeader(e.GetData())
		if err != nil || h.Node != c.cfg.ID || h.Incarnation != c.cfg.Incarnation {
			continue // the store reports an entry that can't be decoded
		}
		if f := c.settle(h.Sequence); f != nil {
			if t.waiters == nil {
				t.waiters = make([]*inFlight, len(t.Entries))
			}
			t.waiters[i] = f
			if c.stages.Load() {
				c.histograms.Commit.RecordN(int64(c.now.Sub(c.began)-f.proposed), uint64(len(f.refs)))
			}
			if r := f.round; f.last {
				c.cfg.Batcher.Observe(Feedback{
					Commands: r.commands, Waited: r.waited, CommitLatency: c.now.Sub(r.proposed), Committed: c.now,
				})
			}
		}
	}
	eff.Applies = append(eff.Applies, t)
}
