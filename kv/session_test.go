package kv

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// applyAt applies one entry that a leader with that clock proposed.
func applyAt(t testing.TB, s *Store, clock int64, commands ...Command) []Result {
	t.Helper()
	results, err := s.Apply(s.State().Index+1, 1, encode(EntryHeader{Node: 1, Clock: clock}, commands...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func openSession(t testing.TB, s *Store, clock, ttl int64) uint64 {
	t.Helper()
	r := applyAt(t, s, clock, Command{Kind: KindOpenSession, SessionTTL: ttl})[0]
	if r.SessionID == 0 || r.Refusal != 0 {
		t.Fatalf("no session: %+v", r)
	}
	return r.SessionID
}

func inSession(c Command, id, sequence, acknowledged uint64) Command {
	c.SessionID, c.SessionSequence, c.SessionAcknowledged = id, sequence, acknowledged
	return c
}

func TestACommandThatComesTwiceIsAppliedOnce(t *testing.T) {
	s := NewStore()
	id := openSession(t, s, 0, 100)
	swap := func(expect, value string) Command {
		return Command{Kind: KindCompareAndSwap, Key: []byte("swap"), Expect: []byte(expect), Value: []byte(value)}
	}
	long := string(bytes.Repeat([]byte("x"), maxAnswerValues+1))
	apply(t, s, put("swap", "present"), put("long", long))
	commands := []Command{
		put("a", "1"),
		{Kind: KindDelete, Key: []byte("a")},
		swap("something else", "new"),
		swap("present", "new"),
		{Kind: KindBatch, Steps: []Command{put("b", "1"), {Kind: KindGet, Key: []byte("swap")}}},
		{Kind: KindBatch, Steps: []Command{put("b", "2"), {Kind: KindGet, Key: []byte("long")}}},
	}
	var first []Result
	for i := range commands {
		first = append(first, applyAt(t, s, 1, inSession(commands[i], id, uint64(i)+1, 1))...)
	}
	revision := s.State().Revision
	for round := range 2 {
		for i := range commands {
			again := applyAt(t, s, 1, inSession(commands[i], id, uint64(i)+1, 1))[0]
			want := describe(&first[i])
			if i == len(commands)-1 {
				if !again.Steps[1].ValueOmitted || again.Steps[1].Value != nil {
					t.Errorf("an answer keeps a value of %d bytes", len(again.Steps[1].Value))
				}
				again.Steps = slices.Clone(again.Steps) // the store's
				again.Steps[1].Value = []byte(long)
			}
			if got := describe(&again); got != want {
				t.Errorf("round %d, command %d: answered %s, at first %s", round, i, got, want)
			}
		}
		s = restored(t, s) // and after a snapshot
	}
	if now := s.State().Revision; now != revision {
		t.Errorf("commands that came again moved the revision from %d to %d", revision, now)
	}
}

func TestSessionRefusals(t *testing.T) {
	s := NewStore()
	id := openSession(t, s, 0, 100)
	for _, c := range []struct {
		what    string
		clock   int64
		command Command
		want    Refusal
	}{
		{"in time", 100, inSession(put("a", "1"), id, 1, 1), 0},
		{"acknowledged", 100, inSession(put("a", "2"), id, 2, 2), 0},
		{"answer was acknowledged", 100, inSession(put("a", "1"), id, 1, 1), RefusedAcknowledged},
		{"nobody's", 100, inSession(put("a", "1"), id+1, 1, 1), RefusedExpired},
		{"kept", 150, inSession(Command{Kind: KindKeepSession}, id, 0, 0), 0},
		{"at its end", 250, inSession(put("a", "3"), id, 3, 2), 0},
		{"the clock goes back", 10, inSession(put("a", "4"), id, 4, 2), 0},
		{"after its end", 351, inSession(put("a", "5"), id, 5, 2), RefusedExpired},
		{"repeated after its end", 351, inSession(put("a", "4"), id, 4, 2), RefusedExpired},
		{"kept after its end", 351, inSession(Command{Kind: KindKeepSession}, id, 0, 0), RefusedExpired},
		{"closed after its end", 351, inSession(Command{Kind: KindCloseSession}, id, 0, 0), 0},
	} {
		if r := applyAt(t, s, c.clock, c.command)[0]; r.Refusal != c.want || r.Succeeded == (c.want != 0) {
			t.Errorf("%s: refusal %d, succeeded %v; want %d", c.what, r.Refusal, r.Succeeded, c.want)
		}
	}
	if it, _, _ := s.Get([]byte("a")); it.Version != 4 {
		t.Errorf("key a was written %d times, want 4", it.Version)
	}
	if len(s.sessions.ends) != 0 {
		t.Errorf("%d ends are kept for no session", len(s.sessions.ends))
	}
}

// A leader whose clock is far ahead ends all sessions. When others lead again, a
// session lasts as long as ever.
func TestClockFarAheadIsGivenUp(t *testing.T) {
	const now, ttl, year = int64(1_700_000_000e9), int64(60e9), int64(365 * maxClockLag)
	s, twin := NewStore(), NewStore()
	both := func(clock int64, c Command) Result {
		t.Helper()
		a, b := applyAt(t, s, clock, c)[0], applyAt(t, twin, clock, c)[0]
		if a.Refusal != b.Refusal || a.SessionID != b.SessionID || s.View().Hash() != twin.View().Hash() {
			t.Fatalf("replicas differ: %+v, %+v", a, b)
		}
		twin = restored(t, twin)
		return a
	}
	open := func(clock int64) uint64 {
		t.Helper()
		return both(clock, Command{Kind: KindOpenSession, SessionTTL: ttl}).SessionID
	}
	keep := func(what string, clock int64, id uint64, want Refusal) {
		t.Helper()
		if r := both(clock, inSession(Command{Kind: KindKeepSession}, id, 0, 0)); r.Refusal != want {
			t.Errorf("%s: refusal %d, want %d", what, r.Refusal, want)
		}
	}
	before := open(now)
	idle, used := open(now+year), open(now+year)
	keep("the clock far ahead", now+year, before, RefusedExpired)
	view := s.View()
	state := view.Hash()
	keep("back, right away", now+ttl/2, used, 0)
	fresh := open(now + ttl/2)
	keep("as much time as was left", now+ttl+ttl/2, used, 0)
	keep("a little back", now+ttl, fresh, 0)
	keep("over, as none used it", now+ttl+ttl/2+1, idle, RefusedExpired)
	keep("over in its time", now+3*ttl+1, fresh, RefusedExpired)
	if len(s.sessions.ends) != 0 || s.sessions.size() != 0 {
		t.Errorf("%d sessions and %d ends are left", s.sessions.size(), len(s.sessions.ends))
	}
	if view.Hash() != state {
		t.Error("a view taken before changed")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	s := NewStore()
	id := openSession(t, s, 0, 100)
	for i := range uint64(MaxSessionAnswers) {
		applyAt(t, s, 0, inSession(put("a", "1"), id, i+1, 1))
	}
	next := inSession(put("b", "1"), id, MaxSessionAnswers+1, 1)
	if r := applyAt(t, s, 0, next)[0]; r.Refusal != RefusedTooMany {
		t.Errorf("refusal %d for answer %d", r.Refusal, MaxSessionAnswers+1)
	}
	if _, _, found := s.Get([]byte("b")); found {
		t.Error("a refused command was applied")
	}
	next.SessionAcknowledged = 2
	if r := applyAt(t, s, 0, next)[0]; r.Refusal != 0 {
		t.Errorf("refusal %d after an answer was acknowledged", r.Refusal)
	}
	for s.sessions.size() < MaxSessions {
		openSession(t, s, 0, 1)
	}
	if r := applyAt(t, s, 0, Command{Kind: KindOpenSession})[0]; r.Refusal != RefusedTooMany || r.SessionID != 0 {
		t.Errorf("session %d opened: %+v", MaxSessions+1, r)
	}
	applyAt(t, s, 50)
	if n := s.sessions.size(); n != 1 {
		t.Errorf("%d sessions are left, want the one whose time is not over", n)
	}
}

// largeBatch is the largest that a node takes: the answer to it is what a session
// keeps most of.
func largeBatch() Command {
	steps := make([]Command, 65536)
	for i := range steps {
		steps[i] = put("k", "")
	}
	return Command{Kind: KindBatch, Steps: steps}
}

// A session whose answers nobody acknowledges must not grow until a snapshot can't
// carry it: with that, no node could save its state or be sent it any more.
func TestAnswersOfASessionAreBoundedInBytes(t *testing.T) {
	s := NewStore()
	id := openSession(t, s, 0, 100)
	batch, sequence := largeBatch(), uint64(1)
	for ; sequence < 10; sequence++ {
		if r := applyAt(t, s, 0, inSession(batch, id, sequence, 0))[0]; r.Refusal == RefusedTooMany {
			break
		}
	}
	applied := sequence - 1
	if it, _, _ := s.Get([]byte("k")); it.Version != 65536*applied || applied == 9 {
		t.Fatalf("%d batches were answered, the key was written %d times", applied, it.Version)
	}
	v, _ := s.sessions.byID.Get(id)
	if n := proto.Size(v.proto()); n > v.bytes || v.bytes > maxSnapshotRecord {
		t.Errorf("a record of %d bytes counts for %d, a record may have %d", n, v.bytes, maxSnapshotRecord)
	}
	s = restored(t, s)
	if r := applyAt(t, s, 0, inSession(put("a", "1"), id, sequence, 0))[0]; r.Refusal != RefusedTooMany {
		t.Errorf("refusal %d after a snapshot, want %d", r.Refusal, RefusedTooMany)
	}
	if r := applyAt(t, s, 0, inSession(batch, id, 1, 0))[0]; r.Refusal != 0 || len(r.Steps) != 65536 {
		t.Errorf("what came twice is answered by refusal %d, %d steps", r.Refusal, len(r.Steps))
	}
	if r := applyAt(t, s, 0, inSession(put("a", "1"), id, sequence, 2))[0]; r.Refusal != 0 {
		t.Errorf("refusal %d after an answer was acknowledged", r.Refusal)
	}
}

func TestAnswersOfAllSessionsAreBoundedInBytes(t *testing.T) {
	s := NewStore()
	apply(t, s, put("k", string(make([]byte, maxAnswerValues))))
	commands := make([]Command, MaxSessionAnswers)
	var ids []uint64
	for refused := false; !refused; {
		if len(ids) > 50 {
			t.Fatalf("%d sessions keep answers of %d bytes", len(ids), s.sessions.bytes)
		}
		id := openSession(t, s, 0, int64(len(ids)))
		ids = append(ids, id)
		for i := range commands { // none matches, and is told the value
			commands[i] = inSession(Command{Kind: KindCompareAndSwap, Key: []byte("k")}, id, uint64(i)+1, 0)
		}
		refused = applyAt(t, s, 0, commands...)[MaxSessionAnswers-1].Refusal == RefusedTooMany
	}
	idle := openSession(t, s, 0, 1000)
	next := inSession(put("a", "1"), idle, 1, 0)
	if r := applyAt(t, s, 0, next)[0]; r.Refusal != RefusedTooMany {
		t.Errorf("refusal %d with answers of %d bytes", r.Refusal, s.sessions.bytes)
	}
	s = restored(t, s)
	if r := applyAt(t, s, 0, next)[0]; r.Refusal != RefusedTooMany {
		t.Errorf("refusal %d after a snapshot", r.Refusal)
	}
	applyAt(t, s, 0, inSession(Command{Kind: KindCloseSession}, ids[0], 0, 0))
	if r := applyAt(t, s, 0, next)[0]; r.Refusal != 0 {
		t.Errorf("refusal %d after a session was closed", r.Refusal)
	}
	applyAt(t, s, int64(len(ids)))
	if n := s.sessions.bytes; n >= 2*resultBytes {
		t.Errorf("answers of %d bytes are counted, one is left", n)
	}
	applyAt(t, s, 0, inSession(Command{Kind: KindKeepSession}, idle, 0, 2))
	if n := s.sessions.bytes; n != 0 {
		t.Errorf("answers of %d bytes are counted, none is left", n)
	}
}

// restored is a store that came by a snapshot of another.
func restored(t testing.TB, s *Store) *Store {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSnapshot(&b, s.View()); err != nil {
		t.Fatal(err)
	}
	d := NewSnapshotDecoder()
	if _, err := d.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	v, err := d.Finish()
	if err != nil {
		t.Fatal(err)
	}
	n := NewStore()
	n.Restore(v)
	return n
}

// Whatever comes again, in whatever order, views and snapshots in between: each
// command is applied once, and all stores agree.
func TestSessionsAreExactlyOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, two := NewStore(), NewStore()
		type sent struct {
			command Command
			answer  string
		}
		var ids []uint64
		history := map[uint64][]sent{} // by session; sequences count from 1
		acknowledged := map[uint64]uint64{}
		writes := map[string]uint64{}
		clock := int64(1000)
		both := func(c Command) Result {
			a := applyAt(t, one, clock, c)[0]
			b := applyAt(t, two, clock, c)[0]
			if describe(&a) != describe(&b) || a.Refusal != b.Refusal || a.SessionID != b.SessionID {
				rt.Fatalf("stores answer differently: %+v, %+v", a, b)
			}
			return a
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			clock += rapid.Int64Range(-5, 10).Draw(rt, "clock")
			if rapid.IntRange(0, 20).Draw(rt, "leap") == 0 {
				clock = max(0, clock+rapid.Int64Range(-2*maxClockLag, 2*maxClockLag).Draw(rt, "by"))
			}
			switch action := rapid.IntRange(0, 9).Draw(rt, "action"); {
			case action == 0 || len(ids) == 0:
				r := both(Command{Kind: KindOpenSession, SessionTTL: rapid.Int64Range(0, 200).Draw(rt, "ttl")})
				ids = append(ids, r.SessionID)
				acknowledged[r.SessionID] = 1
			case action == 1:
				two = restored(t, two)
			case action == 2:
				two.View() // what is shared is not changed
			default:
				id := rapid.SampledFrom(ids).Draw(rt, "session")
				h := history[id]
				sequence := uint64(rapid.IntRange(1, len(h)+1).Draw(rt, "sequence"))
				fresh := sequence == uint64(len(h))+1
				if fresh {
					key := strconv.Itoa(rapid.IntRange(0, 3).Draw(rt, "key"))
					h = append(h, sent{command: put(key, fmt.Sprint(sequence))})
				}
				if rapid.Bool().Draw(rt, "acknowledge") {
					acknowledged[id] = max(acknowledged[id], sequence)
				}
				x := &h[sequence-1]
				history[id] = h
				r := both(inSession(x.command, id, sequence, acknowledged[id]))
				switch {
				case r.Refusal == RefusedExpired:
				case r.Refusal == RefusedAcknowledged:
					if sequence >= acknowledged[id] {
						rt.Fatalf("command %d refused, acknowledged are those before %d", sequence, acknowledged[id])
					}
				case r.Refusal != 0:
					rt.Fatalf("refusal %d", r.Refusal)
				case x.answer == "":
					writes[string(x.command.Key)]++
					x.answer = describe(&r)
				case describe(&r) != x.answer:
					rt.Fatalf("command %d of session %d was answered %s, then %s", sequence, id, x.answer, describe(&r))
				}
			}
			if one.View().Hash() != two.View().Hash() {
				rt.Fatalf("stores differ at index %d", one.State().Index)
			}
			if a, b := one.sessions.bytes, two.sessions.bytes; a != b {
				rt.Fatalf("answers count for %d bytes, and for %d", a, b)
			}
		}
		for key, n := range writes {
			if it, _, _ := one.Get([]byte(key)); it.Version != n {
				rt.Fatalf("key %s was written %d times by %d commands", key, it.Version, n)
			}
		}
	})
}

func TestSnapshotRefusesBadSessions(t *testing.T) {
	for name, change := range map[string]func(s *sessions){
		"id beyond the last": func(s *sessions) { s.last = 1 },
		"answers out of order": func(s *sessions) {
			v := s.use(2)
			v.answers = []answer{{sequence: 2}, {sequence: 2}}
		},
		"answer before acknowledged": func(s *sessions) {
			v := s.use(2)
			v.acknowledged, v.answers = 9, []answer{{sequence: 8}}
		},
		"absurd ttl": func(s *sessions) { s.use(1).ttl = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			s := NewStore()
			openSession(t, s, 0, 100)
			openSession(t, s, 0, 100)
			change(&s.sessions)
			var b bytes.Buffer
			if err := WriteSnapshot(&b, s.View()); err != nil {
				t.Fatal(err)
			}
			_, err := NewSnapshotDecoder().Write(b.Bytes())
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrOrder) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A view shows the sessions as they were: commands of a session that come later do
// not reach into it, nor into a store that was restored from it, and the other
// way round.
func TestSessionsOfAViewStayAsTheyWere(t *testing.T) {
	s := NewStore()
	id := openSession(t, s, 0, 100)
	applyAt(t, s, 1, inSession(put("a", "1"), id, 1, 1))
	view := s.View()
	records := func(v *View) []byte {
		var b bytes.Buffer
		if err := WriteSnapshot(&b, v); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	want := records(view)
	twin := NewStore()
	twin.Restore(view)
	applyAt(t, s, 2, inSession(put("a", "2"), id, 2, 2))
	applyAt(t, twin, 2, inSession(put("b", "3"), id, 2, 1))
	if !bytes.Equal(records(view), want) {
		t.Error("the view changed")
	}
	for name, store := range map[string]*Store{"the store": s, "its twin": twin} {
		if r := applyAt(t, store, 3, inSession(put("c", "4"), id, 2, 1))[0]; r.Refusal != 0 || r.Index >= store.State().Index {
			t.Errorf("%s answers what came twice with %+v", name, r)
		}
	}
	if r := applyAt(t, twin, 3, inSession(put("c", "4"), id, 1, 1))[0]; r.Refusal != 0 {
		t.Errorf("the twin forgot an answer that only the store was told is not needed: %+v", r)
	}
}
