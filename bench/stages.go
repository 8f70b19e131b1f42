package bench

import (
	"context"
	"fmt"
	"slices"

	"raftlab/bench/cluster"
	"raftlab/kv/metric"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// Stages is what the nodes' histograms counted in a trial's window. Values in
// nanoseconds, bytes or what is counted, as the last word of each name says;
// percentiles are the upper bounds of buckets, which overstate a value by a 15th at
// most, means are exact.
type Stages struct {
	// Leader is the node that led from the window's begin to its end.
	Leader uint64 `json:"leader,omitempty"`
	// Void says why nothing is told: the leader changed, or there was none.
	Void string `json:"void,omitempty"`
	// OnLeader and OnFollowers are by histogram, those with values only; those of
	// several peers or followers are one.
	OnLeader    map[string]Distribution `json:"on_leader,omitempty"`
	OnFollowers map[string]Distribution `json:"on_followers,omitempty"`
	// Writes are whole writes by stage, as the leader saw them, and Received whole
	// entries as the followers did; nil with stages off.
	Writes   *Whole `json:"writes,omitempty"`
	Received *Whole `json:"received,omitempty"`
}

// Distribution summarises one histogram.
type Distribution struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	P50   uint64  `json:"p50"`
	P99   uint64  `json:"p99"`
}

// Whole tells what wholes consist of. Each slice has an element for each of Stages:
// the mean of that stage, in nanoseconds, over some of the wholes, so that a
// slice's sum is the mean of these wholes.
type Whole struct {
	Count  uint64   `json:"count"`
	Stages []string `json:"stages"`
	// Mean is over all, P50 over those from the 45th to the 55th percentile of the
	// whole, P99 over those from 98.5 to 99.5.
	Mean []float64 `json:"mean_ns"`
	P50  []float64 `json:"p50_ns"`
	P99  []float64 `json:"p99_ns"`
}

// Half of how wide the bands around the two percentiles are.
const (
	bandP50 = 0.05
	bandP99 = 0.005
)

// nodeStages are a node's histograms at one moment, and what it was.
type nodeStages struct {
	leads      bool
	term       uint64
	histograms map[string]metric.Snapshot // those of all peers together
	wholes     map[string]wholeSnapshot
}

type wholeSnapshot struct {
	stages []string
	metric.BreakdownSnapshot
}

// readStages asks a node for its histograms; nil when it cannot be asked.
func (p *probe) readStages(ctx context.Context, n *cluster.Node) *nodeStages {
	if local := n.Local(); local != nil {
		return newNodeStages(local.Stages())
	}
	conn := p.conns[nodeName(n.ID)]
	if conn == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := labv1.NewLabClient(conn).Stages(ctx, &labv1.StagesRequest{})
	if err != nil {
		return nil
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil
	}
	return newNodeStages(resp)
}

func nodeName(id uint64) string { return fmt.Sprintf("node%d", id) }

func newNodeStages(r *labv1.StagesResponse) *nodeStages {
	s := &nodeStages{histograms: map[string]metric.Snapshot{}, wholes: map[string]wholeSnapshot{}}
	for _, h := range r.GetHistograms() {
		snapshot := metric.Snapshot{Sum: h.GetSum()}
		for _, b := range h.GetBuckets() {
			snapshot.Buckets = append(snapshot.Buckets, metric.Bucket{Upper: b.GetUpperBound(), Count: b.GetCount()})
		}
		s.histograms[h.GetName()] = s.histograms[h.GetName()].Merge(snapshot)
	}
	for _, b := range r.GetBreakdowns() {
		w := wholeSnapshot{stages: b.GetParts()}
		for _, k := range b.GetBuckets() {
			sums := make([]uint64, len(w.stages))
			copy(sums, k.GetSums())
			w.BreakdownSnapshot = append(w.BreakdownSnapshot, metric.BrokenBucket{Upper: k.GetUpperBound(), Count: k.GetCount(), Sums: sums})
		}
		s.wholes[b.GetName()] = w
	}
	return s
}

// is takes in what the node says of itself.
func (s *nodeStages) is(st *clusterv1.StatusResponse) *nodeStages {
	s.leads, s.term = st.GetRole() == clusterv1.Role_ROLE_LEADER, st.GetTerm()
	return s
}

// since is what came in after an earlier moment. It is false when the node began
// anew in between, so that there is no saying.
func (s *nodeStages) since(before *nodeStages) (*nodeStages, bool) {
	d := &nodeStages{leads: s.leads, term: s.term, histograms: map[string]metric.Snapshot{}, wholes: map[string]wholeSnapshot{}}
	for name, h := range s.histograms {
		if old := before.histograms[name]; h.Count() < old.Count() || h.Sum < old.Sum {
			return nil, false
		}
		d.histograms[name] = h.Since(before.histograms[name])
	}
	for name, w := range s.wholes {
		d.wholes[name] = wholeSnapshot{w.stages, w.Since(before.wholes[name].BreakdownSnapshot)}
	}
	return d, true
}

// merge adds what another node of the same role has.
func (s *nodeStages) merge(other *nodeStages) {
	for name, h := range other.histograms {
		s.histograms[name] = s.histograms[name].Merge(h)
	}
	for name, w := range other.wholes {
		s.wholes[name] = wholeSnapshot{w.stages, s.wholes[name].Merge(w.BreakdownSnapshot)}
	}
}

// stagesBetween is what nodes, by id, counted from one moment to another; nil when
// none could be asked. Nodes that joined in between count from their start, those
// that began anew are left out.
func stagesBetween(before, after map[uint64]*nodeStages) *Stages {
	if len(before) == 0 || len(after) == 0 {
		return nil
	}
	was, wasTerm := leaderOf(before)
	leads, term := leaderOf(after)
	switch {
	case was == 0 || leads == 0:
		return &Stages{Void: "no node that could be asked led at the window's begin and end"}
	case was != leads || wasTerm != term:
		return &Stages{Void: fmt.Sprintf("node %d led in term %d at the window's begin, node %d in term %d at its end", was, wasTerm, leads, term)}
	}
	empty := func() *nodeStages {
		return &nodeStages{histograms: map[string]metric.Snapshot{}, wholes: map[string]wholeSnapshot{}}
	}
	leader, followers := empty(), empty()
	for id, s := range after {
		old := before[id]
		if old == nil {
			old = empty()
		}
		gained, ok := s.since(old)
		switch {
		case !ok && id == leads:
			return &Stages{Void: fmt.Sprintf("node %d began anew in the window", id)}
		case !ok:
		case id == leads:
			leader.merge(gained)
		default:
			followers.merge(gained)
		}
	}
	return &Stages{
		Leader: leads, OnLeader: leader.distributions(), OnFollowers: followers.distributions(),
		Writes: leader.whole("write_nanos"), Received: followers.whole("received_entry_nanos"),
	}
}

// leaderOf is the node that leads, the one of the highest term if several think so;
// 0 for none.
func leaderOf(nodes map[uint64]*nodeStages) (id, term uint64) {
	for n, s := range nodes {
		if s.leads && s.term > term {
			id, term = n, s.term
		}
	}
	return id, term
}

func (s *nodeStages) distributions() map[string]Distribution {
	all := map[string]Distribution{}
	for name, h := range s.histograms {
		if n := h.Count(); n > 0 {
			all[name] = Distribution{Count: n, Mean: h.Mean(), P50: h.Quantile(0.5), P99: h.Quantile(0.99)}
		}
	}
	return all
}

func (s *nodeStages) whole(name string) *Whole {
	w := s.wholes[name]
	n := w.Count()
	if n == 0 {
		return nil
	}
	return &Whole{
		Count: n, Stages: slices.Clone(w.stages), Mean: w.Between(0, 1),
		P50: w.Between(0.5-bandP50, 0.5+bandP50), P99: w.Between(0.99-bandP99, 0.99+bandP99),
	}
}
