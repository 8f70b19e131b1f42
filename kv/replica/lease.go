package replica

import (
	"bytes"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// lease lets the leader answer reads without asking anybody: for a while after a
// quorum answered it, no other node can have become leader.
//
// How long. A ReadIndex round that began at time t and was confirmed means that
// a quorum heard this leader after t. Each node of it then grants no vote for
// ElectionTicks ticks (promise), nor does it campaign, since raft's election
// timeout is no shorter; and any leader needs a vote from one of them. What a
// node calls n ticks may be a little more than n-2 tick lengths: the first may be
// due at once, the second may have waited while its goroutine was busy. So the
// lease is over at t + (ElectionTicks-2) ticks, less a tenth for clocks that run
// at different rates. Raft's own lease (ReadOnlyLeaseBased) counts the leader's
// ticks instead, which stop when the process does (trap 13).
//
// What ends it early. MsgTimeoutNow tells a node to campaign at once, with votes
// that no promise holds back, and may arrive at any time later in the term: once
// one has left, the term has no lease any more. A membership change ends it too,
// so that the quorum is always one of the present configuration or the one
// before, and any two that follow each other intersect.
//
// What it trusts: that all nodes have the same tick and election-ticks, and that
// clocks run at rates within a tenth of each other and do not stop. A process
// that is stopped or collects garbage does no harm, a virtual machine that is
// suspended may: its clock stands still while others elect a leader.
type lease struct {
	duration time.Duration // 0 or less: election-ticks leave no time for one
	until    time.Time
	term     uint64 // in which until holds
	handed   uint64 // term in which a MsgTimeoutNow left last
	wanted   bool   // somebody read under it since the last round began for it
}

// driftShare is the part of a lease given up for clocks of different rates.
const driftShare = 10

func (l *lease) init(cfg Config) {
	l.duration = time.Duration(cfg.ElectionTicks-2) * cfg.Tick
	l.duration -= l.duration / driftShare
}

// renew takes note that a round of this term which began at a time was
// confirmed by a quorum.
func (l *lease) renew(began time.Time, term uint64) {
	if until := began.Add(l.duration); l.duration > 0 && (l.term != term || until.After(l.until)) {
		l.until, l.term = until, term
	}
}

// leaseEnd is the time before which this node may answer reads by itself; the
// zero time when it may not.
func (c *Core) leaseEnd() time.Time {
	l := &c.lease
	if c.role != raft.StateLeader || l.term != c.term || l.handed == c.term || c.changes.transfer != nil {
		return time.Time{}
	}
	return l.until
}

// leaseDue tells that a round should begin to keep the lease: half of it is
// left to try again when that round is lost.
func (c *Core) leaseDue() bool {
	l := &c.lease
	return l.wanted && l.duration > 0 && c.role == raft.StateLeader &&
		l.handed != c.term && c.changes.transfer == nil &&
		!c.leaseEnd().After(c.now.Add(l.duration/2))
}

// WantLease tells that reads were answered under the lease: it is to be kept.
func (c *Core) WantLease() { c.lease.wanted = true }

// ReadUnderLease queues a linearizable read that only the leader answers: from
// its own store while it has the lease, else as Read does.
func (c *Core) ReadUnderLease(w ReadWaiter) { c.leased = append(c.leased, w) }

// readUnderLease decides on the queued reads. It is not enough that this node
// leads and has applied what it acknowledged: a follower may have applied, and
// shown in a linearizable read, what the leader committed but not yet applied. So
// a read waits for all that is committed, which followers can't be ahead of.
func (c *Core) readUnderLease(eff *Effects) {
	if len(c.leased) == 0 {
		return
	}
	n := uint64(len(c.leased))
	switch {
	case c.role != raft.StateLeader:
		eff.Reads = append(eff.Reads, ReadAnswer{Waiters: append([]ReadWaiter(nil), c.leased...), Err: ErrNotLeader})
	case c.leaseEnd().After(c.now):
		c.lease.wanted = true
		c.count.LeaseReads += n
		reads := make([]waitingRead, n)
		for i, w := range c.leased {
			reads[i] = waitingRead{w, c.reads.ticks}
		}
		c.reads.await(c.commit, reads)
	default:
		c.lease.wanted = true
		c.count.LeaseFallbacks += n
		for _, w := range c.leased {
			c.reads.add(w)
		}
	}
	clear(c.leased)
	c.leased = c.leased[:0]
}

// campaignTransfer is the context of votes for a node that was told to campaign
// by its leader (raft does not export it).
var campaignTransfer = []byte("CampaignTransfer")

// promise makes this node refuse votes for an election timeout after it hears a
// leader. Raft's CheckQuorum does that only as long as the node remembers who
// leads: a message of a higher term, such as an old candidate's answer to an old
// vote, makes it forget, and a restart does too.
func (c *Core) promise(m *raftpb.Message) {
	switch m.GetType() { //nolint:exhaustive // what only a leader sends
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.GetTerm() >= c.term {
			c.promised = c.ticks + uint64(c.cfg.ElectionTicks)
		}
	}
}

// refusesVote tells that a message asks for a vote that was promised away. One of
// an earlier term gets none from raft either, which tells its sender of the term.
func (c *Core) refusesVote(m *raftpb.Message) bool {
	vote := m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgPreVote
	return vote && m.GetTerm() > c.term && c.ticks < c.promised && !bytes.Equal(m.GetContext(), campaignTransfer)
}
