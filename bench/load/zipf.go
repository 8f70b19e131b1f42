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
	// Ranks are spread over the keys by rank*step mod n, a permutation since
	// step and n have no common divisor: neighbours in the ordered store should
	// not all be hot.
	keys, step uint64
}

func newZipf(keys int) *zipf {
	n := float64(keys)
	z := &zipf{
		n: n, keys: uint64(keys), step: uint64(n*0.6180339887) | 1,
		first:    integral(1.5) - 1,
		last:     integral(n + 0.5),
		shortcut: 2 - inverse(integral(2.5)-density(2)),
	}
	for gcd(z.step, z.keys) != 1 {
		z.step += 2
	}
	return z
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

// key is where a rank lies among the keys. It does not overflow: keys and step
// are below 2^32.
func (z *zipf) key(rank uint64) uint64 { return rank * z.step % z.keys }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
