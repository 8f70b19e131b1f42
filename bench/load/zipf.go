package load

import "math"

// zipfTheta is the skew that YCSB made the field's standard. math/rand's Zipf
// takes exponents above 1 only.
const zipfTheta = 0.99

// zipf draws ranks from 0 to n-1, rank i with a probability proportional to
// 1/(i+1)^theta, by rejection-inversion (Hörmann and Derflinger, 1996): exact,
// and made in constant time. The approximation of Gray and others that YCSB uses
// is 9 % off for the ranks after the second. It is read-only once made and
// shared by all clients.
type zipf struct {
	n, first, last, shortcut float64
}

func newZipf(keys int) *zipf {
	n := float64(keys)
	return &zipf{
		n:        n,
		first:    integral(1.5) - 1,
		last:     integral(n + 0.5),
		shortcut: 2 - inverse(integral(2.5)-density(2)),
	}
}

// density is the hat function x^-theta, integral its integral from 1, inverse
// the inverse of that.
func density(x float64) float64  { return math.Pow(x, -zipfTheta) }
func integral(x float64) float64 { return math.Expm1((1-zipfTheta)*math.Log(x)) / (1 - zipfTheta) }
func inverse(y float64) float64  { return math.Exp(math.Log1p((1-zipfTheta)*y) / (1 - zipfTheta)) }

// rank draws the rank of a key, the hottest being 0.
func (z *zipf) rank(r *random) uint64 {
	for {
		y := z.last + r.float()*(z.first-z.last)
		x := inverse(y)
		k := min(max(math.Floor(x+0.5), 1), z.n)
		// The first test spares most draws the second, which is exact.
		if k-x <= z.shortcut || y >= integral(k+0.5)-density(k) {
			return uint64(k) - 1
		}
	}
}
