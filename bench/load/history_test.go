package load

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Histories have each operation on a sampled key, with when it was under way and
// what its client was told; and of others none.
func TestHistories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		var mu sync.Mutex
		var sent [20]int // by key
		f := newFake(func(ctx context.Context, since time.Duration, ops []Op, results []Result) error {
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range ops {
				sent[index(ops[i].Key)]++
				results[i].Found, results[i].Value = ops[i].Kind == Get, []byte("v")
				if since > time.Second && since < 1100*time.Millisecond {
					results[i].Err = broken
				}
			}
			return nil
		})
		c := config()
		c.Clients, c.OpsPerMessage, c.Keys, c.ReadRatio, c.Sample = 2, 3, 20, 0.5, 4
		c.Warmup, c.Duration = 500*time.Millisecond, 2*time.Second
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Histories) != 4 {
			t.Fatalf("%d histories", len(r.Histories))
		}
		unanswered := 0
		for i, h := range r.Histories {
			if h.Key != 5*i || len(h.Accesses) != sent[h.Key] || h.Cut != Never {
				t.Errorf("key %d has %d of %d operations, cut %v", h.Key, len(h.Accesses), sent[h.Key], h.Cut)
			}
			last := map[int]time.Duration{0: -time.Second, 1: -time.Second}
			for _, a := range h.Accesses {
				if a.Call < last[a.Client] || a.Call < -c.Warmup || a.Value == 0 {
					t.Errorf("key %d: %+v comes at the wrong time", h.Key, a)
				}
				last[a.Client] = a.Call
				switch {
				case a.Return == Never:
					unanswered++
				case a.Return != a.Call+time.Millisecond || a.Revision == 0 || a.Found != (a.Kind == Get):
					t.Errorf("key %d: %+v", h.Key, a)
				case a.Kind == Get && a.Value != HashValue([]byte("v")):
					t.Errorf("key %d: read %x", h.Key, a.Value)
				}
			}
		}
		if unanswered == 0 {
			t.Error("what failed is not told")
		}
	})
}

// index reads a key's number.
func index(key []byte) int {
	n := 0
	for _, c := range key {
		if c >= '0' && c <= '9' {
			n = 10*n + int(c-'0')
		}
	}
	return n
}

// A history that is full tells since when it is not whole.
func TestHistoryIsCut(t *testing.T) {
	s := newSampler(1, 1)
	places := make([]*Access, 1)
	for i := range MostAccesses + 3 {
		// The first that finds no room was not called first.
		call := time.Duration(i)
		if i == MostAccesses {
			call += 2
		}
		s.begin(places, []int{0}, call)
		if (places[0] == nil) != (i >= MostAccesses) {
			t.Fatalf("operation %d has a place: %v", i, places[0] != nil)
		}
		s.end(places, 0, []Op{{Kind: Put}}, []Result{{ModRevision: 1}}, nil, call+1)
	}
	h := s.histories()
	if len(h) != 1 || len(h[0].Accesses) != MostAccesses || h[0].Cut != MostAccesses+1 {
		t.Errorf("%d histories, %d operations, cut %d", len(h), len(h[0].Accesses), h[0].Cut)
	}
	if s := newSampler(64, 10); len(s.keys) != 10 || s.stride != 1 {
		t.Errorf("of 10 keys %d are sampled", len(s.keys))
	}
}
