package storage

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// What is written by hand is what protobuf writes, responses and snapshot data
// left out.
func TestMessageEncoding(t *testing.T) {
	meta := &raftpb.SnapshotMetadata{Index: new(uint64(7)), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 300}}}
	for _, kept := range []*raftpb.Message{
		{},
		{Term: new(uint64(0)), Vote: new(uint64(0)), Commit: new(uint64(0))},
		{Term: new(uint64(1 << 40)), Vote: new(uint64(3)), Commit: new(uint64(300)), Index: new(uint64(5)), LogTerm: new(uint64(6))},
		{Entries: []*raftpb.Entry{entry(1, 1, nil), entry(2, 1, []byte{}), {Index: new(uint64(3)), Data: make([]byte, 1000)}}},
		{Snapshot: &raftpb.Snapshot{Metadata: meta}, Entries: entries(8, 2, 3), Commit: new(uint64(7))},
	} {
		given := proto.CloneOf(kept)
		given.Type, given.To, given.From = raftpb.MsgStorageAppend.Enum(), new(uint64(1)), new(uint64(2))
		given.Responses = []*raftpb.Message{{To: new(uint64(9))}}
		if given.Snapshot != nil {
			given.Snapshot.Data = []byte("state")
		}
		b, err := appendMessage(nil, given)
		if err != nil {
			t.Fatal(err)
		}
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(kept)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%v: encoded as\n%x\nproto.Marshal\n%x", kept, b, want)
		}
		got := &raftpb.Message{}
		if err := proto.Unmarshal(b, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(kept, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
}

// A head whose checksum is right but whose length is not: nothing of that size is
// allocated.
func TestAbsurdLength(t *testing.T) {
	file := appendSegmentHeader(nil, 1, 1, 0)
	seed := segmentHeaderCRC(file)
	head := make([]byte, recordHead)
	binary.LittleEndian.PutUint32(head[4:], maxPayload)
	head[20] = kindMessage
	binary.LittleEndian.PutUint32(head, recordCRC(seed, segmentHeader, head))
	file = append(append(file, head...), make([]byte, 100)...)
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	s := scan(bytes.NewReader(file), seed, int64(len(file)), func(*raftpb.Message, int64) error { return nil })
	runtime.ReadMemStats(&m1)
	if want := "a record of 4294967288 bytes, but only 100 are left"; s.reason != want || s.offset != segmentHeader {
		t.Errorf("%q at %d, want %q", s.reason, s.offset, want)
	}
	if n := m1.TotalAlloc - m0.TotalAlloc; n > 64<<10 {
		t.Errorf("allocated %d bytes", n)
	}
}

func TestMessagesRaftCannotMean(t *testing.T) {
	for _, c := range []struct {
		m    *raftpb.Message
		want string
	}{
		{&raftpb.Message{Entries: entries(12, 1, 3)}, "entries from 12 leave a gap: the last is 10"},
		{&raftpb.Message{Entries: []*raftpb.Entry{entry(11, 3, nil), entry(13, 3, nil)}}, "entry 13 follows entry 11"},
		{&raftpb.Message{Entries: entries(4, 1, 3)}, "entry 4 is not after 4, where the log begins"},
		{&raftpb.Message{Entries: entries(0, 1, 3)}, "entry 0 is not after 4, where the log begins"},
		{&raftpb.Message{Term: new(uint64(2)), Vote: new(uint64(1)), Commit: new(uint64(9))}, "term goes back from 3 to 2"},
		{&raftpb.Message{Term: new(uint64(3)), Vote: new(uint64(2)), Commit: new(uint64(9))}, "vote of term 3 changes from 1 to 2"},
		{&raftpb.Message{Term: new(uint64(4)), Vote: new(uint64(1)), Commit: new(uint64(8))}, "commit goes back from 9 to 8"},
		{&raftpb.Message{Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(8))}}}, "log restarts at 8, but 9 is committed"},
		{&raftpb.Message{Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(20))}}, Entries: entries(20, 1, 3)}, "entry 20 is not after 20, where the log begins"},
	} {
		j := &journal{base: 4, last: 10, term: 3, vote: 1, commit: 9}
		if err := j.check(c.m); err == nil || err.Error() != c.want {
			t.Errorf("%v: %v, want %q", c.m, err, c.want)
		}
	}
}
