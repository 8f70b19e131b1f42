package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"raftlab/bench/check"
	"raftlab/bench/load"
	"raftlab/kv/node"
)

const (
	// How long the keys of a trial are read back at most, beside those of histories.
	verifyTime = time.Second
	// Sessions that do it.
	verifySessions = 8
	// How many keys have their history recorded with Options.Verify, and how long all
	// histories of a trial are checked at most.
	historyKeys = 64
	historyTime = 10 * time.Second
	// Most pictures of a trial; each history that is wrong is saved anyhow.
	mostPictures = 3
)

// HistoryCheck is what became of the histories that were recorded with --verify.
type HistoryCheck struct {
	// Keys whose history was recorded, and the operations in them, of which so many
	// had no answer.
	Keys       int `json:"keys"`
	Operations int `json:"operations"`
	Unanswered int `json:"unanswered"`
	// Undecided histories took too long: of them nothing is known.
	Undecided int `json:"undecided,omitempty"`
	// Files have those that are not linearizable, and pictures of them: names in the
	// run folder.
	Files []string `json:"files,omitempty"`
}

// verify reads acknowledged keys back: what was acknowledged must be there. What
// it reads ends the histories, which are checked then. A trial whose cluster does
// not answer stays unverified, and is invalid unless that was planned.
func (b *rig) verify(ctx context.Context, t *Trial, cfg load.Config, rec *load.Recording) error {
	if b.echo != nil || t.AckedKeys == 0 && len(rec.Histories) == 0 {
		return nil // nothing was promised
	}
	if b.variant.Settings.Load.Read == "stale" {
		for i := range rec.Histories {
			h := &rec.Histories[i]
			h.Accesses = writesOf(h.Accesses) // stale reads promise nothing
		}
	}
	if err := b.readKeys(ctx, t, cfg, rec); err != nil {
		t.Unverified = err.Error()
		if len(b.variant.Settings.Load.Events) == 0 {
			t.distrust("what was acknowledged could not be read back: " + t.Unverified)
		}
	}
	if cfg.Sample == 0 {
		return nil
	}
	return t.checkHistories(b.r.Folder, cfg, rec.Histories, historyTime)
}

// readKeys reads what it can, and puts in the trial what it found.
func (b *rig) readKeys(ctx context.Context, t *Trial, cfg load.Config, rec *load.Recording) error {
	if err := b.answering(ctx, t); err != nil {
		return err
	}
	from, cfg, err := b.openFast(cfg)
	if err != nil {
		return err
	}
	if b.variant.Settings.Load.Target == TargetEtcd {
		cfg.OpsPerMessage = 1 // it gathers puts only
	}
	r := &readBack{cfg: cfg, acked: rec.Acked, since: rec.Start, histories: map[int]*load.History{}}
	for i := range rec.Histories {
		h := &rec.Histories[i]
		r.histories[h.Key] = h
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	err = r.run(ctx, from, verifyTime)
	t.VerifiedKeys, t.Violations = r.read, r.violations
	if len(t.Violations) > 0 {
		t.distrust(fmt.Sprintf("%d acknowledged writes are lost; the first: %s", len(t.Violations), t.Violations[0]))
	}
	return err
}

// answering sees to it that a cluster of our own can answer, of which so many nodes
// were killed that the others can't: durable nodes are started again, on what they
// have on disk. One of storage memory would come back without its memory.
func (b *rig) answering(ctx context.Context, t *Trial) error {
	s := &b.variant.Settings
	if b.cluster == nil || s.Load.Topology == TopologyExternal {
		return nil
	}
	var down []uint64
	for id := uint64(1); id <= uint64(s.Load.Nodes); id++ { // those above joined, and do not vote
		select {
		case <-b.cluster.Node(id).Done():
			down = append(down, id)
		default:
		}
	}
	left := s.Load.Nodes - len(down)
	if 2*left > s.Load.Nodes {
		return nil
	}
	if s.Node.Storage != node.StorageWAL {
		return fmt.Errorf("%d of %d nodes are left, no majority", left, s.Load.Nodes) // rather than wait for it
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, id := range down {
		if _, err := b.cluster.Restart(ctx, id); err != nil {
			return err
		}
		t.Restarted = append(t.Restarted, id)
	}
	_, err := b.cluster.Leader(ctx)
	return err
}

func writesOf(all []load.Access) []load.Access {
	var writes []load.Access
	for _, a := range all {
		if a.Kind == load.Put {
			writes = append(writes, a)
		}
	}
	return writes
}

// readBack reads the keys of a trial that were acknowledged.
type readBack struct {
	cfg       load.Config
	acked     []uint64 // revisions by key
	since     time.Time
	histories map[int]*load.History // by key

	keys []int // to be read, those with a history first, the others shuffled
	next atomic.Int64

	mu         sync.Mutex
	read       int // of those with an operation acknowledged
	violations []string
}

// run reads all keys, or as many as the time allows: then those that were read are
// a fair sample of all, and in any case those with a history. Its error is why it
// could not, one for all sessions.
func (r *readBack) run(ctx context.Context, from load.Target, limit time.Duration) error {
	var others []int
	for key, revision := range r.acked {
		switch {
		case r.histories[key] != nil:
			r.keys = append(r.keys, key)
		case revision > 0:
			others = append(others, key)
		}
	}
	random := rand.New(rand.NewPCG(r.cfg.Seed, 0)) //nolint:gosec // a sample, not a secret
	random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	must := len(r.keys)
	r.keys = append(r.keys, others...)
	deadline := time.Now().Add(limit)
	errs := make([]error, verifySessions)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = r.session(ctx, from, i, must, deadline) })
	}
	wg.Wait()
	return cmp.Or(errs...)
}

// session reads messages of keys until there are none left, or time is over for
// those that need not be read.
func (r *readBack) session(ctx context.Context, from load.Target, client, must int, deadline time.Time) (err error) {
	session, err := from.Open(ctx, client)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	n := r.cfg.OpsPerMessage
	ops, results := make([]load.Op, n), make([]load.Result, n)
	for {
		at := int(r.next.Add(int64(n))) - n
		if at >= len(r.keys) || at >= must && time.Now().After(deadline) {
			return nil
		}
		keys := r.keys[at:min(at+n, len(r.keys))]
		for i, key := range keys {
			ops[i] = load.Op{Kind: load.Get, Key: r.cfg.AppendKey(nil, key)}
		}
		clear(results)
		call := time.Since(r.since)
		if err := session.Do(ctx, ops[:len(keys)], results[:len(keys)]); err != nil {
			return err
		}
		returned := time.Since(r.since)
		for i, key := range keys {
			if err := results[i].Err; err != nil {
				return err
			}
			r.take(key, ops[i].Key, &results[i], load.Access{
				Client: r.cfg.Clients + client, Kind: load.Get, Call: call, Return: returned,
			})
		}
	}
}

// take compares what was read of a key with what was acknowledged, and ends its
// history with it.
func (r *readBack) take(key int, name []byte, got *load.Result, a load.Access) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.acked[key] > 0 {
		r.read++
	}
	if got.ModRevision < r.acked[key] {
		r.violations = append(r.violations,
			fmt.Sprintf("key %s has mod revision %d, acknowledged was %d", name, got.ModRevision, r.acked[key]))
	}
	h := r.histories[key]
	if h == nil {
		return
	}
	a.Revision, a.Found = got.ModRevision, got.Found
	if len(got.Value) > 0 {
		a.Value = load.HashValue(got.Value)
	}
	h.Accesses = append(h.Accesses, a)
}

// checkHistories puts in a trial what its histories say, and saves those that are
// wrong.
func (t *Trial) checkHistories(folder *Folder, cfg load.Config, histories []load.History, limit time.Duration) error {
	found := check.Histories(histories, limit)
	c := &HistoryCheck{Keys: found.Keys, Operations: found.Operations, Unanswered: found.Unanswered, Undecided: len(found.Undecided)}
	t.Histories = c
	if c.Undecided > 0 {
		t.warn(fmt.Sprintf("%d of %d histories could not be checked within %v: whether they are linearizable is unknown",
			c.Undecided, c.Keys, limit))
	}
	for i, place := range found.Violated {
		h := histories[place]
		key := string(cfg.AppendKey(nil, h.Key))
		name := fmt.Sprintf("histories/%s-b%d-key%d", t.Variant, t.Block, h.Key)
		if err := folder.Create(name+".json", func(w io.Writer) error { return check.Save(w, key, h) }); err != nil {
			return err
		}
		c.Files = append(c.Files, name+".json")
		if i < mostPictures {
			if err := folder.Create(name+".html", func(w io.Writer) error { return check.Picture(w, h) }); err != nil {
				return err
			}
			c.Files = append(c.Files, name+".html")
		}
		violation := fmt.Sprintf("key %s: no order of its %d operations explains what clients were told (%s.json)", key, len(h.Accesses), name)
		t.Violations = append(t.Violations, violation)
		t.distrust(violation)
	}
	return nil
}
