package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/bench/load"
	"raftlab/bench/target"
)

// TestStall stops the only node of a cluster, a real process, for a second of a
// window of ten. What a user would see is arithmetic. Operations are due at rate R
// throughout; one that is due at time u of a stall of length d waits d-u. So of the
// R*w operations of a window w, R*(d-x) take longer than x, a share of (d-x)/w, and
// the p quantile is
//
//	x = d - (1-p)*w
//
// which is 0.5 s for p95, 0.9 s for p99 and, of the first one, 1 s. What is due
// after the stall waits for the backlog as well, R*d operations at the node's
// speed: that is little, and makes all of it longer, never shorter. An open loop
// shows these figures. A closed loop sends nothing while it waits: it has one slow
// operation a client, and its p99 knows of no stall. So do service times.
func TestStall(t *testing.T) {
	window, stall := 10*time.Second, time.Second
	if testing.Short() {
		window, stall = 2*time.Second, 200*time.Millisecond
	}
	c := start(t, cluster.Config{Topology: cluster.Processes, Nodes: 1, ServerBin: serverBin})
	unary, err := target.New(target.Unary, target.Options{Endpoints: c.Endpoints(), Conns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unary.Close(); err != nil {
			t.Error(err)
		}
	}()
	cfg := load.Config{
		Clients: 4, OpsPerMessage: 1, Keys: 1000, KeySize: load.FixedSize(16), KeyDistribution: load.Uniform, ValueSize: load.FixedSize(64),
		Seed: 1, Warmup: 500 * time.Millisecond, Duration: window,
	}

	// What else a machine does to a window is no fault of a figure: a stall of the
	// machine's own is not there in each of three.
	var wrong []string
	for range 3 {
		if wrong = measureStall(t, c, unary, cfg, stall); len(wrong) == 0 {
			return
		}
		t.Log(strings.Join(wrong, "\n"))
	}
	t.Error("these figures are wrong again and again")
}

// measureStall measures both loops, and says what is wrong.
func measureStall(t *testing.T, c *cluster.Cluster, unary load.Target, cfg load.Config, stall time.Duration) (wrong []string) {
	t.Helper()
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	window := cfg.Duration
	closed, least, _ := runStalled(t, c, unary, cfg, stall)
	all := closed.ResponseAll()
	p99, longest := time.Duration(all.ValueAtPercentile(99)), time.Duration(all.Max())
	t.Logf("closed loop: p99 %v, max %v of %d operations", p99, longest, closed.Operations)
	if p99 > stall/2 || longest < least-stall/10 {
		fail("closed loop: p99 %v and max %v: it should hide the stall but for one operation a client", p99, longest)
	}

	// Far below what this machine can do, or the backlog is not little.
	cfg.Rate = min(300, float64(closed.Operations)/(window-stall).Seconds()/10)
	open, least, most := runStalled(t, c, unary, cfg, stall)
	all = open.ResponseAll()
	for _, p := range []float64{95, 99, 100} {
		got := time.Duration(all.ValueAtPercentile(p))
		before := time.Duration((1 - p/100) * float64(window))
		// Downwards: three digits, the gap between two operations, and the time until
		// all threads have stopped. Upwards: the backlog, and whatever else this
		// machine does.
		low, high := least-before-stall/10, most-before+500*time.Millisecond
		t.Logf("open loop p%v: response %v, arithmetic says %v; service %v", p, got, most-before, time.Duration(open.ServiceAll().ValueAtPercentile(p)))
		if got < low || got > high {
			fail("open loop: p%v is %v, want %v to %v", p, got, low, high)
		}
	}
	if p99 := time.Duration(open.ServiceAll().ValueAtPercentile(99)); p99 > stall/2 {
		fail("open loop: service p99 is %v, though %d of %d operations were under way", p99, cfg.Clients, open.Operations)
	}
	return wrong
}

// runStalled measures, and stops the cluster's node once. It returns between what
// bounds the stall's length lies.
func runStalled(t *testing.T, c *cluster.Cluster, unary load.Target, cfg load.Config, stall time.Duration) (r *load.Recording, least, most time.Duration) {
	t.Helper()
	node := c.Nodes()[0]
	stalled := make(chan error, 1)
	stop := func() error {
		time.Sleep(cfg.Duration * 3 / 10)
		before := time.Now()
		if err := node.Pause(); err != nil {
			return err
		}
		paused := time.Now()
		time.Sleep(stall)
		least = time.Since(paused)
		err := node.Resume()
		most = time.Since(before)
		return err
	}
	r, err := load.Run(t.Context(), cfg, unary, func(iv load.Interval) {
		if iv.Warmup && iv.Offset+iv.Length == 0 { // the window begins
			go func() { stalled <- stop() }()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-stalled; err != nil {
		t.Fatal(err)
	}
	if r.Errors != 0 || r.Unfinished != 0 || !r.Complete {
		t.Fatalf("%d errors %v, %d unfinished, complete %v", r.Errors, r.ErrorsByCode, r.Unfinished, r.Complete)
	}
	return r, least, most
}
