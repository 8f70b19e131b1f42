package load

import (
	"math"
	"testing"
)

// checkShape compares what was drawn with what was to be expected of each
// outcome, by chi squared: its mean is the degrees of freedom, and the seeds are
// fixed, so what passes once passes always. Expectations are 5 at least.
func checkShape(t *testing.T, name string, count, want []float64) {
	t.Helper()
	var chi2, drawn, expected float64
	for i := range count {
		if want[i] < 5 {
			t.Fatalf("%s: outcome %d is expected %v times, too few to tell", name, i, want[i])
		}
		d := count[i] - want[i]
		chi2 += d * d / want[i]
		drawn += count[i]
		expected += want[i]
	}
	if math.Abs(drawn-expected) > 1e-6*expected {
		t.Errorf("%s: %v draws, %v expected", name, drawn, expected)
	}
	degrees := float64(len(count) - 1)
	if sigmas := (chi2 - degrees) / math.Sqrt(2*degrees); sigmas > 4 {
		t.Errorf("%s: chi squared %v of %v degrees, %.1f standard deviations above; the first counts are %v, not %v",
			name, chi2, degrees, sigmas, count[:min(6, len(count))], want[:min(6, len(want))])
	}
}

// zipfShares are the probabilities of the ranks.
func zipfShares(n int) []float64 {
	shares, zeta := make([]float64, n), 0.0
	for i := range shares {
		shares[i] = math.Pow(float64(i+1), -zipfTheta)
		zeta += shares[i]
	}
	for i := range shares {
		shares[i] /= zeta
	}
	return shares
}

func times(shares []float64, n float64) []float64 {
	want := make([]float64, len(shares))
	for i, p := range shares {
		want[i] = p * n
	}
	return want
}

func TestZipfShape(t *testing.T) {
	const n, draws = 1000, 400000
	z, r := newZipf(n), newRandom(1, 1)
	count := make([]float64, n)
	for range draws {
		count[z.rank(&r)]++
	}
	checkShape(t, "zipf", count, times(zipfShares(n), draws))
}

func TestHotspotShape(t *testing.T) {
	for _, keys := range []int{1, 2, 5, 1000} {
		const draws = 400000
		h, r := newHotspot(keys), newRandom(1, 1)
		count, want := make([]float64, keys), make([]float64, keys)
		for range draws {
			count[h.rank(&r)]++
		}
		for i := range want {
			switch hot := max(1, keys/5); {
			case keys == 1:
				want[i] = draws
			case i < hot:
				want[i] = 0.8 * draws / float64(hot)
			default:
				want[i] = 0.2 * draws / float64(keys-hot)
			}
		}
		if keys == 1 {
			if count[0] != draws {
				t.Errorf("one key: %v", count)
			}
			continue
		}
		checkShape(t, "hotspot", count, want)
	}
}

// TestLatestShape: how far behind the newest key each operation is, which before a
// put of rank 0 moves on by one, is zipf. It moves round after the last key.
func TestLatestShape(t *testing.T) {
	const n, draws = 200, 200000
	for _, kind := range Kinds() {
		l, r := newLatest(n), newRandom(1, 1)
		count := make([]float64, n)
		newest := n - 1
		for range draws {
			key := int(l.key(kind, &r))
			if kind == Get {
				count[(newest-key+n)%n]++
				continue
			}
			if next := (newest + 1) % n; key == next {
				newest = next
				count[0]++
			} else {
				count[(newest-key+n)%n+1]++
			}
		}
		checkShape(t, "latest "+kind.String(), count, times(zipfShares(n), draws))
		if kind == Get && l.newest.Load() != n-1 {
			t.Error("a get moved the newest key on")
		}
	}
	one := newLatest(1)
	r := newRandom(1, 1)
	for range 10 {
		if k := one.key(Put, &r) + one.key(Get, &r); k != 0 {
			t.Errorf("one key, and key %d", k)
		}
	}
}

// TestLatestIsOfAllClients: what one writes, another's reads are near.
func TestLatestIsOfAllClients(t *testing.T) {
	c := config()
	c.KeyDistribution = Latest
	w := newWorkload(c)
	w.latest.newest.Store(uint64(c.Keys) + 499) // others came to key 499
	s := w.stream(1)
	near := 0
	const reads = 10000
	for range reads {
		if k := s.nextKey(Get); k > 399 && k <= 499 {
			near++
		}
	}
	want := 0.0
	for _, p := range zipfShares(c.Keys)[:100] {
		want += p
	}
	if d := math.Abs(float64(near)/reads - want); d > 5*math.Sqrt(want*(1-want)/reads) {
		t.Errorf("%d of %d reads are of the newest 100 keys, want %.0f %%", near, reads, 100*want)
	}
}

func TestSpreadReachesAllKeys(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 997, 1000, 4096} {
		s, seen := newSpread(n), map[uint64]bool{}
		for rank := range uint64(n) {
			k := s.key(rank)
			if k >= uint64(n) {
				t.Errorf("%d keys: key %d", n, k)
			}
			seen[k] = true
		}
		if len(seen) != n {
			t.Errorf("%d keys: only %d are reached", n, len(seen))
		}
	}
}

func TestRandomIsUniform(t *testing.T) {
	const buckets, draws = 16, 160000
	r := newRandom(7, 3)
	count, want := make([]float64, buckets), make([]float64, buckets)
	for range draws {
		count[r.below(buckets)]++
	}
	for i := range want {
		want[i] = draws / buckets
	}
	checkShape(t, "below", count, want)
}
