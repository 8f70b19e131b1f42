package target

import (
	"fmt"
	"io"
	"log"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/bench/load"
	"raftlab/kv"
	"raftlab/kv/node"
	"raftlab/kv/replica"
	"raftlab/kv/storage"
)

// bareGroup is a raft group in one goroutine. Messages are handed over as they
// are, and nothing is lost, so that nothing ever times out and no tick is needed.
// The first node leads.
type bareGroup struct {
	cfg   node.Config
	nodes []*bareNode

	buf     []byte // encodes entries; raft copies what is proposed
	results []kv.Result
	order   []barePlace // of the commands proposed, as they will be applied
	reads   uint64      // asked for, and confirmed so far
	read    uint64
}

// barePlace is an operation of a message.
type barePlace struct {
	message *bareMessage
	op      int
}

type bareNode struct {
	raft  *raft.RawNode
	log   *storage.Memory
	store *kv.Store
}

func newBareGroup(cfg node.Config, nodes int) (*bareGroup, error) {
	g := &bareGroup{cfg: cfg}
	conf := &raftpb.ConfState{}
	for i := range nodes {
		conf.Voters = append(conf.Voters, uint64(i)+1)
	}
	for _, id := range conf.GetVoters() {
		n := &bareNode{log: storage.NewMemory(), store: kv.NewStore()}
		if err := n.log.Restore(&raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: conf}); err != nil {
			return nil, err
		}
		rc := cfg.Raft()
		rc.ID, rc.Storage, rc.AsyncStorageWrites = id, n.log, false
		rc.Logger = &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)}
		var err error
		if n.raft, err = raft.NewRawNode(&rc); err != nil {
			return nil, err
		}
		g.nodes = append(g.nodes, n)
	}
	if err := g.nodes[0].raft.Campaign(); err != nil {
		return nil, err
	}
	if err := g.settle(); err != nil {
		return nil, err
	}
	if lead := g.nodes[0].raft.BasicStatus().Lead; lead != 1 {
		return nil, fmt.Errorf("node %d leads instead of 1", lead)
	}
	return g, nil
}

// do does all operations of messages.
func (g *bareGroup) do(messages []*bareMessage, stale bool) error {
	g.order = g.order[:0]
	gets := false
	for _, m := range messages {
		for i := range m.ops {
			if m.ops[i].Kind == load.Put {
				g.order = append(g.order, barePlace{m, i})
			} else {
				gets = true
			}
		}
	}
	for rest := g.order; len(rest) > 0; {
		n, err := g.propose(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if !gets {
		return nil
	}
	if !stale {
		if err := g.confirm(); err != nil {
			return err
		}
	}
	for _, m := range messages {
		for i := range m.ops {
			if m.ops[i].Kind == load.Get {
				item, _, found := g.nodes[0].store.Get(m.ops[i].Key)
				m.results[i] = load.Result{ModRevision: item.ModRevision, Found: found, Value: item.Value}
			}
		}
	}
	return nil
}

// propose commits as many of the commands as one proposal takes, and answers them.
func (g *bareGroup) propose(places []barePlace) (int, error) {
	g.buf = g.buf[:0]
	var entries []*raftpb.Entry
	n, total, start := 0, 0, 0
	for n < len(places) && n < g.cfg.BatchCount {
		op := &places[n].message.ops[places[n].op]
		c := kv.Command{Kind: kv.KindPut, Key: op.Key, Value: op.Value}
		size := kv.CommandSize(&c)
		if total += size; n > 0 && total > int(g.cfg.BatchSize) {
			break
		}
		packed := g.cfg.Packing == replica.PackPacked && len(g.buf)-start+size <= int(g.cfg.AppendSize)
		if n == 0 || !packed {
			entries = g.cut(entries, start)
			start = len(g.buf)
			g.buf = kv.AppendHeader(g.buf, kv.EntryHeader{Node: 1, Incarnation: 1})
		}
		g.buf = kv.AppendCommand(g.buf, &c)
		n++
	}
	entries = g.cut(entries, start)
	err := g.nodes[0].raft.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(1)), Entries: entries})
	if err != nil {
		return 0, err
	}
	g.results = g.results[:0]
	if err := g.settle(); err != nil {
		return 0, err
	}
	if len(g.results) != n {
		return 0, errBareStuck
	}
	for i, r := range g.results {
		places[i].message.results[places[i].op] = load.Result{ModRevision: r.ModRevision}
	}
	return n, nil
}

// cut makes an entry of what was encoded since start, if anything was. The bytes
// before may be moved by what is encoded after, but are not changed.
func (g *bareGroup) cut(entries []*raftpb.Entry, start int) []*raftpb.Entry {
	if len(g.buf) == start {
		return entries
	}
	return append(entries, &raftpb.Entry{Data: g.buf[start:len(g.buf):len(g.buf)]})
}

// confirm does the round that a linearizable read needs.
func (g *bareGroup) confirm() error {
	g.reads++
	g.nodes[0].raft.ReadIndex(fmt.Appendf(nil, "%016x", g.reads))
	if err := g.settle(); err != nil {
		return err
	}
	if g.read != g.reads {
		return errBareStuck
	}
	return nil
}

// settle goes round until no node has anything to do.
func (g *bareGroup) settle() error {
	for busy := true; busy; {
		busy = false
		for _, n := range g.nodes {
			for n.raft.HasReady() {
				busy = true
				if err := g.ready(n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// ready does what raft wants done, in the order that it wants it.
func (g *bareGroup) ready(n *bareNode) error {
	rd := n.raft.Ready()
	if err := n.log.Append(rd.Entries, rd.HardState); err != nil {
		return err
	}
	for _, m := range rd.Messages {
		if err := g.nodes[m.GetTo()-1].raft.Step(m); err != nil {
			return err
		}
	}
	for _, e := range rd.CommittedEntries {
		results, err := n.store.Apply(e.GetIndex(), e.GetTerm(), e.GetData(), g.results)
		if err != nil {
			return err
		}
		if n == g.nodes[0] {
			g.results = results
		}
	}
	g.read += uint64(len(rd.ReadStates))
	n.raft.Advance(rd)
	return g.compact(n)
}

// compact keeps the log as short as a node's. All nodes have what this one
// applied, or get it from the entries that stay.
func (g *bareGroup) compact(n *bareNode) error {
	keep := uint64(g.cfg.LogEntries)
	first, err := n.log.FirstIndex()
	if applied := n.store.State().Index; err == nil && applied >= first+keep+keep/4 {
		err = n.log.Compact(applied - keep)
	}
	return err
}
