package node

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"raftlab/kv/metric"
	"raftlab/kv/replica"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// Below the least a stream of histograms would show in what it measures; a
// longer interval than the most is a slip of the finger.
const (
	minStagesInterval = 10 * time.Millisecond
	maxStagesInterval = time.Hour
)

// Stages returns what the node's histograms have counted since it started: the
// stages of writes, unless knob stages is off, and what else is distributed. It
// waits for nothing.
func (n *Node) Stages() *labv1.StagesResponse {
	resp := &labv1.StagesResponse{NodeId: n.self.GetId(), UnixNanos: time.Now().UnixNano()}
	n.eachMetric(replica.Status{}, func(peer uint64, m metric.Metric) {
		if m.Kind != metric.HistogramKind {
			return
		}
		s := m.Histogram.Snapshot()
		h := &labv1.Histogram{Name: m.Name, Sentence: sentence(m.Usage), Unit: m.Unit(), PeerId: peer, Sum: s.Sum}
		for _, b := range s.Buckets {
			h.Buckets = append(h.Buckets, &labv1.Bucket{UpperBound: b.Upper, Count: b.Count})
		}
		resp.Histograms = append(resp.Histograms, h)
	})
	for _, b := range n.replica.Histograms().Breakdowns() {
		m := &labv1.Breakdown{
			Name: b.Name, Sentence: sentence(b.Usage), Unit: metric.Metric{Name: b.Name}.Unit(), Parts: b.Parts,
		}
		for _, k := range b.Snapshot() {
			m.Buckets = append(m.Buckets, &labv1.BrokenBucket{UpperBound: k.Upper, Count: k.Count, Sums: k.Sums})
		}
		resp.Breakdowns = append(resp.Breakdowns, m)
	}
	return resp
}

// SetStages says whether stages are measured from now on, and returns whether they
// were before. What is under way then may be measured in part.
func (n *Node) SetStages(on bool) (was bool) { return n.replica.SetStages(on) }

// SetStages implements Lab.
func (s labService) SetStages(_ context.Context, req *labv1.SetStagesRequest) (*labv1.SetStagesResponse, error) {
	was := s.n.SetStages(req.GetOn())
	if was != req.GetOn() {
		s.n.log.Info("stages set", "on", req.GetOn())
	}
	return &labv1.SetStagesResponse{WasOn: was}, nil
}

// Stages implements Lab.
func (s labService) Stages(req *labv1.StagesRequest, stream grpc.ServerStreamingServer[labv1.StagesResponse]) error {
	errs := translator{leader: s.n.notLeader}
	interval, err := stagesInterval(req.GetIntervalNanos())
	if err != nil {
		return errs.status(err)
	}
	var tick <-chan time.Time
	if interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		if err := stream.Send(s.n.Stages()); err != nil || tick == nil {
			return err
		}
		select {
		case <-tick:
		case <-stream.Context().Done():
			return errs.status(context.Cause(stream.Context()))
		case <-s.n.life.Done():
			return errs.status(replica.ErrStopped)
		}
	}
}

func stagesInterval(nanos uint64) (time.Duration, error) {
	switch {
	case nanos > uint64(maxStagesInterval):
		return 0, invalidf("interval_nanos %d exceeds the maximum %d", nanos, uint64(maxStagesInterval))
	case nanos > 0 && nanos < uint64(minStagesInterval):
		return 0, invalidf("interval_nanos %d is below the minimum %d (0: once)", nanos, uint64(minStagesInterval))
	}
	return time.Duration(nanos), nil
}
