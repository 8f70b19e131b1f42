package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
)

// Transfer is a transfer of leadership on its way.
type Transfer struct {
	to   uint64
	done func(error)
}

// Transfer hands leadership to a voter and calls done when that node leads. It
// returns what CancelTransfer takes, nil when done was called already.
func (c *Core) Transfer(to uint64, done func(error)) *Transfer {
	switch {
	case c.role != raft.StateLeader:
		done(ErrNotLeader)
	case !slices.Contains(c.membership.GetVoters(), to):
		done(fmt.Errorf("%w: node %d is not a voter", ErrRefused, to))
	case to == c.cfg.ID:
		done(nil)
	case c.changes.transfer != nil:
		done(fmt.Errorf("%w: a transfer to node %d is under way", ErrRefused, c.changes.transfer.to))
	default:
		t := &Transfer{to: to, done: done}
		c.changes.transfer = t
		c.rn.TransferLeader(to)
		return t
	}
	return nil
}

// CancelTransfer stops waiting for a transfer, so that another may be tried; the
// node that was asked may still take over.
func (c *Core) CancelTransfer(t *Transfer, cause error) {
	if t != nil && c.changes.transfer == t {
		c.changes.transfer = nil
		t.done(cause)
	}
}

// leave hands leadership to a voter once this node has no vote. Raft's
// StepDownOnRemoval would end it at once, and could leave nobody to be elected:
// the nodes that have not heard of the end of a joint configuration need the votes
// of the one before it, which a removed node with the longest log refuses them.
// Who leads until another does tells them meanwhile. A change is done only then,
// so that a node is not ended too early.
func (c *Core) leave() {
	m := c.membership
	if slices.Contains(m.GetVoters(), c.cfg.ID) {
		c.changes.leaving = finish(c.changes.leaving, always) // it has a vote again, by another change
		return
	}
	if c.role != raft.StateLeader || joint(m) || c.applied < c.confIndex || c.rn.BasicStatus().LeadTransferee != raft.None {
		return
	}
	heir, match := raft.None, uint64(0)
	c.visitProgress(func(p Progress) {
		if p.ID != c.cfg.ID && !p.Learner && p.RecentActive && p.Match > match {
			heir, match = p.ID, p.Match
		}
	})
	if heir != raft.None {
		c.rn.TransferLeader(heir)
	}
}

// finishApplied ends the changes that are applied: this node leads no more, and
// has nothing more to tell.
func (cs *changes) finishApplied() {
	cs.heard = finish(cs.heard, always)
	cs.leaving = finish(cs.leaving, always)
}

func always(applied) bool { return true }
