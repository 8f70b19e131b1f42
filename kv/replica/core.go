package replica

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

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

	role       raft.StateType
	leader     uint64
	term       uint64
	applied    uint64 // the store has applied this index, as told by Applied
	membership *kvv1.Membership
	confIndex  uint64 // of the last configuration change handed out to be applied

	sequence uint64     // of the last entry proposed
	queue    []Proposal // admitted, not yet proposed
	oldest   time.Time  // when the first of queue came
	held     *proposed  // entries raft did not take: try again
	pending  map[uint64]*inFlight
	scratch  []byte // encodes entries; raft copies what is proposed (trap 5)
	maxEntry uint64 // largest encoded entry that peers can be sent

	ticks uint64            // since the start
	heard map[uint64]uint64 // tick of the last message, by node

	reads   reads
	changes changes

	campaign   bool            // once the entry that Init proposed is applied
	timeoutNow *raftpb.Message // waits until what is committed is applied

	count Counters
}

// inFlight is one proposed entry whose commands have waiters.
type inFlight struct {
	refs     []waiterRef
	bytes    int // of commands, as admitted
	proposed time.Time
}

type waiterRef struct {
	waiter Waiter
	tag    int
}

var inFlightPool = sync.Pool{New: func() any { return new(inFlight) }}

func (f *inFlight) free() {
	clear(f.refs)
	f.refs = f.refs[:0]
	inFlightPool.Put(f)
}

// proposed is one MsgProp with the entries' waiters, by sequence.
type proposed struct {
	message   *raftpb.Message
	sequences []uint64
}

// Effects is what the core wants done, in this order: send Messages at once,
// make Appends durable and report each with Appended, hand Applies to the store
// and report each with Applied, complete Answers.
type Effects struct {
	Messages   []*raftpb.Message
	Appends    []*raftpb.Message // MsgStorageAppend
	Applies    []*ApplyTask
	Answers    []Answer
	Reads      []ReadAnswer
	Membership *kvv1.Membership // when it changed
	Leader     *uint64          // when it changed
}

// Answer completes commands that will not be applied, or may be.
type Answer struct {
	refs  []waiterRef
	bytes int
	err   error
}

// ReadAnswer completes reads.
type ReadAnswer struct {
	Waiters []ReadWaiter
	Err     error
}

// ApplyTask is a step of the apply queue: entries to apply, a snapshot to
// install, or one to be made. Tasks are done in order (trap 8: a snapshot must
// not overtake older entries).
type ApplyTask struct {
	// Entries, each with the waiters of its commands or nil.
	Entries []*raftpb.Entry
	waiters []*inFlight
	// Memberships of the configuration changes among Entries, by raft index.
	Memberships map[uint64]*kvv1.Membership
	// Restore names the snapshot to install.
	Restore *raftpb.SnapshotMetadata
	// View asks for a view of the store.
	View bool

	incoming *kv.View        // what to restore
	message  *raftpb.Message // whose responses Applied delivers
	done     []func()        // admin waiters to call once applied
}

// NewCore returns the core of a node whose store has applied what its state
// says. The log must not be used by others from now on.
func NewCore(cfg Config, log Log, state kv.State, membership *kvv1.Membership, now time.Time) (*Core, error) {
	c := &Core{
		cfg: cfg, log: log, now: now,
		applied:    state.Index,
		membership: membership,
		pending:    make(map[uint64]*inFlight),
		heard:      make(map[uint64]uint64),
		maxEntry:   unlimited,
	}
	c.snap = &snapshotLog{Log: log, core: c}
	rc, err := cfg.raftConfig(c.snap)
	if err != nil {
		return nil, err
	}
	rc.Applied = state.Index
	if c.rn, err = raft.NewRawNode(rc); err != nil {
		return nil, err
	}
	c.term = c.rn.BasicStatus().GetTerm()
	c.reads.init(cfg)
	c.reads.applied = c.applied
	return c, nil
}

// Step takes a message from a peer.
func (c *Core) Step(m *raftpb.Message) {
	c.heard[m.GetFrom()] = c.ticks
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
	c.rn.ReportSnapshot(id, status)
}

// Propose queues commands for the log.
func (c *Core) Propose(ps []Proposal) {
	if len(c.queue) == 0 {
		c.oldest = c.now
	}
	c.queue = append(c.queue, ps...)
	c.count.Commands += uint64(len(ps))
}

// SetMaxEntryBytes tells the largest encoded raft entry that every peer can be
// sent: no entry with more than one command exceeds it from now on.
func (c *Core) SetMaxEntryBytes(n uint64) { c.maxEntry = n }

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
	c.propose(eff)
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

func (e *Effects) reset() {
	*e = Effects{
		Messages: e.Messages[:0], Appends: e.Appends[:0], Applies: e.Applies[:0],
		Answers: e.Answers[:0], Reads: e.Reads[:0],
	}
}

func (e *Effects) empty() bool {
	return len(e.Messages) == 0 && len(e.Appends) == 0 && len(e.Applies) == 0 &&
		len(e.Answers) == 0 && len(e.Reads) == 0 && e.Membership == nil && e.Leader == nil
}

// ready turns raft's Ready into effects.
func (c *Core) ready(rd raft.Ready, eff *Effects) {
	if rd.HardState != nil {
		c.term = rd.GetTerm()
	}
	for _, rs := range rd.ReadStates {
		c.reads.confirmed(rs, c.term)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			c.append(m, eff)
		case raft.LocalApplyThread:
			c.apply(m, eff)
		default:
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
	c.reads.drain(ErrStopped, eff)
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
	f := c.pending[sequence]
	if f == nil {
		return
	}
	delete(c.pending, sequence)
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
	t := &ApplyTask{Entries: m.GetEntries(), message: m}
	for i, e := range t.Entries {
		switch e.GetType() {
		case raftpb.EntryConfChange, raftpb.EntryConfChangeV2:
			c.applyConfChange(e, t, eff)
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
		if f := c.pending[h.Sequence]; f != nil {
			delete(c.pending, h.Sequence)
			if t.waiters == nil {
				t.waiters = make([]*inFlight, len(t.Entries))
			}
			t.waiters[i] = f
			c.cfg.Batcher.Observe(Feedback{Commands: len(f.refs), Bytes: f.bytes, CommitLatency: c.now.Sub(f.proposed)})
		}
	}
	eff.Applies = append(eff.Applies, t)
}

// propose moves waiting commands into raft's log, as the Batcher says.
func (c *Core) propose(eff *Effects) {
	if c.held == nil && len(c.queue) == 0 {
		return
	}
	if c.role != raft.StateLeader {
		c.refuseQueue(ErrNotLeader, eff)
		return
	}
	if c.held != nil {
		if !c.step(c.held) {
			return
		}
		c.held = nil
	}
	taken := 0
	for taken < len(c.queue) {
		rest := c.queue[taken:]
		take, _ := c.cfg.Batcher.Next(QueueView{
			Count: len(rest), Oldest: c.oldest, InFlight: len(c.pending),
			Size: func(i int) int { return rest[i].size },
		}, c.now)
		if take == 0 {
			break
		}
		p := c.encode(rest[:take])
		taken += take
		if !c.step(p) {
			c.held = p // its data lies in scratch, which is not used before raft takes it
			break
		}
	}
	rest := copy(c.queue, c.queue[taken:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.oldest = c.now
}

// refuseQueue fails every command that is not in a log.
func (c *Core) refuseQueue(err error, eff *Effects) {
	for i := range c.queue {
		p := &c.queue[i]
		eff.Answers = append(eff.Answers, Answer{
			refs: []waiterRef{{p.Waiter, p.Tag}}, bytes: p.size, err: err,
		})
	}
	clear(c.queue)
	c.queue = c.queue[:0]
}

// encode packs commands into the entries of one proposal.
func (c *Core) encode(commands []Proposal) *proposed {
	p := &proposed{message: &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(c.cfg.ID)}}
	packer := c.cfg.Packer
	if c.maxEntry < unlimited { // a peer may take less than this node was set to pack
		packer.Size = min(packer.Size, int(min(c.maxEntry, math.MaxInt))-entryFraming)
	}
	total := 0
	for i := 0; i < len(commands); {
		n, size := packer.next(commands[i:])
		total += size
		i += n
	}
	if cap(c.scratch) < total {
		c.scratch = make([]byte, 0, total)
	}
	buf := c.scratch[:0]
	for len(commands) > 0 {
		n, _ := packer.next(commands)
		c.sequence++
		f := inFlightPool.Get().(*inFlight)
		f.bytes, f.proposed = 0, c.now
		start := len(buf)
		buf = kv.AppendHeader(buf, kv.EntryHeader{
			Node: c.cfg.ID, Incarnation: c.cfg.Incarnation, Sequence: c.sequence, Clock: c.now.UnixNano(),
		})
		for i := range commands[:n] {
			q := &commands[i]
			buf = kv.AppendCommand(buf, &q.Command)
			f.refs = append(f.refs, waiterRef{q.Waiter, q.Tag})
			f.bytes += q.size
		}
		c.pending[c.sequence] = f
		p.sequences = append(p.sequences, c.sequence)
		p.message.Entries = append(p.message.Entries, &raftpb.Entry{Data: buf[start:len(buf):len(buf)]})
		commands = commands[n:]
	}
	c.scratch = buf
	c.count.Proposals++
	c.count.Entries += uint64(len(p.sequences))
	return p
}

// step proposes; false means that raft holds it back for now (trap 18).
func (c *Core) step(p *proposed) bool {
	err := c.rn.Step(p.message)
	if errors.Is(err, raft.ErrProposalDropped) {
		c.count.ProposalsHeld++
		return false
	}
	if err != nil {
		panic(fmt.Sprintf("raft refused a proposal: %v", err))
	}
	return true
}

// compact drops applied entries that nobody is expected to need.
func (c *Core) compact() {
	first, err := c.log.FirstIndex()
	if err != nil || c.applied < first {
		return
	}
	count, bytes := c.applied-first+1, c.log.Bytes()
	if count <= c.cfg.LogEntries+c.cfg.LogEntries/4 && bytes <= c.cfg.LogSize {
		return
	}
	keep := min(count, c.cfg.LogEntries)
	if bytes > c.cfg.LogSize {
		keep = min(keep, count-count/4-1)
	}
	to := c.applied - keep
	if bytes <= hardLogFactor*c.cfg.LogSize && count <= hardLogFactor*c.cfg.LogEntries {
		to = min(to, c.neededFrom())
	}
	if to < first {
		return
	}
	if err := c.log.Compact(to); err == nil {
		c.count.Compactions++
	}
}

// Beyond this many times the log's caps it is compacted whoever needs it.
const hardLogFactor = 4

// neededFrom is the last index that no live follower needs to be sent: those
// that replicate need what they have not matched, those that take in a snapshot
// what follows it.
func (c *Core) neededFrom() uint64 {
	needed := uint64(unlimited)
	if c.role != raft.StateLeader {
		return needed
	}
	c.visitProgress(func(p Progress) {
		switch {
		case p.ID == c.cfg.ID:
		case p.PendingSnapshot > 0:
			needed = min(needed, p.PendingSnapshot)
		case p.RecentActive:
			needed = min(needed, p.Match)
		}
	})
	return needed
}

// compactAll drops every applied entry that live followers do not need.
func (c *Core) compactAll() {
	to := min(c.applied, c.neededFrom())
	if first, err := c.log.FirstIndex(); err == nil && to >= first {
		if err := c.log.Compact(to); err == nil {
			c.count.Compactions++
		}
	}
}

// protoMember copies a member, since what goes into the membership is shared.
func protoMember(m *kvv1.Member) *kvv1.Member { return proto.Clone(m).(*kvv1.Member) }
