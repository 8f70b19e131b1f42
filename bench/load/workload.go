package load

// workload makes the streams of all clients.
type workload struct {
	cfg    Config
	spread spread
	// Those of other distributions are nil.
	zipf    *zipf
	hotspot *hotspot
	latest  *latest
}

func newWorkload(cfg Config) *workload {
	w := &workload{cfg: cfg, spread: newSpread(cfg.Keys)}
	switch cfg.KeyDistribution {
	case Zipf:
		w.zipf = newZipf(cfg.Keys)
	case Hotspot:
		w.hotspot = newHotspot(cfg.Keys)
	case Latest:
		w.latest = newLatest(cfg.Keys)
	}
	return w
}

// stream is the sequence of operations of one client. It depends on the seed
// and the client's number only, not on time or on other clients; but see latest.
// Not for more than one goroutine.
type stream struct {
	w *workload
	// Two generators, so that the same keys come whatever the values' size is.
	choose, values random
	position       uint64 // of a sequential stream
	ops            []Op
	index          []int // of the keys of ops
	keys, buffer   []byte
}

func (w *workload) stream(client int) *stream {
	c := &w.cfg
	s := &stream{
		w:      w,
		choose: newRandom(c.Seed, uint64(2*client)),
		values: newRandom(c.Seed, uint64(2*client+1)),
		// Sequential clients start evenly spread and go round.
		position: uint64(client) * uint64(c.Keys) / uint64(c.Clients),
		ops:      make([]Op, c.OpsPerMessage),
		index:    make([]int, c.OpsPerMessage),
		keys:     make([]byte, c.OpsPerMessage*c.KeySize.most),
	}
	if c.ReadRatio < 1 {
		s.buffer = make([]byte, c.OpsPerMessage*c.ValueSize.most)
	}
	for i := range c.OpsPerMessage {
		copy(s.keys[i*c.KeySize.most:], c.KeyPrefix)
	}
	return s
}

// message makes the client's next message. It overwrites the one before and
// allocates nothing.
func (s *stream) message() []Op {
	for i := range s.ops {
		kind := Put
		if ratio := s.w.cfg.ReadRatio; ratio == 1 || ratio > 0 && s.choose.float() < ratio {
			kind = Get
		}
		s.set(i, kind, s.nextKey(kind))
	}
	return s.ops
}

func (s *stream) nextKey(kind Kind) int {
	n := uint64(s.w.cfg.Keys)
	switch s.w.cfg.KeyDistribution {
	case Zipf:
		return int(s.w.spread.key(s.w.zipf.rank(&s.choose)))
	case Hotspot:
		return int(s.w.spread.key(s.w.hotspot.rank(&s.choose)))
	case Latest:
		return int(s.w.latest.key(kind, &s.choose))
	case Sequential:
		k := s.position
		if s.position++; s.position == n {
			s.position = 0
		}
		return int(k)
	}
	return int(s.choose.below(n))
}

// set makes operation i of the message. Each has room for the largest key and
// value.
func (s *stream) set(i int, kind Kind, key int) {
	c := &s.w.cfg
	k := part(s.keys, i, c.KeySize.most, c.keyBytes(key))
	putDecimal(k[len(c.KeyPrefix):], key)
	op := Op{Kind: kind, Key: k}
	if kind == Put {
		op.Value = part(s.buffer, i, c.ValueSize.most, c.ValueSize.draw(&s.values))
		s.values.fill(op.Value)
	}
	s.ops[i], s.index[i] = op, key
}

// part is the first so many bytes of one of the equal parts of a buffer.
func part(buffer []byte, i, room, size int) []byte {
	return buffer[i*room : i*room+size : i*room+size]
}
