package load

// workload makes the streams of all clients.
type workload struct {
	cfg  Config
	zipf *zipf // nil for other distributions
}

func newWorkload(cfg Config) *workload {
	w := &workload{cfg: cfg}
	if cfg.KeyDistribution == Zipf {
		w.zipf = newZipf(cfg.Keys)
	}
	return w
}

// stream is the sequence of operations of one client. It depends on the seed
// and the client's number only, not on time or on other clients. Not for more
// than one goroutine.
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
		keys:     make([]byte, 0, c.OpsPerMessage*c.KeySize),
	}
	if c.ReadRatio < 1 {
		s.buffer = make([]byte, c.OpsPerMessage*c.ValueSize)
	}
	for range c.OpsPerMessage {
		s.keys = c.AppendKey(s.keys, 0)
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
		s.set(i, kind, s.nextKey())
	}
	return s.ops
}

func (s *stream) nextKey() int {
	n := uint64(s.w.cfg.Keys)
	switch s.w.cfg.KeyDistribution {
	case Zipf:
		return int(s.w.zipf.key(s.w.zipf.rank(&s.choose)))
	case Sequential:
		k := s.position
		if s.position++; s.position == n {
			s.position = 0
		}
		return int(k)
	}
	return int(s.choose.below(n))
}

// set makes operation i of the message.
func (s *stream) set(i int, kind Kind, key int) {
	c := &s.w.cfg
	k := s.keys[i*c.KeySize : (i+1)*c.KeySize : (i+1)*c.KeySize]
	putDecimal(k[len(c.KeyPrefix):], key)
	op := Op{Kind: kind, Key: k}
	if kind == Put {
		op.Value = s.buffer[i*c.ValueSize : (i+1)*c.ValueSize : (i+1)*c.ValueSize]
		s.values.fill(op.Value)
	}
	s.ops[i], s.index[i] = op, key
}
