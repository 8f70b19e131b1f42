package replica

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
)

// inFlight is one proposed entry whose commands have waiters.
type inFlight struct {
	refs     []waiterRef
	arrivals []arrival     // of refs, in order
	bytes    int           // of commands, as admitted
	proposed time.Duration // when, from Core.began
	// The last entry of a proposal ends a round: raft commits in order.
	last  bool
	round round
}

// arrival is commands that were taken in together.
type arrival struct {
	at       time.Duration // from Core.began
	commands uint64
}

// round is one proposal on its way to being committed.
type round struct {
	commands int
	waited   time.Duration // of all of them, before
	proposed time.Time
}

type waiterRef struct {
	waiter Waiter
	tag    int
}

var inFlightPool = sync.Pool{New: func() any { return new(inFlight) }}

func (f *inFlight) free() {
	clear(f.refs)
	f.refs, f.arrivals, f.last = f.refs[:0], f.arrivals[:0], false
	inFlightPool.Put(f)
}

// proposed is one MsgProp with the entries' waiters, by sequence.
type proposed struct {
	message   *raftpb.Message
	sequences []uint64
}

// Propose queues commands for the log. They came at since, or later.
func (c *Core) Propose(ps []Proposal, since time.Time) {
	arrived := since.Sub(c.began)
	for i := range ps {
		ps[i].arrived = arrived
		c.queueBytes += ps[i].size
	}
	c.queue = append(c.queue, ps...)
	c.count.Commands += uint64(len(ps))
}

// SetMaxEntryBytes tells the largest encoded raft entry that every peer can be
// sent: no entry with more than one command exceeds it from now on.
func (c *Core) SetMaxEntryBytes(n uint64) { c.maxEntry = n }

// propose moves waiting commands into raft's log, as the Batcher says. Three
// bounds hold them back, in this order: the admission caps, which count commands
// from when they are taken in until they are answered, wherever they wait; raft's
// bound on bytes not yet committed, above which one proposal is held and the
// queue stays as it is; and the messages in flight to each peer, with which raft
// keeps entries that are in the log already from being sent.
func (c *Core) propose(eff *Effects) {
	c.wake = time.Time{}
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
		take, wait := c.cfg.Batcher.Next(c.viewQueue(rest), c.now)
		if take == 0 {
			if wait > 0 {
				c.wake = c.now.Add(wait)
			}
			break
		}
		p := c.encode(rest[:take])
		taken += take
		if !c.step(p) {
			c.held = p // its data lies in scratch, which is not used before raft takes it
			break
		}
	}
	if taken == 0 {
		return
	}
	rest := copy(c.queue, c.queue[taken:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
}

// viewQueue shows the Batcher the commands that wait.
func (c *Core) viewQueue(rest []Proposal) QueueView {
	return QueueView{
		Count: len(rest), Bytes: c.queueBytes, Oldest: c.began.Add(rest[0].arrived),
		InFlight: c.rounds, commands: rest,
	}
}

// WakeAt is when Advance is to be called at the latest even if nothing happens,
// because commands wait that long for others; zero when only events matter. It
// is valid once Advance has returned false.
func (c *Core) WakeAt() time.Time { return c.wake }

// refuseQueue fails every command that is not in a log.
func (c *Core) refuseQueue(err error, eff *Effects) {
	for i := range c.queue {
		p := &c.queue[i]
		eff.Answers = append(eff.Answers, Answer{
			refs: []waiterRef{{p.Waiter, p.Tag}}, bytes: p.size, err: err,
		})
	}
	clear(c.queue)
	c.queue, c.queueBytes = c.queue[:0], 0
}

// keepScratch is what is kept of scratch when a proposal made it grow.
const keepScratch = 8 << 20

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
	r := round{commands: len(commands), proposed: c.now}
	age := c.now.Sub(c.began)
	var f *inFlight
	for len(commands) > 0 {
		n, _ := packer.next(commands)
		c.sequence++
		f = inFlightPool.Get().(*inFlight)
		f.bytes, f.proposed = 0, age
		c.histograms.EntryCommands.Record(int64(n))
		start := len(buf)
		buf = kv.AppendHeader(buf, kv.EntryHeader{
			Node: c.cfg.ID, Incarnation: c.cfg.Incarnation, Sequence: c.sequence, Clock: c.now.UnixNano(),
		})
		for i := range commands[:n] {
			q := &commands[i]
			buf = kv.AppendCommand(buf, &q.Command)
			f.refs = append(f.refs, waiterRef{q.Waiter, q.Tag})
			f.bytes += q.size
			r.waited += age - q.arrived
			if last := len(f.arrivals) - 1; last >= 0 && f.arrivals[last].at == q.arrived {
				f.arrivals[last].commands++
			} else {
				f.arrivals = append(f.arrivals, arrival{q.arrived, 1})
			}
		}
		if c.stages.Load() {
			for _, came := range f.arrivals {
				c.histograms.Queue.RecordN(int64(age-came.at), came.commands)
			}
		}
		c.queueBytes -= f.bytes
		c.pending[c.sequence] = f
		p.sequences = append(p.sequences, c.sequence)
		p.message.Entries = append(p.message.Entries, &raftpb.Entry{Data: buf[start:len(buf):len(buf)]})
		commands = commands[n:]
	}
	f.last, f.round = true, r
	c.rounds++
	c.scratch = buf
	c.histograms.ProposalCommands.Record(int64(r.commands))
	c.count.Proposals++
	c.count.Entries += uint64(len(p.sequences))
	return p
}

// settle takes an entry out of those in flight; nil when it is not among them.
func (c *Core) settle(sequence uint64) *inFlight {
	f := c.pending[sequence]
	if f == nil {
		return nil
	}
	delete(c.pending, sequence)
	if f.last {
		c.rounds--
	}
	return f
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
	if cap(c.scratch) > keepScratch {
		c.scratch = nil
	}
	return true
}
