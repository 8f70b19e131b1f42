package replica

import (
	"math"
	"testing"
	"time"

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

// Whole writes are told with the weight of what their measurement stands for:
// commands that came at different times each with their own wait, and those of
// entries that were not measured with the first.
func TestApplyingMeasuresWrites(t *testing.T) {
	c := &Core{histograms: newHistograms(), began: time.Now().Add(-time.Hour)}
	c.stages.Store(true)
	a := applying{core: c}
	entry := func(arrivals ...arrival) {
		f := &inFlight{proposed: 100, arrivals: arrivals}
		for _, came := range arrivals {
			f.refs = append(f.refs, make([]waiterRef, came.commands)...)
		}
		a.entryApplied(f)
		a.entryAnswered(f, 1100)
	}
	entry(arrival{90, 1})
	for range 7 {
		entry(arrival{0, 1}) // not measured
	}
	entry(arrival{70, 1}, arrival{40, 2}) // with the seven before it
	c.stages.Store(false)
	entry(arrival{0, 100})
	whole := c.histograms.Writes.Snapshot()
	parts := whole.Between(0, 1)
	if n := whole.Count(); n != 11 || math.Round(parts[0]*11) != 10+8*30+2*60 || parts[1] != 1000 {
		t.Errorf("%d writes waited %g in all, and were committed in %g on average", n, parts[0]*11, parts[1])
	}
	apply, answer := c.histograms.Apply.Snapshot(), c.histograms.Answer.Snapshot()
	if apply.Count() != 11 || answer.Count() != 11 || apply.Mean() != parts[2] || answer.Mean() != parts[3] {
		t.Errorf("%d applied in %g, %d answered in %g; the whole writes have %v", apply.Count(), apply.Mean(), answer.Count(), answer.Mean(), parts)
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
