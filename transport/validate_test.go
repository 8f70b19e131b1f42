package transport

import (
	"io"
	"log"
	"math"
	"testing"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func snapshotMessage(change func(*pb.SnapshotMetadata)) *pb.Message {
	meta := &pb.SnapshotMetadata{Index: new(uint64(9)), Term: new(uint64(2)), ConfState: &pb.ConfState{Voters: []uint64{1, 2}, AutoLeave: new(false)}}
	change(meta)
	return &pb.Message{
		Type: pb.MsgSnap.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(3)), Snapshot: &pb.Snapshot{Metadata: meta},
	}
}

func TestValidate(t *testing.T) {
	of := func(kind pb.MessageType, change func(*pb.Message)) *pb.Message {
		m := &pb.Message{Type: kind.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(3))}
		if change != nil {
			change(m)
		}
		return m
	}
	appended := func(change func(*pb.Message)) *pb.Message {
		m := appendMessage(5, 10, 10)
		change(m)
		return m
	}
	const (
		ok      = codes.OK
		invalid = codes.InvalidArgument
		denied  = codes.PermissionDenied
	)
	tests := []struct {
		name string
		m    *pb.Message
		code codes.Code
	}{
		{"nothing", nil, invalid},
		{"no type", &pb.Message{To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(3))}, invalid},
		{"wrong To", of(pb.MsgVote, func(m *pb.Message) { m.To = new(uint64(3)) }), denied},
		{"no To", of(pb.MsgVote, func(m *pb.Message) { m.To = nil }), denied},
		{"From 0", of(pb.MsgVote, func(m *pb.Message) { m.From = new(uint64(0)) }), denied},
		{"no From", of(pb.MsgVote, func(m *pb.Message) { m.From = nil }), denied},
		{"From self", of(pb.MsgVote, func(m *pb.Message) { m.From = new(uint64(2)) }), denied},
		{"From another", of(pb.MsgVote, func(m *pb.Message) { m.From = new(uint64(7)) }), denied},
		{"From 2^64-1", of(pb.MsgStorageAppendResp, func(m *pb.Message) { m.From = new(uint64(math.MaxUint64)) }), denied},
		{"From 2^64-2", of(pb.MsgStorageApplyResp, func(m *pb.Message) { m.From = new(uint64(math.MaxUint64 - 1)) }), denied},
		{"MsgHup", of(pb.MsgHup, nil), denied},
		{"MsgBeat", of(pb.MsgBeat, nil), denied},
		{"MsgUnreachable", of(pb.MsgUnreachable, nil), denied},
		{"MsgSnapStatus", of(pb.MsgSnapStatus, nil), denied},
		{"MsgCheckQuorum", of(pb.MsgCheckQuorum, nil), denied},
		{"MsgStorageAppend", of(pb.MsgStorageAppend, nil), denied},
		{"MsgStorageAppendResp", of(pb.MsgStorageAppendResp, nil), denied},
		{"MsgStorageApply", of(pb.MsgStorageApply, nil), denied},
		{"MsgStorageApplyResp", of(pb.MsgStorageApplyResp, nil), denied},
		{"MsgForgetLeader", of(pb.MsgForgetLeader, nil), denied},
		{"MsgProp", of(pb.MsgProp, func(m *pb.Message) { m.Entries = []*pb.Entry{{}} }), denied},
		{"unknown type", of(99, nil), invalid},
		{"responses", of(pb.MsgVote, func(m *pb.Message) { m.Responses = []*pb.Message{{}} }), denied},
		{"vote with entries", of(pb.MsgVote, func(m *pb.Message) { m.Entries = []*pb.Entry{{}} }), invalid},
		{"vote with a snapshot", of(pb.MsgVote, func(m *pb.Message) { m.Snapshot = &pb.Snapshot{} }), invalid},
		{"vote without a term", of(pb.MsgVote, func(m *pb.Message) { m.Term = nil }), invalid},
		{"last term", of(pb.MsgVote, func(m *pb.Message) { m.Term = new(uint64(math.MaxUint64)) }), invalid},
		{"vote", of(pb.MsgVote, nil), ok},
		{"pre-vote", of(pb.MsgPreVote, nil), ok},
		{"pre-vote answer", of(pb.MsgPreVoteResp, nil), ok},
		{"timeout now", of(pb.MsgTimeoutNow, nil), ok},
		{"heartbeat", of(pb.MsgHeartbeat, nil), ok},
		{"heartbeat with a read", of(pb.MsgHeartbeat, func(m *pb.Message) { m.Context = make([]byte, 8) }), ok},
		{"short context", of(pb.MsgHeartbeatResp, func(m *pb.Message) { m.Context = make([]byte, 7) }), invalid},
		{"read of nothing", of(pb.MsgReadIndex, func(m *pb.Message) { m.Term = nil }), invalid},
		{"read of two", of(pb.MsgReadIndex, func(m *pb.Message) { m.Term, m.Entries = nil, []*pb.Entry{{}, {}} }), invalid},
		{"read of nil", of(pb.MsgReadIndex, func(m *pb.Message) { m.Term, m.Entries = nil, []*pb.Entry{nil} }), invalid},
		{"read with a term", of(pb.MsgReadIndex, func(m *pb.Message) { m.Entries = []*pb.Entry{{}} }), invalid},
		{"read", of(pb.MsgReadIndex, func(m *pb.Message) { m.Term, m.Entries = nil, []*pb.Entry{{}} }), ok},
		{"read answer of nothing", of(pb.MsgReadIndexResp, nil), invalid},
		{"read answer", of(pb.MsgReadIndexResp, func(m *pb.Message) { m.Entries = []*pb.Entry{{}} }), ok},
		{"acknowledgement", of(pb.MsgAppResp, nil), ok},
		{"rejection beyond itself", of(pb.MsgAppResp, func(m *pb.Message) { m.Reject, m.RejectHint = new(true), new(uint64(5)) }), invalid},
		{"append", appended(func(*pb.Message) {}), ok},
		{"append at the start", of(pb.MsgApp, nil), ok},
		{"append without a term", appended(func(m *pb.Message) { m.Term = nil }), invalid},
		{"append with nil entry", appended(func(m *pb.Message) { m.Entries[1] = nil }), invalid},
		{"append with a gap", appended(func(m *pb.Message) { m.Entries[1].Index = new(uint64(8)) }), invalid},
		{"append with an entry without index", appended(func(m *pb.Message) { m.Entries[0].Index = nil }), invalid},
		{"append before its index", appended(func(m *pb.Message) { m.Index = new(uint64(9)) }), invalid},
		{"append at the end of indices", appended(func(m *pb.Message) { m.Index = new(uint64(math.MaxUint64)) }), invalid},
		{"entry of a later term", appended(func(m *pb.Message) { m.Entries[1].Term = new(uint64(4)) }), invalid},
		{"entry of term 0", appended(func(m *pb.Message) { m.Entries[0].Term = nil }), invalid},
		{"entries with terms going back", appended(func(m *pb.Message) { m.Entries[1].Term = new(uint64(2)) }), invalid},
		{"append after a later term", appended(func(m *pb.Message) { m.LogTerm = new(uint64(9)) }), invalid},
		{"append after index 0 of a term", appended(func(m *pb.Message) { m.Index = new(uint64(0)) }), invalid},
		{"entry of unknown type", appended(func(m *pb.Message) { m.Entries[0].Type = pb.EntryType(7).Enum() }), invalid},
		{"snapshot", snapshotMessage(func(*pb.SnapshotMetadata) {}), ok},
		{"snapshot, joint", snapshotMessage(func(s *pb.SnapshotMetadata) {
			s.ConfState = &pb.ConfState{Voters: []uint64{1}, VotersOutgoing: []uint64{1, 2}, LearnersNext: []uint64{2}, AutoLeave: new(true)}
		}), ok},
		{"snapshot without metadata", of(pb.MsgSnap, nil), invalid},
		{"snapshot of index 0", snapshotMessage(func(s *pb.SnapshotMetadata) { s.Index = nil }), invalid},
		{"snapshot of the last index", snapshotMessage(func(s *pb.SnapshotMetadata) { s.Index = new(uint64(math.MaxUint64)) }), invalid},
		{"snapshot of a later term", snapshotMessage(func(s *pb.SnapshotMetadata) { s.Term = new(uint64(4)) }), invalid},
		{"snapshot without configuration", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState = nil }), invalid},
		{"snapshot without voters", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState = &pb.ConfState{Learners: []uint64{2}} }), invalid},
		{"snapshot that lacks the receiver", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState.Voters = []uint64{1, 3} }), invalid},
		{"snapshot with node 0", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState.Voters = []uint64{0, 2} }), invalid},
		{"snapshot with a voter twice", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState.Voters = []uint64{1, 2, 2} }), invalid},
		{"snapshot with a learner that votes", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState.Learners = []uint64{2} }), invalid},
		{"snapshot with a crowd", snapshotMessage(func(s *pb.SnapshotMetadata) { s.ConfState.Voters = make([]uint64, 5000) }), invalid},
	}
	for _, test := range tests {
		if err := Validate(test.m, 2, 1); status.Code(err) != test.code {
			t.Errorf("%s: %v, want %v", test.name, err, test.code)
		}
	}
	// Even one who could prove to be such a node.
	for _, from := range []uint64{0, 2, math.MaxUint64 - 1, math.MaxUint64} {
		err := Validate(of(pb.MsgVote, func(m *pb.Message) { m.From = &from }), 2, from)
		if status.Code(err) != denied {
			t.Errorf("from %d: %v", from, err)
		}
	}
	last := of(pb.MsgApp, func(m *pb.Message) { m.Index, m.LogTerm = new(uint64(math.MaxUint64)), new(uint64(1)) })
	if err := Validate(last, 2, 1); status.Code(err) != invalid {
		t.Errorf("after the last index there can be: %v", err)
	}
}

// Whatever Validate lets through, raft steps without a panic, as follower and
// as leader. A commit index beyond the log is the replica's to judge.
func FuzzValidate(f *testing.F) {
	for _, m := range []*pb.Message{
		appendMessage(0, 3), appendMessage(5), snapshotMessage(func(*pb.SnapshotMetadata) {}),
		{Type: pb.MsgHeartbeatResp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(1)), Context: make([]byte, 8)},
		{Type: pb.MsgReadIndex.Enum(), To: new(uint64(2)), From: new(uint64(1)), Entries: []*pb.Entry{{Data: []byte("x")}}},
		{Type: pb.MsgTransferLeader.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(1))},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(pb.Message)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		m.To, m.From = new(uint64(2)), new(uint64(1))
		if Validate(m, 2, 1) != nil {
			return
		}
		m.Commit = new(uint64(0))
		for _, leads := range []bool{false, true} {
			storage := raft.NewMemoryStorage()
			if err := storage.ApplySnapshot(&pb.Snapshot{Metadata: &pb.SnapshotMetadata{
				Index: new(uint64(1)), Term: new(uint64(1)), ConfState: &pb.ConfState{Voters: []uint64{1, 2}},
			}}); err != nil {
				t.Fatal(err)
			}
			if err := storage.SetHardState(&pb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}); err != nil {
				t.Fatal(err)
			}
			n, err := raft.NewRawNode(&raft.Config{
				ID: 2, ElectionTick: 10, HeartbeatTick: 1, Storage: storage, MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 8,
				CheckQuorum: true, PreVote: true, DisableProposalForwarding: true,
				Logger: &raft.DefaultLogger{Logger: discard},
			})
			if err != nil {
				t.Fatal(err)
			}
			if leads {
				lead(t, n)
			}
			n.Step(proto.Clone(m).(*pb.Message)) //nolint:errcheck // an error is fine, a panic is not
		}
	})
}

var discard = log.New(io.Discard, "", 0)

// lead makes node 2 of {1, 2} the leader by votes of node 1.
func lead(t *testing.T, n *raft.RawNode) {
	t.Helper()
	if err := n.Campaign(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		for n.HasReady() {
			rd := n.Ready()
			for _, m := range rd.Messages {
				answer := &pb.Message{To: new(uint64(2)), From: new(uint64(1)), Term: m.Term}
				switch m.GetType() {
				case pb.MsgPreVote:
					answer.Type = pb.MsgPreVoteResp.Enum()
				case pb.MsgVote:
					answer.Type = pb.MsgVoteResp.Enum()
				default:
					continue
				}
				if err := n.Step(answer); err != nil {
					t.Fatal(err)
				}
			}
			n.Advance(rd)
		}
	}
	if n.Status().RaftState != raft.StateLeader {
		t.Fatal("node 2 does not lead")
	}
}
