package replica

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// Entries count as sent again when the peer was sent them in this leadership.
func TestEntriesResent(t *testing.T) {
	c := &Core{histograms: newHistograms(), sentIndex: make(map[uint64]uint64)}
	for i, step := range []struct {
		to, previous uint64
		entries      int
		resent       uint64 // in total
	}{
		{2, 10, 5, 0}, // 11 to 15
		{3, 10, 5, 0}, // to another
		{2, 15, 2, 0}, // 16 and 17
		{2, 17, 0, 0}, // a commit index only
		{2, 12, 3, 3}, // 13 to 15
		{2, 15, 4, 5}, // 16 and 17 again, 18 and 19 for the first time
		{3, 15, 1, 5},
		{2, 10, 1, 6},
	} {
		m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), To: new(step.to), Index: new(step.previous)}
		for j := range step.entries {
			m.Entries = append(m.Entries, &raftpb.Entry{Index: new(step.previous + uint64(j) + 1)})
		}
		if c.measureSend(m); c.count.EntriesResent != step.resent {
			t.Errorf("step %d: %d were sent again, want %d", i, c.count.EntriesResent, step.resent)
		}
	}
	if s := c.histograms.MessageEntries.Snapshot(); s.Count() != 7 || s.Sum != 21 {
		t.Errorf("%d messages with %d entries", s.Count(), s.Sum)
	}
}

// Measurements stand for every entry up to the last measured, the first is one,
// and fewer than sampleEvery are left out.
func TestSampler(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sampler
		var entries, stands uint64
		for i, n := range rapid.SliceOfN(rapid.Uint64Range(1, 20), 1, 50).Draw(t, "batches") {
			weight := s.take(n)
			entries, stands = entries+n, stands+weight
			if weight > 0 && stands != entries {
				t.Fatalf("batch %d: measurements stand for %d of %d entries", i, stands, entries)
			}
			if i == 0 && weight == 0 || n >= sampleEvery && weight == 0 || entries-stands >= sampleEvery {
				t.Fatalf("batch %d of %d entries stands for %d, %d are left out", i, n, weight, entries-stands)
			}
		}
	})
}
