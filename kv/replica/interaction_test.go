package replica

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	"raftlab/kv/storage"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// TestTranscripts drives cores without goroutines or clock through the scripts
// in testdata and compares what they do, message by message. Rewrite with
// -rewrite, and read the difference.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		env := &transcript{t: t, nodes: make(map[uint64]*transcriptNode), halves: make(map[uint64]snapshotPoint), now: time.Unix(1700000000, 0)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			env.out.Reset()
			env.t = t
			env.handle(d)
			if env.out.Len() == 0 {
				return "ok\n"
			}
			return env.out.String()
		})
	})
}

// transcript is a cluster of cores and the wire between them.
type transcript struct {
	t     *testing.T
	nodes map[uint64]*transcriptNode
	wire  []*raftpb.Message
	cut   []uint64    // nodes that nothing reaches or leaves
	links [][2]uint64 // from, to: what is sent there is lost
	now   time.Time
	out   strings.Builder

	slow      bool // snapshots stay on their way until they are told to end
	snapshots []snapshotOnItsWay
	halves    map[uint64]snapshotPoint // what a node has half of, as its transport keeps it
}

type snapshotOnItsWay struct {
	message *raftpb.Message
	view    *kv.View
}

type transcriptNode struct {
	env   *transcript
	id    uint64
	core  *Core
	log   *storage.Memory
	store *kv.Store
	views map[uint64]*kv.View // snapshots that travel, by index
	holds bool                // what is committed is not applied yet
	held  []*ApplyTask
}

// handle runs one command of a script.
func (env *transcript) handle(d *datadriven.TestData) {
	var id, to, count uint64
	d.MaybeScanArgs(env.t, "id", &id)
	d.MaybeScanArgs(env.t, "to", &to)
	n := env.nodes[id]
	switch d.Cmd {
	case "nodes":
		d.ScanArgs(env.t, "count", &count)
		for i := range count {
			env.add(i+1, d)
		}
	case "init":
		created, err := n.core.Init(n.member(), 0xc1)
		env.printf("created=%v err=%v\n", created, err)
	case "propose":
		var ps []Proposal
		for line := range strings.SplitSeq(strings.TrimSpace(d.Input), "\n") {
			key, value, _ := strings.Cut(line, "=")
			p := Proposal{
				Command: kv.Command{Kind: kv.KindPut, Key: []byte(key), Value: []byte(value)},
				Waiter:  printWaiter{n, key},
			}
			p.size = kv.CommandSize(&p.Command)
			ps = append(ps, p)
		}
		n.core.Propose(ps, env.now)
	case "pass": // time
		var text string
		d.ScanArgs(env.t, "time", &text)
		passed, err := time.ParseDuration(text)
		if err != nil {
			d.Fatalf(env.t, "time: %v", err)
		}
		env.now = env.now.Add(passed)
	case "read":
		n.core.Read(printRead{n, "read"})
	case "lease-read":
		n.core.ReadUnderLease(printRead{n, "lease read"})
	case "tick":
		count = 1
		d.MaybeScanArgs(env.t, "count", &count)
		for range count {
			n.core.Tick()
			n.pump()
		}
	case "add-learner":
		n.core.AddLearner(env.nodes[to].member(), n.printChange("add-learner"))
	case "change-voters":
		var text string
		d.ScanArgs(env.t, "voters", &text)
		var voters []uint64
		for f := range strings.SplitSeq(text, "/") {
			v, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				d.Fatalf(env.t, "voters: %v", err)
			}
			voters = append(voters, v)
		}
		n.core.ChangeVoters(voters, d.HasArg("retain"), n.printChange("change-voters"))
	case "remove":
		n.core.RemoveNode(to, n.printChange("remove"))
	case "transfer":
		n.core.Transfer(to, func(err error) { env.printf("%d: transfer to %d: err=%v\n", id, to, err) })
	case "compact":
		n.core.TakeSnapshot(func(s kv.State) { env.printf("%d: snapshot at index %d\n", id, s.Index) })
	case "cut":
		env.cut = append(env.cut, id)
		return
	case "heal":
		env.cut, env.links = nil, nil
		return
	case "deliver":
		d.ScanArgs(env.t, "count", &count)
		for range count {
			env.deliver(false)
		}
		return
	case "stabilize":
		env.stabilize(d.HasArg("quiet"))
		return
	case "status":
		s := n.core.Status()
		env.printf("role=%s term=%d leader=%d commit=%d applied=%d log=%d-%d voters=%v outgoing=%v learners=%v keys=%d\n",
			s.Role, s.Term, s.Leader, s.Commit, s.Applied, s.FirstIndex, s.LastIndex,
			s.Membership.GetVoters(), s.Membership.GetVotersOutgoing(), s.Membership.GetLearners(), n.store.State().Keys)
		return
	case "counters":
		c := n.core.Status().Counters
		env.printf("read_rounds=%d lease_reads=%d lease_fallbacks=%d votes_refused=%d\n", c.ReadRounds, c.LeaseReads, c.LeaseFallbacks, c.VotesRefused)
		return
	case "hold-applies":
		n.holds = true
		return
	case "apply":
		n.holds = false
		for _, task := range n.held {
			n.apply(task)
		}
		n.held = nil
	case "hold-snapshots":
		env.slow = true
		return
	case "pass-snapshots":
		env.slow = false
		return
	case "finish-snapshot", "break-snapshot":
		env.endSnapshot(d, id, to, d.Cmd == "finish-snapshot")
		return
	case "hashes":
		env.printHashes()
		return
	case "cut-link":
		env.links = append(env.links, [2]uint64{id, to})
		return
	case "lose":
		env.wire = nil
		return
	default:
		d.Fatalf(env.t, "unknown command %q", d.Cmd)
	}
	if n != nil {
		n.pump()
		n.printQueue()
	}
}

// printQueue tells of commands that wait for others.
func (n *transcriptNode) printQueue() {
	c := n.core
	if len(c.queue) == 0 && c.held == nil {
		return
	}
	n.env.printf("%d: %d commands wait, %d proposals in flight", n.id, len(c.queue), c.rounds)
	if c.held != nil {
		n.env.printf(", one held back by raft")
	}
	if at := c.WakeAt(); !at.IsZero() {
		n.env.printf(", to be woken in %s", at.Sub(n.env.now))
	}
	n.env.printf("\n")
}

func (env *transcript) printf(format string, args ...any) { fmt.Fprintf(&env.out, format, args...) }

func (env *transcript) add(id uint64, d *datadriven.TestData) {
	batching, packing := Batching{Strategy: BatchGreedy, MaxCount: 100, MaxBytes: 1 << 20}, true
	d.MaybeScanArgs(env.t, "batching", &batching.Strategy)
	d.MaybeScanArgs(env.t, "batch-count", &batching.MaxCount)
	d.MaybeScanArgs(env.t, "batch-size", &batching.MaxBytes)
	var lingerText string
	if d.MaybeScanArgs(env.t, "linger", &lingerText); lingerText == "auto" {
		batching.LingerAuto = true
	} else if lingerText != "" {
		var err error
		if batching.Linger, err = time.ParseDuration(lingerText); err != nil {
			d.Fatalf(env.t, "linger: %v", err)
		}
	}
	if d.HasArg("unpacked") {
		packing = false
	}
	batcher, err := NewBatcher(batching)
	if err != nil {
		d.Fatalf(env.t, "%v", err)
	}
	logEntries := uint64(1000)
	d.MaybeScanArgs(env.t, "log-entries", &logEntries)
	n := &transcriptNode{env: env, id: id, log: storage.NewMemory(), store: kv.NewStore(), views: make(map[uint64]*kv.View)}
	cfg := testConfig(id)
	cfg.Batcher, cfg.Packer.Packed, cfg.LogEntries = batcher, packing, logEntries
	d.MaybeScanArgs(env.t, "uncommitted", &cfg.Uncommitted)
	d.MaybeScanArgs(env.t, "inflight", &cfg.InflightMsgs)
	d.MaybeScanArgs(env.t, "append-size", &cfg.AppendSize)
	if n.core, err = NewCore(cfg, n.log, n.store.State(), n.store.Membership(), env.now); err != nil {
		d.Fatalf(env.t, "%v", err)
	}
	env.nodes[id] = n
}

// testConfig are the settings of the tests' replicas.
func testConfig(id uint64) Config {
	return Config{
		ID: id, Incarnation: 100 + id,
		Tick: 10 * time.Millisecond, HeartbeatTicks: 1, ElectionTicks: 10,
		AppendSize: 1 << 20, InflightMsgs: 64, InflightBytes: 16 << 20, Uncommitted: 64 << 20, ApplySize: 64 << 20,
		Batcher: greedy{caps{1000, 1 << 20}}, Packer: Packer{Packed: true, Size: 1 << 16},
		LogEntries: 1000, LogSize: 64 << 20,
		SnapshotKeep: time.Second,
		AdmissionOps: 100000, AdmissionBytes: 256 << 20,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func (n *transcriptNode) member() *kvv1.Member {
	return &kvv1.Member{
		Id: n.id, Incarnation: n.core.cfg.Incarnation,
		Address: fmt.Sprintf("client%d", n.id), PeerAddress: fmt.Sprintf("peer%d", n.id),
	}
}

func (n *transcriptNode) printChange(what string) func(*kvv1.Membership, error) {
	return func(m *kvv1.Membership, err error) {
		n.env.printf("%d: %s: voters=%v learners=%v err=%v\n", n.id, what, m.GetVoters(), m.GetLearners(), err)
	}
}

type printWaiter struct {
	node *transcriptNode
	key  string
}

func (w printWaiter) Done(_ int, r kv.Result, err error) {
	w.node.env.printf("%d: put %s: index=%d revision=%d err=%v\n", w.node.id, w.key, r.Index, r.Revision, err)
}

type printRead struct {
	node *transcriptNode
	what string
}

func (w printRead) Ready(err error) {
	w.node.env.printf("%d: %s: keys=%d err=%v\n", w.node.id, w.what, w.node.store.State().Keys, err)
}

// pump does what a core wants done, at once and in order.
func (n *transcriptNode) pump() {
	var eff Effects
	for n.core.Advance(n.env.now, &eff) {
		n.env.wire = append(n.env.wire, eff.Messages...)
		for _, m := range eff.Appends {
			n.append(m)
		}
		for _, task := range eff.Applies {
			if n.holds {
				n.held = append(n.held, task)
				continue
			}
			n.apply(task)
		}
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
		if eff.Leader != nil {
			n.env.printf("%d: leader is %d\n", n.id, *eff.Leader)
		}
	}
}

func (n *transcriptNode) append(m *raftpb.Message) {
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		view := n.views[meta.GetIndex()]
		n.store.Restore(view)
		n.core.Restore(view.Membership())
		if err := n.log.Restore(meta); err != nil {
			n.env.t.Fatal(err)
		}
		n.env.printf("%d: installed snapshot at index %d\n", n.id, meta.GetIndex())
	}
	var hs *raftpb.HardState
	if m.Term != nil {
		hs = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if err := n.log.Append(m.GetEntries(), hs); err != nil {
		n.env.t.Fatal(err)
	}
	n.env.wire = append(n.env.wire, n.core.Appended(m)...)
}

func (n *transcriptNode) apply(task *ApplyTask) {
	if task.View {
		n.core.Viewed(n.store.View())
		return
	}
	if task.Restore != nil {
		return // done by append
	}
	for i, e := range task.Entries {
		if m := task.Memberships[e.GetIndex()]; m != nil {
			n.store.SetMembership(e.GetIndex(), e.GetTerm(), m)
			continue
		}
		results, err := n.store.Apply(e.GetIndex(), e.GetTerm(), e.GetData(), nil)
		if err != nil {
			n.env.t.Fatal(err)
		}
		if task.waiters == nil || task.waiters[i] == nil {
			continue
		}
		for j, ref := range task.waiters[i].refs {
			ref.waiter.Done(ref.tag, results[j], nil)
		}
	}
	n.core.Applied(task)
}

// stabilize delivers messages, in order, until none is left.
func (env *transcript) stabilize(quiet bool) {
	for steps := 0; len(env.wire) > 0; steps++ {
		if steps > 5000 {
			env.t.Fatal("does not come to rest")
		}
		env.deliver(quiet)
	}
}

// deliver takes the next message to its node.
func (env *transcript) deliver(quiet bool) {
	m := env.wire[0]
	env.wire = env.wire[1:]
	text := raft.DescribeMessage(m, describeEntry)
	lost := slices.Contains(env.cut, m.GetFrom()) || slices.Contains(env.cut, m.GetTo()) ||
		slices.Contains(env.links, [2]uint64{m.GetFrom(), m.GetTo()}) || env.nodes[m.GetTo()] == nil
	if lost {
		if m.GetType() == raftpb.MsgSnap {
			env.nodes[m.GetFrom()].core.ReportSnapshot(m.GetTo(), false)
		}
		env.nodes[m.GetFrom()].core.ReportUnreachable(m.GetTo())
	}
	if !quiet {
		env.printf("%s%s\n", text, map[bool]string{true: " (lost)"}[lost])
	}
	if lost {
		return
	}
	to := env.nodes[m.GetTo()]
	if m.GetType() == raftpb.MsgSnap {
		s := snapshotOnItsWay{m, env.nodes[m.GetFrom()].core.snap.view}
		if env.slow {
			env.beginSnapshot(s)
		} else {
			env.arrive(s)
		}
		return
	}
	to.core.Step(m)
	to.pump()
	to.printQueue()
}

// beginSnapshot tells what the receiver's transport would: where to go on.
func (env *transcript) beginSnapshot(s snapshotOnItsWay) {
	env.snapshots = append(env.snapshots, s)
	to := s.message.GetTo()
	half, some := env.halves[to]
	switch {
	case !some:
		env.printf("%d: begins to take in a snapshot\n", to)
	case half == pointOf(s.message.GetSnapshot().GetMetadata()):
		env.printf("%d: goes on with the snapshot it has half of\n", to)
	default:
		env.printf("%d: drops the half it has, another snapshot begins\n", to)
	}
	delete(env.halves, to)
}

// endSnapshot ends the oldest snapshot on its way between two nodes.
func (env *transcript) endSnapshot(d *datadriven.TestData, from, to uint64, ok bool) {
	i := slices.IndexFunc(env.snapshots, func(s snapshotOnItsWay) bool {
		return s.message.GetFrom() == from && s.message.GetTo() == to
	})
	if i < 0 {
		d.Fatalf(env.t, "no snapshot is on its way from %d to %d", from, to)
	}
	s := env.snapshots[i]
	env.snapshots = slices.Delete(env.snapshots, i, i+1)
	if ok {
		env.arrive(s)
		return
	}
	env.halves[to] = pointOf(s.message.GetSnapshot().GetMetadata())
	env.nodes[from].core.ReportSnapshot(to, false)
	env.nodes[from].pump()
}

func (env *transcript) arrive(s snapshotOnItsWay) {
	from, to := env.nodes[s.message.GetFrom()], env.nodes[s.message.GetTo()]
	to.views[s.message.GetSnapshot().GetMetadata().GetIndex()] = env.carry(s.view)
	to.core.Step(s.message)
	to.pump()
	from.core.ReportSnapshot(s.message.GetTo(), true)
	from.pump()
}

// printHashes tells which nodes have the same state.
func (env *transcript) printHashes() {
	for id := uint64(1); id <= uint64(len(env.nodes)); id++ {
		view, first := env.nodes[id].store.View(), env.nodes[1].store.View()
		same := map[bool]string{true: "the state of node 1", false: "another state"}[view.Hash() == first.Hash()]
		env.printf("%d: index %d, %s\n", id, view.State().Index, same)
	}
}

// carry sends a view through its records, as the transport would.
func (env *transcript) carry(v *kv.View) *kv.View {
	var records bytes.Buffer
	if err := kv.WriteSnapshot(&records, v); err != nil {
		env.t.Fatal(err)
	}
	d := kv.NewSnapshotDecoder()
	if _, err := d.Write(records.Bytes()); err != nil {
		env.t.Fatal(err)
	}
	out, err := d.Finish()
	if err != nil {
		env.t.Fatal(err)
	}
	return out
}

// describeEntry shows an entry's commands without what differs by machine.
func describeEntry(data []byte) string {
	if len(data) == 0 {
		return "empty"
	}
	var keys []string
	if _, err := kv.DecodeEntry(data, func(c *kv.Command) { keys = append(keys, string(c.Key)) }); err != nil {
		return "config"
	}
	return strings.Join(keys, ",")
}
