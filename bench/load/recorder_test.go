package load

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"
)

// TestShardsMergeWithoutLoss: what shards, swaps and intervals do to the counts
// must not show in the sum.
func TestShardsMergeWithoutLoss(t *testing.T) {
	const keys = 3
	rapid.Check(t, func(t *rapid.T) {
		r := newRecorder(rapid.IntRange(1, 2).Draw(t, "shards"), keys, true)
		naive, total, interval := newCounts(true), newCounts(true), newCounts(true)
		for range rapid.IntRange(0, 20).Draw(t, "messages") {
			o := outcome{
				response: time.Duration(rapid.Int64Range(-5, 2*highest).Draw(t, "response")),
				service:  time.Duration(rapid.Int64Range(0, highest).Draw(t, "service")),
				delay:    time.Duration(rapid.Int64Range(0, highest).Draw(t, "delay")),
				lag:      time.Duration(rapid.Int64Range(0, 1e6).Draw(t, "lag")),
			}
			o.acknowledged[Put] = rapid.Int64Range(0, 3).Draw(t, "puts")
			o.acknowledged[Get] = rapid.Int64Range(0, 3).Draw(t, "gets")
			if rapid.Bool().Draw(t, "fails") {
				o.errors = []codes.Code{codes.Unavailable, codes.Code(99)}
			}
			(&shard{active: naive}).count(&o)
			r.shard(rapid.IntRange(0, 9).Draw(t, "client")).count(&o)
			if rapid.IntRange(0, 5).Draw(t, "swap") == 0 {
				r.swap(interval)
				total.add(interval)
				interval.reset()
			}
		}
		r.swap(total)
		total.histograms(naive, func(mine, others *Histogram) {
			if !mine.Equals(others.Histogram) || mine.Clamped != others.Clamped {
				t.Fatal("histograms differ")
			}
		})
		if total.operations != naive.operations || total.errors != naive.errors || total.messages != naive.messages ||
			total.missing != naive.missing {
			t.Fatalf("counts differ: %+v and %+v", total, naive)
		}
		for k := range kinds {
			if n := uint64(total.response[k].TotalCount()); n != total.operations[k] {
				t.Fatalf("%v: %d values for %d operations", k, n, total.operations[k])
			}
		}
	})
}

func TestRecordClampsAndCounts(t *testing.T) {
	h := NewHistogram()
	for _, d := range []time.Duration{-1, 0, 1, time.Minute, time.Minute + 1, time.Hour} {
		h.record(d, 2)
	}
	if h.TotalCount() != 12 || h.Clamped != 6 {
		t.Errorf("%d values, %d clamped", h.TotalCount(), h.Clamped)
	}
	if !h.ValuesAreEquivalent(h.Max(), highest) || h.Min() != 0 {
		t.Errorf("from %d to %d", h.Min(), h.Max())
	}
}

func TestRecorderConcurrently(t *testing.T) {
	r, total := newRecorder(2, 1, false), newCounts(false)
	const clients, messages = 8, 2000
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			o := outcome{response: time.Duration(i), acknowledged: [kinds]int64{Put: 1}}
			for n := range messages {
				r.shard(i).count(&o)
				r.acknowledge(0, uint64(n*clients+i))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		r.swap(total)
	}
	if n := total.total(); n != clients*messages || total.response[Put].TotalCount() != clients*messages {
		t.Errorf("%d operations, %d values", n, total.response[Put].TotalCount())
	}
	if got := r.acked[0].Load(); got != clients*messages-1 {
		t.Errorf("highest revision %d", got)
	}
}

func BenchmarkSwap(b *testing.B) {
	r, into := newRecorder(2, 1, true), newCounts(true)
	o := outcome{acknowledged: [kinds]int64{Put: 1}}
	for b.Loop() {
		for i := range 1000 {
			o.response = time.Duration(i) * 10 * time.Microsecond
			r.shard(i).count(&o)
		}
		r.swap(into)
	}
}
