package bench

import (
	"context"
	"fmt"
	"time"

	"raftlab/bench/cluster"
)

// Event is something that happened to the cluster in a window.
type Event struct {
	OffsetS float64 `json:"offset_s"` // from the window's start
	What    string  `json:"what"`
}

// How often a node that joined is asked how far it has come.
const joinPoll = 10 * time.Millisecond

// join is a node that joins empty while the load goes on.
type join struct {
	events   []Event
	caughtUp time.Duration // from its start to all data of that time; 0 if it did not
	err      error
	done     chan struct{}
}

// startJoin lets a node join so long from now. It gives up when ctx ends, which
// the window does.
func startJoin(ctx context.Context, c *cluster.Cluster, after time.Duration) *join {
	j := &join{done: make(chan struct{})}
	begin := time.Now()
	go func() {
		defer close(j.done)
		if !pause(ctx, after) {
			return
		}
		start := time.Now()
		j.note(start.Sub(begin), "a node joined, empty")
		caughtUp, err := catchUp(ctx, c)
		switch {
		case caughtUp:
			j.caughtUp = time.Since(start)
			j.note(time.Since(begin), "it had all data of when it joined")
		case ctx.Err() != nil:
			j.note(time.Since(begin), "the window ended before it had the data")
		default:
			j.err = fmt.Errorf("join: %w", err)
		}
	}()
	return j
}

func (j *join) note(at time.Duration, what string) {
	j.events = append(j.events, Event{OffsetS: at.Seconds(), What: what})
}

// catchUp adds a node and waits until it has what the leader has now.
func catchUp(ctx context.Context, c *cluster.Cluster) (bool, error) {
	leader, err := c.Leader(ctx)
	if err != nil {
		return false, err
	}
	st, err := c.Status(ctx, leader)
	if err != nil {
		return false, err
	}
	node, err := c.AddLearner(ctx)
	if err != nil {
		return false, err
	}
	for {
		if now, err := c.Status(ctx, node); err == nil && now.GetAppliedIndex() >= st.GetAppliedIndex() {
			return true, nil
		}
		if !pause(ctx, joinPoll) {
			return false, ctx.Err()
		}
	}
}

// pause tells whether ctx let it wait so long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
