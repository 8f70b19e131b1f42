package metric

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// A power of two is divided into 16 buckets of the same width, so that what a
// histogram tells is off by 1/16 at most, always upwards. Values up to 16 have a
// bucket each.
const (
	subBits = 4
	sub     = 1 << subBits
	maxBits = 42 // 4 TiB, 73 minutes in nanoseconds; what is more counts as that
	// Bucket 0 is of the value 0.
	bucketCount = 1 + (maxBits-subBits+1)*sub
)

// Histogram counts values by size, in buckets of fixed bounds. The zero value is
// empty and ready for use; it must not be copied. Any goroutine may call any
// method at any time. Record neither blocks nor allocates: it is two atomic
// additions.
type Histogram struct {
	sum    atomic.Uint64
	counts [bucketCount]atomic.Uint64
}

// Record counts a value; a negative one as 0.
func (h *Histogram) Record(value int64) { h.RecordN(value, 1) }

// RecordN counts n equal values.
func (h *Histogram) RecordN(value int64, n uint64) {
	v := uint64(max(0, value))
	h.sum.Add(v * n)
	h.counts[bucketOf(v)].Add(n)
}

// bucketOf is the bucket with the least upper bound that is not below v. Bounds
// belong to the bucket that they end, as Prometheus has it, so it is v-1 that is
// looked at.
func bucketOf(v uint64) int {
	if v == 0 {
		return 0
	}
	u := min(v, 1<<maxBits) - 1
	if u < sub {
		return 1 + int(u)
	}
	shift := bits.Len64(u) - 1 - subBits
	return 1 + shift*sub + int(u>>shift)
}

// upperBound is the largest value of a bucket.
func upperBound(bucket int) uint64 {
	if bucket <= sub {
		return uint64(bucket)
	}
	shift := (bucket-1)/sub - 1
	return uint64(bucket-shift*sub) << shift
}

// Snapshot returns what was counted so far. Values recorded meanwhile may be in
// Sum and not in a bucket, or the other way round.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Sum: h.sum.Load()}
	for i := range h.counts {
		if n := h.counts[i].Load(); n > 0 {
			s.Buckets = append(s.Buckets, Bucket{Upper: upperBound(i), Count: n})
		}
	}
	return s
}

// Snapshot is a histogram at one moment, or what came in between two.
type Snapshot struct {
	Sum     uint64
	Buckets []Bucket // those that are not empty, in order
}

// Bucket counts the values up to its upper bound, above that of the one before.
// All of them are greater than 15/16 of the bound, except below 16, where there
// is one bucket a value.
type Bucket struct {
	Upper, Count uint64
}

// Count is how many values there are.
func (s Snapshot) Count() uint64 {
	var n uint64
	for _, b := range s.Buckets {
		n += b.Count
	}
	return n
}

// Mean is exact; 0 without values.
func (s Snapshot) Mean() float64 {
	n := s.Count()
	if n == 0 {
		return 0
	}
	return float64(s.Sum) / float64(n)
}

// Quantile is the upper bound of the bucket in which the fraction q of all values
// is reached; 0 without values.
func (s Snapshot) Quantile(q float64) uint64 {
	rank := max(1, uint64(math.Ceil(q*float64(s.Count()))))
	var n, upper uint64
	for _, b := range s.Buckets {
		upper = b.Upper
		if n += b.Count; n >= rank {
			break
		}
	}
	return upper
}

// Since is what came after an earlier snapshot of the same histogram.
func (s Snapshot) Since(earlier Snapshot) Snapshot {
	d := Snapshot{Sum: s.Sum - min(s.Sum, earlier.Sum)}
	old := earlier.Buckets
	for _, b := range s.Buckets {
		for len(old) > 0 && old[0].Upper < b.Upper {
			old = old[1:]
		}
		if len(old) > 0 && old[0].Upper == b.Upper {
			b.Count -= min(b.Count, old[0].Count)
		}
		if b.Count > 0 {
			d.Buckets = append(d.Buckets, b)
		}
	}
	return d
}

// Merge adds the values of another histogram.
func (s Snapshot) Merge(other Snapshot) Snapshot {
	m := Snapshot{Sum: s.Sum + other.Sum}
	a, b := s.Buckets, other.Buckets
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Upper < b[0].Upper:
			m.Buckets, a = append(m.Buckets, a[0]), a[1:]
		case len(a) == 0 || b[0].Upper < a[0].Upper:
			m.Buckets, b = append(m.Buckets, b[0]), b[1:]
		default:
			m.Buckets = append(m.Buckets, Bucket{Upper: a[0].Upper, Count: a[0].Count + b[0].Count})
			a, b = a[1:], b[1:]
		}
	}
	return m
}

// CountUpTo is how many values are at most bound, which must be a power of two
// or less than 16 to be exact.
func (s Snapshot) CountUpTo(bound uint64) uint64 {
	var n uint64
	for _, b := range s.Buckets {
		if b.Upper > bound {
			break
		}
		n += b.Count
	}
	return n
}
