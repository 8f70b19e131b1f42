package kv

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash"
	"iter"
	"slices"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Refusal says why a command of a session was not applied.
type Refusal uint8

// Refusals. Of these only RefusedTooMany says that the command was never applied
// before either.
const (
	// RefusedExpired: the session has ended, and with it what is known of it.
	RefusedExpired Refusal = iota + 1
	// RefusedAcknowledged: the client said that it had the answer.
	RefusedAcknowledged
	// RefusedTooMany: too many answers, or too large ones, wait to be acknowledged,
	// or there are too many sessions.
	RefusedTooMany
)

// What sessions may hold. These are part of the state machine: all nodes of a
// cluster must agree on them.
const (
	// MaxSessions is how many there are at a time.
	MaxSessions = 10000
	// MaxSessionAnswers is how many commands of one session may wait for their
	// answers to be acknowledged.
	MaxSessionAnswers = 1024
	// maxSessionBytes is what the kept answers of one session may take, as
	// Result.bytes counts; with as much, it is told too many. One answer may pass
	// it, of a batch of 65,536 steps 7 MiB. A session is one record of a snapshot,
	// and a store whose snapshot can't be written is lost.
	maxSessionBytes = 32 << 20
	// maxSessionsBytes is the same for all sessions together.
	maxSessionsBytes = 128 << 20
	// maxSessionResults is more than a session keeps, steps included: one answer may
	// pass maxSessionBytes.
	maxSessionResults = 2 * maxSessionBytes / resultBytes
	// resultBytes is what a result counts for beside its value: what it takes in
	// memory, which is more than in a snapshot.
	resultBytes = 112
	// maxAnswerValues is how many bytes of values the answer to one command
	// keeps; it is told without them when they are more.
	maxAnswerValues = 4 << 10
	// maxClockLag, 24 hours, is how far the clock of an entry may be behind the
	// highest one before that one is given up: the longest time to live that a node
	// grants.
	maxClockLag = 24 * 3600e9
	// maxSessionTTL is what a longer time to live is taken for, 146 years, so that
	// adding it to a clock does not overflow.
	maxSessionTTL = 1 << 62
)

// sessions makes commands that come twice be applied once (Raft thesis, section
// 6.3): it keeps the answer to each command until the client has it. A session
// expires by the clocks that leaders put in their entries, so at the same entry
// on every node. Its zero value has no sessions.
type sessions struct {
	byID  btree.Map[uint64, *session]
	last  uint64 // id given out
	clock int64  // the highest seen since the last one that was given up
	bytes int    // of the answers of all
	ends  ends   // each session once, with an end that may since have moved on
	life  *byte  // what is not shared with a copy has the same
}

// A session belongs to the sessions whose life it has, which may change it; what
// others share is copied first.
type session struct {
	life         *byte
	id           uint64
	ttl, active  int64
	acknowledged uint64
	answers      []answer // by rising sequence
	bytes        int      // of the answers
}

type answer struct {
	sequence uint64
	bytes    int
	result   Result
}

type end struct {
	at int64
	id uint64
}

// ends is a heap of what ends first.
type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

func (s *sessions) size() int { return s.byID.Len() }

// all visits the sessions by id.
func (s *sessions) all() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		s.byID.Scan(func(_ uint64, v *session) bool { return yield(v) })
	}
}

// copy takes constant time but for the ends, which are two words a session. Both
// copy the sessions that they change from then on.
func (s *sessions) copy() sessions {
	s.life = new(byte)
	return sessions{byID: *s.byID.Copy(), last: s.last, clock: s.clock, bytes: s.bytes, ends: slices.Clone(s.ends), life: new(byte)}
}

// load adds a session of a snapshot, whose id is the greatest so far.
func (s *sessions) load(v *session) error {
	if last, _, ok := s.byID.Max(); ok && last >= v.id {
		return fmt.Errorf("%w: session %d after %d", ErrOrder, v.id, last)
	}
	if v.id > s.last {
		return fmt.Errorf("%w snapshot: session %d, the last one opened is %d", ErrMalformed, v.id, s.last)
	}
	s.byID.Load(v.id, v)
	s.bytes += v.bytes
	heap.Push(&s.ends, end{v.active + v.ttl, v.id})
	return nil
}

// advance takes the clock of an entry and ends the sessions whose time is over.
// A clock that goes back a little, as another leader's may, changes nothing. One
// that goes back far says that an earlier leader's was wrong: waiting until the
// time is what that leader said, no session would end.
func (s *sessions) advance(clock int64) {
	if clock = max(clock, 0); s.clock-clock > maxClockLag {
		s.turnBack(s.clock - clock)
	}
	s.clock = max(s.clock, clock)
	for len(s.ends) > 0 && s.ends[0].at < s.clock {
		v, ok := s.byID.Get(s.ends[0].id)
		if ok && v.active+v.ttl >= s.clock {
			s.ends[0].at = v.active + v.ttl
			heap.Fix(&s.ends, 0)
			continue
		}
		heap.Pop(&s.ends)
		if ok {
			s.remove(v)
		}
	}
}

// turnBack moves the clock and all that was measured by it: each session has as
// much time left as before.
func (s *sessions) turnBack(by int64) {
	s.clock -= by
	for _, v := range s.byID.Values() {
		s.own(v).active -= by
	}
	for i := range s.ends {
		s.ends[i].at -= by // all of them, so they stay a heap
	}
}

// own returns a session that may be changed: v, or a copy that takes its place.
func (s *sessions) own(v *session) *session {
	if v.life == s.life {
		return v
	}
	c := *v
	c.life, c.answers = s.life, slices.Clone(v.answers)
	s.byID.Set(c.id, &c)
	return &c
}

// remove ends a session; ends forgets it in time.
func (s *sessions) remove(v *session) {
	s.byID.Delete(v.id)
	s.bytes -= v.bytes
}

// open begins a session and returns its id; 0 when there are too many.
func (s *sessions) open(ttl int64) uint64 {
	if s.size() >= MaxSessions {
		return 0
	}
	s.last++
	v := &session{life: s.life, id: s.last, ttl: min(max(ttl, 0), maxSessionTTL), active: s.clock, acknowledged: 1}
	s.byID.Set(v.id, v)
	heap.Push(&s.ends, end{v.active + v.ttl, v.id})
	return v.id
}

// use returns a session to be changed; nil when it has ended. Its time begins
// anew.
func (s *sessions) use(id uint64) *session {
	v, ok := s.byID.Get(id)
	if !ok {
		return nil
	}
	v = s.own(v)
	v.active = s.clock
	return v
}

// inSession applies a command of a session, unless it was before.
func (s *Store) inSession(c *Command, index uint64, r *Result) {
	r.Revision, r.Index, r.Succeeded = s.revision, index, true
	if c.Kind == KindOpenSession {
		if r.SessionID = s.sessions.open(c.SessionTTL); r.SessionID == 0 {
			r.refuse(RefusedTooMany)
		}
		return
	}
	v := s.sessions.use(c.SessionID)
	if v == nil {
		// One that has ended is closed as well.
		if c.Kind != KindCloseSession {
			r.refuse(RefusedExpired)
		}
		return
	}
	switch c.Kind {
	case KindCloseSession:
		s.sessions.remove(v)
	case KindKeepSession:
		s.sessions.forget(v, c.SessionAcknowledged)
	case KindPut, KindDelete, KindCompareAndSwap, KindBatch, KindGet, KindOpenSession:
		s.sessions.forget(v, c.SessionAcknowledged)
		s.once(v, c, index, r)
	}
}

// once applies a command of a session that is not known, or repeats its answer.
func (s *Store) once(v *session, c *Command, index uint64, r *Result) {
	at, known := slices.BinarySearchFunc(v.answers, c.SessionSequence, func(a answer, sequence uint64) int {
		switch {
		case a.sequence < sequence:
			return -1
		case a.sequence > sequence:
			return 1
		}
		return 0
	})
	switch {
	case known:
		*r = v.answers[at].result
	case c.SessionSequence < v.acknowledged:
		r.refuse(RefusedAcknowledged)
	case len(v.answers) >= MaxSessionAnswers, v.bytes >= maxSessionBytes, s.sessions.bytes >= maxSessionsBytes:
		r.refuse(RefusedTooMany)
	default:
		*r = Result{}
		s.command(c, index, r)
		s.sessions.keep(v, at, c.SessionSequence, r.kept())
	}
}

func (r *Result) refuse(why Refusal) { r.Refusal, r.Succeeded = why, false }

// keep remembers the answer to a command, at its place.
func (s *sessions) keep(v *session, at int, sequence uint64, r Result) {
	n := r.bytes()
	v.answers = slices.Insert(v.answers, at, answer{sequence, n, r})
	v.bytes += n
	s.bytes += n
}

// forget drops the answers that the client has.
func (s *sessions) forget(v *session, acknowledged uint64) {
	if acknowledged <= v.acknowledged {
		return
	}
	v.acknowledged = acknowledged
	n, freed := 0, 0
	for n < len(v.answers) && v.answers[n].sequence < acknowledged {
		freed += v.answers[n].bytes
		n++
	}
	v.answers = slices.Delete(v.answers, 0, n)
	v.bytes -= freed
	s.bytes -= freed
}

// kept is a result as it is remembered: without large values, and without
// holding on to what the store has overwritten.
func (r *Result) kept() Result {
	size := len(r.Value)
	for i := range r.Steps {
		size += len(r.Steps[i].Value)
	}
	return r.copy(size <= maxAnswerValues)
}

func (r *Result) copy(values bool) Result {
	k := *r
	if values {
		k.Value = slices.Clone(r.Value)
	} else if k.Value != nil {
		k.Value, k.ValueOmitted = nil, true
	}
	k.Steps = nil
	if len(r.Steps) > 0 {
		k.Steps = make([]Result, len(r.Steps))
	}
	for i := range r.Steps {
		k.Steps[i] = r.Steps[i].copy(values)
	}
	return k
}

// bytes is what a kept result counts for: the same on every node, whatever the
// result has been through.
func (r *Result) bytes() int {
	n := resultBytes + len(r.Value)
	for i := range r.Steps {
		n += r.Steps[i].bytes()
	}
	return n
}

// proto returns the session as a snapshot holds it.
func (v *session) proto() *kvv1.Session {
	m := &kvv1.Session{
		Id: v.id, TtlNanos: uint64(v.ttl), ActiveUnixNanos: uint64(v.active), Acknowledged: v.acknowledged,
	}
	for i := range v.answers {
		m.Answers = append(m.Answers, &kvv1.SessionAnswer{
			Sequence: v.answers[i].sequence, Result: v.answers[i].result.proto(),
		})
	}
	return m
}

func (r *Result) proto() *kvv1.StoredResult {
	m := &kvv1.StoredResult{
		Revision: r.Revision, Index: r.Index,
		Version: r.Version, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision,
		Value: r.Value, Found: r.Found, Succeeded: r.Succeeded, ValueOmitted: r.ValueOmitted,
	}
	for i := range r.Steps {
		m.Steps = append(m.Steps, r.Steps[i].proto())
	}
	return m
}

func sessionFromProto(m *kvv1.Session) (*session, error) {
	v := &session{
		id: m.GetId(), ttl: int64(m.GetTtlNanos()), active: int64(m.GetActiveUnixNanos()), acknowledged: m.GetAcknowledged(),
	}
	if v.id == 0 || v.ttl < 0 || v.ttl > maxSessionTTL || len(m.GetAnswers()) > MaxSessionAnswers {
		return nil, fmt.Errorf("%w snapshot session %d: ttl %d ns, %d answers", ErrMalformed, v.id, v.ttl, len(m.GetAnswers()))
	}
	before := v.acknowledged
	for _, a := range m.GetAnswers() {
		if a.GetSequence() < before {
			return nil, fmt.Errorf("%w: answer %d of session %d after %d", ErrOrder, a.GetSequence(), v.id, before)
		}
		before = a.GetSequence() + 1
		r := resultFromProto(a.GetResult())
		n := r.bytes()
		v.answers = append(v.answers, answer{a.GetSequence(), n, r})
		v.bytes += n
	}
	return v, nil
}

func resultFromProto(m *kvv1.StoredResult) Result {
	r := Result{
		Revision: m.GetRevision(), Index: m.GetIndex(),
		Version: m.GetVersion(), CreateRevision: m.GetCreateRevision(), ModRevision: m.GetModRevision(),
		Value: m.GetValue(), Found: m.GetFound(), Succeeded: m.GetSucceeded(), ValueOmitted: m.GetValueOmitted(),
	}
	if steps := m.GetSteps(); len(steps) > 0 {
		r.Steps = make([]Result, len(steps))
		for i := range steps {
			r.Steps[i] = resultFromProto(steps[i])
		}
	}
	return r
}

// hash adds the sessions to a hash of the state.
func (s *sessions) hash(h hash.Hash) {
	var head [2 * 8]byte
	binary.LittleEndian.PutUint64(head[:], s.last)
	binary.LittleEndian.PutUint64(head[8:], uint64(s.clock))
	h.Write(head[:])
	for v := range s.all() {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(v.proto())
		if err != nil {
			panic(fmt.Sprintf("kv: session %d cannot be encoded: %v", v.id, err))
		}
		binary.LittleEndian.PutUint64(head[:], uint64(len(data)))
		h.Write(head[:8])
		h.Write(data)
	}
}
