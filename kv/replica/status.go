package replica

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Status is what a replica knows about itself.
type Status struct {
	ID         uint64
	Role       Role
	Term       uint64 `gauge:"term" usage:"raft's term"`
	Leader     uint64 `gauge:"leader_id" usage:"id of the node that leads, 0 when none is known"`
	Commit     uint64 `gauge:"commit_index" usage:"index up to which the log is committed"`
	Applied    uint64 `gauge:"applied_index" usage:"index up to which the store is known to have applied the log"`
	FirstIndex uint64 `gauge:"log_first_index" usage:"index of the first entry that the log still has"`
	LastIndex  uint64 `gauge:"log_last_index" usage:"index of the last entry of the log"`
	LogBytes   uint64 `gauge:"log_bytes" usage:"size of the log's entries in memory"`
	Membership *kvv1.Membership
	Progress   []Progress // of every node, the leader included; empty elsewhere
	Counters   Counters
	// MaxEntryBytes is the largest encoded raft entry that is accepted now.
	MaxEntryBytes uint64

	Waiting       uint64 `gauge:"commands_waiting" usage:"commands taken in and not yet proposed"`
	InFlight      uint64 `gauge:"proposals_in_flight" usage:"MsgProp messages proposed and not yet committed"`
	Admitted      uint64 `gauge:"operations_admitted" usage:"commands and reads under way"`
	AdmittedBytes uint64 `gauge:"admitted_bytes" usage:"bytes of the commands under way"`
}

// Role is a node's part in raft.
type Role string

// Roles.
const (
	RoleFollower     Role = "follower"
	RolePreCandidate Role = "pre-candidate"
	RoleCandidate    Role = "candidate"
	RoleLeader       Role = "leader"
	RoleLearner      Role = "learner"
)

// Progress is what the leader knows about a node's log.
type Progress struct {
	ID              uint64
	Learner         bool
	Match           uint64
	Next            uint64
	State           string // probe, replicate or snapshot
	RecentActive    bool
	Paused          bool
	PendingSnapshot uint64 // index of the snapshot it is being sent; 0 if none
	SilentTicks     uint64 // since its last message; 0 for the leader itself
}

// Counters are totals since the replica started.
type Counters struct {
	Elected            uint64 `counter:"elected" usage:"times this node became leader"`
	LeaderChanges      uint64 `counter:"leader_changes" usage:"times this node saw another leader, or none"`
	Commands           uint64 `counter:"commands_proposed" usage:"commands taken in to be proposed"`
	Proposals          uint64 `counter:"proposals" usage:"MsgProp messages given to raft"`
	Entries            uint64 `counter:"entries_proposed" usage:"log entries proposed"`
	EntriesResent      uint64 `counter:"entries_resent" usage:"entries that this leader sent to a peer before, after a refusal, a loss or a reconnection"`
	ProposalsHeld      uint64 `counter:"proposals_held" usage:"times raft held a proposal back"`
	Reads              uint64 `counter:"reads" usage:"linearizable reads taken in"`
	ReadRounds         uint64 `counter:"read_rounds" usage:"ReadIndex rounds begun, for reads or to renew the lease"`
	LeaseReads         uint64 `counter:"lease_reads" usage:"lease reads answered under the lease, without a round"`
	LeaseFallbacks     uint64 `counter:"lease_fallbacks" usage:"lease reads that found no lease and took a ReadIndex round"`
	VotesRefused       uint64 `counter:"votes_refused" usage:"votes asked for within an election timeout after a leader was heard, not granted"`
	MessagesRefused    uint64 `counter:"messages_refused" usage:"raft messages that were not taken in"`
	MembershipChanges  uint64 `counter:"membership_changes" usage:"membership changes proposed"`
	Compactions        uint64 `counter:"log_compactions" usage:"times the log was cut"`
	SnapshotsTaken     uint64 `counter:"snapshots_taken" usage:"views of the store made for followers or on demand"`
	SnapshotsInstalled uint64 `counter:"snapshots_installed" usage:"snapshots taken in from a leader"`
	SnapshotsSaved     uint64 `counter:"snapshots_saved" usage:"snapshots written to disk, after which the journal is cut"`
}

const progressReplicate = "replicate"

// visitProgress calls f for every node, on the leader only.
func (c *Core) visitProgress(f func(Progress)) {
	if c.role != raft.StateLeader {
		return
	}
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, p tracker.Progress) {
		out := Progress{
			ID: id, Learner: typ == raft.ProgressTypeLearner, Match: p.Match, Next: p.Next,
			State: stateName(p.State), RecentActive: p.RecentActive || id == c.cfg.ID,
		}
		if id != c.cfg.ID {
			out.SilentTicks = c.ticks - c.heard[id]
		}
		if p.State == tracker.StateSnapshot {
			out.PendingSnapshot = p.PendingSnapshot
		}
		// The visitor's copy has no inflights, so IsPaused can't be asked.
		out.Paused = p.MsgAppFlowPaused || p.State == tracker.StateSnapshot
		f(out)
	})
}

func stateName(s tracker.StateType) string {
	switch s {
	case tracker.StateProbe:
		return "probe"
	case tracker.StateSnapshot:
		return "snapshot"
	default:
		return progressReplicate
	}
}

// Status collects what the core knows.
func (c *Core) Status() Status {
	s := Status{
		ID: c.cfg.ID, Leader: c.leader, Applied: c.applied,
		LogBytes: c.log.Bytes(), Membership: c.membership, Counters: c.count,
		Waiting: uint64(len(c.queue)), InFlight: uint64(c.rounds),
	}
	basic := c.rn.BasicStatus()
	s.Term, s.Commit = basic.GetTerm(), basic.GetCommit()
	s.FirstIndex, _ = c.log.FirstIndex()
	s.LastIndex, _ = c.log.LastIndex()
	switch basic.RaftState {
	case raft.StateLeader:
		s.Role = RoleLeader
	case raft.StateCandidate:
		s.Role = RoleCandidate
	case raft.StatePreCandidate:
		s.Role = RolePreCandidate
	default:
		s.Role = RoleFollower
		for _, id := range c.membership.GetLearners() {
			if id == c.cfg.ID {
				s.Role = RoleLearner
			}
		}
	}
	c.visitProgress(func(p Progress) { s.Progress = append(s.Progress, p) })
	return s
}
