package metric

import (
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Bucket bounds cover every value once, and are no further off than promised.
func TestBuckets(t *testing.T) {
	for i := 1; i < bucketCount; i++ {
		low, high := upperBound(i-1)+1, upperBound(i)
		if bucketOf(low) != i || bucketOf(high) != i {
			t.Fatalf("bucket %d is %d to %d, which are in %d and %d", i, low, high, bucketOf(low), bucketOf(high))
		}
		if high > sub && float64(high-low+1) > float64(high)/sub {
			t.Errorf("bucket %d is %d to %d: wider than a 16th", i, low, high)
		}
	}
	if top := upperBound(bucketCount - 1); top != 1<<maxBits || bucketOf(math.MaxUint64) != bucketCount-1 {
		t.Errorf("the last bucket ends at %d", top)
	}
}

// A histogram says of any values what the sorted values say.
func TestHistogramAgainstValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(-1, 1<<40), 1, 200).Draw(t, "values")
		cut := rapid.IntRange(0, len(values)).Draw(t, "cut")
		h := new(Histogram)
		var before Snapshot
		var sum uint64
		for i, v := range values {
			if i == cut {
				before = h.Snapshot()
			}
			h.Record(v)
			values[i] = max(0, v)
			sum += uint64(values[i])
		}
		if cut == len(values) {
			before = h.Snapshot()
		}
		s := h.Snapshot()
		if s.Count() != uint64(len(values)) || s.Sum != sum {
			t.Fatalf("%d values, sum %d; recorded %d, sum %d", s.Count(), s.Sum, len(values), sum)
		}
		after := new(Histogram)
		for _, v := range values[cut:] {
			after.Record(v)
		}
		if diff := cmp.Diff(after.Snapshot(), s.Since(before)); diff != "" {
			t.Fatalf("since the cut (-recorded +told):\n%s", diff)
		}
		if diff := cmp.Diff(s, before.Merge(after.Snapshot())); diff != "" {
			t.Fatalf("both sides of the cut (-whole +merged):\n%s", diff)
		}
		slices.Sort(values)
		for _, q := range []float64{0, 0.5, 0.99, 1} {
			exact := uint64(values[max(0, int(math.Ceil(q*float64(len(values))))-1)])
			if got := s.Quantile(q); got < exact || float64(got-exact) > float64(exact)/(sub-1)+1 {
				t.Fatalf("quantile %g is %d, of the values %d", q, got, exact)
			}
		}
		bound := uint64(1) << rapid.IntRange(0, 40).Draw(t, "bound")
		want, _ := slices.BinarySearch(values, int64(bound)+1)
		if got := s.CountUpTo(bound); got != uint64(want) {
			t.Fatalf("%d up to %d, want %d", got, bound, want)
		}
	})
}

func TestHistogramConcurrently(t *testing.T) {
	h := new(Histogram)
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for i := range 1000 {
				h.RecordN(int64(i), 2)
			}
		})
	}
	for range 10 {
		if n := h.Snapshot().Count(); n > 8000 {
			t.Errorf("%d counted", n)
		}
	}
	running.Wait()
	if s := h.Snapshot(); s.Count() != 8000 || s.Sum != 4*2*999*1000/2 {
		t.Errorf("%d values, sum %d", s.Count(), s.Sum)
	}
}

func TestNothingIsEmpty(t *testing.T) {
	var s Snapshot
	if s.Count() != 0 || s.Mean() != 0 || s.Quantile(0.5) != 0 {
		t.Errorf("count %d, mean %g, median %d of nothing", s.Count(), s.Mean(), s.Quantile(0.5))
	}
}

func TestEach(t *testing.T) {
	h := new(Histogram)
	from := struct {
		Plain   string
		Frames  uint64        `counter:"frames" usage:"frames sent"`
		Took    time.Duration `counter:"fsync_nanos" usage:"time spent"`
		Up      bool          `gauge:"connected" usage:"whether it is"`
		Latency *Histogram    `histogram:"latency_nanos" usage:"how long"`
	}{"", 3, 5 * time.Microsecond, true, h}
	want := []Metric{
		{Kind: Counter, Name: "frames", Usage: "frames sent", Value: 3},
		{Kind: Counter, Name: "fsync_nanos", Usage: "time spent", Value: 5000},
		{Kind: Gauge, Name: "connected", Usage: "whether it is", Value: 1},
		{Kind: HistogramKind, Name: "latency_nanos", Usage: "how long", Histogram: h},
	}
	for _, of := range []any{from, &from} {
		var got []Metric
		Each(of, func(m Metric) { got = append(got, m) })
		if !slices.Equal(got, want) {
			t.Errorf("%+v\nwant %+v", got, want)
		}
	}
	if u := want[1].Unit(); u != "nanos" || !want[1].Nanos() || want[0].Unit() != "frames" {
		t.Errorf("unit %q", u)
	}
}

func TestWrongDeclarations(t *testing.T) {
	for name, of := range map[string]any{
		"no sentence": struct {
			N uint64 `counter:"n"`
		}{},
		"no kind": struct {
			N uint64 `usage:"something"`
		}{},
		"two kinds": struct {
			N uint64 `counter:"n" gauge:"n" usage:"something"`
		}{},
		"a counter of type histogram": struct {
			N *Histogram `counter:"n" usage:"something"`
		}{},
		"a histogram of type integer": struct {
			N uint64 `histogram:"n" usage:"something"`
		}{},
		"a time without its unit": struct {
			N time.Duration `counter:"n_time" usage:"something"`
		}{},
		"a field that is no number": struct {
			N string `counter:"n" usage:"something"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			Each(of, func(Metric) {})
		})
	}
}

func TestRecordAllocatesNothing(t *testing.T) {
	h := new(Histogram)
	if n := testing.AllocsPerRun(1000, func() { h.RecordN(12345, 3) }); n != 0 {
		t.Errorf("%.1f allocations", n)
	}
}

// BenchmarkRecord compares Histogram with HdrHistogram, which must be guarded to
// be read while it is written.
func BenchmarkRecord(b *testing.B) {
	b.Run("histogram=own", func(b *testing.B) {
		h := new(Histogram)
		b.ReportAllocs()
		for i := int64(0); b.Loop(); i += 1021 {
			h.Record(i & (1<<20 - 1))
		}
	})
	b.Run("histogram=hdr", func(b *testing.B) {
		h := hdrhistogram.New(1, 60e9, 2)
		var mu sync.Mutex
		b.ReportAllocs()
		for i := int64(0); b.Loop(); i += 1021 {
			mu.Lock()
			h.RecordValue(i & (1<<20 - 1)) //nolint:errcheck // in range
			mu.Unlock()
		}
	})
}

// BenchmarkSnapshot is the same for reading 1000 values.
func BenchmarkSnapshot(b *testing.B) {
	own, hdr := new(Histogram), hdrhistogram.New(1, 60e9, 2)
	for i := range int64(1000) {
		own.Record(i * 1021)
		hdr.RecordValue(i * 1021) //nolint:errcheck // in range
	}
	b.Run("histogram=own", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			own.Snapshot()
		}
	})
	b.Run("histogram=hdr", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			hdr.Export()
		}
	})
}
