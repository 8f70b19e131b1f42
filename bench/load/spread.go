package load

// spread puts ranks at keys: neighbours in the ordered store should not all be
// hot. rank*step mod keys is a permutation, since step and keys have no common
// divisor.
type spread struct{ keys, step uint64 }

func newSpread(keys int) spread {
	s := spread{keys: uint64(keys), step: uint64(float64(keys)*0.6180339887) | 1}
	for gcd(s.step, s.keys) != 1 {
		s.step += 2
	}
	return s
}

// key does not overflow: keys and step are below 2^32.
func (s spread) key(rank uint64) uint64 { return rank * s.step % s.keys }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
