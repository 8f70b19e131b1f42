package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"raftlab/kv/metric"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// fakeNode is what a node tells of itself after so many operations.
func fakeNode(leads bool, term uint64, writes, received int) *nodeStages {
	var queue, step, frames metric.Histogram
	w, r := metric.NewBreakdown("write_nanos", "w", "queue", "commit"), metric.NewBreakdown("received_entry_nanos", "r", "step", "durable")
	for i := range writes {
		queue.Record(int64(i + 1))
		w.RecordN(1, int64(i+1), 100)
	}
	for range received {
		step.Record(5)
		r.RecordN(1, 5, 7)
	}
	resp := &labv1.StagesResponse{}
	add := func(name string, peer uint64, h *metric.Histogram) {
		s := h.Snapshot()
		m := &labv1.Histogram{Name: name, PeerId: peer, Sum: s.Sum}
		for _, b := range s.Buckets {
			m.Buckets = append(m.Buckets, &labv1.Bucket{UpperBound: b.Upper, Count: b.Count})
		}
		resp.Histograms = append(resp.Histograms, m)
	}
	add("stage_queue_nanos", 0, &queue)
	add("stage_step_nanos", 0, &step)
	frames.RecordN(64, uint64(writes+received))
	add("frame_bytes", 2, &frames)
	add("frame_bytes", 3, &frames)
	for _, b := range []*metric.Breakdown{w, r} {
		m := &labv1.Breakdown{Name: b.Name, Parts: b.Parts}
		for _, k := range b.Snapshot() {
			m.Buckets = append(m.Buckets, &labv1.BrokenBucket{UpperBound: k.Upper, Count: k.Count, Sums: k.Sums})
		}
		resp.Breakdowns = append(resp.Breakdowns, m)
	}
	role := clusterv1.Role_ROLE_FOLLOWER
	if leads {
		role = clusterv1.Role_ROLE_LEADER
	}
	return newNodeStages(resp).is(&clusterv1.StatusResponse{Role: role, Term: term})
}

// What came in between two moments is told by role: peers together, followers
// together, a node that joined from its start.
func TestStagesBetween(t *testing.T) {
	before := map[uint64]*nodeStages{1: fakeNode(false, 3, 0, 10), 2: fakeNode(true, 3, 100, 0), 3: fakeNode(false, 3, 0, 10)}
	after := map[uint64]*nodeStages{
		1: fakeNode(false, 3, 0, 30), 2: fakeNode(true, 3, 200, 0), 3: fakeNode(false, 3, 0, 40), 4: fakeNode(false, 3, 0, 1),
	}
	s := stagesBetween(before, after)
	if s == nil || s.Void != "" || s.Leader != 2 {
		t.Fatalf("%+v", s)
	}
	// Queues of 101 to 200: the mean is exact, a percentile at most a 15th above.
	q := s.OnLeader["stage_queue_nanos"]
	if q.Count != 100 || q.Mean != 150.5 || q.P50 < 150 || q.P50 > 160 || q.P99 < 199 || q.P99 > 213 {
		t.Errorf("queue: %+v", q)
	}
	if d := s.OnLeader["frame_bytes"]; d.Count != 200 || d.Mean != 64 {
		t.Errorf("frames to two peers: %+v", d)
	}
	if _, ok := s.OnLeader["stage_step_nanos"]; ok {
		t.Error("the leader has a stage without values")
	}
	if d := s.OnFollowers["stage_step_nanos"]; d.Count != 51 || d.Mean != 5 {
		t.Errorf("followers' step: %+v", d)
	}
	if w := s.Writes; w.Count != 100 || !slices.Equal(w.Stages, []string{"queue", "commit"}) ||
		math.Abs(w.Mean[0]-150.5) > 1e-6 || math.Abs(w.P50[0]-150.5) > 10 || w.P99[0] < 190 || math.Abs(w.P99[1]-100) > 1e-6 {
		t.Errorf("writes: %+v", w)
	}
	if r := s.Received; r.Count != 51 || r.Mean[1] != 7 {
		t.Errorf("received: %+v", r)
	}
}

func TestStagesVoid(t *testing.T) {
	leader, follower := fakeNode(true, 3, 10, 0), fakeNode(false, 3, 0, 10)
	type nodes = map[uint64]*nodeStages
	for name, c := range map[string]struct {
		before, after nodes
		want          string
	}{
		"another leads":         {nodes{1: leader, 2: follower}, nodes{1: fakeNode(false, 4, 10, 0), 2: fakeNode(true, 4, 1, 10)}, "node 1 led in term 3 at the window's begin, node 2 in term 4"},
		"the same, elected":     {nodes{1: leader, 2: follower}, nodes{1: fakeNode(true, 5, 20, 0), 2: follower}, "node 1 in term 5 at its end"},
		"none leads":            {nodes{2: follower}, nodes{2: follower}, "no node"},
		"none leads any more":   {nodes{1: leader, 2: follower}, nodes{2: follower}, "no node"},
		"the leader began anew": {nodes{1: leader}, nodes{1: fakeNode(true, 3, 5, 0)}, "node 1 began anew"},
	} {
		s := stagesBetween(c.before, c.after)
		if s == nil || !strings.Contains(s.Void, c.want) || s.OnLeader != nil || s.Writes != nil {
			t.Errorf("%s: %+v, want it void: %s", name, s, c.want)
		}
	}
	// An old leader that has not heard yet does not count against the new one.
	if s := stagesBetween(nodes{1: leader, 2: fakeNode(true, 4, 1, 0)}, nodes{1: leader, 2: fakeNode(true, 4, 2, 0)}); s.Leader != 2 {
		t.Errorf("%+v", s)
	}
	// A follower that began anew is left out.
	s := stagesBetween(nodes{1: leader, 2: follower, 3: follower}, nodes{1: leader, 2: fakeNode(false, 3, 0, 2), 3: fakeNode(false, 3, 0, 14)})
	if s.Void != "" || s.OnFollowers["stage_step_nanos"].Count != 4 {
		t.Errorf("%+v", s)
	}
	if s := stagesBetween(nil, nodes{1: leader}); s != nil {
		t.Errorf("nothing was asked at the begin, and %+v told", s)
	}
}

// staged gives every trial of a run stages: a variant's parts by block, the first
// of them queue, commit, apply, answer and outside.
func staged(run *Run, parts map[string][][]float64) {
	for i := range run.Trials {
		t := &run.Trials[i]
		p := parts[t.Variant]
		if p == nil || t.Block < 1 || t.Block > len(p) || p[t.Block-1] == nil {
			continue
		}
		stages := p[t.Block-1]
		inside := stages[:4]
		t.Stages = &Stages{
			Leader: 1,
			Writes: &Whole{
				Count: 80000, Stages: []string{"queue", "commit", "apply", "answer"},
				Mean: inside, P50: inside, P99: tenfold(inside),
			},
			OnLeader:    map[string]Distribution{"stage_append_nanos": {Count: 10, Mean: stages[1] / 10, P50: 1, P99: 2}},
			OnFollowers: map[string]Distribution{"stage_durable_nanos": {Count: 10, Mean: stages[1] / 2, P50: 3, P99: 4}},
		}
		whole := sum(stages)
		t.Service = map[string]Latency{"put": {MeanNs: whole, P50Ns: int64(whole), P99Ns: int64(10 * whole)}}
	}
}

func tenfold(values []float64) []float64 {
	var out []float64
	for _, v := range values {
		out = append(out, 10*v)
	}
	return out
}

func TestStageSummary(t *testing.T) {
	run := synthetic(nil, []Variant{variant("v01", "chunking=raft", RoleMeasured, "", "")}, map[string][]float64{"v01": {100, 101, 99, 100, 100}})
	staged(run, map[string][][]float64{"v01": {
		{10e3, 1000e3, 50e3, 5e3, 300e3}, {12e3, 1100e3, 50e3, 5e3, 310e3}, {11e3, 900e3, 50e3, 5e3, 290e3}, {11e3, 1000e3, 50e3, 5e3, 300e3}, nil,
	}})
	run.Trials[4].Stages = &Stages{Void: "the leader changed"}
	s := Summarize(run).Variants[0].Stages
	if s == nil || s.Void != 1 || s.Samples != 80000 {
		t.Fatalf("%+v", s)
	}
	want := map[string]float64{"queue": 11e3, "commit": 1000e3, "apply": 50e3, "answer": 5e3, StageOutside: 300e3}
	total := 0.0
	for _, w := range s.Writes {
		total += w.Mean.Center
		if math.Abs(w.Mean.Center-want[w.Stage]) > 1 || w.Mean.N != 4 || math.Abs(w.P99.Center-10*want[w.Stage]) > 10 {
			t.Errorf("%s: %+v", w.Stage, w)
		}
		delete(want, w.Stage)
	}
	if len(want) > 0 || math.Abs(total-1366e3) > 1 {
		t.Errorf("the stages are %v in all, without %v", total, want)
	}
	if commit := s.Writes[1].Mean; commit.Lo >= 1000e3 || commit.Hi <= 1000e3 || commit.Confidence != 0.95 {
		t.Errorf("commit: %+v", commit)
	}
	if d := s.OnFollowers["stage_durable_nanos"]; d.Mean.Center != 500e3 || d.P99.Center != 4 {
		t.Errorf("followers: %+v", d)
	}
	plain := synthetic(nil, []Variant{variant("v01", "chunking=raft", RoleMeasured, "", "")}, map[string][]float64{"v01": {100}})
	if s := Summarize(plain).Variants[0].Stages; s != nil {
		t.Errorf("without stages: %+v", s)
	}
}

// The answer says which stage loses most, when the blocks bear it out and only then.
func TestWhy(t *testing.T) {
	fast := [][]float64{{10e3, 500e3, 50e3, 5e3, 300e3}, {10e3, 510e3, 50e3, 5e3, 310e3}, {10e3, 490e3, 50e3, 5e3, 290e3}, {10e3, 500e3, 50e3, 5e3, 300e3}, {10e3, 500e3, 50e3, 5e3, 300e3}}
	changed := func(stage int, by ...float64) [][]float64 {
		var out [][]float64
		for i, row := range fast {
			row = slices.Clone(row)
			row[stage] += by[i%len(by)]
			out = append(out, row)
		}
		return out
	}
	var spread [][]float64 // over all stages
	for _, row := range fast {
		spread = append(spread, []float64{row[0] + 100e3, row[1] + 200e3, row[2] + 100e3, row[3] + 100e3, row[4]})
	}
	for _, c := range []struct {
		name  string
		slow  [][]float64
		want  string // in the answer's Why; "" for none
		never string
	}{
		{"commit", changed(1, 900e3, 1000e3, 1100e3), "a write takes on average 865µs with chunking=fragment, 1.85ms with chunking=raft. Most is lost from the proposal until the leader knows of its commit: 980µs (", ""},
		{"within commit", changed(1, 900e3, 1000e3, 1100e3), "Meanwhile the followers' log takes 490µs longer (", ""},
		{"less than half", spread, "The largest part that is sure, 40 %, is lost from the proposal until the leader knows of its commit: 200µs (", "Most"},
		{"queue", changed(0, 400e3, 410e3), "Most is lost waiting to be proposed: 404µs (", "Meanwhile"},
		{"outside", changed(4, 400e3, 410e3), "Most is lost outside the stages: client, RPC, handler: 404µs", "Meanwhile"},
		{"noise", changed(1, 900e3, -900e3, 300e3, -200e3), "", "Stages"},
		{"nothing", fast, "", "Stages"},
		{"too few blocks", changed(1, 900e3)[:3], "", "Stages"},
		{"no stages", nil, "", "Stages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			variants := []Variant{variant("v01", "chunking=raft", RoleMeasured, "", ""), variant("v02", "chunking=fragment", RoleMeasured, "v01", "")}
			variants[0].Baseline = true
			run := synthetic(nil, variants, map[string][]float64{"v01": {100, 101, 99, 100, 100}, "v02": {200, 203, 198, 200, 201}})
			staged(run, map[string][][]float64{"v01": c.slow, "v02": fast})
			why := fmt.Sprint(Summarize(run).Answers[0].Why)
			if !strings.Contains(why, c.want) || c.never != "" && strings.Contains(why, c.never) {
				t.Errorf("why: %s\nwant %q, never %q", why, c.want, c.never)
			}
		})
	}
}

// What the best is compared with: the baseline, else the worst of those that are
// not among the best.
func TestWhyContrast(t *testing.T) {
	variants := []Variant{
		variant("v01", "chunking=raft", RoleMeasured, "", ""), variant("v02", "chunking=fragment", RoleMeasured, "", ""),
		variant("v03", "chunking=count", RoleMeasured, "", ""), variant("v04", "chunking=bounded", RoleMeasured, "", ""),
	}
	level := func(x float64) []float64 { return []float64{x, x * 1.01, x * 0.99, x, x * 1.005} }
	for _, c := range []struct {
		baseline string
		ops      [4]float64
		want     string
	}{
		{"v03", [4]float64{100, 400, 200, 300}, "v03"},
		{"", [4]float64{100, 400, 200, 300}, "v01"},
		{"v02", [4]float64{100, 400, 200, 300}, "v01"},
		{"v01", [4]float64{100, 100, 100, 100}, ""},
	} {
		ops := map[string][]float64{}
		vs := slices.Clone(variants)
		for i := range vs {
			vs[i].Baseline = vs[i].ID == c.baseline
			ops[vs[i].ID] = level(c.ops[i])
		}
		run := synthetic(nil, vs, ops)
		s := newSummarizer(run)
		var summaries []VariantSummary
		for i := range run.Variants {
			summaries = append(summaries, s.variant(&run.Variants[i]))
		}
		cell := s.cells(summaries)[0]
		a := s.answer(cell)
		got := ""
		if v := s.contrast(&a, cell); v != nil {
			got = v.Variant.ID
		}
		if got != c.want {
			t.Errorf("baseline %q, %v: compared with %q, want %q (best %v)", c.baseline, c.ops, got, c.want, a.Best)
		}
	}
}
