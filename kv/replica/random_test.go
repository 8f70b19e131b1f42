package replica

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	"raftlab/kv/storage"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var randomSeed = flag.Uint64("random.seed", 0, "seed of TestRandomCluster; 0 takes fresh ones")

// TestRandomCluster drives three or four cores through random deliveries, in any
// order, some twice and some never, through ticks, storage and apply steps that
// lag behind each other, proposals, reads, compactions, changes of voters and
// transfers. After every step it checks what must always hold; at the end, with
// the network healed, that the cluster comes to one state in which every
// acknowledged write is.
//
// The seed is printed on failure. It repeats the choices made here, but not the
// election timeouts, which raft draws from crypto/rand.
func TestRandomCluster(t *testing.T) {
	seeds := []uint64{*randomSeed}
	if *randomSeed == 0 {
		seeds = seeds[:0]
		for range 24 {
			seeds = append(seeds, rand.Uint64()|1)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			env := newRandomCluster(t, 4, 5, seed)
			for _, n := range env.nodes {
				n.core.cfg.Batcher = env.batcher()
			}
			env.grows = true
			env.form()
			for range 6000 {
				env.step()
			}
			env.heal()
			t.Logf("%d writes acknowledged of %d, %d unknown, %d reads, %d under a lease; %d leaders, %d snapshots, %d changes",
				len(env.acked), env.written, env.unknown, env.readsDone, env.leaseReads(), len(env.leaders), env.installed, env.changed)
		})
	}
}

// randomCluster is cores, the wire between them, and what clients know.
type randomCluster struct {
	t             *testing.T
	rng           *rand.Rand
	now           time.Time
	nodes         []*randomNode
	wire          []*raftpb.Message
	grows         bool // nodes are added and removed
	electionTicks int
	cut           uint64  // a node that nothing reaches or leaves; 0 for none
	loss          float64 // of messages

	written, unknown, readsDone int
	installed, changed          int
	acked                       map[string]uint64            // index, by key: each key is written once
	refused                     map[string]bool              // certainly not applied
	entries                     map[uint64][sha256.Size]byte // applied anywhere, by index
	leaders                     map[uint64]uint64            // by term
	open                        map[int]bool                 // waiters that have not heard
	waiters                     int
	highest                     uint64 // revision acknowledged to any client
}

// randomNode is a core whose log and store do their work when the test says so.
type randomNode struct {
	env     *randomCluster
	id      uint64
	core    *Core
	log     *storage.Memory
	store   *kv.Store
	views   map[snapshotPoint]*kv.View
	appends []*raftpb.Message
	applies []*ApplyTask
	term    uint64
	applied uint64
	ticked  int64 // ticks that its ticker had fired at the last one taken
	blocked bool  // the first append installs a snapshot that apply has not come to
}

func newRandomCluster(t *testing.T, count, electionTicks int, seed uint64) *randomCluster {
	t.Helper()
	env := &randomCluster{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1700000000, 0),
		acked: make(map[string]uint64), refused: make(map[string]bool), entries: make(map[uint64][sha256.Size]byte),
		leaders: make(map[uint64]uint64), open: make(map[int]bool),
	}
	env.electionTicks = electionTicks
	for range count {
		env.start()
	}
	return env
}

// batcher is any strategy with any small bounds.
func (env *randomCluster) batcher() Batcher {
	env.t.Helper()
	b, err := NewBatcher(Batching{
		Strategy: batchStrategies[env.rng.IntN(len(batchStrategies))],
		MaxCount: 1 + env.rng.IntN(10), MaxBytes: 1 + env.rng.IntN(500),
		Linger: time.Duration(env.rng.IntN(20)) * time.Millisecond, LingerAuto: env.rng.IntN(2) == 0,
	})
	if err != nil {
		env.t.Fatal(err)
	}
	return b
}

// start adds an empty node, of the next id.
func (env *randomCluster) start() *randomNode {
	env.t.Helper()
	n := &randomNode{
		env: env, id: uint64(len(env.nodes) + 1), log: storage.NewMemory(), store: kv.NewStore(),
		views: make(map[snapshotPoint]*kv.View),
	}
	cfg := testConfig(n.id)
	cfg.ElectionTicks, cfg.LogEntries, cfg.Uncommitted = env.electionTicks, 8, 2000
	cfg.Packer.Size, cfg.AppendSize, cfg.InflightMsgs = 200, 300, 4
	var err error
	if n.core, err = NewCore(cfg, n.log, n.store.State(), n.store.Membership(), env.now); err != nil {
		env.t.Fatal(err)
	}
	env.nodes = append(env.nodes, n)
	return n
}

func (n *randomNode) member() *kvv1.Member {
	return &kvv1.Member{
		Id: n.id, Incarnation: n.core.cfg.Incarnation,
		Address: fmt.Sprintf("client%d", n.id), PeerAddress: fmt.Sprintf("peer%d", n.id),
	}
}

// found makes the first node a cluster of one.
func (env *randomCluster) found() {
	env.t.Helper()
	if _, err := env.nodes[0].core.Init(env.nodes[0].member(), 0xc1); err != nil {
		env.t.Fatal(err)
	}
	env.settle()
}

// form makes three nodes voters and the others, if any, learners.
func (env *randomCluster) form() {
	env.t.Helper()
	env.found()
	first := env.nodes[0].core
	failed := func(_ *kvv1.Membership, err error) {
		if err != nil {
			env.t.Fatalf("forming the cluster: %v", err)
		}
	}
	for _, n := range env.nodes[1:] {
		first.AddLearner(n.member(), failed)
		env.settle()
	}
	first.ChangeVoters([]uint64{1, 2, 3}, true, failed)
	env.settle()
}

// settle does everything that is to be done, without loss, for some ticks.
func (env *randomCluster) settle() {
	for range 5 {
		env.now = env.now.Add(10 * time.Millisecond)
		for _, n := range env.nodes {
			n.core.Tick()
			n.pump()
		}
		for len(env.wire) > 0 {
			env.deliver(0)
		}
	}
}

func (env *randomCluster) leader() uint64 {
	var leader, term uint64
	for _, n := range env.nodes {
		if n.core.role == raft.StateLeader && n.core.term >= term && memberOf(n.core.membership, n.id) != nil {
			leader, term = n.id, n.core.term
		}
	}
	return leader
}

func (env *randomCluster) node() *randomNode { return env.nodes[env.rng.IntN(len(env.nodes))] }

// step does one thing.
func (env *randomCluster) step() {
	env.now = env.now.Add(walkStep)
	n := env.node()
	switch p := env.rng.IntN(1000); {
	case p < 500 && len(env.wire) > 0:
		// Mostly in order, as a connection has it.
		i := 0
		if env.rng.IntN(10) == 0 {
			i = env.rng.IntN(len(env.wire))
		}
		m := env.wire[i]
		if m.GetType() != raftpb.MsgSnap && env.rng.IntN(20) == 0 {
			env.wire = append(env.wire, copyMessage(m)) // comes twice
		}
		env.deliver(i)
		return
	case p < 620:
		n.append()
	case p < 740:
		n.apply()
	case p < 830:
		n = env.tickDue(n)
	case p < 900:
		if leader := env.leader(); leader > 0 && env.rng.IntN(8) > 0 {
			n = env.nodes[leader-1]
		}
		n.propose(1 + env.rng.IntN(4))
	case p < 950:
		n.read()
	case p < 960:
		n.core.TakeSnapshot(func(kv.State) {})
	case p < 970:
		env.change()
	case p < 975:
		n.core.Transfer(env.node().id, func(error) {})
	case p < 985:
		env.cut, env.loss = 0, 0
	case p < 990:
		env.cut = env.node().id
	case p < 992:
		env.loss = 0.3
	default:
		n.core.ReportUnreachable(env.node().id)
	}
	n.advance()
}

// change asks the leader for other voters, any three of the members, or, where
// the cluster grows, for a node more or less.
func (env *randomCluster) change() {
	leader := env.leader()
	if leader == 0 {
		return
	}
	c := env.nodes[leader-1].core
	members := env.members(leader)
	waiter := env.waiter()
	reached := func(*kvv1.Membership) bool { return true }
	done := func(m *kvv1.Membership, err error) {
		env.heard(waiter)
		if err != nil {
			return
		}
		env.changed++
		if !reached(m) {
			env.t.Fatalf("a change that asked for something else succeeds with %v", m)
		}
	}
	one := members[env.rng.IntN(len(members))]
	var ch *Change
	switch p := env.rng.IntN(4); {
	case env.grows && p == 0 && len(members) < 6:
		added := env.newcomer().member()
		reached = func(m *kvv1.Membership) bool { return memberOf(m, added.GetId()) != nil }
		ch = c.AddLearner(added, done)
	case env.grows && p == 1 && len(members) > 4:
		reached = func(m *kvv1.Membership) bool { return memberOf(m, one.id) == nil }
		ch = c.RemoveNode(one.id, done)
	default:
		var voters []uint64
		for _, i := range env.rng.Perm(len(members))[:min(3, len(members))] {
			voters = append(voters, members[i].id)
		}
		reached = func(m *kvv1.Membership) bool { return slices.Equal(sorted(m.GetVoters()), sorted(voters)) }
		ch = c.ChangeVoters(voters, true, done)
	}
	if ch != nil && env.rng.IntN(4) == 0 {
		c.Cancel(ch, errors.New("given up"))
	}
	env.nodes[leader-1].advance()
}

// newcomer is a node that is in no cluster yet.
func (env *randomCluster) newcomer() *randomNode {
	last := env.nodes[len(env.nodes)-1]
	if m := env.newest(); memberOf(m, last.id) != nil || slices.Contains(m.GetRemovedIds(), last.id) {
		last = env.start()
		last.core.cfg.Batcher = env.batcher()
	}
	return last
}

// newest is the membership of the node that has applied most.
func (env *randomCluster) newest() *kvv1.Membership {
	most := env.nodes[0]
	for _, n := range env.nodes {
		if n.core.applied > most.core.applied {
			most = n
		}
	}
	return most.core.membership
}

// members are the nodes of the cluster as one of them knows it.
func (env *randomCluster) members(id uint64) (nodes []*randomNode) {
	for _, m := range env.nodes[id-1].core.membership.GetNodes() {
		nodes = append(nodes, env.nodes[m.GetId()-1])
	}
	return nodes
}

func copyMessage(m *raftpb.Message) *raftpb.Message {
	return &raftpb.Message{
		Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index,
		Entries: slices.Clone(m.Entries), Commit: m.Commit, Vote: m.Vote, Snapshot: m.Snapshot,
		Reject: m.Reject, RejectHint: m.RejectHint, Context: m.Context,
	}
}

// deliver hands over or loses the i-th message on the wire.
func (env *randomCluster) deliver(i int) {
	m := env.wire[i]
	env.wire = slices.Delete(env.wire, i, i+1)
	from, to := env.nodes[m.GetFrom()-1], env.nodes[m.GetTo()-1]
	lost := from.id == env.cut || to.id == env.cut || env.rng.Float64() < env.loss
	if m.GetType() == raftpb.MsgSnap {
		point := pointOf(m.GetSnapshot().GetMetadata())
		view := from.core.snap.view
		gone := view == nil || view.State().Index != point.index
		first, _ := from.log.FirstIndex() // never fails
		if s := from.core.snap; gone && s.transfers[to.id].index == point.index && point.index+1 >= first && point.index >= from.core.confIndex {
			env.t.Fatalf("node %d let go of the snapshot at index %d on its way to node %d", from.id, point.index, to.id)
		}
		lost = lost || gone
		if !lost {
			to.views[point] = env.carry(view)
		}
		from.core.ReportSnapshot(to.id, !lost)
		from.advance()
	}
	if lost {
		return
	}
	if !to.core.told.confirms(m) {
		env.t.Fatalf("node %d would not believe an honest %s", to.id, raft.DescribeMessage(m, describeEntry))
	}
	to.core.Step(m)
	to.advance()
}

// carry sends a view through its records.
func (env *randomCluster) carry(v *kv.View) *kv.View {
	var records bytes.Buffer
	d := kv.NewSnapshotDecoder()
	if err := kv.WriteSnapshot(&records, v); err != nil {
		env.t.Fatal(err)
	}
	if _, err := d.Write(records.Bytes()); err != nil {
		env.t.Fatal(err)
	}
	out, err := d.Finish()
	if err != nil {
		env.t.Fatal(err)
	}
	return out
}

// advance takes what the core wants done, and checks the node.
func (n *randomNode) advance() {
	var eff Effects
	for n.core.Advance(n.clock(), &eff) {
		n.env.wire = append(n.env.wire, eff.Messages...)
		n.appends = append(n.appends, eff.Appends...)
		for _, task := range eff.Applies {
			if task.Restore != nil {
				task.incoming = n.views[pointOf(task.Restore)]
				n.core.Restore(task.incoming.Membership())
			}
		}
		n.applies = append(n.applies, eff.Applies...)
		answerAll(&eff)
	}
	n.check()
}

// answerAll completes what ended without being applied.
func answerAll(eff *Effects) {
	for _, a := range eff.Answers {
		for _, ref := range a.refs {
			ref.waiter.Done(ref.tag, kv.Result{}, a.err)
		}
	}
	for _, a := range eff.Reads {
		for _, w := range a.Waiters {
			w.Ready(a.Err)
		}
	}
}

// pump does everything that is to be done here.
func (n *randomNode) pump() {
	n.advance()
	for len(n.appends) > 0 || len(n.applies) > 0 {
		n.append()
		n.apply()
	}
}

// append makes one append durable, unless it waits for its snapshot.
func (n *randomNode) append() {
	if len(n.appends) == 0 || n.blocked {
		return
	}
	m := n.appends[0]
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		if err := n.log.Restore(snap.GetMetadata()); err != nil {
			n.env.t.Fatal(err)
		}
		n.blocked = true
	}
	var hs *raftpb.HardState
	if m.Term != nil {
		hs = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if err := n.log.Append(m.GetEntries(), hs); err != nil {
		n.env.t.Fatal(err)
	}
	if !n.blocked {
		n.appended()
	}
}

func (n *randomNode) appended() {
	m := n.appends[0]
	n.appends = n.appends[1:]
	n.env.wire = append(n.env.wire, n.core.Appended(m)...)
	n.advance()
}

// apply does one task; a snapshot only when its append is being made.
func (n *randomNode) apply() {
	if len(n.applies) == 0 {
		return
	}
	t := n.applies[0]
	if t.Restore != nil && !n.blocked {
		return
	}
	n.applies = n.applies[1:]
	switch {
	case t.View:
		n.core.Viewed(n.store.View())
	case t.Restore != nil:
		n.store.Restore(t.incoming)
		n.env.installed++
		n.blocked = false
		n.appended()
	}
	for i, e := range t.Entries {
		n.env.agree(n, e)
		if m := t.Memberships[e.GetIndex()]; m != nil {
			n.store.SetMembership(e.GetIndex(), e.GetTerm(), m)
			continue
		}
		results, err := n.store.Apply(e.GetIndex(), e.GetTerm(), e.GetData(), nil)
		if err != nil {
			n.env.t.Fatal(err)
		}
		if t.waiters == nil || t.waiters[i] == nil {
			continue
		}
		for j, ref := range t.waiters[i].refs {
			ref.waiter.Done(ref.tag, results[j], nil)
		}
	}
	n.core.Applied(t)
	n.advance()
}

// agree checks that all nodes apply the same entry at an index.
func (env *randomCluster) agree(n *randomNode, e *raftpb.Entry) {
	env.t.Helper()
	h := sha256.Sum256(fmt.Appendf(nil, "%d %d %s", e.GetTerm(), e.GetType(), e.GetData()))
	if other, seen := env.entries[e.GetIndex()]; seen && other != h {
		env.t.Fatalf("node %d applies another entry at index %d", n.id, e.GetIndex())
	}
	env.entries[e.GetIndex()] = h
}

// check looks at what a node must never do.
func (n *randomNode) check() {
	t, s := n.env.t, n.store.State()
	t.Helper()
	if n.core.term < n.term || s.Index < n.applied {
		t.Fatalf("node %d went back from term %d index %d to term %d index %d", n.id, n.term, n.applied, n.core.term, s.Index)
	}
	n.term, n.applied = n.core.term, s.Index
	if n.core.role == raft.StateLeader {
		if other := n.env.leaders[n.term]; other != 0 && other != n.id {
			t.Fatalf("nodes %d and %d lead in term %d", other, n.id, n.term)
		}
		n.env.leaders[n.term] = n.id
	} else if len(n.core.pending) > 0 || n.core.held != nil {
		t.Fatalf("node %d does not lead and keeps %d entries' waiters", n.id, len(n.core.pending))
	}
}

func (env *randomCluster) waiter() int {
	env.waiters++
	env.open[env.waiters] = true
	return env.waiters
}

func (env *randomCluster) heard(waiter int) {
	env.t.Helper()
	if !env.open[waiter] {
		env.t.Fatalf("waiter %d heard twice", waiter)
	}
	delete(env.open, waiter)
}

// randomWrite is the waiter of one write of a key that is written once.
type randomWrite struct {
	env    *randomCluster
	waiter int
	key    string
}

func (w *randomWrite) Done(_ int, r kv.Result, err error) {
	w.env.heard(w.waiter)
	switch {
	case err == nil:
		w.env.acked[w.key] = r.Index
		w.env.highest = max(w.env.highest, r.Revision)
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrStopped):
		w.env.refused[w.key] = true
	case errors.Is(err, ErrUnknownOutcome):
		w.env.unknown++
	default:
		w.env.t.Fatalf("a write gets %v", err)
	}
}

func (n *randomNode) propose(count int) {
	var ps []Proposal
	for range count {
		n.env.written++
		w := &randomWrite{n.env, n.env.waiter(), fmt.Sprintf("k%d", n.env.written)}
		p := Proposal{Command: kv.Command{Kind: kv.KindPut, Key: []byte(w.key), Value: make([]byte, n.env.rng.IntN(100))}, Waiter: w}
		p.size = kv.CommandSize(&p.Command)
		ps = append(ps, p)
	}
	n.core.Propose(ps, n.clock())
}

// randomRead must see the revision acknowledged before it began.
type randomRead struct {
	node   *randomNode
	waiter int
	least  uint64
}

func (r *randomRead) Ready(err error) {
	env := r.node.env
	env.heard(r.waiter)
	if err != nil {
		return
	}
	env.readsDone++
	s := r.node.store.State()
	if s.Revision < r.least {
		env.t.Fatalf("node %d reads revision %d, %d was acknowledged before", r.node.id, s.Revision, r.least)
	}
	env.highest = max(env.highest, s.Revision) // later reads see no less
}

func (n *randomNode) read() {
	r := &randomRead{n, n.env.waiter(), n.env.highest}
	if n.env.rng.IntN(2) == 0 {
		n.core.Read(r)
		return
	}
	if leader := n.env.leader(); leader > 0 && n.env.rng.IntN(4) == 0 {
		r.node = n.env.nodes[leader-1] // else one that may believe to lead
	}
	r.node.core.ReadUnderLease(r)
	r.node.advance()
}

// joinBehindSnapshot adds a node while the leader has a snapshot from before that:
// the node would ignore it, so it must be sent another.
func (env *randomCluster) joinBehindSnapshot() {
	for range 20 {
		env.settle()
		leader := env.leader()
		if leader == 0 || env.nodes[leader-1].core.changes.current != nil {
			continue
		}
		n := env.nodes[leader-1]
		n.core.TakeSnapshot(func(kv.State) {})
		n.pump()
		waiter := env.waiter()
		n.core.AddLearner(env.newcomer().member(), func(*kvv1.Membership, error) { env.heard(waiter) })
		n.pump()
		return
	}
}

// heal lets the cluster come to rest and looks at what it kept.
func (env *randomCluster) heal() {
	t := env.t
	t.Helper()
	env.cut, env.loss = 0, 0
	done := func() bool {
		leader := env.leader()
		if leader == 0 {
			return false
		}
		s := env.nodes[leader-1].store.State()
		for _, n := range env.members(leader) {
			if n.store.State().Index != s.Index {
				return false
			}
		}
		return len(env.open) == 0
	}
	if env.grows {
		env.joinBehindSnapshot()
	}
	for round := 0; !done(); round++ {
		if round == 200 {
			for _, n := range env.nodes {
				t.Logf("node %d: %+v", n.id, n.core.Status())
			}
			t.Fatalf("does not come to rest: %d waiters have not heard", len(env.open))
		}
		env.settle()
	}
	leader := env.leader()
	hash := env.nodes[leader-1].store.View().Hash()
	for _, n := range env.members(leader) {
		if n.store.View().Hash() != hash {
			t.Fatalf("node %d has another state than the leader, node %d", n.id, leader)
		}
		for key := range env.acked {
			if _, _, found := n.store.Get([]byte(key)); !found {
				t.Fatalf("node %d lost the acknowledged write of %s", n.id, key)
			}
		}
		for key := range env.refused {
			if _, _, found := n.store.Get([]byte(key)); found {
				t.Fatalf("node %d has %s, whose write was refused", n.id, key)
			}
		}
	}
}
