package replica

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv/metric"
)

// Histograms are what a replica measures. A stage is a part of what a write goes
// through. On the leader they are of commands, so that they are what an operation
// met: queue, commit, apply and answer, one after the other and nothing in between;
// append is a part of commit, that which this node's own log takes. On a follower
// they are of entries: step, then durable. Stages are recorded with Config.Stages
// only, since they read the clock; the others always.
type Histograms struct {
	EntryCommands    *metric.Histogram `histogram:"entry_commands" usage:"commands in an entry proposed"`
	ProposalCommands *metric.Histogram `histogram:"proposal_commands" usage:"commands in a MsgProp given to raft"`
	MessageEntries   *metric.Histogram `histogram:"message_entries" usage:"entries in a MsgApp that has any, as raft made it"`
	ApplyLag         *metric.Histogram `histogram:"apply_lag_entries" usage:"entries committed and not known to be applied, whenever some are handed to the store"`

	HeartbeatTrip *metric.Histogram `histogram:"heartbeat_round_trip_nanos" usage:"leader: from when a heartbeat was handed to the transport until its answer came, queues on both sides included"`

	Queue   *metric.Histogram `histogram:"stage_queue_nanos" usage:"leader: from when a command was taken in until its entry was proposed"`
	Append  *metric.Histogram `histogram:"stage_append_nanos" usage:"leader: from when an entry was proposed until this node's log has it, durable with storage wal; one in eight is measured"`
	Commit  *metric.Histogram `histogram:"stage_commit_nanos" usage:"leader: from when a command's entry was proposed until this node knew of its commit"`
	Apply   *metric.Histogram `histogram:"stage_apply_nanos" usage:"leader: from when a command's entry was known to be committed until the store had applied it; one command in eight is measured"`
	Answer  *metric.Histogram `histogram:"stage_answer_nanos" usage:"leader: from when a command's entry was applied until its waiters were told; one command in eight is measured"`
	Step    *metric.Histogram `histogram:"stage_step_nanos" usage:"follower: from when an entry came in until raft had taken it in; one in eight is measured"`
	Durable *metric.Histogram `histogram:"stage_durable_nanos" usage:"follower: from when raft had taken an entry in until this node's log has it, durable with storage wal, and it is acknowledged; one in eight is measured"`

	// Writes and Received tell which of the stages make the slow ones slow.
	Writes   *metric.Breakdown
	Received *metric.Breakdown
}

func newHistograms() *Histograms {
	h := &Histograms{
		Writes: metric.NewBreakdown("write_nanos",
			"leader: from when a command was taken in until its waiter was told, by stage; one command in eight is measured",
			"queue", "commit", "apply", "answer"),
		Received: metric.NewBreakdown("received_entry_nanos",
			"follower: from when an entry came in until it is acknowledged, by stage; one in eight is measured",
			"step", "durable"),
	}
	metric.Make(h)
	return h
}

// Breakdowns are all of them.
func (h *Histograms) Breakdowns() []*metric.Breakdown {
	return []*metric.Breakdown{h.Writes, h.Received}
}

// SetStages says whether stages are measured from now on, and returns whether they
// were before. What is under way then may be measured in part.
func (r *Replica) SetStages(on bool) (was bool) { return r.core.stages.Swap(on) }

// Histograms are the replica's, which go on counting.
func (r *Replica) Histograms() *Histograms { return r.core.histograms }

// heartbeats measures how long heartbeats take. One a node is under way: those
// sent before its answer came, as rounds of reads do, are not counted.
type heartbeats struct {
	sent     map[uint64]time.Time
	answered []uint64 // nodes, since the last Advance, which has the time
}

func (h *heartbeats) answer(from uint64) { h.answered = append(h.answered, from) }

func (h *heartbeats) send(to uint64, now time.Time) {
	if _, waiting := h.sent[to]; !waiting {
		h.sent[to] = now
	}
}

// measure records the answers that came before now.
func (h *heartbeats) measure(now time.Time, trip *metric.Histogram) {
	for _, from := range h.answered {
		if sent, ok := h.sent[from]; ok {
			trip.Record(int64(now.Sub(sent)))
			delete(h.sent, from)
		}
	}
	h.answered = h.answered[:0]
}

// measureSend measures a message to a peer.
func (c *Core) measureSend(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgHeartbeat {
		c.heartbeats.send(m.GetTo(), c.now)
	}
	n := len(m.GetEntries())
	if m.GetType() != raftpb.MsgApp || n == 0 {
		return
	}
	c.histograms.MessageEntries.Record(int64(n))
	to, last := m.GetTo(), m.GetEntries()[n-1].GetIndex()
	if again := int64(c.sentIndex[to]) - int64(m.GetIndex()); again > 0 {
		c.count.EntriesResent += min(uint64(again), uint64(n))
	}
	c.sentIndex[to] = max(c.sentIndex[to], last)
}

// A clock is read for one entry or command in so many, or one batch of as many and more: it
// stands for those before it.
const sampleEvery = 8

// sampler picks what is measured, the first at once.
type sampler struct {
	begun bool
	left  uint64 // entries that no measurement stands for yet
}

// take says for how many entries the measurement of n more stands; 0 means that
// they are not to be measured.
func (s *sampler) take(n uint64) uint64 {
	s.left += n
	if s.begun && s.left < sampleEvery {
		return 0
	}
	s.begun = true
	n, s.left = s.left, 0
	return n
}

// appending is entries on their way into this node's log. Times count from
// Core.began.
type appending struct {
	received time.Duration // when they came in; 0 for the leader's own
	handed   time.Duration // when raft handed them out: of the leader's own, when they were proposed
	entries  uint64        // that the measurement stands for; 0 for none
}

// begin notes when the entries of an append set out.
func (a *appender) begin(m *raftpb.Message) {
	n := len(m.GetEntries())
	if n == 0 {
		return
	}
	c := a.replica.core
	now := appending{handed: c.now.Sub(c.began)}
	leads := c.role == raft.StateLeader
	if !leads {
		now.received = a.received
	}
	if c.stages.Load() && (leads || now.received > 0) { // else it comes of no message: Init
		now.entries = a.sampler.take(uint64(n))
	}
	a.measured = append(a.measured, now)
}

// end measures them: appends end in the order they began.
func (a *appender) end(m *raftpb.Message) {
	if len(m.GetEntries()) == 0 || len(a.measured) == 0 {
		return
	}
	now := a.measured[0]
	a.measured = slices.Delete(a.measured, 0, 1)
	if now.entries == 0 {
		return
	}
	c := a.replica.core
	durable := int64(time.Since(c.began) - now.handed)
	if now.received == 0 {
		c.histograms.Append.RecordN(durable, now.entries)
		return
	}
	step := int64(now.handed - now.received)
	c.histograms.Step.RecordN(step, now.entries)
	c.histograms.Durable.RecordN(durable, now.entries)
	c.histograms.Received.RecordN(now.entries, step, durable)
}

// applying measures the entries with waiters while they are applied, by the
// apply goroutine.
type applying struct {
	core    *Core // of which it reads what never changes, and stages
	sampler sampler
	stands  uint64        // commands that the measurement under way stands for
	applied time.Duration // when, if it waits for its answer; else 0
}

// entryApplied tells that an entry was.
func (a *applying) entryApplied(f *inFlight) {
	if !a.core.stages.Load() {
		return
	}
	if a.stands = a.sampler.take(uint64(len(f.refs))); a.stands > 0 {
		a.applied = time.Since(a.core.began)
	}
}

// entryAnswered tells that its waiters know. It was known to be committed then.
func (a *applying) entryAnswered(f *inFlight, committed time.Duration) {
	if a.applied == 0 {
		return
	}
	h := a.core.histograms
	commit, apply := int64(committed-f.proposed), int64(a.applied-committed)
	answer := int64(time.Since(a.core.began) - a.applied)
	h.Apply.RecordN(apply, a.stands)
	h.Answer.RecordN(answer, a.stands)
	for i, came := range f.arrivals {
		n := came.commands
		if i == 0 { // with those of entries that were not measured
			n += a.stands - uint64(len(f.refs))
		}
		h.Writes.RecordN(n, int64(f.proposed-came.at), commit, apply, answer)
	}
	a.applied = 0
}
