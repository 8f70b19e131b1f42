package load

import (
	"encoding/binary"
	"math/bits"
)

// random is wyrand: one 64-bit multiplication a word, 8 GB/s on the machine it
// was chosen on. It has to be that fast because every value is filled anew: one
// buffer shared by all operations, or sent at another offset each time, compresses
// and caches as no real data does. (XOR of one random word over a standing
// buffer costs a third, but makes values that differ by a constant.)
// math/rand/v2's PCG and ChaCha8 fill at about 1 GB/s, which at 1 MiB a value
// would be as dear as sending it.
type random struct{ state uint64 }

// newRandom gives each (seed, stream) a sequence of its own.
func newRandom(seed, stream uint64) random {
	r := random{state: seed}
	r.state = r.next() ^ stream*0x9e3779b97f4a7c15
	r.state = r.next()
	return r
}

func (r *random) next() uint64 {
	r.state += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(r.state, r.state^0xe7037ed1a0b428db)
	return hi ^ lo
}

// float is from 0 (inclusive) to 1 (exclusive).
func (r *random) float() float64 { return float64(r.next()>>11) * 0x1p-53 }

// below is from 0 to n-1, with a bias below n/2^64.
func (r *random) below(n uint64) uint64 {
	hi, _ := bits.Mul64(r.next(), n)
	return hi
}

// fill overwrites p.
func (r *random) fill(p []byte) {
	s := *r // in a register, not in memory
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, s.next())
		p = p[8:]
	}
	if len(p) > 0 {
		var last [8]byte
		binary.LittleEndian.PutUint64(last[:], s.next())
		copy(p, last[:])
	}
	*r = s
}
