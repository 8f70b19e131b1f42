package metric

import "sync/atomic"

// Breakdown counts sums of parts by the size of the sum, and adds up for each size
// what every part had in it. So it tells what the slow ones are made of: the 99th
// percentiles of the parts do not, as they are of different operations and do not
// add up. Any goroutine may call any method at any time. Record neither blocks nor
// allocates.
type Breakdown struct {
	Name string // in snake case, with the unit as its last word
	// Usage says in a sentence, without its full stop, what the sum is.
	Usage string
	// Parts are the names of the parts, in their order.
	Parts []string

	counts []atomic.Uint64 // a bucket, as those of Histogram
	sums   []atomic.Uint64 // a bucket and part
}

// NewBreakdown returns one without values.
func NewBreakdown(name, usage string, parts ...string) *Breakdown {
	return &Breakdown{
		Name: name, Usage: usage, Parts: parts,
		counts: make([]atomic.Uint64, bucketCount), sums: make([]atomic.Uint64, bucketCount*len(parts)),
	}
}

// RecordN counts n sums whose parts are these, one for each of Parts; negative
// ones count as 0.
func (b *Breakdown) RecordN(n uint64, parts ...int64) {
	total := uint64(0)
	for _, p := range parts {
		total += uint64(max(0, p))
	}
	bucket := bucketOf(total)
	for i, p := range parts {
		b.sums[bucket*len(b.Parts)+i].Add(uint64(max(0, p)) * n)
	}
	b.counts[bucket].Add(n)
}

// Snapshot returns what was counted so far. Values recorded meanwhile may be in a
// count and not in its sums, or the other way round.
func (b *Breakdown) Snapshot() BreakdownSnapshot {
	var s BreakdownSnapshot
	for i := range b.counts {
		n := b.counts[i].Load()
		if n == 0 {
			continue
		}
		bucket := BrokenBucket{Upper: upperBound(i), Count: n, Sums: make([]uint64, len(b.Parts))}
		for j := range bucket.Sums {
			bucket.Sums[j] = b.sums[i*len(b.Parts)+j].Load()
		}
		s = append(s, bucket)
	}
	return s
}

// BreakdownSnapshot is a Breakdown at one moment, or what came in between two: the
// buckets that are not empty, in order.
type BreakdownSnapshot []BrokenBucket

// BrokenBucket counts the sums up to its upper bound, above that of the one before,
// and has what each part adds to them.
type BrokenBucket struct {
	Upper, Count uint64
	Sums         []uint64
}

// Since is what came after an earlier snapshot of the same Breakdown.
func (s BreakdownSnapshot) Since(earlier BreakdownSnapshot) BreakdownSnapshot {
	var d BreakdownSnapshot
	for _, b := range s {
		for len(earlier) > 0 && earlier[0].Upper < b.Upper {
			earlier = earlier[1:]
		}
		if len(earlier) > 0 && earlier[0].Upper == b.Upper {
			old := earlier[0]
			b.Count -= min(b.Count, old.Count)
			sums := make([]uint64, len(b.Sums))
			for i := range min(len(sums), len(old.Sums)) {
				sums[i] = b.Sums[i] - min(b.Sums[i], old.Sums[i])
			}
			b.Sums = sums
		}
		if b.Count > 0 {
			d = append(d, b)
		}
	}
	return d
}

// Merge adds those of another node.
func (s BreakdownSnapshot) Merge(other BreakdownSnapshot) BreakdownSnapshot {
	var m BreakdownSnapshot
	for len(s) > 0 || len(other) > 0 {
		switch {
		case len(other) == 0 || len(s) > 0 && s[0].Upper < other[0].Upper:
			m, s = append(m, s[0]), s[1:]
		case len(s) == 0 || other[0].Upper < s[0].Upper:
			m, other = append(m, other[0]), other[1:]
		default:
			b := BrokenBucket{Upper: s[0].Upper, Count: s[0].Count + other[0].Count}
			for i := range s[0].Sums {
				b.Sums = append(b.Sums, s[0].Sums[i]+other[0].Sums[i])
			}
			m, s, other = append(m, b), s[1:], other[1:]
		}
	}
	return m
}

// Count is how many sums there are.
func (s BreakdownSnapshot) Count() uint64 {
	var n uint64
	for _, b := range s {
		n += b.Count
	}
	return n
}

// Between returns the mean of each part over the sums from the quantile low to the
// quantile high, 0 to 1. Where a quantile lies within a bucket, that share of it
// counts. It is nil without values.
func (s BreakdownSnapshot) Between(low, high float64) []float64 {
	total := float64(s.Count())
	from, to := low*total, high*total
	var means []float64
	before, taken := 0.0, 0.0
	for _, b := range s {
		n := float64(b.Count)
		share := max(0, min(to, before+n)-max(from, before)) / n
		before += n
		if means == nil {
			means = make([]float64, len(b.Sums))
		}
		taken += share * n
		for i, sum := range b.Sums {
			means[i] += share * float64(sum)
		}
	}
	if taken == 0 {
		return nil
	}
	for i := range means {
		means[i] /= taken
	}
	return means
}
