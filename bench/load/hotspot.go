package load

// YCSB's defaults: of the keys, a fifth are hot, and get four fifths of the
// operations.
const (
	hotKeys       = 0.2
	hotOperations = 0.8
)

// hotspot draws ranks from 0 to n-1: the first of them are hot, and alike; the
// others are cold, and alike.
type hotspot struct{ hot, cold uint64 }

func newHotspot(keys int) *hotspot {
	hot := max(1, uint64(float64(keys)*hotKeys))
	return &hotspot{hot: hot, cold: uint64(keys) - hot}
}

func (h *hotspot) rank(r *random) uint64 {
	if h.cold == 0 || r.float() < hotOperations {
		return r.below(h.hot)
	}
	return h.hot + r.below(h.cold)
}
