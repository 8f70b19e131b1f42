package report

import (
	"math"
	"strconv"
)

// scale maps values to pixels, linear or logarithmic.
type scale struct {
	lo, hi   float64 // values; lo > 0 when log
	from, to float64 // pixels
	log      bool
}

// at returns the pixel of a value, kept within the scale.
func (s scale) at(v float64) float64 {
	v = min(max(v, s.lo), s.hi)
	f := 0.5
	switch {
	case s.hi <= s.lo:
	case s.log:
		f = math.Log(v/s.lo) / math.Log(s.hi/s.lo)
	default:
		f = (v - s.lo) / (s.hi - s.lo)
	}
	return s.from + f*(s.to-s.from)
}

// linearScale starts at zero and ends at a round value.
func linearScale(hi, from, to float64) scale {
	if hi <= 0 {
		hi = 1
	}
	step := niceStep(hi, 4)
	return scale{lo: 0, hi: math.Ceil(hi/step-1e-9) * step, from: from, to: to}
}

// logScale covers lo to hi with a little air, at least a factor of four.
func logScale(lo, hi, from, to float64) scale {
	if lo <= 0 || hi <= 0 {
		lo, hi = 1, 10
	}
	lo, hi = lo/1.12, hi*1.12
	if hi/lo < 4 {
		mid := math.Sqrt(lo * hi)
		lo, hi = mid/2, mid*2
	}
	return scale{lo: lo, hi: hi, from: from, to: to, log: true}
}

// niceStep is 1, 2 or 5 times a power of ten, for about n steps up to hi.
func niceStep(hi float64, n int) float64 {
	raw := hi / float64(n)
	base := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if raw <= m*base*1.0001 {
			return m * base
		}
	}
	return 10 * base
}

// ticks are round values within the scale, two to six of them.
func (s scale) ticks() []float64 {
	var out []float64
	if !s.log {
		step := niceStep(s.hi, 4)
		for i := 0; float64(i)*step <= s.hi*1.0001; i++ {
			out = append(out, float64(i)*step)
		}
		return out
	}
	decades := math.Log10(s.hi / s.lo)
	steps := []float64{1}
	if decades < 1.2 {
		steps = []float64{1, 2, 5}
	} else if decades < 2.6 {
		steps = []float64{1, 3}
	}
	stride := max(1, int(math.Ceil(decades/5)))
	for e := int(math.Floor(math.Log10(s.lo))); float64(e) <= math.Log10(s.hi); e++ {
		if stride > 1 && e%stride != 0 {
			continue
		}
		for _, m := range steps {
			if v := m * math.Pow(10, float64(e)); v >= s.lo && v <= s.hi {
				out = append(out, v)
			}
		}
	}
	return out
}

// px writes a coordinate, short.
func px(v float64) string { return trimZeros(strconv.FormatFloat(v, 'f', 2, 64)) }
