package metric

import (
	"cmp"
	"math"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A breakdown tells of a band of sums what the sorted sums themselves do, as long
// as the band's ends are ends of buckets; all of them is such a band.
func TestBreakdownAgainstValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type value struct{ a, b int64 }
		values := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) value {
			return value{rapid.Int64Range(-1, 1<<20).Draw(t, "a"), rapid.Int64Range(0, 1<<20).Draw(t, "b")}
		}), 1, 100).Draw(t, "values")
		cut := rapid.IntRange(0, len(values)-1).Draw(t, "cut")
		all, later := NewBreakdown("x_nanos", "x", "a", "b"), NewBreakdown("x_nanos", "x", "a", "b")
		var before BreakdownSnapshot
		for i, v := range values {
			if i == cut {
				before = all.Snapshot()
			}
			all.RecordN(2, v.a, v.b)
			if i >= cut {
				later.RecordN(2, v.a, v.b)
			}
			values[i].a = max(0, v.a)
		}
		whole := all.Snapshot()
		if n := whole.Count(); n != uint64(2*len(values)) {
			t.Fatalf("%d counted of %d", n, 2*len(values))
		}
		since := whole.Since(before)
		if diff := gocmp.Diff(later.Snapshot(), since); diff != "" {
			t.Fatalf("since the cut (-recorded +told):\n%s", diff)
		}
		if diff := gocmp.Diff(whole, before.Merge(since)); diff != "" {
			t.Fatalf("both parts again (-whole +merged):\n%s", diff)
		}
		slices.SortStableFunc(values, func(x, y value) int { return cmp.Compare(x.a+x.b, y.a+y.b) })
		edges := []int{0}
		for i := 1; i < len(values); i++ {
			if bucketOf(uint64(values[i].a+values[i].b)) != bucketOf(uint64(values[i-1].a+values[i-1].b)) {
				edges = append(edges, i)
			}
		}
		from := rapid.SampledFrom(edges).Draw(t, "from")
		n := float64(len(values))
		got := whole.Between(float64(from)/n, 1)
		var want [2]float64
		for _, v := range values[from:] {
			want[0] += float64(v.a) / float64(len(values)-from)
			want[1] += float64(v.b) / float64(len(values)-from)
		}
		for i := range want {
			if math.Abs(got[i]-want[i]) > 1e-6*(1+want[i]) {
				t.Fatalf("part %d of the sums from the %dth of %d: %g, want %g", i, from, len(values), got[i], want[i])
			}
		}
	})
}

// The slow sums are told by what makes them slow, which no percentile of a part is.
func TestBreakdownOfTheSlow(t *testing.T) {
	b := NewBreakdown("x_nanos", "x", "a", "b")
	b.RecordN(98, 100, 10)
	b.RecordN(1, 1000, 10)
	b.RecordN(1, 100, 910)
	s := b.Snapshot()
	if got := s.Between(0.98, 1); !slices.Equal(got, []float64{550, 460}) {
		t.Errorf("the slowest 2 %% are %v", got)
	}
	if got := s.Between(0.45, 0.55); len(got) != 2 || math.Abs(got[0]-100) > 1e-9 || math.Abs(got[1]-10) > 1e-9 {
		t.Errorf("the middle is %v", got)
	}
	if got := BreakdownSnapshot(nil).Between(0, 1); got != nil {
		t.Errorf("nothing is %v", got)
	}
	if n := testing.AllocsPerRun(1000, func() { b.RecordN(1, 12, 34) }); n != 0 {
		t.Errorf("%.1f allocations a record", n)
	}
}
