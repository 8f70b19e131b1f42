package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"raftlab/bench/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// register is one key as a store has it.
type register struct {
	revision uint64
	value    []byte
}

// store is a target that is linearizable but for its fault, which befalls
// operations by chance.
type store struct {
	fault string

	mu       sync.Mutex
	random   *rand.Rand
	revision uint64
	keys     map[string]register
	before   map[string]register // each key as it was before its last write
}

// Faults of a store.
const (
	sound      = ""
	staleRead  = "stale read"
	lostWrite  = "lost write"
	twice      = "applied twice"
	otherValue = "another value"
	lostAnswer = "lost answer" // no fault: the client knows that it knows nothing
)

func (s *store) Open(context.Context, int) (load.Session, error) { return (*session)(s), nil }

type session store

func (s *session) Close() error { return nil }

func (s *session) Do(_ context.Context, ops []load.Op, results []load.Result) error {
	for i := range ops {
		results[i] = s.do(ops[i])
	}
	time.Sleep(50 * time.Microsecond) // others go on before this one returns
	return nil
}

func (s *session) do(op load.Op) load.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := string(op.Key)
	now, chosen := s.keys[key], s.random.IntN(20) == 0
	befalls := func(fault string) bool { return chosen && s.fault == fault }
	if op.Kind == load.Get {
		if befalls(staleRead) {
			now = s.before[key]
		}
		if befalls(otherValue) && now.revision > 0 {
			now.value = []byte("never written")
		}
		return load.Result{ModRevision: now.revision, Found: now.revision > 0, Value: now.value}
	}
	written := register{s.revision + 1, bytes.Clone(op.Value)}
	s.revision++
	if befalls(lostAnswer) && s.random.IntN(2) == 0 {
		return load.Result{Err: errors.New("not applied, as far as only the store knows")}
	}
	if !befalls(lostWrite) {
		s.before[key], s.keys[key] = now, written
	}
	if befalls(twice) {
		s.revision++
		s.keys[key] = register{s.revision, written.value}
	}
	if befalls(lostAnswer) {
		return load.Result{Err: errors.New("applied, as far as only the store knows")}
	}
	return load.Result{ModRevision: written.revision}
}

// record drives a store that has this fault.
func record(t testing.TB, fault string, seed uint64) []load.History {
	s := &store{fault: fault, random: rand.New(rand.NewPCG(seed, 1)), keys: map[string]register{}, before: map[string]register{}}
	cfg := load.Config{
		Clients: 8, OpsPerMessage: 2, ReadRatio: 0.5, Keys: 16, KeySize: load.FixedSize(8), ValueSize: load.FixedSize(8),
		KeyDistribution: load.Uniform, Seed: seed, Duration: 300 * time.Millisecond, Sample: 8,
	}
	r, err := load.Run(context.Background(), cfg, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.Histories
}

const enough = time.Minute

// Each way to break the promise is found; keeping it is not held against a store,
// whatever answers are lost.
func TestPower(t *testing.T) {
	for _, fault := range []string{sound, lostAnswer, staleRead, lostWrite, twice, otherValue} {
		t.Run(fault, func(t *testing.T) {
			histories := record(t, fault, 7)
			r := Histories(histories, enough)
			if r.Keys != 8 || r.Operations < 50 || len(r.Undecided) > 0 {
				t.Fatalf("checked %+v", r)
			}
			if broken := fault != sound && fault != lostAnswer; broken != (len(r.Violated) > 0) {
				t.Errorf("%d of %d histories are violated", len(r.Violated), r.Keys)
			}
			if (fault == lostAnswer) != (r.Unanswered > 0) {
				t.Errorf("%d without an answer", r.Unanswered)
			}
		})
	}
}

// TestModel tells which single answers are possible after which operations.
func TestModel(t *testing.T) {
	put := func(call, ret time.Duration, revision, value uint64) load.Access {
		return load.Access{Kind: load.Put, Call: call, Return: ret, Revision: revision, Value: value}
	}
	get := func(call, ret time.Duration, revision, value uint64) load.Access {
		return load.Access{Kind: load.Get, Call: call, Return: ret, Revision: revision, Found: revision > 0, Value: value}
	}
	for name, c := range map[string]struct {
		accesses []load.Access
		cut      time.Duration // 0: none
		bad      bool
	}{
		"anything may have been there":    {accesses: []load.Access{get(1, 2, 9, 5), get(3, 4, 9, 5)}},
		"but one thing":                   {accesses: []load.Access{get(1, 2, 9, 5), get(3, 4, 8, 5)}, bad: true},
		"nothing was there":               {accesses: []load.Access{get(1, 2, 0, 0), put(3, 4, 1, 5), get(5, 6, 1, 5)}},
		"what was written is gone":        {accesses: []load.Access{put(1, 2, 1, 5), get(3, 4, 0, 0)}, bad: true},
		"revisions grow":                  {accesses: []load.Access{put(1, 2, 5, 1), put(3, 4, 4, 2)}, bad: true},
		"concurrent writes change places": {accesses: []load.Access{put(1, 9, 5, 1), put(3, 8, 4, 2), get(10, 11, 5, 1)}},
		"a revision has one write":        {accesses: []load.Access{put(1, 9, 5, 1), put(3, 8, 5, 2)}, bad: true},
		"unanswered, applied late":        {accesses: []load.Access{put(1, load.Never, 0, 1), put(2, 3, 4, 2), get(5, 6, 4, 2), get(7, 8, 9, 1)}},
		"unanswered, never applied":       {accesses: []load.Access{put(1, load.Never, 0, 1), put(2, 3, 4, 2), get(5, 6, 4, 2)}},
		"unanswered, then applied twice":  {accesses: []load.Access{get(-2, -1, 2, 3), put(1, load.Never, 0, 1), get(2, 3, 4, 1), put(4, 5, 6, 2), get(7, 8, 9, 1)}, bad: true},
		"the target tells no values":      {accesses: []load.Access{put(1, 2, 5, 1), get(3, 4, 5, 0)}},
		"a read from the future":          {accesses: []load.Access{get(1, 2, 5, 1), put(3, 4, 5, 1)}, bad: true},
		"after the cut others wrote":      {accesses: []load.Access{put(1, 2, 5, 1), get(3, 8, 7, 9)}, cut: 6},
		"not before it":                   {accesses: []load.Access{put(1, 2, 5, 1), get(3, 5, 7, 9)}, cut: 6, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := load.History{Accesses: c.accesses, Cut: load.Never}
			if c.cut > 0 {
				h.Cut = c.cut
			}
			if r := Histories([]load.History{h}, enough); (len(r.Violated) > 0) != c.bad || len(r.Undecided) > 0 {
				t.Errorf("found %+v", r)
			}
		})
	}
}

// Whatever a history of a sound store is cut to, it stays explained.
func TestCutIsSound(t *testing.T) {
	histories := record(t, lostAnswer, 3)
	rapid.Check(t, func(t *rapid.T) {
		h := histories[rapid.IntRange(0, len(histories)-1).Draw(t, "history")]
		n := rapid.IntRange(1, len(h.Accesses)-1).Draw(t, "kept")
		cut := h.Accesses[n].Call
		for _, a := range h.Accesses[n:] {
			cut = min(cut, a.Call)
		}
		h.Accesses, h.Cut = h.Accesses[:n], cut
		if r := Histories([]load.History{h}, enough); len(r.Violated) > 0 {
			t.Fatalf("violated when cut to %d", n)
		}
	})
}

// Without time nothing is said to be right.
func TestUndecided(t *testing.T) {
	histories := record(t, sound, 1)
	if r := Histories(histories, 0); len(r.Undecided) != len(histories) || len(r.Violated) > 0 {
		t.Errorf("found %+v", r)
	}
}

// What is kept of a history that is wrong has all of it.
func TestSaveAndPicture(t *testing.T) {
	h := load.History{Key: 3, Cut: load.Never, Accesses: []load.Access{
		{Client: 1, Kind: load.Put, Call: -5, Return: 10, Revision: 7, Value: 0xabcd << 48},
		{Client: 2, Kind: load.Put, Call: 3, Return: load.Never, Value: 1},
		{Client: 9, Kind: load.Get, Call: 20, Return: 30},
	}}
	var saved, picture bytes.Buffer
	if err := errors.Join(Save(&saved, "0003", h), Picture(&picture, h)); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Key        string
		CutNs      *int64 `json:"cut_ns"`
		Operations []savedOperation
	}
	if err := json.Unmarshal(saved.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Key != "0003" || got.CutNs != nil || len(got.Operations) != 3 || got.Operations[1].ReturnNs != nil ||
		*got.Operations[0].ReturnNs != 10 || got.Operations[0].CallNs != -5 || got.Operations[0].Value != "abcd000000000000" {
		t.Errorf("saved %s", saved.String())
	}
	for _, want := range []string{"<html", "put abcd: revision 7", "get: no such key", "put 0000: no answer"} {
		if !strings.Contains(picture.String(), want) {
			t.Errorf("the picture lacks %q", want)
		}
	}
}
