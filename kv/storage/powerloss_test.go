package storage_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"raftlab/kv/storage"
	"raftlab/kv/storage/storagetest"
)

// A state is the log and the hard state as a naive list.
type state struct {
	base, baseTerm     uint64
	entries            []*raftpb.Entry // never changed in place
	term, vote, commit uint64
}

func (s *state) last() uint64 { return s.base + uint64(len(s.entries)) }

func (s *state) termAt(i uint64) uint64 {
	switch {
	case i == s.base:
		return s.baseTerm
	case i < s.base || i > s.last():
		return 0
	}
	return s.entries[i-s.base-1].GetTerm()
}

func (s state) apply(m *raftpb.Message) state {
	if m.Term != nil {
		s.term, s.vote, s.commit = m.GetTerm(), m.GetVote(), m.GetCommit()
	}
	if meta := m.GetSnapshot().GetMetadata(); meta != nil {
		s.base, s.baseTerm, s.entries = meta.GetIndex(), meta.GetTerm(), nil
	}
	if len(m.GetEntries()) > 0 {
		keep := m.GetEntries()[0].GetIndex() - s.base - 1
		s.entries = slices.Concat(s.entries[:keep], m.GetEntries())
	}
	return s
}

// place is what recovery makes of s with a snapshot: the rule told at Disk.
func (s state) place(index, term uint64) state {
	if index == 0 {
		return s
	}
	if s.termAt(index) == term {
		s.entries = s.entries[index-s.base:]
	} else {
		s.entries = nil
	}
	s.base, s.baseTerm = index, term
	s.commit = max(s.commit, index)
	if term > s.term {
		s.term, s.vote = term, 0
	}
	return s
}

// recovered reads the state of an open Disk.
func recovered(d *storage.Disk) (state, error) {
	var s state
	l := d.Log()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	hs, _, err := l.InitialState()
	if err != nil {
		return s, err
	}
	s.term, s.vote, s.commit = hs.GetTerm(), hs.GetVote(), hs.GetCommit()
	s.base = first - 1
	if s.baseTerm, err = l.Term(s.base); err != nil {
		return s, err
	}
	if last >= first {
		s.entries, err = l.Entries(first, last+1, math.MaxUint64)
	}
	return s, err
}

func (s *state) equal(o *state) bool {
	if s.base != o.base || s.baseTerm != o.baseTerm || s.term != o.term || s.vote != o.vote || s.commit != o.commit || len(s.entries) != len(o.entries) {
		return false
	}
	for i := range s.entries {
		if !proto.Equal(s.entries[i], o.entries[i]) {
			return false
		}
	}
	return true
}

func (s *state) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "term %d vote %d commit %d log (%d:%d", s.term, s.vote, s.commit, s.base, s.baseTerm)
	for _, e := range s.entries {
		fmt.Fprintf(&b, " %d:%d", e.GetIndex(), e.GetTerm())
	}
	return b.String() + ")"
}

type snap struct{ index, term uint64 }

// content is what the snapshot of an index holds: some span several buffers.
func content(index uint64) string {
	return strings.Repeat(fmt.Sprintf("state at %d;", index), 1+int(index%7)*150)
}

// A script drives a Disk as a node would, by its seed, and knows what must and
// what may be found after a crash.
type script struct {
	rng  *rand.Rand
	fs   *storagetest.Disk
	o    storage.Options
	disk *storage.Disk

	history []state // after each message; the last is what was asked for
	durable int     // index in history of what is promised
	snap    snap    // newest committed
	next    snap    // being committed; index 0 if none
	restart bool    // the log has still to restart at snap
	opening bool    // Open has not returned for the first time
	cluster uint64  // id that was acknowledged
}

func newScript(seed uint64, policy string) *script {
	s := &script{rng: rand.New(rand.NewPCG(seed, 1)), fs: storagetest.New(), history: []state{{}}, opening: true}
	// A segment of a few messages, in one page, or one that grows by and by.
	size := []int64{400, 400, 6000}[seed%3]
	s.o = storage.Options{Dir: "/data/node", FS: s.fs, Sync: policy, SegmentSize: size, Node: 7}
	return s
}

func (s *script) now() *state { return &s.history[len(s.history)-1] }

func (s *script) entries(first, n, term uint64) []*raftpb.Entry {
	es := make([]*raftpb.Entry, n)
	for i := range es {
		data := make([]byte, s.rng.IntN(1<<s.rng.IntN(10)))
		for k := range data {
			data[k] = byte(s.rng.Uint32())
		}
		es[i] = &raftpb.Entry{Index: new(first + uint64(i)), Term: new(term), Data: data}
		if s.rng.IntN(10) > 0 {
			es[i].Type = raftpb.EntryNormal.Enum()
		}
	}
	return es
}

// message makes one that raft might.
func (s *script) message(from state) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgStorageAppend.Enum()}
	// Raft takes a snapshot that its log matches as word that this is committed.
	term, vote, commit := from.term, from.vote, max(from.commit, s.snap.index)
	switch s.rng.IntN(6) {
	case 0: // a vote
		term, vote = term+1, 1+s.rng.Uint64N(3)
	case 1: // a conflicting suffix, by a new leader
		if from.last() > commit {
			term, vote = term+1, 0
			m.Entries = s.entries(commit+1+s.rng.Uint64N(from.last()-commit), 1+s.rng.Uint64N(3), term)
		}
	case 2: // the commit index alone
		commit += s.rng.Uint64N(from.last() - commit + 1)
	default:
		if term == 0 {
			term = 1
		}
		m.Entries = s.entries(from.last()+1, 1+s.rng.Uint64N(4), term)
		if s.rng.IntN(2) == 0 {
			commit += s.rng.Uint64N(from.last() - commit + 1)
		}
	}
	if term != from.term || vote != from.vote || commit != from.commit {
		m.Term, m.Vote, m.Commit = new(term), new(vote), new(commit)
	}
	return m
}

func mustSync(before *state, m *raftpb.Message) bool {
	return len(m.Entries) > 0 || m.Snapshot != nil || m.Term != nil && (m.GetTerm() != before.term || m.GetVote() != before.vote)
}

func (s *script) write(messages ...*raftpb.Message) error {
	promised := s.durable
	for _, m := range messages {
		before := *s.now()
		s.history = append(s.history, before.apply(m))
		if mustSync(&before, m) {
			promised = len(s.history) - 1
		}
	}
	if err := s.disk.Write(messages); err != nil {
		return err
	}
	if s.o.Sync != storage.SyncNever {
		s.durable = promised
	}
	return nil
}

func (s *script) commitSnapshot(index, term uint64) error {
	f, err := s.disk.NewSnapshot(meta(index, term))
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, content(index)); err != nil {
		return errors.Join(err, f.Abort())
	}
	if s.rng.IntN(8) == 0 {
		return f.Abort()
	}
	s.next = snap{index, term}
	if err := f.Commit(); err != nil {
		return err
	}
	s.snap, s.next = s.next, snap{}
	s.restart = s.now().termAt(index) != term
	return nil
}

// open opens the Disk, again or at first, and takes over what it recovered.
func (s *script) open() error {
	d, err := storage.Open(s.o)
	if err != nil {
		return err
	}
	got, found, err := s.match(d)
	if err != nil {
		return err
	}
	s.disk, s.opening, s.restart, s.snap, s.next = d, false, false, found, snap{}
	s.history = append(s.history, got)
	if s.o.Sync != storage.SyncNever {
		s.durable = len(s.history) - 1
	}
	return nil
}

// match checks that what a Disk recovered is what may be there.
func (s *script) match(d *storage.Disk) (got state, found snap, err error) {
	if got, err = recovered(d); err != nil {
		return got, found, err
	}
	if id := d.ClusterID(); id != s.cluster && id != 99 {
		return got, found, fmt.Errorf("cluster id %d, %d was acknowledged", id, s.cluster)
	}
	if found, err = checkSnapshot(d); err != nil {
		return got, found, err
	}
	if found != s.snap && (found != s.next || s.next.index == 0) {
		return got, found, fmt.Errorf("snapshot %v, want %v or %v", found, s.snap, s.next)
	}
	if !slices.ContainsFunc(s.history[s.durable:], func(h state) bool {
		placed := h.place(found.index, found.term)
		return placed.equal(&got)
	}) {
		return got, found, fmt.Errorf("found %v\nwith snapshot %v, promised %v\nlast asked for %v", &got, found, &s.history[s.durable], s.now())
	}
	return got, found, nil
}

func (s *script) step() error {
	if s.disk == nil {
		return s.open()
	}
	now := s.now()
	if s.restart && s.rng.IntN(2) == 0 {
		s.restart = false
		m := restart(s.snap.index, max(now.term, s.snap.term))
		m.Snapshot.Metadata = meta(s.snap.index, s.snap.term)
		if m.GetTerm() == now.term {
			m.Vote = new(now.vote)
		}
		return s.write(m)
	}
	switch pick := s.rng.IntN(30); {
	case pick == 0:
		s.fs.Kill()
		s.disk = nil
		return nil
	case pick == 1:
		err := s.disk.Close()
		if err == nil && s.o.Sync != storage.SyncNever {
			s.durable = len(s.history) - 1
		}
		s.disk = nil
		return err
	case s.restart: // raft waits for its snapshot, but may vote
		return s.write(&raftpb.Message{Term: new(now.term + 1), Vote: new(uint64(3)), Commit: new(now.commit)})
	case pick <= 4 && now.commit > 0 && now.commit >= s.snap.index && now.commit > now.base:
		return s.commitSnapshot(now.commit, now.termAt(now.commit))
	case pick == 5: // from a leader: ahead, or of another history
		index := now.commit + 1 + s.rng.Uint64N(now.last()-now.commit+5)
		return s.commitSnapshot(index, max(1, now.term, now.termAt(now.last()))+s.rng.Uint64N(2))
	case pick >= 6 && pick <= 11:
		return s.disk.Release(s.snap.index)
	case pick == 12 && s.cluster == 0:
		err := s.disk.SetClusterID(99)
		if err == nil {
			s.cluster = 99
		}
		return err
	}
	var messages []*raftpb.Message
	from := *now
	for range 1 + s.rng.IntN(3) {
		m := s.message(from)
		messages, from = append(messages, m), from.apply(m)
	}
	return s.write(messages...)
}

// check opens what a crash left and compares it with what must be there. On goes
// a write, which a second power cut must leave.
func (s *script) check(left *storagetest.Disk) error {
	o := s.o
	o.FS = left
	d, err := storage.Open(o)
	if err != nil {
		return fmt.Errorf("it can't be opened: %w", err)
	}
	got, _, err := s.match(d)
	if err != nil {
		return err
	}
	m := &raftpb.Message{Term: new(got.term + 1), Vote: new(uint64(1)), Commit: new(got.commit), Entries: []*raftpb.Entry{
		{Index: new(got.last() + 1), Term: new(got.term + 1), Data: []byte("on")},
	}}
	if err := d.Write([]*raftpb.Message{m}); err != nil {
		return fmt.Errorf("it can't go on: %w", err)
	}
	o.FS = left.Crash(0, nil)
	if o.Sync == storage.SyncNever {
		o.FS = left.Crash(100, nil)
	}
	if d, err = storage.Open(o); err != nil {
		return fmt.Errorf("after another crash: %w", err)
	}
	again, err := recovered(d)
	if err != nil {
		return err
	}
	if on := got.apply(m); !again.equal(&on) {
		return fmt.Errorf("after another crash %v, want %v", &again, &on)
	}
	return d.Close()
}

func checkSnapshot(d *storage.Disk) (snap, error) {
	m, r, err := d.Snapshot()
	if err != nil || m == nil {
		return snap{}, err
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return snap{}, err
	}
	if string(data) != content(m.GetIndex()) {
		return snap{}, fmt.Errorf("snapshot of index %d holds %d other bytes", m.GetIndex(), len(data))
	}
	return snap{m.GetIndex(), m.GetTerm()}, nil
}

const scriptSteps = 50

var errPower = errors.New("power is gone")

// Power goes at every operation of the file system.
func TestPowerLoss(t *testing.T) {
	for _, policy := range []string{storage.SyncAlways, storage.SyncBatched} {
		t.Run(policy, func(t *testing.T) {
			operations, images, cuts, recycled := 0, 0, 0, 0
			for seed := range uint64(6) {
				s := newScript(seed, policy)
				crashes := rand.New(rand.NewPCG(seed, 2))
				look := func(op fmt.Stringer) {
					operations++
					for _, percent := range []int{0, 100, 10, 50, 50, 90} {
						images++
						if err := s.check(s.fs.Crash(percent, crashes)); err != nil {
							t.Fatalf("seed %d, power cut before operation %d (%v), %d %% of what was not synced kept: %v", seed, operations, op, percent, err)
						}
					}
				}
				// Now and then the script goes on with what the power cut left.
				var left *storagetest.Disk
				created := ""
				before := func(op storagetest.Op) error {
					look(op)
					switch {
					case op.Kind == "create":
						created = op.Name
					case op.Kind == "rename" && strings.Contains(op.Name, "journal-") && strings.HasSuffix(op.Name, ".tmp") && op.Name != created:
						recycled++
					}
					if left == nil && crashes.IntN(60) == 0 {
						left = s.fs.Crash(50, crashes)
					}
					if left != nil {
						return errPower
					}
					return nil
				}
				s.fs.Before = before
				for i := range scriptSteps {
					err := s.step()
					if left != nil {
						left.Before = before
						s.fs, s.o.FS, s.disk, left = left, left, nil, nil
						cuts++
					} else if err != nil {
						t.Fatalf("seed %d, step %d: %v", seed, i, err)
					}
				}
				look(storagetest.Op{Kind: "end"})
			}
			t.Logf("%d operations, %d power cuts looked at, %d gone on from, %d segments recycled", operations, images, cuts, recycled)
			if recycled == 0 {
				t.Error("no segment was written over")
			}
		})
	}
}

// The process dies at every operation; the machine goes on, so that nothing
// written is lost, whatever the policy.
func TestProcessDeath(t *testing.T) {
	for seed := range uint64(12) {
		s := newScript(seed, storage.SyncNever)
		s.fs.Before = func(op storagetest.Op) error {
			if err := s.check(s.fs.Crash(100, nil)); err != nil {
				t.Fatalf("seed %d, process death before %v: %v", seed, op, err)
			}
			return nil
		}
		for i := range scriptSteps {
			if err := s.step(); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, i, err)
			}
		}
	}
}

// Each operation in turn fails. Whoever asked for it hears of it, nothing is
// acknowledged after it, and what was acknowledged before is there after a power
// cut.
func TestFaults(t *testing.T) {
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		for seed := range uint64(4) {
			for at := 0; ; at++ {
				done, err := failAt(seed, at, fault)
				if err != nil {
					t.Fatalf("seed %d, %v at operation %d: %v", seed, fault, at, err)
				}
				if done {
					t.Logf("seed %d: %v at each of %d operations", seed, fault, at)
					break
				}
			}
		}
	}
}

// failAt runs the script of seed until its operation at, which fails. It is done
// if there is no such operation.
func failAt(seed uint64, at int, fault error) (done bool, err error) {
	policy := []string{storage.SyncAlways, storage.SyncBatched}[seed%2]
	s := newScript(seed, policy)
	count := 0
	var failed *storagetest.Op
	s.fs.Before = func(op storagetest.Op) error {
		count++
		if count-1 != at {
			return nil
		}
		failed = &op
		return fault
	}
	for i := 0; i < scriptSteps && err == nil; i++ {
		err = s.step()
	}
	if failed == nil {
		return true, err
	}
	if err == nil {
		// A snapshot that stays although it is superfluous harms nobody.
		if failed.Kind == "remove" && strings.Contains(failed.Name, "snapshot-") {
			return false, s.check(s.fs.Crash(0, nil))
		}
		return false, fmt.Errorf("%v failed and nobody heard of it", failed)
	}
	if !errors.Is(err, fault) {
		return false, fmt.Errorf("%v failed, the error says %w", failed, err)
	}
	if errors.Is(fault, syscall.ENOSPC) && !errors.Is(err, storage.ErrNoSpace) && failed.Kind != "remove" {
		return false, fmt.Errorf("%v: not ErrNoSpace: %w", failed, err)
	}
	if err := s.checkFatal(failed, err); err != nil {
		return false, err
	}
	if s.opening {
		s.history = []state{{}}
	}
	s.fs.Before = nil
	if err := s.check(s.fs.Crash(0, nil)); err != nil {
		return false, fmt.Errorf("power cut after %v failed: %w", failed, err)
	}
	if err := s.checkRestart(); err != nil {
		return false, fmt.Errorf("power cut after %v failed and the folder was opened again: %w", failed, err)
	}
	crashes := rand.New(rand.NewPCG(seed, uint64(at)))
	if err := s.check(s.fs.Crash(50, crashes)); err != nil {
		return false, fmt.Errorf("power cut after %v failed, with half of the rest: %w", failed, err)
	}
	return false, nil
}

// checkRestart: what is found after a fault is durable then, whatever the kernel
// takes for clean.
func (s *script) checkRestart() error {
	fsys := s.fs
	fsys.Kill()
	o := s.o
	o.FS = fsys
	disk, err := storage.Open(o)
	if err != nil {
		return err
	}
	found, err := recovered(disk)
	if err != nil {
		return err
	}
	o.FS = fsys.Crash(0, nil)
	if disk, err = storage.Open(o); err != nil {
		return err
	}
	again, err := recovered(disk)
	if err == nil && !found.equal(&again) {
		err = fmt.Errorf("it was %v, it is %v", &found, &again)
	}
	return errors.Join(err, disk.Close())
}

// checkFatal: after a failure of the journal or of an fsync nothing succeeds.
func (s *script) checkFatal(op *storagetest.Op, cause error) error {
	if s.disk == nil {
		return nil // of Open, or of Close
	}
	release := op.Kind == "remove" || op.Kind == "rename" && !strings.HasSuffix(op.Name, ".tmp")
	if release {
		return nil
	}
	journal := strings.Contains(op.Name, "journal-")
	if !journal && op.Kind != "sync" && op.Kind != "syncdir" && op.Kind != "rename" {
		return nil
	}
	err := s.disk.Write([]*raftpb.Message{{Term: new(s.now().term + 1), Vote: new(uint64(1)), Commit: new(s.now().commit)}})
	_, newErr := s.disk.NewSnapshot(meta(1<<40, 1<<40))
	for _, err := range []error{err, newErr, s.disk.Release(1), s.disk.SetClusterID(5), s.disk.Close()} {
		if err == nil || err.Error() != cause.Error() && !strings.HasPrefix(cause.Error(), err.Error()) {
			return fmt.Errorf("after %v failed with %q a later call says: %w", op, cause.Error(), err)
		}
	}
	return nil
}
