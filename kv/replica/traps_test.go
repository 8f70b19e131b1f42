package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	"raftlab/kv/storage"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// The tests of this file each fail without one piece of care that raft asks for;
// docs/traps.md lists all of them.

// raft panics on settings that it does not like: what it would not like is
// refused before it sees it.
func TestSettingsThatRaftWouldPanicOf(t *testing.T) {
	for _, test := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Incarnation = 0 }, "incarnation 0 is reserved"},
		{func(c *Config) { c.Batcher = nil }, "no batcher given"},
		{func(c *Config) { c.InflightBytes = c.AppendSize - 1 }, "inflight-bytes 1048575 is less than append-size 1048576"},
		{func(c *Config) { c.ElectionTicks = c.HeartbeatTicks }, "election-ticks 1 must be greater than heartbeat-ticks 1"},
		{func(c *Config) { c.HeartbeatTicks = 0 }, "heartbeat-ticks 0, at least 1"},
		{func(c *Config) { c.ID = 0 }, "id 0 is reserved"},
		{func(c *Config) { c.ID = raft.LocalAppendThread }, "id 18446744073709551615 is reserved"},
		{func(c *Config) { c.ID = raft.LocalApplyThread }, "id 18446744073709551614 is reserved"},
		{func(c *Config) { c.InflightMsgs = 0 }, "inflight-messages 0 must be at least 1"},
	} {
		cfg := testConfig(1)
		test.change(&cfg)
		_, err := NewCore(cfg, storage.NewMemory(), kv.State{}, &kvv1.Membership{}, time.Now())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}

// Small appends must not make for small steps of the store: how much may wait to
// be applied is a bound of its own.
func TestAppendSizeDoesNotThrottleApply(t *testing.T) {
	env := newRandomCluster(t, 1, 5, 1)
	n := env.nodes[0]
	cfg := n.core.cfg
	cfg.AppendSize, cfg.ApplySize, cfg.Packer.Packed, cfg.Uncommitted = 100, 1<<20, false, 1<<20
	core, err := NewCore(cfg, n.log, n.store.State(), n.store.Membership(), env.now)
	if err != nil {
		t.Fatal(err)
	}
	n.core = core
	env.found()
	const count = 50
	n.propose(count)
	n.advance()
	for len(n.appends) > 0 {
		n.append()
	}
	handed := 0 // none of them has been applied
	for _, task := range n.applies {
		handed += len(task.Entries)
	}
	if handed != count {
		t.Errorf("%d of %d committed entries are handed out to be applied", handed, count)
	}
	n.pump()
	if len(env.acked) != count {
		t.Errorf("%d of %d writes acknowledged", len(env.acked), count)
	}
}

// carryOnly delivers messages of some types, with appends made durable and
// nothing applied, and loses all others.
func (env *randomCluster) carryOnly(types ...raftpb.MessageType) {
	for {
		for _, n := range env.nodes {
			for len(n.appends) > 0 {
				n.append()
			}
		}
		i := slices.IndexFunc(env.wire, func(m *raftpb.Message) bool { return slices.Contains(types, m.GetType()) })
		if i < 0 {
			env.wire = nil
			return
		}
		env.deliver(i)
	}
}

// Raft puts an empty entry in the place of a configuration change that it does
// not take, and says nothing. A leader that has not applied all of its
// predecessors' log gets that for every change.
func TestChangeThatRaftTurnsIntoNothing(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	old, next := env.nodes[0], env.nodes[1]
	old.propose(1)
	old.advance()
	env.carryOnly(raftpb.MsgApp) // node 2 has the entry and does not know that it is committed
	next.core.Step(&raftpb.Message{
		Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(old.core.term),
	})
	next.advance()
	env.carryOnly(raftpb.MsgVote, raftpb.MsgVoteResp)
	if next.core.role != raft.StateLeader || next.core.applied != next.core.commit {
		t.Fatalf("node 2: %+v", next.core.Status())
	}
	var result error
	heard := 0
	next.core.ChangeVoters([]uint64{1, 2}, true, func(_ *kvv1.Membership, err error) { heard, result = heard+1, err })
	next.advance()
	if heard != 0 {
		t.Errorf("heard %d times before it can be proposed: %v", heard, result)
	}
	// Once it has applied them the change is taken.
	env.settle()
	env.settle()
	env.settle()
	if heard != 1 || result != nil || len(next.core.membership.GetVoters()) != 2 {
		t.Errorf("afterwards: heard %d times: %v, voters %v", heard, result, next.core.membership.GetVoters())
	}
}

// Whoever asked for a change may give up just when it is refused, with nothing
// under way any more.
func TestGivingUpARefusedChange(t *testing.T) {
	env := newRandomCluster(t, 1, 10, 1)
	env.found()
	c, heard := env.nodes[0].core, 0
	ch := c.RemoveNode(1, func(_ *kvv1.Membership, err error) {
		if heard++; !errors.Is(err, ErrRefused) {
			t.Errorf("the last voter is removed: %v", err)
		}
	})
	c.Cancel(ch, errors.New("given up"))
	if heard != 1 {
		t.Errorf("heard %d times", heard)
	}
}

// A node that is a member and asks in with another memory is refused, though id and
// addresses are the same: it forgot its votes.
func TestMemberWithAnotherMemoryIsRefused(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	for _, n := range env.nodes[1:] {
		again := n.member()
		var result error
		env.nodes[0].core.AddLearner(again, func(_ *kvv1.Membership, err error) { result = err })
		if result != nil {
			t.Errorf("node %d as it is: %v", n.id, result)
		}
		again.Incarnation++
		env.nodes[0].core.AddLearner(again, func(_ *kvv1.Membership, err error) { result = err })
		if want := fmt.Sprintf("remove node %d, add it again under a new id", n.id); !errors.Is(result, ErrRefused) || !strings.Contains(fmt.Sprint(result), want) {
			t.Errorf("node %d with another memory: %v, want %q", n.id, result, want)
		}
	}
}

// Raft does not campaign while a configuration change waits to be applied, and the
// leader that hands over asks once: the request waits with it.
func TestHandingOverToANodeThatHasToApply(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	leader, heir := env.nodes[0], env.nodes[1]
	leader.core.ChangeVoters([]uint64{1, 2}, true, func(*kvv1.Membership, error) {})
	leader.advance()
	env.carryOnly(raftpb.MsgApp, raftpb.MsgAppResp)
	if heir.core.commit == heir.core.applied {
		t.Fatal("nothing waits to be applied")
	}
	heir.core.Step(&raftpb.Message{
		Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(leader.core.term),
	})
	heir.advance()
	if heir.core.role != raft.StateFollower {
		t.Errorf("campaigns with a change not applied: %v", heir.core.role)
	}
	heir.pump()
	if heir.core.role != raft.StateCandidate {
		t.Errorf("does not campaign when all is applied: %v", heir.core.role)
	}
}

// A command that meets raft just when it has lost leadership is refused, as
// certainly not applied. Raft would rather forward it, without ever telling what
// became of it.
func TestCommandThatCrossesTheLossOfLeadership(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	old := env.nodes[0]
	old.core.Step(&raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(old.core.term + 1),
	})
	old.propose(1) // in the same batch of events: the core does not know yet
	old.advance()
	for _, m := range env.wire {
		if m.GetType() == raftpb.MsgProp {
			t.Errorf("forwarded: %v", raft.DescribeMessage(m, describeEntry))
		}
	}
	if len(env.refused) != 1 || env.unknown != 0 {
		t.Errorf("%d writes refused, %d unknown, want 1 refused", len(env.refused), env.unknown)
	}
}

// Raft drops a ReadIndex without a word. Each attempt has a context of its own: a
// late answer to an earlier one knows nothing of writes in between.
func TestEachReadAttemptHasAContextOfItsOwn(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	n := env.nodes[1]
	n.core.Read(&randomRead{n, env.waiter(), 0})
	n.advance()
	attempts := make(map[string]bool)
	for tick := 0; len(attempts) < 3; tick++ {
		if tick == 3*n.core.cfg.ElectionTicks {
			t.Fatalf("%d contexts in %d ticks", len(attempts), tick)
		}
		for _, m := range env.wire {
			if m.GetType() == raftpb.MsgReadIndex {
				context := string(m.GetEntries()[0].GetData())
				if attempts[context] {
					t.Fatalf("context %x a second time", context)
				}
				attempts[context] = true
			}
		}
		env.wire = nil // the leader never hears of it
		n.core.Tick()
		n.advance()
	}
	env.heal()
}

// restart begins another run of a node on the log that it has, as one with a
// durable log and no snapshot: its store comes from the log.
func (n *randomNode) restart() {
	n.env.t.Helper()
	cfg := n.core.cfg
	cfg.Incarnation += 1000
	n.store = kv.NewStore()
	n.appends, n.applies, n.applied = nil, nil, 0
	var err error
	if n.core, err = NewCore(cfg, n.log, n.store.State(), n.store.Membership(), n.env.now); err != nil {
		n.env.t.Fatal(err)
	}
	n.env.open = make(map[int]bool) // the waiters of that run ended with it
	n.pump()
}

// A node that was restarted counts its reads from 1 again. An answer to its former
// run comes late, and knows nothing of writes in between.
func TestReadAnswerOfAFormerRun(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	leader, n := env.nodes[0], env.nodes[1]
	n.core.Read(&randomRead{n, env.waiter(), 0})
	n.advance()
	var answer *raftpb.Message
	for len(env.wire) > 0 {
		if m := env.wire[0]; m.GetType() == raftpb.MsgReadIndexResp {
			answer, env.wire = m, env.wire[1:] // stays on its way
			continue
		}
		env.deliver(0)
	}
	if answer == nil {
		t.Fatal("the leader did not answer")
	}
	n.pump()
	n.restart()
	leader.core.Tick() // a heartbeat tells node 2 who leads
	leader.propose(1)
	leader.pump()
	env.carryOnly(raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgApp, raftpb.MsgAppResp)
	leader.pump()
	if len(env.acked) != 1 || n.core.leader != leader.id {
		t.Fatalf("%d writes acknowledged, node 2 follows node %d", len(env.acked), n.core.leader)
	}
	n.core.Read(&randomRead{n, env.waiter(), env.highest})
	n.advance()
	n.core.Step(answer)
	n.advance()
	if env.readsDone > 0 {
		t.Error("an answer to the former run's read was taken for this one's")
	}
	env.heal()
	if env.readsDone != 1 {
		t.Errorf("%d reads answered", env.readsDone)
	}
}

// What MsgSnap carries is copied by raft again and again: it is metadata only.
func TestSnapshotMessageIsADescriptor(t *testing.T) {
	env := newRandomCluster(t, 1, 5, 1)
	env.found()
	n := env.nodes[0]
	for range 100 {
		n.propose(1)
		n.pump()
	}
	if _, err := n.core.snap.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("made on the raft goroutine: %v", err)
	}
	n.pump()
	snap, err := n.core.snap.Snapshot()
	if err != nil || len(snap.GetData()) > 0 || snap.GetMetadata().GetIndex() != n.store.State().Index {
		t.Errorf("%v, %v", snap, err)
	}
}

// Entries of a former run of a node carry sequences that this run counts too. They
// are not taken for its own: whoever waits for the one would hear of the other.
func TestEntryOfAFormerRunIsNotThisOnes(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	n := env.nodes[0]
	n.propose(1)
	n.advance()
	former := n.core.sequence
	env.carryOnly(raftpb.MsgApp) // in the logs of all, and not committed
	n.restart()
	n.core.cfg.Packer.Packed = false
	n.core.Step(&raftpb.Message{ // its votes are held back by no promise
		Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(n.core.term),
	})
	n.advance()
	env.carryOnly(raftpb.MsgVote, raftpb.MsgVoteResp)
	last, err := n.log.LastIndex()
	if err != nil || n.core.role != raft.StateLeader || n.core.commit+2 != last {
		t.Fatalf("not leading before the former run's entry is committed: %+v", n.core.Status())
	}
	n.propose(int(former))
	if n.advance(); n.core.sequence != former {
		t.Fatalf("sequence %d, the former run was at %d", n.core.sequence, former)
	}
	env.heal()
	if len(env.acked) != int(former) {
		t.Errorf("%d of %d writes acknowledged", len(env.acked), former)
	}
	for key, index := range env.acked {
		if index <= last {
			t.Errorf("the write of %s is said to be entry %d, which the former run proposed", key, index)
		}
	}
}

// Those who speak for followers tell a leader of things that it never sent. It
// must not believe, or panic of, any of it.
func TestLiesToTheLeader(t *testing.T) {
	position := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	for name, lie := range map[string]func(*raftpb.Message){
		"a read confirmed that nobody asked for": func(m *raftpb.Message) {
			m.Type, m.Context = raftpb.MsgHeartbeatResp.Enum(), position(1)
		},
		"all reads confirmed": func(m *raftpb.Message) {
			m.Type, m.Context = raftpb.MsgHeartbeatResp.Enum(), position(math.MaxUint64)
		},
		"entries beyond the log": func(m *raftpb.Message) { m.Type, m.Index = raftpb.MsgAppResp.Enum(), new(uint64(1<<60)) },
		"all entries there can be": func(m *raftpb.Message) {
			m.Type, m.Index = raftpb.MsgAppResp.Enum(), new(uint64(math.MaxUint64))
		},
		"a rejection beyond the log": func(m *raftpb.Message) {
			m.Type, m.Index, m.Reject, m.RejectHint = raftpb.MsgAppResp.Enum(), new(uint64(1<<60)), new(true), new(uint64(1<<60))
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := newRandomCluster(t, 3, 10, 1)
			env.form()
			env.settle()
			leader := env.nodes[0]
			before := leader.core.commit
			refused := leader.core.count.MessagesRefused
			for _, from := range []uint64{2, 3} {
				m := &raftpb.Message{From: &from, To: new(uint64(1)), Term: new(leader.core.term)}
				lie(m)
				leader.core.Step(m)
				leader.advance()
			}
			if leader.core.commit != before {
				t.Errorf("commit went from %d to %d", before, leader.core.commit)
			}
			t.Logf("%d refused", leader.core.count.MessagesRefused-refused)
			leader.propose(1)
			leader.read()
			leader.advance()
			env.settle()
			env.heal()
			if len(env.acked) != 1 || env.readsDone != 1 {
				t.Errorf("%d writes and %d reads afterwards", len(env.acked), env.readsDone)
			}
		})
	}
}

// docs/traps.md names files, tests and transcripts: they are there.
func TestTrapsNamesWhatIsThere(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(filepath.Join(root, "docs", "traps.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)\w+)\(`)
	for _, pattern := range []string{"kv/*_test.go", "kv/*/*_test.go", "transport/*_test.go", "bench/cluster/*_test.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range declared.FindAllSubmatch(code, -1) {
				tests[string(m[1])] = true
			}
		}
	}
	named := 0
	for _, m := range regexp.MustCompile("`([^`\\s]+)`").FindAllSubmatch(text, -1) {
		name := string(m[1])
		var there bool
		switch {
		case name == "Test...", name == "name.txt":
			continue
		case strings.HasPrefix(name, "Test"), strings.HasPrefix(name, "Benchmark"):
			there = tests[name]
		case strings.HasSuffix(name, ".txt"):
			_, err := os.Stat(filepath.Join("testdata", name))
			there = err == nil
		case strings.HasSuffix(name, ".go"):
			_, err := os.Stat(filepath.Join(root, name))
			there = err == nil
		default:
			continue
		}
		if named++; !there {
			t.Errorf("docs/traps.md names %s, which is not there", name)
		}
	}
	if named < 100 {
		t.Errorf("only %d names found", named)
	}
}

// Whoever sends under ever new names is not remembered.
func TestStrangersAreNotRemembered(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	c := env.nodes[0].core
	for from := uint64(100); from < 10_000; from++ {
		c.Step(&raftpb.Message{Type: raftpb.MsgVote.Enum(), From: &from, To: new(uint64(1)), Term: new(c.term)})
	}
	if len(c.heard) > 3 {
		t.Errorf("%d nodes are remembered, of 3", len(c.heard))
	}
}

// A term that no cluster reaches is refused, of any message: it would be the last
// but one that can be counted.
func TestTermBeyondReach(t *testing.T) {
	for _, kind := range []raftpb.MessageType{
		raftpb.MsgHeartbeat, raftpb.MsgApp, raftpb.MsgVote, raftpb.MsgPreVoteResp, raftpb.MsgAppResp, raftpb.MsgSnap,
	} {
		env := newRandomCluster(t, 3, 10, 1)
		env.form()
		env.settle()
		leader := env.nodes[0]
		term, refused := leader.core.term, leader.core.count.MessagesRefused
		leader.core.Step(&raftpb.Message{
			Type: kind.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(leader.core.highestTerm() + 1),
			Reject: new(true), LogTerm: new(uint64(1)), Index: new(uint64(1)),
			Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: &raftpb.ConfState{}}},
		})
		leader.advance()
		if got := leader.core.rn.BasicStatus().GetTerm(); got != term || leader.core.count.MessagesRefused != refused+1 {
			t.Errorf("%s: term %d becomes %d, %d messages refused", kind, term, got, leader.core.count.MessagesRefused-refused)
		}
	}
	// A node that joins follows whoever leads a cluster of very many elections.
	env := newRandomCluster(t, 2, 10, 1)
	joins := env.nodes[1]
	for _, now := range []time.Time{{}, time.Unix(0, 0)} { // clocks that were not set
		joins.core.now = now
		joins.core.Step(&raftpb.Message{
			Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(termsAtLeast)),
		})
	}
	joins.advance()
	if joins.core.term != termsAtLeast || joins.core.leader != 1 {
		t.Errorf("a node that joins is at term %d and follows %d", joins.core.term, joins.core.leader)
	}
}

// One in a member's name leads a node to far higher terms, in steps and to the
// highest that it believes: the others follow it there, and go on to elect.
func TestTermsByBounds(t *testing.T) {
	env := newRandomCluster(t, 3, 10, 1)
	env.form()
	env.settle()
	victim := env.nodes[2].core
	for _, terms := range [][]uint64{
		{1 << 32, 1 << 33, 1 << 34},
		{victim.highestTerm() - 1, victim.highestTerm()},
	} {
		for _, term := range terms {
			victim.Step(&raftpb.Message{
				Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(2)), To: new(uint64(3)), Term: new(term),
			})
			env.nodes[2].advance()
		}
		reached := terms[len(terms)-1]
		for range 20 {
			env.settle()
		}
		for _, n := range env.nodes {
			if n.core.term < reached || n.core.leader != env.leader() || env.leader() == 0 {
				t.Errorf("of terms up to %d: node %d is at term %d and follows %d, %d leads", reached, n.id, n.core.term, n.core.leader, env.leader())
			}
		}
	}
	// The clocks are put back: the next election is believed all the same.
	env.now = time.Unix(0, 0)
	env.settle()
	old := env.leader()
	next := env.nodes[old%3]
	next.core.Step(&raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(old), To: new(next.id), Term: new(next.core.term)})
	env.settle()
	if env.leader() != next.id {
		t.Errorf("node %d leads, not %d", env.leader(), next.id)
	}
}
