package replica

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Replica runs a Core: one goroutine owns it, another applies to the store, and
// with a journal a third makes the log durable.
// All methods may be called from any goroutine.
type Replica struct {
	cfg   Config
	core  *Core // of the raft goroutine
	log   Log
	store *kv.Store
	inbox *inbox
	tasks *workQueue[*ApplyTask]
	// MsgStorageAppend on their way into the journal, and what it has saved.
	writes *workQueue[*raftpb.Message]
	saved  saved

	leader     atomic.Uint64
	term       atomic.Uint64
	lastIndex  atomic.Uint64
	commit     atomic.Uint64
	membership atomic.Pointer[kvv1.Membership]
	maxEntry   atomic.Uint64 // largest encoded raft entry that peers can be sent
	ops        atomic.Int64  // admitted and under way
	bytes      atomic.Int64
	lease      sharedLease

	mu       sync.Mutex
	view     *kv.View                   // that a MsgSnap may refer to
	incoming map[snapshotPoint]*kv.View // taken in, not yet installed

	running  sync.WaitGroup
	started  atomic.Bool
	stopping atomic.Bool
	failed   atomic.Bool
	quit     chan struct{} // closed to end the raft goroutine
	done     chan struct{} // closed when all goroutines have ended
	stopOnce sync.Once
	failOnce sync.Once
	err      error // why it ended by itself; read after done
}

// New returns a replica over a log and a store that agree. Start begins its work.
func New(cfg Config, log Log, store *kv.Store) (*Replica, error) {
	core, err := NewCore(cfg, log, store.State(), store.Membership(), time.Now())
	if err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg, core: core, log: log, store: store,
		inbox: newInbox(), tasks: newWorkQueue[*ApplyTask](), writes: newWorkQueue[*raftpb.Message](),
		incoming: make(map[snapshotPoint]*kv.View),
		quit:     make(chan struct{}), done: make(chan struct{}),
	}
	r.lease.epoch = time.Now()
	r.lease.applied.Store(store.State().Index)
	r.saved.index.Store(store.State().Index)
	r.maxEntry.Store(unlimited)
	r.commit.Store(core.commit)
	r.membership.Store(store.Membership())
	return r, nil
}

// Leader is the id of the node that leads as far as this one knows, 0 for none.
func (r *Replica) Leader() uint64 { return r.leader.Load() }

// Membership is the newest one this node knows. It is shared: don't change it.
func (r *Replica) Membership() *kvv1.Membership { return r.membership.Load() }

// SetMaxEntryBytes tells the largest encoded raft entry that every peer can be
// sent; larger commands are refused from now on, and no more are packed into one
// entry than fit.
func (r *Replica) SetMaxEntryBytes(n uint64) {
	r.maxEntry.Store(n)
	r.call(func(c *Core) { c.SetMaxEntryBytes(n) })
}

// Propose hands commands to the leader's log, in order. Either all are taken in,
// and each one's Waiter hears once what became of it, or none is and an error
// says why: ErrOverloaded, ErrStopped, or a *TooLargeError.
func (r *Replica) Propose(ps []Proposal) error {
	if r.stopping.Load() {
		return ErrStopped
	}
	limit, total := r.maxEntry.Load(), int64(0)
	// The entry's index is not known yet, and counts in its size: no command gets
	// one beyond this, elections and membership changes in between included.
	term, index := r.term.Load(), r.lastIndex.Load()+uint64(max(0, r.ops.Load())+int64(len(ps)))+indexSlack
	for i := range ps {
		p := &ps[i]
		p.size = kv.CommandSize(&p.Command)
		if n := EntrySize(kv.HeaderSize+p.size, term, index); n > limit {
			return &TooLargeError{Size: n, Limit: limit}
		}
		total += int64(p.size)
	}
	if err := r.admit(int64(len(ps)), total); err != nil {
		return err
	}
	if !r.inbox.propose(ps) {
		r.release(int64(len(ps)), total)
		return ErrStopped
	}
	return nil
}

// indexSlack is more than the entries that are not commands and may be appended
// between two looks at the log.
const indexSlack = 16

// Read asks for a linearizable read barrier: the waiter hears once when the
// store shows every write acknowledged before now. It works on every node.
func (r *Replica) Read(w ReadWaiter) error {
	if r.stopping.Load() {
		return ErrStopped
	}
	if err := r.admit(1, 0); err != nil {
		return err
	}
	if !r.inbox.put(func(b *batch) { b.reads = append(b.reads, w) }) {
		r.release(1, 0)
		return ErrStopped
	}
	return nil
}

// sharedLease is what other goroutines need to know of the core's lease to read
// without a switch to the raft goroutine.
type sharedLease struct {
	epoch   time.Time     // what end counts from, on the monotonic clock
	end     atomic.Int64  // nanoseconds; 0 for no lease
	commit  atomic.Uint64 // what any other node can have applied
	applied atomic.Uint64 // what this node's store shows
	wanted  atomic.Bool   // somebody read under the lease since the last tick
	reads   atomic.Uint64 // answered under it
}

// held tells that the store may be read now.
//
// It is linearizable because of the order of things. A read begins, then it
// loads end and finds it in the future: at that moment nobody else leads. So
// every write acknowledged before, and every write that another linearizable
// read has shown, was committed here, and commit, which is published before a
// message tells others, is at least its index; the store shows it, since applied
// is no less. What happens between these looks and the answer does no harm, be it
// an election: all of it is concurrent with the read.
func (l *sharedLease) held() bool {
	end := l.end.Load()
	return end > int64(time.Since(l.epoch)) && l.applied.Load() >= l.commit.Load()
}

// publish is called before messages leave: one may end the lease.
func (l *sharedLease) publish(c *Core) {
	if l.commit.Load() != c.commit { // only the raft goroutine writes
		l.commit.Store(c.commit)
	}
	end := int64(0)
	if until := c.leaseEnd(); !until.IsZero() {
		end = int64(until.Sub(l.epoch))
	}
	if l.end.Load() != end {
		l.end.Store(end)
	}
}

// ReadUnderLease is Read for the leader, without a round of messages while it
// has the lease. With now true the store may be read at once and the waiter is
// not kept; else it hears once, ErrNotLeader where this node does not lead.
// See Core.ReadUnderLease for what else it may mean.
func (r *Replica) ReadUnderLease(w ReadWaiter) (now bool, err error) {
	if r.stopping.Load() {
		return false, ErrStopped
	}
	if r.lease.held() {
		r.lease.reads.Add(1)
		if !r.lease.wanted.Load() {
			r.lease.wanted.Store(true)
		}
		return true, nil
	}
	if r.Leader() != r.cfg.ID {
		return false, ErrNotLeader
	}
	if err := r.admit(1, 0); err != nil {
		return false, err
	}
	if !r.inbox.put(func(b *batch) { b.leased = append(b.leased, w) }) {
		r.release(1, 0)
		return false, ErrStopped
	}
	return false, nil
}

// admit counts operations in, or refuses them. One request may exceed the byte
// cap when nothing else is under way.
func (r *Replica) admit(ops, bytes int64) error {
	nowOps, nowBytes := r.ops.Add(ops), r.bytes.Add(bytes)
	if (nowOps > r.cfg.AdmissionOps && nowOps > ops) || (nowBytes > r.cfg.AdmissionBytes && nowBytes > bytes) {
		r.release(ops, bytes)
		return fmt.Errorf("%w: %d operations of %d bytes under way, admission-ops %d, admission-bytes %d",
			ErrOverloaded, nowOps-ops, nowBytes-bytes, r.cfg.AdmissionOps, r.cfg.AdmissionBytes)
	}
	return nil
}

func (r *Replica) release(ops, bytes int64) {
	r.ops.Add(-ops)
	r.bytes.Add(-bytes)
}

// Step hands in a message from a peer.
func (r *Replica) Step(m *raftpb.Message) {
	r.inbox.put(func(b *batch) {
		if b.received == 0 && r.core.stages.Load() && m.GetType() == raftpb.MsgApp && len(m.GetEntries()) > 0 {
			b.received = time.Since(r.core.began)
		}
		b.messages = append(b.messages, m)
	})
}

// ReportUnreachable tells that messages to a peer are being lost.
func (r *Replica) ReportUnreachable(id uint64) {
	r.call(func(c *Core) { c.ReportUnreachable(id) })
}

// ReportSnapshot tells how sending a snapshot to a peer ended.
func (r *Replica) ReportSnapshot(id uint64, ok bool) {
	r.call(func(c *Core) { c.ReportSnapshot(id, ok) })
}

func (r *Replica) call(f func(*Core)) {
	r.inbox.put(func(b *batch) { b.calls = append(b.calls, f) })
}

// ask runs f on the core and waits for its reply. When the context ends first,
// abandon runs on the core with the cause; the reply it makes is returned. When
// the replica ends first, what f began has an unknown outcome.
func ask[T any](ctx context.Context, r *Replica, f func(c *Core, reply func(T, error)), abandon func(c *Core, cause error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	ch := make(chan answer, 2)
	reply := func(value T, err error) { ch <- answer{value, err} }
	begun := false // by the raft goroutine, which has ended once done is closed
	ended := func() (T, error) {
		select {
		case a := <-ch: // what it replied before it ended
			return a.value, a.err
		default:
		}
		if begun {
			return none, ErrUnknownOutcome
		}
		return none, ErrStopped
	}
	r.call(func(c *Core) { begun = true; f(c, reply) })
	select {
	case a := <-ch:
		return a.value, a.err
	case <-r.done:
		return ended()
	case <-ctx.Done():
	}
	if abandon == nil {
		return none, ctx.Err()
	}
	r.call(func(c *Core) { abandon(c, ctx.Err()) })
	select {
	case a := <-ch:
		return a.value, a.err
	case <-r.done:
		return ended()
	}
}

// Init makes this node a cluster of one. On a node that is in a cluster it
// changes nothing and returns that cluster's id.
func (r *Replica) Init(ctx context.Context, self *kvv1.Member) (clusterID uint64, created bool, err error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return 0, false, err
	}
	type result struct {
		cluster uint64
		created bool
	}
	res, err := ask(ctx, r, func(c *Core, reply func(result, error)) {
		created, err := c.Init(protoMember(self), binary.LittleEndian.Uint64(id[:])|1)
		r.membership.Store(c.membership)
		reply(result{c.membership.GetClusterId(), created}, err)
	}, nil)
	return res.cluster, res.created, err
}

// AddLearner adds a node without a vote and returns once that is applied here.
// A node that already is a member at that address is left as it is.
func (r *Replica) AddLearner(ctx context.Context, m *kvv1.Member) (*kvv1.Membership, error) {
	return r.change(ctx, func(c *Core, done func(*kvv1.Membership, error)) *Change { return c.AddLearner(m, done) })
}

// ChangeVoters sets the voters by joint consensus: it waits until those that
// are learners now have caught up, and returns when the joint configuration is
// left and a majority has heard so. Removed voters leave, or with retain become
// learners.
func (r *Replica) ChangeVoters(ctx context.Context, voters []uint64, retain bool) (*kvv1.Membership, error) {
	return r.change(ctx, func(c *Core, done func(*kvv1.Membership, error)) *Change {
		return c.ChangeVoters(voters, retain, done)
	})
}

// RemoveNode removes a voter or a learner for good.
func (r *Replica) RemoveNode(ctx context.Context, id uint64) (*kvv1.Membership, error) {
	return r.change(ctx, func(c *Core, done func(*kvv1.Membership, error)) *Change { return c.RemoveNode(id, done) })
}

func (r *Replica) change(ctx context.Context, begin func(*Core, func(*kvv1.Membership, error)) *Change) (*kvv1.Membership, error) {
	var ch *Change
	return ask(ctx, r, func(c *Core, reply func(*kvv1.Membership, error)) {
		ch = begin(c, reply)
	}, func(c *Core, cause error) {
		c.Cancel(ch, cause)
	})
}

// TransferLeadership hands leadership to a voter; it returns when that node
// leads. When the context ends first, that node may still take over.
func (r *Replica) TransferLeadership(ctx context.Context, to uint64) (leader, term uint64, err error) {
	var done *Transfer
	term, err = ask(ctx, r, func(c *Core, reply func(uint64, error)) {
		done = c.Transfer(to, func(err error) { reply(c.term, err) })
	}, func(c *Core, cause error) { c.CancelTransfer(done, cause) })
	return to, term, err
}

// Snapshot makes a snapshot of the store and compacts the log up to it, as far
// as live followers do not need the entries.
func (r *Replica) Snapshot(ctx context.Context) (kv.State, error) {
	return ask(ctx, r, func(c *Core, reply func(kv.State, error)) {
		c.TakeSnapshot(func(s kv.State) { reply(s, nil) })
	}, nil)
}

// Status tells what the replica knows about itself.
func (r *Replica) Status(ctx context.Context) (Status, error) {
	s, err := ask(ctx, r, func(c *Core, reply func(Status, error)) { reply(c.Status(), nil) }, nil)
	s.MaxEntryBytes = r.maxEntry.Load()
	s.Admitted, s.AdmittedBytes = uint64(max(0, r.ops.Load())), uint64(max(0, r.bytes.Load()))
	s.Counters.LeaseReads += r.lease.reads.Load()
	s.Counters.SnapshotsSaved = r.saved.count.Load()
	return s, err
}
