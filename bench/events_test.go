package bench

import (
	"context"
	"strings"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/node"
	"raftlab/transport"
)

// A plan is done in its order, and all is as before when it is over, though the
// window ends while a step is under way.
func TestEvents(t *testing.T) {
	cfg := node.DefaultConfig()
	cfg.Storage, cfg.LinkDelay = node.StorageWAL, time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{Topology: cluster.InProcess, Node: cfg, DataRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	first, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := ParsePlan("transfer-leadership at 1ms; kill leader at 300ms; restart killed at 400ms; slow 3 by 1ms at 500ms for 100ms; partition follower at 700ms for 1h")
	if err != nil {
		t.Fatal(err)
	}
	window, end := context.WithCancel(ctx)
	e := startEvents(window, c, plan, cfg.Faults())
	// A slow machine does the steps late, but it does them all.
	cut := func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, h := range e.happened {
			if h.Do == DoPartition {
				return true
			}
		}
		return false
	}
	for !cut() || e.failure() != nil {
		if ctx.Err() != nil || e.failure() != nil {
			t.Fatalf("the last step was not done: %v", e.failure())
		}
		time.Sleep(5 * time.Millisecond)
	}
	end()
	<-e.done
	if err := e.failure(); err != nil {
		t.Fatal(err)
	}
	var trial Trial
	e.record(&trial, e.begin)
	var did []string
	for _, event := range trial.Events {
		if event.Do != "" {
			did = append(did, event.Do)
		}
		if event.Do == DoTransfer && event.Node != first.ID {
			t.Errorf("node %d handed over, node %d led", event.Node, first.ID)
		}
	}
	if got := strings.Join(did, " "); got != "transfer-leadership kill restart slow partition" {
		t.Errorf("done were %s: %+v", got, trial.Events)
	}
	if n := len(c.Nodes()); n != 3 {
		t.Errorf("%d nodes, want 3", n)
	}
	for _, n := range c.Nodes() {
		links, err := c.Links(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links.GetLinks() {
			if f, err := node.FaultsOf(l.GetFaults()); err != nil || f != (transport.Faults{Delay: time.Millisecond}) {
				t.Errorf("from node %d to %d: %+v, %v", n.ID, l.GetPeerId(), f, err)
			}
		}
	}
	if _, err := c.Leader(ctx); err != nil {
		t.Error(err)
	}
}

// What can't be done is the trial's failure, with the step.
func TestEventsFail(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	plan, err := ParsePlan("pause leader at 0s for 1ms")
	if err != nil {
		t.Fatal(err)
	}
	e := startEvents(ctx, c, plan, transport.Faults{})
	<-e.done
	if err := e.failure(); err == nil || !strings.HasPrefix(err.Error(), `events "pause leader at 0s for 1ms": not possible in this topology`) {
		t.Errorf("got %v", err)
	}
}

// A step that the window had no time for is not done after it, and makes a measured
// trial invalid; a node that is named by its number needs no leader.
func TestEventsMissed(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	plan, err := ParsePlan("kill 1 at 0s; transfer-leadership at 1ms")
	if err != nil {
		t.Fatal(err)
	}
	over, end := context.WithCancel(t.Context())
	end()
	e := startEvents(over, c, plan, transport.Faults{})
	<-e.done
	if err := e.failure(); err != nil || len(c.Nodes()) != 3 {
		t.Errorf("%d nodes, %v", len(c.Nodes()), err)
	}
	trial := Trial{Kind: TrialMeasured, Valid: true}
	e.audit(&trial)
	if want := `events "kill 1 at 0s" and "transfer-leadership at 1ms" not done before the window was over`; trial.Valid || trial.Problem != want {
		t.Errorf("valid %v: %q", trial.Valid, trial.Problem)
	}
	profile := Trial{Kind: TrialProfile, Valid: true}
	e.audit(&profile)
	if !profile.Valid {
		t.Errorf("the profile block's: %q", profile.Problem)
	}
	if _, _, err := e.pick(over, NodeLeader); err == nil {
		t.Error("found a leader without time to ask")
	}
	if n, _, err := e.pick(over, "2"); err != nil || n.ID != 2 {
		t.Errorf("node 2: %v, %v", n, err)
	}
	if _, _, err := e.pick(over, "7"); err == nil || err.Error() != "node 7 has ended" {
		t.Errorf("node 7: %v", err)
	}
}
