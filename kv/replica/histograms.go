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
	Append  *metric.Histogram `histogram:"stage_append_nanos" usage:"leader: from when an entry was proposed until this node's log has it, durable with storage wal; one in eight is measured"`
	Commit  *metric.Histogram `histogram:"stage_commit_nanos" usage:"leader: from when an entry was proposed until this node knew of its commit"`
	Apply   *metric.Histogram `histogram:"stage_apply_nanos" usage:"leader: from when an entry was known to be committed until the store had applied it; one in eight is measured"`
	Answer  *metric.Histogram `histogram:"stage_answer_nanos" usage:"leader: from when an entry was applied until its commands' waiters were told; one in eight is measured"`
	Receive *metric.Histogram `histogram:"stage_receive_nanos" usage:"follower: from when an entry came in until this node's log has it, durable with storage wal; one in eight is measured"`
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

// A clock is read for one entry in so many, or one batch of as many and more: it
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

// appending is entries on their way into this node's log.
type appending struct {
	since   time.Duration // when they were proposed, or came in, from Core.began
	entries uint64        // that the measurement stands for; 0 for none
	stage   *metric.Histogram
}

// begin notes when the entries of an append set out.
func (a *appender) begin(m *raftpb.Message) {
	n := len(m.GetEntries())
	if n == 0 || !a.replica.cfg.Stages {
		return
	}
	c := a.replica.core
	now := appending{since: a.received, stage: c.histograms.Receive}
	if c.role == raft.StateLeader {
		now = appending{since: c.now.Sub(c.began), stage: c.histograms.Append}
	}
	if now.since > 0 { // else it comes of no message: Init
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
	if now.entries > 0 {
		now.stage.RecordN(int64(time.Since(a.replica.core.began)-now.since), now.entries)
	}
}

// applying measures the entries with waiters while they are applied, by the
// apply goroutine.
type applying struct {
	core    *Core // of which it reads what never changes; nil when nothing is measured
	sampler sampler
	entries uint64        // that the last measurement stands for
	applied time.Duration // when, if that waits for its answer; else 0
}

// entryApplied tells that an entry was, which was known to be committed then.
func (a *applying) entryApplied(committed time.Duration) {
	if a.core == nil {
		return
	}
	if a.entries = a.sampler.take(1); a.entries > 0 {
		a.applied = time.Since(a.core.began)
		a.core.histograms.Apply.RecordN(int64(a.applied-committed), a.entries)
	}
}

// entryAnswered tells that its waiters know.
func (a *applying) entryAnswered() {
	if a.applied > 0 {
		a.core.histograms.Answer.RecordN(int64(time.Since(a.core.began)-a.applied), a.entries)
		a.applied = 0
	}
}
