package bench

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParsePlan(t *testing.T) {
	for text, want := range map[string]Plan{
		"none":               nil,
		"kill leader at 1s":  {{Do: DoKill, Node: NodeLeader, At: time.Second}},
		"  join   at 500ms ": {{Do: DoJoin, At: 500 * time.Millisecond}},
		"partition 1 at 0s for 1s; slow 2 by 1ms at 1s for 1s": { // one ends as the other begins
			{Do: DoPartition, Node: "1", For: time.Second},
			{Do: DoSlow, Node: "2", By: time.Millisecond, At: time.Second, For: time.Second},
		},
		"pause 2 for 1s at 0s; transfer-leadership at 1ms": {
			{Do: DoPause, Node: "2", For: time.Second},
			{Do: DoTransfer, At: time.Millisecond},
		},
		"restart killed at 2s;slow follower at 1s for 3s by 50ms;kill follower at 1s": {
			{Do: DoSlow, Node: NodeFollower, By: 50 * time.Millisecond, At: time.Second, For: 3 * time.Second},
			{Do: DoKill, Node: NodeFollower, At: time.Second},
			{Do: DoRestart, Node: NodeKilled, At: 2 * time.Second},
		},
	} {
		got, err := ParsePlan(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// Each fault in a plan is told with its line, and is a usage error.
func TestPlanFaults(t *testing.T) {
	const form = "which is not of the form: "
	for text, want := range map[string]string{
		"kil leader at 1s":                     `events "kil leader at 1s" has an unknown event "kil" (did you mean kill?); there are kill, restart, pause, partition, slow, transfer-leadership, join`,
		"kill leader at 1s;":                   `events "kill leader at 1s;" has an empty event; none by itself is no event`,
		"kill":                                 `events "kill" says "kill", ` + form + "kill NODE at TIME",
		"kill leader":                          `events "kill leader" says "kill leader", ` + form + "kill NODE at TIME",
		"kill leader at 1s for 1s":             `events "kill leader at 1s for 1s" says "kill leader at 1s for 1s", ` + form + "kill NODE at TIME",
		"pause leader at 1s at 1s":             `events "pause leader at 1s at 1s" says "pause leader at 1s at 1s", ` + form + "pause NODE at TIME for TIME",
		"kill king at 1s":                      `events "kill king at 1s" cannot kill "king", which is not leader, follower or a node's number`,
		"kill 0 at 1s":                         `events "kill 0 at 1s" names node 0; the first is 1`,
		"kill leader at 1s; restart 1 at 2s":   `events "kill leader at 1s; restart 1 at 2s" cannot restart "1", which is not killed`,
		"kill leader at soon":                  `events "kill leader at soon" says "kill leader at soon": at "soon" is not a duration such as 500ms or 2s`,
		"kill leader at -1s":                   `events "kill leader at -1s" says "kill leader at -1s": at -1s must be more than 0`,
		"pause leader at 1s for 0s":            `events "pause leader at 1s for 0s" says "pause leader at 1s for 0s": for 0s must be more than 0`,
		"restart killed at 1s":                 `events "restart killed at 1s" restarts a node at 1s, but none is killed before`,
		"restart killed at 1s; kill 1 at 1.5s": `events "restart killed at 1s; kill 1 at 1.5s" restarts a node at 1s, but none is killed before`,
		"kill leader at 2s":                    `events "kill leader at 2s" lies beyond the window of 2s`,
		"pause leader at 1s for 1001ms":        `events "pause leader at 1s for 1.001s" ends at 2.001s, beyond the window of 2s`,
		"slow 1 by 5ms at 0s for 2s; partition 2 at 1s for 1s": `events "slow 1 by 5ms at 0s for 2s; partition 2 at 1s for 1s" begins "partition 2 at 1s for 1s" before "slow 1 by 5ms at 0s for 2s" is over, but only one slow or partition at a time is possible`,
		"kill 4 at 1s": `events "kill 4 at 1s" names node 4, but nodes is 3`,
		"kill leader at 1s; restart killed at 1500ms": errMemory.Error(),
	} {
		_, err := Parse([]byte("name: x\nfixed:\n  nodes: 3\n  events: "+text+"\n"), "x.yaml")
		if _, ok := errors.AsType[*UsageError](err); !ok || err.Error() != "x.yaml:4: "+want {
			t.Errorf("%s\ngot  %v\nwant x.yaml:4: %s", text, err, want)
		}
	}
}

// What --set and --duration make wrong is refused too, and a cell that cannot
// have a plan is skipped.
func TestPlanAfterOverrides(t *testing.T) {
	e := parse(t, "name: x\nfixed: {events: kill leader at 1s}\n")
	e.Measure.Duration = time.Second
	if _, err := Expand(e); err == nil || err.Error() != `events "kill leader at 1s" lies beyond the window of 1s` {
		t.Errorf("shorter window: %v", err)
	}
	m, err := Expand(parse(t, `
name: x
ceiling: none
fixed: {op: put}
vary:
  topology: [in-process, processes]
  storage: [memory, wal]
  events: [none, kill leader at 1s; restart killed at 1500ms, pause leader at 1s for 500ms, partition follower at 0s for 1s]
`))
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	for _, s := range m.Skipped {
		reasons[strings.Fields(s.Reason)[1]]++
	}
	// Restarts need wal, in either topology; pauses processes, with either storage.
	if want := map[string]int{"restarts": 2, "pauses": 2}; !cmp.Equal(want, reasons) || len(m.Variants) != 12 {
		t.Errorf("skipped %v of %d variants", reasons, len(m.Variants))
	}
	for source, want := range map[string]string{
		"fixed: {topology: external, events: kill leader at 1s}":                   "no variant is possible: events needs nodes of its own",
		"fixed: {topology: in-process, target: direct, events: kill leader at 1s}": "no variant is possible: events kills a node, but target direct",
		"vary: {nodes: [1, 3], events: [kill 3 at 1s]}":                            "",
		"fixed: {nodes: 1, events: transfer-leadership at 1s}":                     `test.yaml:2: events "transfer-leadership at 1s" needs a follower, but nodes is 1`,
	} {
		e, err := Parse([]byte("name: x\n"+source+"\n"), "test.yaml")
		if err == nil {
			_, err = Expand(e)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
}

func drawStep(t *rapid.T) Step {
	d := rapid.SampledFrom(deeds).Draw(t, "deed")
	millis := func(least int, name string) time.Duration {
		return time.Duration(rapid.IntRange(least, 5000).Draw(t, name)) * time.Millisecond
	}
	s := Step{Do: d.do, At: millis(0, "at")}
	switch {
	case d.do == DoRestart:
		s.Node = NodeKilled
	case d.node:
		s.Node = rapid.SampledFrom([]string{NodeLeader, NodeFollower, "1", "3"}).Draw(t, "node")
	}
	if d.delay {
		s.By = millis(1, "by")
	}
	if d.lasts {
		s.For = millis(1, "for")
	}
	return s
}

// A plan is what it is written as, in the order of time, and whatever begins for a
// time is undone just once, later.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan := Plan(rapid.SliceOfN(rapid.Custom(drawStep), 1, 6).Draw(t, "plan"))
		read, err := ParsePlan(plan.String())
		if err != nil {
			if plan.does(DoRestart) || plan.does(DoSlow, DoPartition) {
				return // before any kill; two at a time
			}
			t.Fatalf("%s: %v", plan, err)
		}
		again, err := ParsePlan(read.String())
		if err != nil || !cmp.Equal(read, again) || len(read) != len(plan) {
			t.Fatalf("%s was read as %s, %v", plan, again, err)
		}
		begun, undone, last := map[int]bool{}, map[int]bool{}, time.Duration(0)
		for _, m := range read.moments() {
			if m.at < last || m.undo && !begun[m.step] || m.undo && undone[m.step] {
				t.Fatalf("%s: %+v comes at the wrong time", read, m)
			}
			last = m.at
			if m.undo {
				undone[m.step] = true
			} else {
				begun[m.step] = true
			}
		}
		for i, s := range read {
			if !begun[i] || undone[i] != (s.For > 0) {
				t.Fatalf("%s: step %d begun %v, undone %v", read, i, begun[i], undone[i])
			}
		}
	})
}
