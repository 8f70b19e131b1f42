package node

import (
	"context"

	"raftlab/kv/metric"
	"raftlab/kv/replica"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	"raftlab/transport"
)

// Status implements Cluster. It is answered without the leader, and without
// waiting for anything but the node itself.
func (s *clusterService) Status(ctx context.Context, req *clusterv1.StatusRequest) (*clusterv1.StatusResponse, error) {
	resp, err := s.n.status(ctx)
	if err != nil {
		return nil, s.errors.status(err)
	}
	if req.GetWithStateHash() {
		// Of one view, so that hash, revision and index belong together.
		view := s.n.store.View()
		hash, state := view.Hash(), view.State()
		resp.StateHash = hash[:]
		resp.AppliedIndex, resp.Revision, resp.Keys = state.Index, state.Revision, state.Keys
	}
	return resp, nil
}

// status collects what the node and its parts know.
func (n *Node) status(ctx context.Context) (*clusterv1.StatusResponse, error) {
	rs, err := n.replica.Status(ctx)
	if err != nil {
		return nil, err
	}
	state := n.store.State()
	resp := &clusterv1.StatusResponse{
		NodeId: n.self.GetId(), Incarnation: n.self.GetIncarnation(), ClusterId: rs.Membership.GetClusterId(),
		Role: roleOf(rs.Role), Term: rs.Term,
		LeaderId: rs.Leader, LeaderAddress: findMember(rs.Membership, rs.Leader).GetAddress(),
		CommitIndex: rs.Commit, AppliedIndex: state.Index,
		LogFirstIndex: rs.FirstIndex, LogLastIndex: rs.LastIndex, LogBytes: rs.LogBytes,
		Membership: rs.Membership, Revision: state.Revision, Keys: state.Keys,
		Limits: &clusterv1.Limits{
			MaxMessageBytes: uint64(n.cfg.MaxMessage), MaxRequestBytes: uint64(n.cfg.MaxRequest),
			ChunkSizeBytes: uint64(n.cfg.startChunk()), Chunking: n.cfg.Chunking, MaxEntryBytes: rs.MaxEntryBytes,
			MemoryCapsBytes: n.cfg.memoryCaps(max(0, len(rs.Membership.GetNodes())-1)),
		},
		Counters: map[string]uint64{},
		Version:  n.version,
		Config:   n.cfg.Values(),
	}
	counters(resp.GetCounters(), rs.Counters)
	counters(resp.GetCounters(), n.transport.Totals())
	if n.disk != nil {
		counters(resp.GetCounters(), n.disk.Stats())
	}
	n.eachMetric(rs, func(peer uint64, m metric.Metric) {
		if m.Kind != metric.HistogramKind {
			return
		}
		if s := m.Histogram.Snapshot(); len(s.Buckets) > 0 {
			resp.Distributions = append(resp.Distributions, distributionOf(peer, m, s))
		}
	})
	for _, p := range rs.Progress {
		if p.ID != n.self.GetId() {
			resp.Progress = append(resp.Progress, progressOf(p))
		}
	}
	for _, p := range n.transport.Stats() {
		resp.Transport = append(resp.Transport, transportOf(p))
	}
	return resp, nil
}

func roleOf(r replica.Role) clusterv1.Role {
	switch r {
	case replica.RoleFollower:
		return clusterv1.Role_ROLE_FOLLOWER
	case replica.RolePreCandidate:
		return clusterv1.Role_ROLE_PRE_CANDIDATE
	case replica.RoleCandidate:
		return clusterv1.Role_ROLE_CANDIDATE
	case replica.RoleLeader:
		return clusterv1.Role_ROLE_LEADER
	case replica.RoleLearner:
		return clusterv1.Role_ROLE_LEARNER
	}
	return clusterv1.Role_ROLE_UNSPECIFIED
}

func progressOf(p replica.Progress) *clusterv1.PeerProgress {
	return &clusterv1.PeerProgress{
		Id: p.ID, Learner: p.Learner, MatchIndex: p.Match, NextIndex: p.Next, State: p.State,
		RecentActive: p.RecentActive, Paused: p.Paused, PendingSnapshotIndex: p.PendingSnapshot,
	}
}

func transportOf(p transport.PeerStats) *clusterv1.PeerTransport {
	t := &clusterv1.PeerTransport{
		Counters: map[string]uint64{},
		Id:       p.ID, PeerAddress: p.Address, Connected: p.Connected,
		ReceiveLimitBytes: p.ReceiveLimitBytes, Problem: p.Problem, QueueBytes: p.QueueBytes,
		ChunkSizeBytes: p.ChunkSizeBytes,
		Dials:          p.Dials, MessagesSent: p.MessagesSent, MessagesDropped: p.MessagesDropped, MessagesSplit: p.MessagesSplit,
		FramesSent: p.FramesSent, FragmentsSent: p.FragmentsSent, BytesSent: p.BytesSent, WireBytesSent: p.WireBytesSent,
		LargestFrameSentBytes: p.LargestFrame, Refusals: p.Refusals,
		SnapshotsSent: p.SnapshotsSent, SnapshotChunksSent: p.SnapshotChunksSent, SnapshotBytesSent: p.SnapshotBytesSent,
		MessagesReceived: p.MessagesReceived, FramesReceived: p.FramesReceived, BytesReceived: p.BytesReceived,
		SnapshotsResumed: p.SnapshotsResumed, SnapshotBytesResumed: p.SnapshotBytesResumed,
		SnapshotsReceived: p.SnapshotsReceived, SnapshotChunksReceived: p.SnapshotChunksReceived, SnapshotBytesReceived: p.SnapshotBytesReceived,
		SnapshotsReceivedResumed: p.SnapshotsReceivedResumed, SnapshotBytesReceivedResumed: p.SnapshotBytesReceivedResumed,
	}
	counters(t.GetCounters(), p)
	return t
}

func distributionOf(peer uint64, m metric.Metric, s metric.Snapshot) *clusterv1.Distribution {
	return &clusterv1.Distribution{
		Name: m.Name, Sentence: sentence(m.Usage), PeerId: peer, Count: s.Count(),
		Mean: s.Mean(), P50: s.Quantile(0.5), P99: s.Quantile(0.99), Max: s.Quantile(1),
	}
}

// counters adds the counters and gauges of a struct by name.
func counters(to map[string]uint64, from any) {
	metric.Each(from, func(m metric.Metric) {
		if m.Kind != metric.HistogramKind {
			to[m.Name] = m.Value
		}
	})
}
