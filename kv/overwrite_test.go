package kv

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// What a read, a failed swap, a batch and a view showed stays as it was when the
// key is written again, whether or not the value is overwritten in place.
func TestAnswersStay(t *testing.T) {
	for _, size := range []int{0, 1, 256, overwriteTo, overwriteTo + 1, shareFrom} {
		first, second := strings.Repeat("1", size), strings.Repeat("2", size)
		key := []byte("k")
		answers := func(s *Store) [][]byte {
			it, _, _ := s.Get(key)
			r := apply(t, s,
				Command{Kind: KindCompareAndSwap, Key: key, Expect: []byte("other")},
				Command{Kind: KindBatch, Steps: []Command{{Kind: KindGet, Key: key}}})
			return [][]byte{it.Value, r[0].Value, r[1].Steps[0].Value}
		}
		s := NewStore()
		apply(t, s, put("k", first))
		got := answers(s)
		apply(t, s, put("k", second))
		for i, v := range got {
			if string(v) != first {
				t.Errorf("size %d, answer %d: changed by a later put", size, i)
			}
		}
		for i, v := range answers(s) {
			if string(v) != second {
				t.Errorf("size %d, answer %d: not what was put last", size, i)
			}
		}
		v := s.View()
		apply(t, s, put("k", first), put("k", first))
		if it := collect(v, nil, nil)[0]; string(it.Value) != second || it.Version != 2 {
			t.Errorf("size %d: the view changed", size)
		}
	}
}

// A put over a value of its size allocates nothing.
func TestOverwritingAllocatesNothing(t *testing.T) {
	s := NewStore()
	data := encode(EntryHeader{Node: 1}, put("k", strings.Repeat("v", 256)))
	results := make([]Result, 0, 1)
	index := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		index++
		if _, err := s.Apply(index, 1, data, results); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Two keys with one hash are both found, whatever third one comes.
func TestEmptyKeyInACrowd(t *testing.T) {
	h := newHasher()
	h.mask = 0
	s := newStore(h)
	apply(t, s, put("a", "1"), put("b", "2"), put("", "3"))
	for _, key := range []string{"a", "b", ""} {
		if _, _, found := s.Get([]byte(key)); !found {
			t.Errorf("%q is lost", key)
		}
	}
}

// A store writes into no view: neither one that it restored nor one of another.
func TestRestoredSnapshotStays(t *testing.T) {
	src := NewStore()
	apply(t, src, put("a", "1"), put("b", "2"))
	v, err := decode(snapshotOf(t, src.View()), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	want := v.Hash()
	for i := range 2 {
		s := NewStore()
		s.Restore(v)
		apply(t, s, put("a", "9"), put("b", "8"), put("a", "7"))
		if v.Hash() != want {
			t.Fatalf("store %d wrote into the decoded view", i)
		}
	}
}

// Epochs are of one store only.
func TestViewsInOtherStoresStay(t *testing.T) {
	a, b := NewStore(), NewStore()
	apply(t, a, put("a", "1"))
	v := a.View()
	want := v.Hash()
	b.Restore(v)
	apply(t, b, put("a", "2"))
	apply(t, a, put("a", "3"))
	w := b.View()
	wantW := w.Hash()
	a.Restore(w)
	apply(t, a, put("a", "4"), put("a", "5"))
	apply(t, b, put("a", "6"), put("a", "7"))
	if v.Hash() != want || w.Hash() != wantW {
		t.Fatal("a view changed")
	}
}

// A key goes through all sizes, and so from the head to the entry and back, in
// place and not.
func TestValuesOfAllSizesInPlace(t *testing.T) {
	for _, via := range []string{"put", "view", "batch"} {
		s := NewStore()
		for i, size := range []int{3, shareFrom, 5, shareFrom, shareFrom, overwriteTo, overwriteTo, overwriteTo + 1, 0, 1, 0} {
			val := strings.Repeat(string(rune('a'+i)), size)
			c := put("k", val)
			switch via {
			case "view":
				s.View()
			case "batch":
				c = Command{Kind: KindBatch, Steps: []Command{c}}
			}
			apply(t, s, c)
			it, _, _ := s.Get([]byte("k"))
			if string(it.Value) != val || string(it.Key) != "k" || it.Version != uint64(i+1) {
				t.Fatalf("%s, %d: %d bytes, version %d", via, i, len(it.Value), it.Version)
			}
		}
	}
}

// What is shared with an entry does not depend on what was there before.
func TestSharedWhenWrittenOver(t *testing.T) {
	s := NewStore()
	apply(t, s, put("k", "small"))
	data := encode(EntryHeader{Node: 1}, put("k", strings.Repeat("x", shareFrom)))
	if _, err := s.Apply(2, 1, data, nil); err != nil {
		t.Fatal(err)
	}
	it, _, _ := s.Get([]byte("k"))
	data[bytes.IndexByte(data, 'x')] = 'y'
	if it.Value[0] != 'y' {
		t.Error("not shared")
	}
	// A large one in an entry of several is not.
	data = encode(EntryHeader{Node: 1}, put("k", strings.Repeat("x", shareFrom)), put("l", strings.Repeat("z", shareFrom+1000)))
	if _, err := s.Apply(3, 1, data, nil); err != nil {
		t.Fatal(err)
	}
	it, _, _ = s.Get([]byte("k"))
	data[bytes.IndexByte(data, 'x')] = 'y'
	if it.Value[0] != 'x' {
		t.Error("shared")
	}
}

// What a batch might have undone, and the entry, can be collected.
func TestStoreLetsGo(t *testing.T) {
	s := NewStore()
	for _, last := range []string{"1", "2"} {
		apply(t, s, Command{Kind: KindBatch, Steps: []Command{
			put("a", "1"), put("b", "1"), {Kind: KindCompareAndSwap, Key: []byte("a"), Expect: []byte(last), Value: []byte("x")},
		}})
		for _, c := range s.undo[:cap(s.undo)] {
			if c.happened() {
				t.Fatal("undo holds on to a record")
			}
		}
	}
	apply(t, s, put("a", "1"), put("b", "1"))
	if c := s.decoder.command; c.Key != nil || s.decoder.rest != nil {
		t.Fatal("decoder holds on to an entry")
	}
}

// Deleted keys leave the index, and so do those of a batch that was undone.
func TestIndexHoldsTheTreeOnly(t *testing.T) {
	s := NewStore()
	apply(t, s, put("a", "1"), put("b", "1"), Command{Kind: KindDelete, Key: []byte("a")},
		Command{Kind: KindBatch, Steps: []Command{put("c", "1"), {Kind: KindCompareAndSwap, Key: []byte("b"), Expect: []byte("2")}}})
	if n := len(s.index.records); n != s.tree.size() {
		t.Errorf("%d in the index, %d keys", n, s.tree.size())
	}
}

// Readers of a key that is overwritten in place see whole values. No view is taken,
// which would keep puts from it.
func TestReadersOfWhatIsOverwritten(t *testing.T) {
	s := NewStore()
	apply(t, s, put("k", strings.Repeat("0", overwriteTo)))
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				it, state, _ := s.Get([]byte("k"))
				if c := bytes.Count(it.Value, it.Value[:1]); c != len(it.Value) || it.ModRevision != state.Revision {
					t.Errorf("torn: %d of %d, mod %d at %d", c, len(it.Value), it.ModRevision, state.Revision)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 20000 {
		apply(t, s, put("k", strings.Repeat(string(rune('0'+i%10)), overwriteTo)))
	}
	close(done)
	wg.Wait()
}
