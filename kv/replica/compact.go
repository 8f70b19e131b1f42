package replica

import "go.etcd.io/raft/v3"

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
	if bytes <= HardLogFactor*c.cfg.LogSize && count <= HardLogFactor*c.cfg.LogEntries {
		to = min(to, c.neededFrom())
	}
	if to < first {
		return
	}
	if err := c.log.Compact(to); err == nil {
		c.count.Compactions++
	}
}

// HardLogFactor is how many times its caps the log may grow for those who need
// it; beyond, it is compacted whoever that is.
const HardLogFactor = 4

// neededFrom is the last index that no live follower needs to be sent: those
// that replicate need what they have not matched, those that take in a snapshot,
// or will resume one that broke off, what follows it.
func (c *Core) neededFrom() uint64 {
	needed := uint64(unlimited)
	if c.role != raft.StateLeader {
		return needed
	}
	c.visitProgress(func(p Progress) {
		// What it has matched: it may have taken the snapshot and the answer got
		// lost, or need none any more.
		transfer := c.snap.transfers[p.ID].index
		switch {
		case p.ID == c.cfg.ID:
		case transfer > p.Match:
			needed = min(needed, transfer)
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
