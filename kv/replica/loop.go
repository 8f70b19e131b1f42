package replica

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
)

// Start begins the work. Goroutines inherit the caller's pprof labels.
func (r *Replica) Start() {
	r.started.Store(true)
	r.running.Go(r.run)
	r.running.Go(r.applyTasks)
	if r.cfg.Journal != nil {
		r.running.Go(r.writeJournal)
	}
	go func() { r.running.Wait(); close(r.done) }()
}

// Done is closed when the replica has ended.
func (r *Replica) Done() <-chan struct{} { return r.done }

// Err tells why the replica ended by itself, once Done is closed; nil after Stop.
func (r *Replica) Err() error {
	select {
	case <-r.done:
		return r.err
	default:
		return nil
	}
}

// Stop ends the replica. A leader first hands over to the voter that has most of
// the log, for as long as the context allows; what is not done by then fails. A
// snapshot that is being saved is given up; only the call to the disk that is
// under way, and a leader's snapshot that is being installed, are waited for.
func (r *Replica) Stop(ctx context.Context) error {
	if !r.started.Load() {
		return nil
	}
	r.handOver(ctx)
	r.stopping.Store(true)
	r.end()
	<-r.done
	return r.err
}

func (r *Replica) end() { r.stopOnce.Do(func() { close(r.quit) }) }

// fail ends the replica because of an error that it can't survive.
func (r *Replica) fail(err error) {
	r.failOnce.Do(func() {
		r.failed.Store(true)
		r.err = err
		r.stopping.Store(true)
		r.cfg.Logger.Error("replica failed", "error", err)
		r.end()
	})
}

// handOver gives leadership away, if this node has it and somebody can take it.
func (r *Replica) handOver(ctx context.Context) {
	status, err := r.Status(ctx)
	if err != nil || status.Role != RoleLeader {
		return
	}
	heirs := heirs(status, uint64(r.cfg.HeartbeatTicks))
	// Raft gives up on a transfer after an election timeout, and takes no
	// proposals meanwhile. An heir that lives is far quicker; one that died just
	// now must not use it all up.
	patience := r.cfg.Tick * time.Duration(r.cfg.ElectionTicks)
	if len(heirs) > 1 {
		patience /= 4
	}
	for _, to := range heirs {
		attempt, cancel := context.WithTimeout(ctx, patience)
		_, _, err := r.TransferLeadership(attempt, to)
		cancel()
		if err == nil {
			return
		}
		r.cfg.Logger.Warn("leadership not handed over", "to", to, "error", err)
		if r.Leader() != r.cfg.ID || ctx.Err() != nil {
			return
		}
	}
}

// heirs are the voters that a leader may hand over to, best first: those heard
// of since about the last heartbeat, and of these who has most of the log.
func heirs(status Status, heartbeat uint64) []uint64 {
	voters := slices.DeleteFunc(slices.Clone(status.Progress), func(p Progress) bool {
		return p.ID == status.ID || p.Learner || !p.RecentActive
	})
	silent := func(p Progress) uint64 {
		if p.SilentTicks <= heartbeat+1 {
			return 0
		}
		return p.SilentTicks
	}
	slices.SortStableFunc(voters, func(a, b Progress) int {
		return cmp.Or(cmp.Compare(silent(a), silent(b)), cmp.Compare(b.Match, a.Match))
	})
	ids := make([]uint64, len(voters))
	for i, p := range voters {
		ids[i] = p.ID
	}
	return ids
}

// run owns the core.
func (r *Replica) run() {
	defer r.tasks.close()
	defer r.writes.close()
	ticker := time.NewTicker(r.cfg.Tick)
	defer ticker.Stop()
	alarm := newAlarm()
	defer alarm.stop()
	var eff Effects
	app := &appender{replica: r}
	for {
		tick := false
		select {
		case <-r.quit:
			r.drain(&eff)
			return
		case <-r.inbox.wake:
			// Who can run now may be about to propose or to read: it joins the batch.
			runtime.Gosched()
		case <-ticker.C:
			tick = true
		case <-alarm.timer.C:
			alarm.rang()
		}
		r.deliver(r.inbox.take(), app)
		if r.failed.Load() {
			r.drain(&eff)
			return
		}
		if tick {
			if r.lease.wanted.Load() && r.lease.wanted.Swap(false) {
				r.core.WantLease()
			}
			r.core.Tick()
		}
		for r.core.Advance(time.Now(), &eff) {
			if err := r.perform(&eff, app); err != nil {
				r.fail(err)
				r.drain(&eff)
				return
			}
		}
		alarm.set(r.core.WakeAt())
		r.publish()
	}
}

// alarm is the one timer that the loop keeps for commands which wait for others.
// While the process is busy it rings to within microseconds; in an idle one on
// Linux, Go waits in whole milliseconds, and one set to 50 µs rings after about
// 1 ms. A static linger below 1 ms therefore costs a lone client that much.
type alarm struct {
	timer *time.Timer
	at    time.Time // zero when it is not set
}

func newAlarm() *alarm {
	a := &alarm{timer: time.NewTimer(time.Hour)}
	a.stop()
	return a
}

// set makes it ring then, and only then; zero is never.
func (a *alarm) set(at time.Time) {
	switch {
	case at.Equal(a.at):
	case at.IsZero():
		a.stop()
	default:
		a.at = at
		a.timer.Reset(time.Until(at))
	}
}

func (a *alarm) rang() { a.at = time.Time{} }

func (a *alarm) stop() {
	a.at = time.Time{}
	a.timer.Stop()
}

// deliver hands a batch of events to the core.
func (r *Replica) deliver(b *batch, app *appender) {
	app.received = b.received
	for _, m := range b.messages {
		r.core.Step(m)
	}
	for _, t := range b.applied {
		if t.Restore != nil {
			app.installed()
			continue
		}
		r.core.Applied(t)
	}
	for _, m := range b.written {
		app.written(m)
	}
	if len(b.proposals) > 0 {
		r.core.Propose(b.proposals, b.since)
	}
	for _, w := range b.reads {
		r.core.Read(w)
	}
	for _, w := range b.leased {
		r.core.ReadUnderLease(w)
	}
	for _, f := range b.calls {
		f(r.core)
	}
}

// perform does what the core wants done.
func (r *Replica) perform(eff *Effects, app *appender) error {
	if eff.Membership != nil {
		r.changed()
	}
	if err := r.takeSnapshots(eff); err != nil {
		for _, t := range eff.Applies {
			r.abandon(t)
		}
		r.answer(eff)
		return err
	}
	r.publish() // a MsgSnap among the messages refers to the core's view
	r.send(eff.Messages)
	if len(eff.Applies) > 0 {
		r.tasks.put(eff.Applies...)
	}
	if eff.Leader != nil { // before those hear of it whom it makes look for another
		r.leader.Store(*eff.Leader)
		if r.cfg.LeaderChanged != nil {
			r.cfg.LeaderChanged(*eff.Leader)
		}
	}
	r.answer(eff)
	return app.append(eff.Appends)
}

// takeSnapshots finds what the snapshots to be installed contain.
func (r *Replica) takeSnapshots(eff *Effects) error {
	for _, t := range eff.Applies {
		if t.Restore == nil {
			continue
		}
		view, err := r.takeIncoming(t.Restore)
		if err != nil {
			return err
		}
		t.incoming = view
		r.core.Restore(view.Membership())
		r.changed()
	}
	return nil
}

func (r *Replica) changed() {
	m := r.core.membership
	r.membership.Store(m)
	if r.cfg.MembershipChanged != nil {
		r.cfg.MembershipChanged(m)
	}
}

// send hands messages to the transport, which keeps the slice's elements only.
func (r *Replica) send(ms []*raftpb.Message) {
	if len(ms) > 0 {
		r.cfg.Send(ms)
	}
}

// publish makes known outside what the core knows now.
func (r *Replica) publish() {
	r.lease.publish(r.core)
	r.term.Store(r.core.term)
	r.commit.Store(r.core.commit)
	if last, err := r.log.LastIndex(); err == nil {
		r.lastIndex.Store(last)
	}
	if r.view == r.core.snap.view { // only this goroutine writes it
		return
	}
	r.mu.Lock()
	r.view = r.core.snap.view
	r.mu.Unlock()
}

// answer completes commands that failed and reads.
func (r *Replica) answer(eff *Effects) {
	for _, a := range eff.Answers {
		r.release(int64(len(a.refs)), int64(a.bytes))
		for _, ref := range a.refs {
			ref.waiter.Done(ref.tag, kv.Result{}, a.err)
		}
	}
	for _, a := range eff.Reads {
		r.release(int64(len(a.Waiters)), 0)
		for _, w := range a.Waiters {
			w.Ready(a.Err)
		}
	}
}

// drain fails what is left when the replica ends.
func (r *Replica) drain(eff *Effects) {
	r.stopping.Store(true)
	r.inbox.close()
	b, c := r.inbox.take(), r.core
	c.Propose(b.proposals, b.since)
	for _, w := range b.reads {
		c.Read(w)
	}
	for _, w := range b.leased {
		c.ReadUnderLease(w)
	}
	eff.reset()
	c.stop(eff)
	r.answer(eff)
}

// applyTasks applies to the store and completes the waiters.
func (r *Replica) applyTasks() {
	var results []kv.Result
	measure := applying{core: r.core}
	for {
		tasks, ok := r.tasks.take()
		if !ok {
			return
		}
		for _, t := range tasks {
			if r.failed.Load() {
				r.abandon(t)
				continue
			}
			var err error
			if results, err = r.applyTask(t, &measure, results); err != nil {
				r.fail(err)
				r.abandon(t)
			}
		}
	}
}

// abandon fails the waiters of a task that will not be done.
func (r *Replica) abandon(t *ApplyTask) {
	for _, f := range t.waiters {
		if f == nil {
			continue
		}
		r.release(int64(len(f.refs)), int64(f.bytes))
		for _, ref := range f.refs {
			ref.waiter.Done(ref.tag, kv.Result{}, ErrUnknownOutcome)
		}
	}
}

func (r *Replica) applyTask(t *ApplyTask, measure *applying, results []kv.Result) ([]kv.Result, error) {
	switch {
	case t.View:
		view := r.store.View()
		r.call(func(c *Core) { c.Viewed(view) })
		return results, nil
	case t.save:
		r.saveInBackground(r.store.View())
		return results, nil
	case t.Restore != nil:
		r.store.Restore(t.incoming)
		r.lease.applied.Store(t.Restore.GetIndex())
		view := t.incoming
		t.incoming = nil
		// On disk before the append that restarts the log at it is.
		if err := r.saveSnapshot(view, installing); err != nil {
			return results, err
		}
	}
	for i, e := range t.Entries {
		if m := t.Memberships[e.GetIndex()]; m != nil {
			r.store.SetMembership(e.GetIndex(), e.GetTerm(), m)
			r.lease.applied.Store(e.GetIndex())
			continue
		}
		var err error
		results, err = r.store.Apply(e.GetIndex(), e.GetTerm(), e.GetData(), results[:0])
		if err != nil {
			return results, fmt.Errorf("entry %d cannot be applied: %w", e.GetIndex(), err)
		}
		r.lease.applied.Store(e.GetIndex())
		if t.waiters != nil && t.waiters[i] != nil {
			r.answerEntry(t, i, measure, results)
		}
		clear(results) // lets go of the values in them
	}
	r.inbox.put(func(b *batch) { b.applied = append(b.applied, t) })
	return results, nil
}

// answerEntry tells the waiters of entry i what became of their commands.
func (r *Replica) answerEntry(t *ApplyTask, i int, measure *applying, results []kv.Result) {
	f := t.waiters[i]
	t.waiters[i] = nil
	measure.entryApplied(f)
	r.release(int64(len(f.refs)), int64(f.bytes))
	for j, ref := range f.refs {
		ref.waiter.Done(ref.tag, results[j], nil)
	}
	measure.entryAnswered(f, t.committed)
	f.free()
}
