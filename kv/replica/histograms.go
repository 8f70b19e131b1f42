package replica

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv/metric"
)

// Histograms are what a replica measures. A stage is a part of what a write goes
// through, measured for entries rather than commands: on the leader queue, then
// commit (append is the part of it that this node's own log takes), apply and
// answer; on a follower receive. Stages are recorded with Config.Stages only,
// since they read the clock; the others always.
type Histograms struct {
	EntryCommands    *metric.Histogram `histogram:"entry_commands" usage:"commands in an entry proposed"`
	ProposalCommands *metric.Histogram `histogram:"proposal_commands" usage:"commands in a MsgProp given to raft"`
	MessageEntries   *metric.Histogram `histogram:"message_entries" usage:"entries in a MsgApp that has any, as raft made it"`
	ApplyLag         *metric.Histogram `histogram:"apply_lag_entries" usage:"entries committed and not known to be applied, whenever some are handed to the store"`

	HeartbeatTrip *metric.Histogram `histogram:"heartbeat_round_trip_nanos" usage:"leader: from when a heartbeat was handed to the transport until its answer came, queues on both sides included"`

	Queue   *metric.Histogram `histogram:"stage_queue_nanos" usage:"leader: from when an entry's first command was taken in until the entry was proposed"`
	Append  *metric.Histogram `histogram:"stage_append_nanos" usage:"leader: from when an entry was proposed until this node's log has it, durable with storage wal"`
	Commit  *metric.Histogram `histogram:"stage_commit_nanos" usage:"leader: from when an entry was proposed until this node knew of its commit"`
	Apply   *metric.Histogram `histogram:"stage_apply_nanos" usage:"leader: from when an entry was known to be committed until the store had applied it; one of eight stands for the others of its batch"`
	Answer  *metric.Histogram `histogram:"stage_answer_nanos" usage:"leader: from when an entry was applied until its commands' waiters were told; sampled as stage_apply_nanos is"`
	Receive *metric.Histogram `histogram:"stage_receive_nanos" usage:"follower: from when an entry came in until this node's log has it, durable with storage wal"`
}

func newHistograms() *Histograms {
	h := new(Histograms)
	metric.Make(h)
	return h
}

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

// appending is entries on their way into this node's log.
type appending struct {
	since   time.Time // when they were proposed, or came in
	entries uint64
	stage   *metric.Histogram
}

// begin notes when the entries of an append set out.
func (a *appender) begin(m *raftpb.Message) {
	n := len(m.GetEntries())
	if n == 0 || !a.replica.cfg.Stages {
		return
	}
	now := appending{entries: uint64(n), since: a.received, stage: a.replica.core.histograms.Receive}
	if a.replica.core.role == raft.StateLeader {
		now.since, now.stage = a.replica.core.now, a.replica.core.histograms.Append
	}
	if now.since.IsZero() { // it comes of no message: Init
		now.entries = 0
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
	now.stage.RecordN(int64(time.Since(now.since)), now.entries)
}

// applying measures the entries of a task while they are applied, one in
// sampleEvery and the last.
type applying struct {
	histograms *Histograms // nil when nothing is measured
	committed  time.Time
	entries    uint64 // with waiters, since the last that was measured
	applied    time.Time
}

const sampleEvery = 8

// entryApplied tells that an entry with waiters was applied.
func (a *applying) entryApplied(last bool) {
	if a.histograms == nil {
		return
	}
	a.entries++
	if a.entries < sampleEvery && !last {
		return
	}
	a.applied = time.Now()
	a.histograms.Apply.RecordN(int64(a.applied.Sub(a.committed)), a.entries)
}

// entryAnswered tells that its waiters know.
func (a *applying) entryAnswered() {
	if a.applied.IsZero() {
		return
	}
	a.histograms.Answer.RecordN(int64(time.Since(a.applied)), a.entries)
	a.applied, a.entries = time.Time{}, 0
}
