package transport

import (
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Ids that raft reserves for its own goroutines begin here.
const reservedIDs = math.MaxUint64 - 1

// Validate checks a message from the network, whole, before raft sees it: raft
// trusts what it is given and panics or corrupts its state on some of it. self
// is the receiving node, from the node that was authenticated as the sender.
// Errors are gRPC statuses: PermissionDenied for one who is not who he says or
// sends what no node may send, InvalidArgument for the rest.
//
// What only the replica can judge is left to it: a commit index beyond its log.
func Validate(m *pb.Message, self, from uint64) error {
	if m == nil || m.Type == nil {
		return status.Error(codes.InvalidArgument, "raft message without a type")
	}
	if err := validateAddresses(m, self, from); err != nil {
		return err
	}
	if len(m.Responses) > 0 {
		return status.Errorf(codes.PermissionDenied, "%s with responses, which are local to a node", m.GetType())
	}
	if m.Snapshot != nil && m.GetType() != pb.MsgSnap {
		return status.Errorf(codes.InvalidArgument, "%s with a snapshot", m.GetType())
	}
	if n := m.GetTerm(); n == math.MaxUint64 {
		return status.Errorf(codes.InvalidArgument, "%s with term %d, above which there is none", m.GetType(), n)
	}
	return validateType(m)
}

func validateAddresses(m *pb.Message, self, from uint64) error {
	switch {
	case m.GetTo() != self:
		return status.Errorf(codes.PermissionDenied, "raft message to node %d arrived at node %d", m.GetTo(), self)
	case m.GetFrom() == raft.None || m.GetFrom() >= reservedIDs:
		return status.Errorf(codes.PermissionDenied, "raft message from reserved node id %d", m.GetFrom())
	case m.GetFrom() == self:
		return status.Errorf(codes.PermissionDenied, "raft message from node %d to itself", self)
	case m.GetFrom() != from:
		return status.Errorf(codes.PermissionDenied, "raft message from node %d on a connection of node %d", m.GetFrom(), from)
	}
	return nil
}

func validateType(m *pb.Message) error {
	kind := m.GetType()
	switch kind {
	case pb.MsgApp:
		return validateAppend(m)
	case pb.MsgSnap:
		return validateSnapshot(m)
	case pb.MsgReadIndex, pb.MsgReadIndexResp:
		// raft indexes Entries[0]. MsgReadIndex has no term, being forwarded.
		if n := len(m.GetEntries()); n != 1 || m.GetEntries()[0] == nil {
			return status.Errorf(codes.InvalidArgument, "%s with %d entries, wants 1", kind, n)
		}
		if kind == pb.MsgReadIndexResp {
			return wantTerm(m)
		}
		if m.GetTerm() != 0 {
			return status.Errorf(codes.InvalidArgument, "%s with term %d", kind, m.GetTerm())
		}
		return nil
	case pb.MsgHeartbeat, pb.MsgHeartbeatResp:
		// raft reads eight bytes of a context that is there.
		if n := len(m.GetContext()); n != 0 && n < 8 {
			return status.Errorf(codes.InvalidArgument, "%s with a context of %d bytes, wants 0 or at least 8", kind, n)
		}
	case pb.MsgAppResp:
		// Without a term it would be a local message to raft: the rejection of a
		// stale leader has one as well.
		if m.GetReject() && m.GetRejectHint() > m.GetIndex() {
			return status.Errorf(codes.InvalidArgument, "%s rejects index %d with hint %d beyond it", kind, m.GetIndex(), m.GetRejectHint())
		}
	case pb.MsgVote, pb.MsgVoteResp, pb.MsgPreVote, pb.MsgPreVoteResp, pb.MsgTimeoutNow, pb.MsgTransferLeader:
	case pb.MsgProp:
		return status.Error(codes.PermissionDenied, "MsgProp from the network: proposals are not forwarded")
	case pb.MsgHup, pb.MsgBeat, pb.MsgUnreachable, pb.MsgSnapStatus, pb.MsgCheckQuorum, pb.MsgForgetLeader,
		pb.MsgStorageAppend, pb.MsgStorageAppendResp, pb.MsgStorageApply, pb.MsgStorageApplyResp:
		return status.Errorf(codes.PermissionDenied, "%s from the network: it is local to a node", kind)
	default:
		return status.Errorf(codes.InvalidArgument, "unknown raft message type %d", kind)
	}
	if n := len(m.GetEntries()); n > 0 {
		return status.Errorf(codes.InvalidArgument, "%s with %d entries", kind, n)
	}
	return wantTerm(m)
}

// wantTerm refuses term 0, which raft takes for a message of its own.
func wantTerm(m *pb.Message) error {
	if m.GetTerm() == 0 {
		return status.Errorf(codes.InvalidArgument, "%s without a term", m.GetType())
	}
	return nil
}

// validateAppend wants entries that follow upon Index without a gap and with
// terms that neither go back nor lie beyond the leader's.
func validateAppend(m *pb.Message) error {
	if err := wantTerm(m); err != nil {
		return err
	}
	term, index := m.GetLogTerm(), m.GetIndex()
	switch {
	case term > m.GetTerm():
		return status.Errorf(codes.InvalidArgument, "MsgApp of term %d after an entry of term %d", m.GetTerm(), term)
	case index > math.MaxUint64-uint64(len(m.GetEntries()))-1:
		return status.Errorf(codes.InvalidArgument, "MsgApp after index %d, beyond which there is none", index)
	case (index == 0) != (term == 0):
		return status.Errorf(codes.InvalidArgument, "MsgApp after index %d of term %d", index, term)
	}
	for i, e := range m.GetEntries() {
		switch {
		case e == nil:
			return status.Errorf(codes.InvalidArgument, "MsgApp without entry %d", i)
		case e.GetIndex() != index+1:
			return status.Errorf(codes.InvalidArgument, "MsgApp with entry %d after index %d", e.GetIndex(), index)
		case e.GetTerm() < max(term, 1) || e.GetTerm() > m.GetTerm():
			return status.Errorf(codes.InvalidArgument, "MsgApp of term %d with entry %d of term %d after term %d", m.GetTerm(), e.GetIndex(), e.GetTerm(), term)
		case e.GetType() < pb.EntryNormal || e.GetType() > pb.EntryConfChangeV2:
			return status.Errorf(codes.InvalidArgument, "MsgApp with entry %d of unknown type %d", e.GetIndex(), e.GetType())
		}
		term, index = e.GetTerm(), e.GetIndex()
	}
	return nil
}

// validateSnapshot wants metadata that raft can restore: it panics on a
// configuration that is none, and ignores, for ever, one that the receiver is
// not in.
func validateSnapshot(m *pb.Message) error {
	if err := wantTerm(m); err != nil {
		return err
	}
	if len(m.GetEntries()) > 0 {
		return status.Errorf(codes.InvalidArgument, "MsgSnap with %d entries", len(m.GetEntries()))
	}
	meta := m.GetSnapshot().GetMetadata()
	switch {
	case meta.GetIndex() == 0 || meta.GetIndex() >= math.MaxUint64-1 || meta.GetTerm() == 0:
		return status.Errorf(codes.InvalidArgument, "MsgSnap at index %d, term %d", meta.GetIndex(), meta.GetTerm())
	case meta.GetTerm() > m.GetTerm():
		return status.Errorf(codes.InvalidArgument, "MsgSnap of term %d with a snapshot of term %d", m.GetTerm(), meta.GetTerm())
	}
	return validateConfState(meta.GetConfState(), m.GetTo(), meta.GetIndex())
}

// Most nodes that a configuration may name: far more than makes sense, far
// fewer than would cost anything to check.
const maxConfStateNodes = 1024

func validateConfState(cs *pb.ConfState, self, index uint64) error {
	member, nodes := false, 0
	for _, set := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		nodes += len(set)
		for _, id := range set {
			if id == raft.None || id >= reservedIDs {
				return status.Errorf(codes.InvalidArgument, "snapshot's configuration names reserved node id %d", id)
			}
			member = member || id == self
		}
	}
	switch {
	case nodes > maxConfStateNodes:
		return status.Errorf(codes.InvalidArgument, "snapshot's configuration names %d nodes, more than %d", nodes, maxConfStateNodes)
	case len(cs.GetVoters()) == 0:
		return status.Error(codes.InvalidArgument, "snapshot's configuration has no voters")
	case !member:
		return status.Errorf(codes.InvalidArgument, "snapshot's configuration lacks node %d, which it is for", self)
	}
	trial := tracker.MakeProgressTracker(1, 0)
	cfg, progress, err := confchange.Restore(confchange.Changer{Tracker: trial, LastIndex: index}, cs)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "snapshot's configuration: %v", err)
	}
	trial.Config, trial.Progress = cfg, progress
	if err := cs.Equivalent(trial.ConfState()); err != nil {
		return status.Errorf(codes.InvalidArgument, "snapshot's configuration contradicts itself: %v", err)
	}
	return nil
}
