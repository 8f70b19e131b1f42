package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"raftlab/kv/storage"
	"raftlab/kv/storage/storagetest"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// ports are in memory: a node that comes back has its addresses to itself.
type ports struct {
	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
}

func (p *ports) listen(address string) net.Listener {
	l := bufconn.Listen(1 << 16)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners[address] = l
	return l
}

func (p *ports) dial(ctx context.Context, address string) (net.Conn, error) {
	p.mu.Lock()
	l := p.listeners[address]
	p.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("nobody listens on %s", address)
	}
	return l.DialContext(ctx)
}

var errPower = errors.New("the power is off")

// mains feeds the disks of a run. Once it is off no operation of a disk begins,
// and those that wait fail when the images have been taken: what one node did
// after its image was taken must not reach the image of another.
type mains struct {
	left  atomic.Int64 // operations until the cut; no cut at 0
	cut   func()       // notes what was acknowledged by then
	once  sync.Once
	off   chan struct{}
	taken chan struct{}
}

func (m *mains) operation() error {
	if m.left.Load() > 0 && m.left.Add(-1) == 0 {
		m.switchOff()
	}
	select {
	case <-m.off:
		<-m.taken
		return errPower
	default:
		return nil
	}
}

func (m *mains) switchOff() {
	m.once.Do(func() {
		m.cut()
		close(m.off)
	})
}

// diskDelay is what an fsync takes: far more than a round of messages, so that an
// acknowledgement that does not wait for it comes before the power goes.
const diskDelay = 2 * time.Millisecond

const nodeDir = "/data/node"

// rack is three nodes, each with a disk of its own, on the same mains.
type rack struct {
	t     *testing.T
	sync  string
	ports *ports
	disks [3]*storagetest.Disk
	fault [3]func(storagetest.Op) error // set while the node is down
	nodes [3]*member                    // nil: down
	mains *mains

	mu           sync.Mutex
	acknowledged map[string]bool
	certain      map[string]bool // acknowledged before the cut
	writes       int             // keys drawn
}

func newRack(t *testing.T, sync string) *rack {
	r := &rack{t: t, sync: sync, ports: &ports{listeners: map[string]*bufconn.Listener{}}, acknowledged: map[string]bool{}}
	for i := range r.disks {
		r.disks[i] = storagetest.New()
	}
	t.Cleanup(func() {
		for i := range r.nodes {
			_ = r.down(i) // the test has seen what it wants to see
		}
	})
	r.powerOn()
	for i := range r.nodes {
		r.up(i)
	}
	ctx := within(t, 3*time.Minute)
	if _, err := r.nodes[0].cluster.Init(ctx, &clusterv1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, m := range r.nodes[1:] {
		if _, err := r.nodes[0].cluster.AddLearner(ctx, &clusterv1.AddLearnerRequest{Id: m.ID(), Address: m.Addr()}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.nodes[0].cluster.ChangeMembership(ctx, &clusterv1.ChangeMembershipRequest{Voters: []uint64{1, 2, 3}}); err != nil {
		t.Fatal(err)
	}
	return r
}

// powerOn begins a run; all nodes are down.
func (r *rack) powerOn() {
	m := &mains{off: make(chan struct{}), taken: make(chan struct{})}
	m.cut = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.certain = map[string]bool{}
		for key := range r.acknowledged {
			r.certain[key] = true
		}
	}
	r.mains = m
}

// up starts a node on its disk.
func (r *rack) up(i int) {
	r.t.Helper()
	mains, fault := r.mains, &r.fault[i]
	r.disks[i].Before = func(o storagetest.Op) error {
		if o.Kind == "sync" {
			time.Sleep(diskDelay) // what is acknowledged meanwhile is not safe
		}
		if err := mains.operation(); err != nil || *fault == nil {
			return err
		}
		return (*fault)(o)
	}
	o := Options{Config: testConfig(uint64(i) + 1), FS: r.disks[i], ClientDial: r.ports.dial, PeerDial: r.ports.dial}
	c := &o.Config
	// Small enough that snapshots are saved, the journal cut and laggards sent a
	// snapshot all the time.
	c.Storage, c.DataDir, c.Sync, c.SaveAfter, c.LogEntries = StorageWAL, nodeDir, r.sync, 4*kib, 20
	c.Tick = 20 * time.Millisecond // an election each time the power is back
	c.Addr, c.PeerAddr = fmt.Sprintf("node%d:1", i+1), fmt.Sprintf("node%d:2", i+1)
	c.Advertise, c.AdvertisePeer = c.Addr, c.PeerAddr
	o.ClientListener, o.PeerListener = r.ports.listen(c.Addr), r.ports.listen(c.PeerAddr)
	n, err := New(o)
	if err != nil {
		r.t.Fatalf("node %d: %v", i+1, err)
	}
	if err := n.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.nodes[i] = r.connect(n)
}

func (r *rack) connect(n *Node) *member {
	conn, err := grpc.NewClient("passthrough:///"+n.Addr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(r.ports.dial))
	if err != nil {
		r.t.Fatal(err)
	}
	return &member{Node: n, conn: conn, kv: kvv1.NewKVClient(conn), cluster: clusterv1.NewClusterClient(conn)}
}

// down ends a node as a crash does and returns what it failed with.
func (r *rack) down(i int) error {
	m := r.nodes[i]
	if m == nil {
		return nil
	}
	now, cancel := context.WithDeadline(context.Background(), time.Now())
	defer cancel()
	err := m.Stop(now)
	_ = m.conn.Close()
	r.nodes[i] = nil
	return err
}

// load writes from several clients, each key once, until ctx ends. The nodes
// that serve must stay the same.
func (r *rack) load(ctx context.Context) (wait func()) {
	var members []*member
	for _, m := range r.nodes {
		if m != nil {
			members = append(members, m)
		}
	}
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			for at := w; ctx.Err() == nil; {
				r.mu.Lock()
				r.writes++
				key := fmt.Sprintf("key%06d.", r.writes)
				r.mu.Unlock()
				attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
				_, err := members[at%len(members)].kv.Put(attempt, &kvv1.PutRequest{Key: []byte(key), Value: bytes.Repeat([]byte("v"), 64)})
				cancel()
				if err != nil {
					at++ // another may lead
					time.Sleep(time.Millisecond)
					continue
				}
				r.mu.Lock()
				r.acknowledged[key] = true
				r.mu.Unlock()
			}
		})
	}
	return writers.Wait
}

func (r *rack) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acknowledged)
}

// more waits until so many more writes were acknowledged, or the power is off.
func (r *rack) more(n int) {
	r.t.Helper()
	from := r.count()
	eventually(r.t, fmt.Sprintf("%d more writes are acknowledged", n), func() bool {
		select {
		case <-r.mains.off:
			return true
		default:
			return r.count() >= from+n
		}
	})
}

// powerCut writes to the nodes that run until the power goes, after a number of
// operations of the disks, and leaves the disks as they are found then. One of
// the nodes may have lost its power before and lags behind.
func (r *rack) powerCut(rng *rand.Rand, after func(*storagetest.Disk) *storagetest.Disk) {
	r.t.Helper()
	late := rng.IntN(6) // from 3: none
	if late < 3 {
		r.ended(late, r.down(late))
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	wait := r.load(ctx)
	r.more(1)
	if late < 3 {
		r.more(60) // the log no longer reaches back so far
		r.up(late)
	}
	r.mains.left.Store(1 + rng.Int64N(200))
	select {
	case <-r.mains.off:
	case <-time.After(3 * time.Minute):
		r.t.Error("the disks have nothing to do")
		r.mains.switchOff()
	}
	for i, d := range r.disks {
		r.disks[i] = after(d)
	}
	close(r.mains.taken)
	cancel()
	for i := range r.nodes {
		r.ended(i, r.down(i))
	}
	wait()
	// What was acknowledged after the cut came from nodes without power.
	r.acknowledged = r.certain
	r.powerOn()
}

// ended checks that a node had nothing to complain of but the power.
func (r *rack) ended(i int, err error) {
	r.t.Helper()
	if err != nil && !errors.Is(err, errPower) && !errors.Is(err, storage.ErrClosed) && !strings.Contains(err.Error(), "file already closed") {
		r.t.Errorf("node %d ended with %v", i+1, err)
	}
}

// check wants all that was acknowledged on all nodes.
func (r *rack) check() {
	r.t.Helper()
	ctx := within(r.t, 3*time.Minute)
	leader, _ := leaderOf(r.t, r.nodes[:])
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := leader.kv.Put(attempt, &kvv1.PutRequest{Key: []byte("last"), Value: []byte("v")})
		cancel()
		if err == nil {
			break
		}
		leader, _ = leaderOf(r.t, r.nodes[:])
	}
	for key := range r.acknowledged {
		if _, _, found := leader.Store().Get([]byte(key)); !found {
			r.t.Fatalf("%s was acknowledged, node %d leads and has it not; %d were in all", key, leader.ID(), len(r.acknowledged))
		}
	}
	eventually(r.t, "all nodes are in the same state", func() bool {
		for _, m := range r.nodes {
			if err := m.Err(); err != nil {
				r.t.Fatalf("node %d ended with %v", m.ID(), err)
			}
		}
		first := r.nodes[0].state(ctx, r.t)
		for _, m := range r.nodes[1:] {
			s := m.state(ctx, r.t)
			if s.GetAppliedIndex() != first.GetAppliedIndex() || !bytes.Equal(s.GetStateHash(), first.GetStateHash()) {
				return false
			}
		}
		return int(first.GetKeys()) > len(r.acknowledged)
	})
}

// All nodes lose power at once under load, again and again. What of the unsynced
// is found again is up to the seed; what was acknowledged always is.
func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	for _, policy := range []string{storage.SyncAlways, storage.SyncBatched} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s/seed=%d", policy, seed), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				r := newRack(t, policy)
				for range 6 {
					percent := []int{0, 0, 50, 100}[rng.IntN(4)]
					r.powerCut(rng, func(d *storagetest.Disk) *storagetest.Disk { return d.Crash(percent, rng) })
					for i := range r.nodes {
						r.up(i)
					}
					r.check()
				}
				t.Logf("seed %d: %d writes acknowledged, none lost", seed, r.count())
			})
		}
	}
}

// A process that dies leaves what it wrote to the kernel, so that even without
// any fsync nothing is lost.
func TestProcessDeathLosesNothingUnsynced(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := newRack(t, storage.SyncNever)
	for range 4 {
		r.powerCut(rng, func(d *storagetest.Disk) *storagetest.Disk { d.Kill(); return d })
		for i := range r.nodes {
			r.up(i)
		}
		r.check()
	}
	t.Logf("%d writes acknowledged, none lost", r.count())
}

// The same power cuts without fsync lose what was acknowledged: these tests
// would see it.
func TestPowerCutWithoutSyncLoses(t *testing.T) {
	lost := 0
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 3))
		r := newRack(t, storage.SyncNever)
		r.powerCut(rng, func(d *storagetest.Disk) *storagetest.Disk { return d.Crash(0, rng) })
		found, gone := survivors(t, r.disks[:]), 0
		for key := range r.acknowledged {
			if !bytes.Contains(found, []byte(key)) {
				gone++
			}
		}
		t.Logf("seed %d: %d of %d acknowledged writes are on no disk", seed, gone, r.count())
		lost += gone
	}
	if lost == 0 {
		t.Error("nothing was lost without a single fsync: the power cut cuts nothing")
	}
}

// survivors is what is found on the disks that can be opened: the entries of
// their logs and their snapshots.
func survivors(t *testing.T, disks []*storagetest.Disk) []byte {
	t.Helper()
	var b bytes.Buffer
	for i, d := range disks {
		s, err := storage.Open(storage.Options{Dir: nodeDir, FS: d, Node: uint64(i) + 1})
		if err != nil {
			t.Logf("node %d: %v", i+1, err)
			continue
		}
		first, _ := s.Log().FirstIndex()
		last, _ := s.Log().LastIndex()
		if last >= first {
			entries, err := s.Log().Entries(first, last+1, math.MaxUint64)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				b.Write(e.GetData())
			}
		}
		meta, data, err := s.Snapshot()
		if err == nil && meta != nil {
			_, err = b.ReadFrom(data)
			err = errors.Join(err, data.Close())
		}
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// The disk of a leader fails while its followers' are slow: the write is not
// acknowledged, the node ends and names the file, the others go on, and on a
// disk that works again it follows. What it could not sync is not counted on
// after that: a power cut shows it.
func TestDiskFailsUnderNode(t *testing.T) {
	for _, c := range []struct {
		name, op string
		fault    error
		want     string
		is       error
	}{
		{"fsync", "sync", syscall.EIO, "fsync of " + nodeDir, syscall.EIO},
		{"no space", "write", syscall.ENOSPC, "write to " + nodeDir, storage.ErrNoSpace},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRack(t, storage.SyncBatched)
			leader, _ := leaderOf(t, r.nodes[:])
			at := int(leader.ID()) - 1
			var broken atomic.Bool
			mended := make(chan struct{})
			for i := range r.nodes { // again, with faults to come
				r.ended(i, r.down(i))
			}
			for i := range r.nodes {
				r.fault[i] = func(o storagetest.Op) error {
					if !broken.Load() {
						return nil
					}
					if i != at {
						<-mended
						return nil
					}
					if o.Kind == c.op && strings.HasPrefix(filepath.Base(o.Name), "journal") {
						return c.fault
					}
					return nil
				}
				r.up(i)
			}
			ctx := within(t, 3*time.Minute)
			r.lead(ctx, at)
			leader, others := leaderOf(t, r.nodes[:])
			broken.Store(true)
			_, err := leader.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: []byte("v")})
			if _, applied, _ := outcome(err); err == nil || applied != kvv1.Applied_APPLIED_UNKNOWN {
				t.Errorf("the write: applied %v, %v", applied, err)
			}
			select {
			case <-leader.Done():
			case <-ctx.Done():
				t.Error("the node goes on")
			}
			if err := leader.Err(); err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
				t.Errorf("the node ended with %v, want %q", err, c.want)
			}
			close(mended)
			broken.Store(false)
			_ = r.down(at) // told above
			leaderOf(t, others)
			load, stop := context.WithCancel(ctx)
			wait := r.load(load)
			r.more(5)
			stop()
			wait()
			r.up(at)
			r.check()
			for range 2 {
				r.powerCut(rand.New(rand.NewPCG(1, 4)), func(d *storagetest.Disk) *storagetest.Disk {
					return d.Crash(0, nil)
				})
				for i := range r.nodes {
					r.up(i)
				}
				r.check()
			}
		})
	}
}

// lead makes a node the leader.
func (r *rack) lead(ctx context.Context, i int) {
	r.t.Helper()
	eventually(r.t, "it leads", func() bool {
		leader, _ := leaderOf(r.t, r.nodes[:])
		if leader == r.nodes[i] {
			return true
		}
		_, _ = leader.cluster.TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{To: uint64(i) + 1})
		return false
	})
}
