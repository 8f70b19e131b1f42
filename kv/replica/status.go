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
	Term       uint64
	Leader     uint64 // 0 when unknown
	Commit     uint64
	Applied    uint64
	FirstIndex uint64
	LastIndex  uint64
	LogBytes   uint64
	Membership *kvv1.Membership
	Progress   []Progress // of every node, the leader included; empty elsewhere
	Counters   Counters
	// MaxEntryBytes is the largest encoded raft entry that is accepted now.
	MaxEntryBytes uint64
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
