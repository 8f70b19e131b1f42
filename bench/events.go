package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"raftlab/bench/cluster"
	"raftlab/transport"
)

// Event is something that happened to the cluster in a window.
type Event struct {
	OffsetS float64 `json:"offset_s"` // from the window's start
	What    string  `json:"what"`
	// Do is what the plan had done, such as kill, and Node to which node; empty and 0
	// for what followed from it, such as that a node had all data.
	Do   string `json:"do,omitempty"`
	Node uint64 `json:"node,omitempty"`
	// OutageNs is the longest time without an answer from this event to the next
	// planned one, RecoverNs how long until service was as before the first; nil when
	// it was not by then, or that cannot be told.
	OutageNs  int64  `json:"outage_ns,omitempty"`
	RecoverNs *int64 `json:"recover_ns,omitempty"`
}

// How often a node that joined or came back is asked how far it has come.
const catchUpPoll = 10 * time.Millisecond

// How long undoing a step may take when the window is over.
const undoTime = 5 * time.Second

// moment is when a step begins or is undone.
type moment struct {
	at   time.Duration
	step int
	undo bool
}

// moments lists all of a plan's, in the order of time; of those at one time what
// is undone comes first.
func (p Plan) moments() []moment {
	var all []moment
	for i, s := range p {
		if s.For > 0 {
			all = append(all, moment{s.At + s.For, i, true})
		}
	}
	for i, s := range p {
		all = append(all, moment{s.At, i, false})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return int(a.at - b.at) })
	return all
}

// events does a plan to a cluster while a window lasts.
type events struct {
	cluster *cluster.Cluster
	plan    Plan
	links   transport.Faults // of every way to which nothing is done
	begin   time.Time

	// Of the goroutine that does the plan.
	undo   map[int]func(ctx context.Context) error // by step under way
	killed []uint64
	paused map[uint64]bool
	polls  sync.WaitGroup // nodes that catch up

	mu       sync.Mutex
	happened []happening
	missed   []string      // steps for which there was no time
	caughtUp time.Duration // of the last node that joined or came back; 0 for none
	err      error

	done chan struct{} // closed when all is done and undone
}

type happening struct {
	at time.Time
	Event
}

// startEvents begins now. When ctx ends, which the window does, what is due later
// is left out, and what is under way undone.
func startEvents(ctx context.Context, c *cluster.Cluster, plan Plan, links transport.Faults) *events {
	e := &events{
		cluster: c, plan: plan, links: links, begin: time.Now(),
		undo: map[int]func(context.Context) error{}, paused: map[uint64]bool{}, done: make(chan struct{}),
	}
	go func() {
		defer close(e.done)
		for _, m := range plan.moments() {
			if m.undo {
				pause(ctx, time.Until(e.begin.Add(m.at)))
				e.end(ctx, m.step)
			} else if pause(ctx, time.Until(e.begin.Add(m.at))) && e.failure() == nil {
				switch err := e.start(ctx, m.step); {
				case err == nil:
				case ctx.Err() == nil:
					e.fail(m.step, err)
				default:
					e.miss(m.step)
				}
			} else {
				e.miss(m.step)
			}
		}
		e.polls.Wait()
	}()
	return e
}

func (e *events) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *events) fail(step int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = errors.Join(e.err, fmt.Errorf("events %q: %w", e.plan[step], err))
}

func (e *events) miss(step int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.missed = append(e.missed, strconv.Quote(e.plan[step].String()))
}

// audit makes a trial invalid whose plan failed, and a measured one whose plan was
// not done in its window; in the profile block, whose window is another, that is no
// problem. Call it after done.
func (e *events) audit(t *Trial) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.err != nil:
		t.distrust(e.err.Error())
	case len(e.missed) > 0 && t.Kind != TrialProfile:
		t.distrust(fmt.Sprintf("events %s not done before the window was over", joinWords(e.missed)))
	}
}

// note keeps what happened; do is empty for what followed from something else.
func (e *events) note(at time.Time, do string, node uint64, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.happened = append(e.happened, happening{at, Event{What: fmt.Sprintf(format, args...), Do: do, Node: node}})
}

// record puts what happened in a trial, in the order of time. Call it after done.
func (e *events) record(t *Trial, windowStart time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	slices.SortStableFunc(e.happened, func(a, b happening) int { return a.at.Compare(b.at) })
	for _, h := range e.happened {
		h.OffsetS = h.at.Sub(windowStart).Seconds()
		t.Events = append(t.Events, h.Event)
	}
	t.CatchUpS = e.caughtUp.Seconds()
}

// start does a step.
func (e *events) start(ctx context.Context, step int) error {
	s := e.plan[step]
	switch s.Do {
	case DoJoin:
		return e.join(ctx)
	case DoRestart:
		return e.restart(ctx)
	case DoTransfer:
		return e.transfer(ctx)
	}
	n, role, err := e.pick(ctx, s.Node)
	if err != nil {
		return err
	}
	at := time.Now()
	switch s.Do {
	case DoKill:
		e.note(at, s.Do, n.ID, "node %d%s was killed", n.ID, role)
		e.killed = append(e.killed, n.ID)
		return n.Kill()
	case DoPause:
		e.note(at, s.Do, n.ID, "node %d%s was paused", n.ID, role)
		e.paused[n.ID] = true
		e.undo[step] = func(context.Context) error {
			delete(e.paused, n.ID)
			select {
			case <-n.Done(): // killed meanwhile
				return nil
			default:
			}
			e.note(time.Now(), "", n.ID, "node %d went on", n.ID)
			return n.Resume()
		}
		return n.Pause()
	}
	faults := e.links
	what := "was cut off from the others"
	if s.Do == DoSlow {
		faults.Delay += s.By
		what = fmt.Sprintf("got links %v slower", s.By)
	} else {
		faults.Partition = true
	}
	e.note(at, s.Do, n.ID, "node %d%s %s", n.ID, role, what)
	e.undo[step] = func(ctx context.Context) error {
		e.note(time.Now(), "", n.ID, "the links of node %d were as before", n.ID)
		return e.cluster.SetFaultsAround(ctx, n, e.links)
	}
	return e.cluster.SetFaultsAround(ctx, n, faults)
}

// end undoes a step that was begun, in the window or after it.
func (e *events) end(ctx context.Context, step int) {
	undo := e.undo[step]
	if undo == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := undo(ctx); err != nil {
		e.fail(step, err)
	}
}

// pick finds the node that a plan means now, and what it is where the plan says
// that. One that is named by its number is not waited for until somebody leads.
func (e *events) pick(ctx context.Context, which string) (n *cluster.Node, role string, err error) {
	if id, err := strconv.ParseUint(which, 10, 64); err == nil {
		for _, n := range e.cluster.Nodes() {
			if n.ID == id {
				return n, "", nil
			}
		}
		return nil, "", fmt.Errorf("node %d has ended", id)
	}
	leader, err := e.cluster.Leader(ctx)
	if err != nil {
		return nil, "", err
	}
	if which == NodeLeader {
		return leader, ", the leader,", nil
	}
	for _, n := range e.cluster.Nodes() {
		if n != leader && !e.paused[n.ID] {
			return n, ", a follower,", nil
		}
	}
	return nil, "", errors.New("no node is a follower at this time")
}

// transfer has the leader hand over in good order.
func (e *events) transfer(ctx context.Context) error {
	leader, _, err := e.pick(ctx, NodeLeader)
	if err != nil {
		return err
	}
	to, _, err := e.pick(ctx, NodeFollower)
	if err != nil {
		return err
	}
	e.note(time.Now(), DoTransfer, leader.ID, "node %d was asked to hand leadership to node %d", leader.ID, to.ID)
	if err := e.cluster.TransferLeadership(ctx, to.ID); err != nil {
		return err
	}
	e.note(time.Now(), "", to.ID, "node %d led", to.ID)
	return nil
}

// restart starts the node that was killed last, on its data.
func (e *events) restart(ctx context.Context) error {
	if len(e.killed) == 0 {
		return errors.New("no node is killed at this time")
	}
	id := e.killed[len(e.killed)-1]
	e.killed = e.killed[:len(e.killed)-1]
	at := time.Now()
	e.note(at, DoRestart, id, "node %d was started again", id)
	n, err := e.cluster.Restart(ctx, id)
	if err != nil {
		return err
	}
	e.follow(ctx, at, n)
	return nil
}

// join starts a further node, empty.
func (e *events) join(ctx context.Context) error {
	at := time.Now()
	n, err := e.cluster.AddLearner(ctx)
	if err != nil {
		return err
	}
	e.note(at, DoJoin, n.ID, "a node joined, empty")
	e.follow(ctx, at, n)
	return nil
}

// follow notes when a node has what the leader has now. It gives up with ctx.
func (e *events) follow(ctx context.Context, since time.Time, n *cluster.Node) {
	e.polls.Go(func() {
		if !e.catchUp(ctx, n) {
			e.note(time.Now(), "", n.ID, "the window ended before node %d had the data", n.ID)
			return
		}
		at := time.Now()
		e.note(at, "", n.ID, "node %d had all data of when it came", n.ID)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.caughtUp = at.Sub(since)
	})
}

func (e *events) catchUp(ctx context.Context, n *cluster.Node) bool {
	var goal uint64
	for {
		if goal == 0 {
			if leader, err := e.cluster.Leader(ctx); err == nil && leader != n {
				if st, err := e.cluster.Status(ctx, leader); err == nil {
					goal = st.GetAppliedIndex()
				}
			}
		} else if st, err := e.cluster.Status(ctx, n); err == nil && st.GetAppliedIndex() >= goal {
			return true
		}
		if !pause(ctx, catchUpPoll) {
			return false
		}
	}
}

// pause tells whether ctx let it wait so long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
