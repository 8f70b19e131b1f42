package kv

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// A model is the store, told in the simplest way: each command works on a copy
// of the map, which becomes the map if the command succeeds.
type model struct {
	items    map[string]Item
	revision uint64
	index    uint64
	term     uint64
}

func (m *model) apply(index uint64, c *Command) Result {
	work := maps.Clone(m.items)
	result := Result{Succeeded: true}
	changed := false
	steps := c.Steps
	if c.Kind != KindBatch {
		steps = []Command{*c}
	}
	for i := range steps {
		s := &steps[i]
		r := Result{Succeeded: true}
		old, found := work[string(s.Key)]
		see := func() {
			r.Found, r.Value = found, old.Value
			r.Version, r.CreateRevision, r.ModRevision = old.Version, old.CreateRevision, old.ModRevision
		}
		switch {
		case s.Kind == KindGet:
			see()
		case s.Kind == KindDelete:
			r.Found = found
			delete(work, string(s.Key))
			changed = changed || found
		case s.Kind == KindCompareAndSwap && (s.ExpectAbsent && found || !s.ExpectAbsent && (!found || string(old.Value) != string(s.Expect))):
			see()
			r.Succeeded = false
		default:
			next := Item{Key: s.Key, Value: s.Value, Version: old.Version + 1, CreateRevision: old.CreateRevision, ModRevision: m.revision + 1}
			if !found {
				next.CreateRevision = m.revision + 1
			}
			work[string(s.Key)] = next
			r.Version, r.CreateRevision, r.ModRevision = next.Version, next.CreateRevision, next.ModRevision
			changed = true
		}
		result.Steps = append(result.Steps, r)
		if !r.Succeeded {
			result.Succeeded, changed = false, false
			for j := range result.Steps[:i] {
				if undone := &result.Steps[j]; steps[j].Kind != KindGet {
					*undone = Result{Found: undone.Found}
				}
			}
			break
		}
	}
	if changed {
		m.items = work
		m.revision++
	}
	for i := range result.Steps {
		result.Steps[i].Revision, result.Steps[i].Index = m.revision, index
	}
	result.Revision, result.Index = m.revision, index
	if c.Kind != KindBatch {
		return result.Steps[0]
	}
	return result
}

func (m *model) clone() *model {
	c := *m
	c.items = maps.Clone(m.items)
	return &c
}

// slice returns the items from start to end, in order; end nil is no bound.
func (m *model) slice(start, end []byte) []Item {
	var items []Item
	for _, k := range slices.Sorted(maps.Keys(m.items)) {
		if k >= string(start) && (end == nil || k < string(end)) {
			items = append(items, m.items[k])
		}
	}
	return items
}

func collect(v *View, start, end []byte) []Item {
	var items []Item
	v.Scan(start, end, func(it Item) bool { items = append(items, it); return true })
	return items
}

// same takes nil for empty, and compares byte slices at once: element by
// element, cmp would take most of the test's time.
var same = cmp.Options{
	cmp.Comparer(bytes.Equal),
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().Type() != reflect.TypeFor[[]byte]() }, cmpopts.EquateEmpty()),
}

// equal checks a view against the model in all that a view shows.
func (m *model) equal(t interface{ Fatalf(string, ...any) }, v *View, what string) {
	want := State{Revision: m.revision, Index: m.index, Term: m.term, Keys: uint64(len(m.items))}
	if v.State() != want || v.Len() != len(m.items) {
		t.Fatalf("%s: state %+v with %d keys, want %+v", what, v.State(), v.Len(), want)
	}
	if diff := cmp.Diff(m.slice(nil, nil), collect(v, nil, nil), same); diff != "" {
		t.Fatalf("%s:\n%s", what, diff)
	}
}

// Few keys and values, so that commands meet each other; sizes from both sides of
// what is overwritten in place.
var (
	fewKeys   = rapid.Custom(func(t *rapid.T) []byte { return fmt.Appendf(nil, "k%d", rapid.IntRange(0, 30).Draw(t, "key")) })
	fewValues = rapid.Custom(func(t *rapid.T) []byte {
		size := rapid.SampledFrom([]int{0, 250, 250, overwriteTo, overwriteTo + 1}).Draw(t, "size")
		return bytes.Repeat([]byte{byte(rapid.IntRange(0, 2).Draw(t, "value"))}, size)
	})
	fewSteps = rapid.Custom(func(t *rapid.T) Command {
		c := Command{
			Kind: rapid.SampledFrom([]Kind{KindPut, KindPut, KindDelete, KindCompareAndSwap, KindGet}).Draw(t, "kind"),
			Key:  fewKeys.Draw(t, "key"),
		}
		switch c.Kind {
		case KindPut:
			c.Value = fewValues.Draw(t, "value")
		case KindCompareAndSwap:
			c.Value, c.Expect = fewValues.Draw(t, "value"), fewValues.Draw(t, "expect")
			c.ExpectAbsent = rapid.Bool().Draw(t, "absent")
		case KindDelete, KindGet, KindBatch, KindOpenSession, KindKeepSession, KindCloseSession:
		}
		return c
	})
	fewCommands = rapid.Custom(func(t *rapid.T) Command {
		c := fewSteps.Draw(t, "command")
		if c.Kind == KindGet {
			c = Command{Kind: KindBatch, Steps: rapid.SliceOfN(fewSteps, 0, 6).Draw(t, "steps")}
		}
		return c
	})
)

// The store against the model: every command, alone and packed; views that
// later writes must leave alone; and snapshots into other stores.
func TestStoreIsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// With few bits, keys share hashes.
		hasher := newHasher()
		hasher.mask = rapid.SampledFrom([]uint64{math.MaxUint64, 7, 0}).Draw(t, "mask of hashes")
		store := newStore(hasher)
		m := &model{items: map[string]Item{}, revision: 1}
		type taken struct {
			view *View
			then *model
		}
		var views []taken
		// What was answered must stay, whatever is written later.
		var answered, answers [][]Result
		var read, reads []Item
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				m.index++
				m.term += rapid.Uint64Range(0, 1).Draw(t, "terms")
				commands := rapid.SliceOfN(fewCommands, 0, 5).Draw(t, "commands")
				data := encode(EntryHeader{Node: 1}, commands...)
				got, err := store.Apply(m.index, m.term, data, nil)
				if err != nil {
					t.Fatal(err)
				}
				// The store copies what it keeps.
				clear(data)
				var want []Result
				for i := range commands {
					want = append(want, m.apply(m.index, &commands[i]))
				}
				if diff := cmp.Diff(want, got, same); diff != "" {
					t.Fatalf("results (-model +store):\n%s", diff)
				}
				answered, answers = append(answered, got), append(answers, want)
			},
			"empty entry": func(t *rapid.T) {
				m.index++
				m.term++
				if got, err := store.Apply(m.index, m.term, nil, nil); err != nil || len(got) > 0 {
					t.Fatalf("%v, %v", got, err)
				}
			},
			"get": func(t *rapid.T) {
				key := fewKeys.Draw(t, "key")
				got, state, found := store.Get(key)
				want, wantFound := m.items[string(key)]
				if diff := cmp.Diff(want, got, same); diff != "" || found != wantFound {
					t.Fatalf("found %v, want %v\n%s", found, wantFound, diff)
				}
				if state != store.State() {
					t.Fatalf("state %+v, want %+v", state, store.State())
				}
				read, reads = append(read, got), append(reads, want)
			},
			"scan": func(t *rapid.T) {
				start, end := fewKeys.Draw(t, "start"), fewKeys.Draw(t, "end")
				if rapid.Bool().Draw(t, "unbounded") {
					end = nil
				}
				limit := rapid.IntRange(1, 10).Draw(t, "limit")
				want := m.slice(start, end)
				var got []Item
				store.View().Scan(start, end, func(it Item) bool { got = append(got, it); return len(got) < limit })
				if diff := cmp.Diff(want[:min(limit, len(want))], got, same); diff != "" {
					t.Fatal(diff)
				}
			},
			"view": func(*rapid.T) { views = append(views, taken{store.View(), m.clone()}) },
			"restore a view": func(t *rapid.T) {
				if len(views) == 0 {
					t.Skip("none taken")
				}
				from := rapid.SampledFrom(views).Draw(t, "view")
				store.Restore(from.view)
				m = from.then.clone()
			},
			"restore a snapshot": func(t *rapid.T) {
				view := store.View()
				var buf bytes.Buffer
				if err := WriteSnapshot(&buf, view); err != nil {
					t.Fatal(err)
				}
				other, err := decode(buf.Bytes(), rapid.IntRange(1, buf.Len()).Draw(t, "piece"))
				if err != nil {
					t.Fatal(err)
				}
				if other.Hash() != view.Hash() {
					t.Fatalf("the snapshot's hash differs from the store's")
				}
				store = newStore(hasher)
				store.Restore(other)
			},
			"": func(t *rapid.T) {
				// Not always: a view keeps records from being overwritten.
				if rapid.Bool().Draw(t, "look at all") {
					m.equal(t, store.View(), "store")
				}
				for key, want := range m.items {
					if got := store.find([]byte(key)); got == nil || got != store.tree.get([]byte(key)) || got.mod != want.ModRevision {
						t.Fatalf("%s: index and tree have %+v and %+v, want %+v", key, got, store.tree.get([]byte(key)), want)
					}
				}
			},
		})
		m.equal(t, store.View(), "store")
		if diff := cmp.Diff(answers, answered, same) + cmp.Diff(reads, read, same); diff != "" {
			t.Fatalf("answers changed after they were given:\n%s", diff)
		}
		for i, v := range views {
			v.then.equal(t, v.view, fmt.Sprintf("view %d", i))
		}
	})
}

func apply(t testing.TB, s *Store, commands ...Command) []Result {
	t.Helper()
	index := s.State().Index + 1
	results, err := s.Apply(index, 1, encode(EntryHeader{Node: 1}, commands...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func put(key, value string) Command {
	return Command{Kind: KindPut, Key: []byte(key), Value: []byte(value)}
}

// The rules in a table, for a reader.
func TestCommands(t *testing.T) {
	del := Command{Kind: KindDelete, Key: []byte("a")}
	get := Command{Kind: KindGet, Key: []byte("a")}
	swap := func(expect, value string) Command {
		return Command{Kind: KindCompareAndSwap, Key: []byte("a"), Expect: []byte(expect), Value: []byte(value)}
	}
	create := Command{Kind: KindCompareAndSwap, Key: []byte("a"), ExpectAbsent: true, Value: []byte("new")}
	batch := func(steps ...Command) Command { return Command{Kind: KindBatch, Steps: steps} }
	for _, c := range []struct {
		name     string
		commands []Command
		want     string // of the last command
	}{
		{"first put", []Command{put("a", "1")}, "rev 2, ok, version 1, created 2, modified 2"},
		{"second put", []Command{put("a", "1"), put("a", "2")}, "rev 3, ok, version 2, created 2, modified 3"},
		{"delete", []Command{put("a", "1"), del}, "rev 3, ok, found"},
		{"delete of nothing", []Command{del}, "rev 1, ok"},
		{"put after delete", []Command{put("a", "1"), put("a", "2"), del, put("a", "3")}, "rev 5, ok, version 1, created 5, modified 5"},
		{"swap", []Command{put("a", "1"), swap("1", "2")}, "rev 3, ok, version 2, created 2, modified 3"},
		{"swap of another value", []Command{put("a", "1"), swap("2", "3")}, "rev 2, failed, found \"1\", version 1, created 2, modified 2"},
		{"swap of nothing", []Command{swap("", "1")}, "rev 1, failed"},
		{"swap of an empty value", []Command{put("a", ""), swap("", "1")}, "rev 3, ok, version 2, created 2, modified 3"},
		{"create", []Command{create}, "rev 2, ok, version 1, created 2, modified 2"},
		{"create what is there", []Command{put("a", "1"), create}, "rev 2, failed, found \"1\", version 1, created 2, modified 2"},
		{"empty batch", []Command{batch()}, "rev 1, ok"},
		{"batch of reads", []Command{put("a", "1"), batch(get)}, "rev 2, ok [rev 2, ok, found \"1\", version 1, created 2, modified 2]"},
		{
			"batch",
			[]Command{batch(put("a", "1"), get, put("a", "2"), del, del)},
			"rev 2, ok [rev 2, ok, version 1, created 2, modified 2; rev 2, ok, found \"1\", version 1, created 2, modified 2; " +
				"rev 2, ok, version 2, created 2, modified 2; rev 2, ok, found; rev 2, ok]",
		},
		{
			"aborted batch",
			[]Command{put("a", "1"), batch(get, del, put("b", "1"), swap("1", "2"), get)},
			"rev 2, failed [rev 2, ok, found \"1\", version 1, created 2, modified 2; rev 2, failed, found; rev 2, failed; rev 2, failed]",
		},
		{"after an aborted batch", []Command{put("a", "1"), batch(del, swap("1", "2")), swap("1", "2")}, "rev 3, ok, version 2, created 2, modified 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			results := apply(t, NewStore(), c.commands...)
			if len(results) != len(c.commands) {
				t.Fatalf("%d results for %d commands", len(results), len(c.commands))
			}
			if got := describe(&results[len(results)-1]); got != c.want {
				t.Fatalf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func describe(r *Result) string {
	s := fmt.Sprintf("rev %d, failed", r.Revision)
	if r.Succeeded {
		s = fmt.Sprintf("rev %d, ok", r.Revision)
	}
	if r.Found {
		s += ", found"
	}
	if r.Value != nil {
		s += fmt.Sprintf(" %q", r.Value)
	}
	if r.Version != 0 {
		s += fmt.Sprintf(", version %d, created %d, modified %d", r.Version, r.CreateRevision, r.ModRevision)
	}
	for i := range r.Steps {
		s += []string{" [", "; "}[min(i, 1)] + describe(&r.Steps[i])
	}
	if len(r.Steps) > 0 {
		s += "]"
	}
	return s
}

func TestApplyRefusesWhatItAppliedBefore(t *testing.T) {
	s := NewStore()
	apply(t, s, put("a", "1"))
	if _, err := s.Apply(1, 1, encode(EntryHeader{}, put("a", "2")), nil); err == nil {
		t.Fatal("entry 1 was applied twice")
	}
	if it, _, _ := s.Get([]byte("a")); string(it.Value) != "1" {
		t.Fatalf("value %q", it.Value)
	}
}

func TestMembershipTravels(t *testing.T) {
	s := NewStore()
	if s.Membership() == nil {
		t.Fatal("nil membership of a new store")
	}
	before := s.View()
	m := &kvv1.Membership{ClusterId: 9, Voters: []uint64{1, 2}, Nodes: []*kvv1.Member{{Id: 1, Incarnation: 5, Address: "a", PeerAddress: "b"}}, RemovedIds: []uint64{3}}
	s.SetMembership(4, 2, m)
	if got := s.State(); got != (State{Revision: 1, Index: 4, Term: 2}) {
		t.Fatalf("state %+v", got)
	}
	if before.Membership().GetClusterId() != 0 || s.View().Membership() != m || s.Membership() != m {
		t.Fatal("membership is not that of the index")
	}
	other := NewStore()
	other.Restore(s.View())
	if other.Membership() != m || other.State() != s.State() {
		t.Fatalf("restored %v at %+v", other.Membership(), other.State())
	}
}

// Slices that the store hands out can be appended to without harm.
func TestItemsAreCapped(t *testing.T) {
	s := NewStore()
	apply(t, s, put("key", "value"))
	it, _, _ := s.Get([]byte("key"))
	_ = append(it.Key, 'x')
	_ = append(it.Value, 'y')
	if got, _, _ := s.Get([]byte("key")); string(got.Key) != "key" || string(got.Value) != "value" || got.CreateRevision != 2 {
		t.Fatalf("%+v", got)
	}
}

// Readers, views and restores beside one writer; for the race detector.
func TestConcurrentReaders(t *testing.T) {
	s, twin := NewStore(), NewStore()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				v := s.View()
				n := 0
				v.Scan(nil, nil, func(it Item) bool { n += int(it.Version); return true })
				if n != int(v.State().Index) {
					t.Errorf("view at %d shows %d writes", v.State().Index, n)
				}
				it, state, _ := s.Get([]byte("k1"))
				if it.ModRevision > state.Revision {
					t.Errorf("item of revision %d at %d", it.ModRevision, state.Revision)
				}
				twin.Restore(v)
				if state.Index == 300 {
					return
				}
			}
		})
	}
	for i := range 300 {
		apply(t, s, put(fmt.Sprintf("k%d", i%100), "v"))
	}
	wg.Wait()
}

func TestHashTellsStatesApart(t *testing.T) {
	hash := func(commands ...Command) [32]byte {
		s := NewStore()
		apply(t, s, commands...)
		return s.View().Hash()
	}
	seen := map[[32]byte]string{}
	for name, h := range map[string][32]byte{
		"empty":         hash(),
		"put":           hash(put("a", "b")),
		"other split":   hash(put("ab", "")),
		"twice":         hash(put("a", "b"), put("a", "b")),
		"recreated":     hash(put("a", "b"), Command{Kind: KindDelete, Key: []byte("a")}, put("a", "b")),
		"only revision": hash(put("a", "b"), Command{Kind: KindDelete, Key: []byte("a")}),
	} {
		if other, ok := seen[h]; ok {
			t.Errorf("%q and %q have the same hash", name, other)
		}
		seen[h] = name
	}
}

// A value that is most of its entry is shared with it; others are copied, so that
// they keep no more alive than themselves.
func TestLargeValuesAreShared(t *testing.T) {
	large := bytes.Repeat([]byte("x"), shareFrom)
	for _, c := range []struct {
		what     string
		commands []Command
		shared   bool
	}{
		{"alone", []Command{{Kind: KindPut, Key: []byte("k"), Value: large}}, true},
		{"one of two", []Command{{Kind: KindPut, Key: []byte("k"), Value: large}, put("other", string(large))}, false},
		{"small", []Command{{Kind: KindPut, Key: []byte("k"), Value: large[1:]}}, false},
	} {
		s, data := NewStore(), encode(EntryHeader{Node: 1}, c.commands...)
		if _, err := s.Apply(1, 1, data, nil); err != nil {
			t.Fatal(err)
		}
		it, _, _ := s.Get([]byte("k"))
		before := bytes.Clone(it.Value)
		i := bytes.IndexByte(data, 'x')
		data[i] = 'y'
		if shared := !bytes.Equal(it.Value, before); shared != c.shared {
			t.Errorf("%s: shared is %v", c.what, shared)
		}
		if cap(it.Value) != len(it.Value) {
			t.Errorf("%s: an append to the value would reach %d bytes beyond it", c.what, cap(it.Value)-len(it.Value))
		}
	}
}
