package replica

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// changes are the membership change and the leadership transfer under way; raft
// takes one of each at a time.
type changes struct {
	current  *Change
	transfer *Transfer
	heard    []applied // done once a majority has heard of it
	leaving  []applied // done once this node, which has no vote any more, leads no more
}

// applied is a change that is applied here, but not done yet.
type applied struct {
	change     *Change
	membership *kvv1.Membership
	round      uint64 // the last round of reads that began before
}

// Change is one membership change on its way: first learners catch up, then it
// is proposed, then applied, then the joint configuration is left, at last others
// hear of that.
type Change struct {
	// plan says how a membership becomes the one asked for; nil when it is that
	// already. The change is planned anew when it is proposed: one that its caller
	// gave up may have been applied while this one waited, and an entry made for
	// the membership before that would lead elsewhere.
	plan      func(*kvv1.Membership) (*raftpb.ConfChangeV2, error)
	nodes     []*kvv1.Member // that it adds
	clusterID uint64
	catchUp   []uint64 // learners that must have the log first
	done      func(*kvv1.Membership, error)

	sequence uint64 // of its entry; 0 before it is proposed
	applied  bool
	joint    bool // it leads through a joint configuration
}

// Init makes this node, whose log must be empty, a cluster of one.
func (c *Core) Init(self *kvv1.Member, clusterID uint64) (created bool, err error) {
	if c.membership.GetClusterId() != 0 {
		return false, nil
	}
	if last, err := c.log.LastIndex(); err != nil || last != 0 {
		return false, fmt.Errorf("%w: the log is not empty: this node is joining a cluster", ErrRefused)
	}
	context, err := proto.Marshal(&kvv1.MembershipChange{ClusterId: clusterID, Nodes: []*kvv1.Member{self}})
	if err != nil {
		return false, err
	}
	if err := c.rn.Bootstrap([]raft.Peer{{ID: c.cfg.ID, Context: context}}); err != nil {
		return false, err
	}
	// Known at once, so that asking twice is harmless; the entry repeats it.
	c.membership = &kvv1.Membership{ClusterId: clusterID, Voters: []uint64{c.cfg.ID}, Nodes: []*kvv1.Member{self}}
	// Raft does not campaign before the entry is applied.
	c.campaign = true
	return true, nil
}

// AddLearner adds a node that has no vote.
func (c *Core) AddLearner(node *kvv1.Member, done func(*kvv1.Membership, error)) *Change {
	return c.begin(&Change{
		plan:  func(m *kvv1.Membership) (*raftpb.ConfChangeV2, error) { return planLearner(m, node) },
		nodes: []*kvv1.Member{protoMember(node)},
		done:  done,
	})
}

// ChangeVoters makes these nodes, which must be members, the voters. Removed
// voters leave, or with retain become learners.
func (c *Core) ChangeVoters(voters []uint64, retain bool, done func(*kvv1.Membership, error)) *Change {
	voters = slices.Compact(sorted(voters))
	return c.begin(&Change{
		plan: func(m *kvv1.Membership) (*raftpb.ConfChangeV2, error) { return planVoters(m, voters, retain) },
		done: done,
	})
}

// RemoveNode removes a voter or a learner.
func (c *Core) RemoveNode(id uint64, done func(*kvv1.Membership, error)) *Change {
	return c.begin(&Change{
		plan: func(m *kvv1.Membership) (*raftpb.ConfChangeV2, error) { return planRemoval(m, id) },
		done: done,
	})
}

// begin starts a change, unless another one is under way.
func (c *Core) begin(ch *Change) *Change {
	if c.role != raft.StateLeader {
		ch.done(nil, ErrNotLeader)
		return nil
	}
	m := c.membership
	request, err := ch.plan(m)
	switch {
	case err != nil:
		ch.done(nil, err)
		return nil
	case request == nil:
		ch.done(m, nil)
		return nil
	case c.changes.current != nil || joint(m):
		ch.done(nil, refused("another membership change is under way"))
		return nil
	}
	ch.clusterID = m.GetClusterId()
	c.changes.current = ch
	c.changes.tryPropose(c)
	if c.changes.current != ch {
		return nil
	}
	return ch
}

// Cancel gives up on a change whose caller no longer waits. One that was
// proposed may still finish. One that was refused at once is nil.
func (c *Core) Cancel(ch *Change, cause error) {
	of := func(a applied) bool { return a.change == ch }
	c.changes.heard = finish(c.changes.heard, of)
	c.changes.leaving = finish(c.changes.leaving, of)
	if ch == nil || c.changes.current != ch {
		return
	}
	if ch.sequence != 0 {
		c.changes.refuse(fmt.Errorf("%w: the membership change may still finish: %w", ErrUnknownOutcome, cause))
		return
	}
	c.changes.refuse(fmt.Errorf("not proposed: %s: %w", c.behind(ch.catchUp), cause))
}

// behind says which learners have not caught up, in words.
func (c *Core) behind(ids []uint64) string {
	last, _ := c.log.LastIndex()
	text := "raft held it back"
	c.visitProgress(func(p Progress) {
		if slices.Contains(ids, p.ID) && !caughtUp(p, last) {
			text = fmt.Sprintf("node %d has not caught up: it has index %d of %d", p.ID, p.Match, last)
		}
	})
	return text
}

// A learner that replicates and lacks no more than this many entries can vote
// without holding the cluster up.
const catchUpSlack = 256

func caughtUp(p Progress, last uint64) bool {
	return p.State == progressReplicate && p.RecentActive && p.Match+catchUpSlack >= last
}

// refuse ends the current change without success.
func (cs *changes) refuse(err error) {
	ch := cs.current
	cs.current = nil
	ch.done(nil, err)
}

// tryPropose proposes the current change once its learners have caught up.
func (cs *changes) tryPropose(c *Core) {
	ch := cs.current
	if ch == nil || ch.sequence != 0 || joint(c.membership) || c.confIndex > c.applied {
		return // or raft would refuse it, for what has almost ended
	}
	request, err := ch.plan(c.membership)
	switch {
	case err != nil:
		cs.refuse(err)
		return
	case request == nil:
		cs.current = nil
		ch.done(c.membership, nil)
		return
	}
	if ch.catchUp = promoted(request); !c.allCaughtUp(ch.catchUp) {
		return
	}
	c.sequence++
	header := &kvv1.EntryHeader{
		Format: 1, Node: c.cfg.ID, Incarnation: c.cfg.Incarnation,
		Sequence: c.sequence, ClockUnixNanos: uint64(c.now.UnixNano()),
	}
	context, err := proto.Marshal(&kvv1.MembershipChange{Header: header, ClusterId: ch.clusterID, Nodes: ch.nodes})
	if err != nil {
		cs.refuse(err)
		return
	}
	request.Context = context
	_, data, err := raftpb.MarshalConfChange(request)
	if err != nil {
		cs.refuse(err)
		return
	}
	m := &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: new(c.cfg.ID),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryConfChangeV2.Enum(), Data: data}},
	}
	switch err := c.rn.Step(m); {
	case errors.Is(err, raft.ErrProposalDropped):
		return // a transfer or too much uncommitted: the next tick tries again
	case err != nil:
		cs.refuse(err)
	case m.GetEntries()[0].GetType() != raftpb.EntryConfChangeV2:
		// Raft put an empty entry in its place (trap 10): a leader that has just been
		// elected takes none before it has applied what it had. The next tick tries
		// again.
		return
	default:
		ch.sequence = c.sequence
		c.count.MembershipChanges++
	}
}

func (c *Core) allCaughtUp(ids []uint64) bool {
	last, err := c.log.LastIndex()
	if err != nil {
		return false
	}
	behind := len(ids)
	c.visitProgress(func(p Progress) {
		if slices.Contains(ids, p.ID) && caughtUp(p, last) {
			behind--
		}
	})
	return behind == 0
}

// applyConfChange applies a committed configuration change to raft, before its
// MsgStorageApplyResp is stepped (trap 9), and derives the membership.
func (c *Core) applyConfChange(e *raftpb.Entry, t *ApplyTask, eff *Effects) {
	var cc raftpb.ConfChangeI
	if e.GetType() == raftpb.EntryConfChange {
		v1 := new(raftpb.ConfChange)
		mustUnmarshal(e, e.GetData(), v1)
		cc = v1
	} else {
		v2 := new(raftpb.ConfChangeV2)
		mustUnmarshal(e, e.GetData(), v2)
		cc = v2
	}
	context := new(kvv1.MembershipChange)
	mustUnmarshal(e, cc.AsV2().GetContext(), context)

	c.membership = nextMembership(c.membership, c.rn.ApplyConfChange(cc), context)
	c.confIndex = e.GetIndex()
	if t.Memberships == nil {
		t.Memberships = make(map[uint64]*kvv1.Membership)
	}
	t.Memberships[e.GetIndex()] = c.membership
	eff.Membership = c.membership

	ch := c.changes.current
	if ch == nil {
		return
	}
	if h := context.GetHeader(); h.GetNode() == c.cfg.ID && h.GetIncarnation() == c.cfg.Incarnation && h.GetSequence() == ch.sequence {
		ch.applied, ch.joint = true, joint(c.membership)
	}
	// It was planned for the membership that its entry was applied to: raft takes
	// none while another is not applied, or the configuration joint. So this is
	// what was asked for.
	if m := c.membership; ch.applied && !joint(m) {
		c.changes.current = nil
		t.done = append(t.done, func() {
			a := applied{ch, m, c.reads.sequence}
			switch {
			case c.role == raft.StateLeader && !slices.Contains(m.GetVoters(), c.cfg.ID):
				c.changes.leaving = append(c.changes.leaving, a)
			case c.role == raft.StateLeader && ch.joint:
				c.changes.heard = append(c.changes.heard, a)
			default:
				ch.done(m, nil)
			}
		})
	}
}

// confirmed ends the changes that a majority has heard of. Who has not heard that
// the joint configuration was left needs votes of the former one, which may be
// this node's alone: were it to die now, nobody could be elected. Each heartbeat
// says what is committed, so who answers one of a round that began afterwards, and
// has the entry, knows.
func (cs *changes) confirmed(round uint64) {
	cs.heard = finish(cs.heard, func(a applied) bool { return a.round < round })
}

// finish ends the changes that are over, and returns the others.
func finish(changes []applied, over func(applied) bool) []applied {
	return slices.DeleteFunc(changes, func(a applied) bool {
		if !over(a) {
			return false
		}
		a.change.done(a.membership, nil)
		return true
	})
}

// mustUnmarshal decodes a part of a committed entry. One that can't be decoded
// leaves no way to go on that all nodes would agree on.
func mustUnmarshal(e *raftpb.Entry, data []byte, m proto.Message) {
	if err := proto.Unmarshal(data, m); err != nil {
		panic(fmt.Sprintf("entry %d of type %s cannot be decoded: %v", e.GetIndex(), e.GetType(), err))
	}
}

// leaderChanged settles what depends on who leads.
func (cs *changes) leaderChanged(c *Core) {
	if t := cs.transfer; t != nil && c.leader != raft.None && c.leader != c.cfg.ID {
		cs.transfer = nil
		if c.leader == t.to {
			t.done(nil)
		} else {
			t.done(fmt.Errorf("%w: leadership went to node %d", ErrRefused, c.leader))
		}
	}
	if c.role != raft.StateLeader {
		cs.finishApplied()
	}
	if cs.current != nil && c.role != raft.StateLeader {
		err := ErrNotLeader
		if cs.current.sequence != 0 {
			err = fmt.Errorf("%w: leadership was lost: the membership change may still finish", ErrUnknownOutcome)
		}
		cs.refuse(err)
	}
}

func (cs *changes) tick(c *Core) {
	c.leaveJoint()
	cs.tryPropose(c)
	if t := cs.transfer; t != nil && c.role == raft.StateLeader && c.rn.BasicStatus().LeadTransferee == raft.None {
		cs.transfer = nil
		t.done(fmt.Errorf("%w: node %d did not take over within an election timeout", ErrRefused, t.to))
	}
}

// leaveJoint leaves a joint configuration that raft did not leave by itself: it
// tries when an entry is applied, in vain while leadership is on its way to
// another node, and in an idle cluster no entry comes after that.
func (c *Core) leaveJoint() {
	if c.role != raft.StateLeader || !joint(c.membership) || !c.membership.GetAutoLeave() {
		return
	}
	if last, err := c.log.LastIndex(); err != nil || last != c.applied {
		return // what is to be applied yet makes raft try
	}
	// As raft's own: no data is an empty change. Dropped, the next tick tries again.
	_ = c.rn.Step(&raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: new(c.cfg.ID),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryConfChangeV2.Enum()}},
	})
}
