package load

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Completions are what the operations of the window come to, in the order of
// their answers; the backlog of a stall is due in it and answered after it.
func TestCompletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall := [2]time.Duration{3 * time.Second, 4 * time.Second}
		serve := func(since time.Duration) time.Duration {
			if since >= stall[0] && since < stall[1] {
				return stall[1] - since
			}
			return time.Millisecond
		}
		f := newFake(nil)
		f.serve = func(ctx context.Context, since time.Duration, _ []Op, _ []Result) error {
			return sleep(ctx, serve(since))
		}
		c := config()
		c.Clients, c.Rate, c.Warmup, c.Duration, c.Completions = 4, 100, 2*time.Second, 3*time.Second, 1<<20
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		var operations uint64
		var gap, last time.Duration
		for _, done := range r.Completions {
			operations += uint64(done.Operations)
			gap, last = max(gap, done.End-last), done.End
			if done.Due < 0 || done.Due >= c.Duration || done.End < done.Due {
				t.Errorf("due at %v, answered at %v", done.Due, done.End)
			}
		}
		sorted := slices.IsSortedFunc(r.Completions, func(a, b Completion) int { return int(a.End - b.End) })
		if operations != r.Operations || operations != 300 || !sorted {
			t.Errorf("%d operations in completions, %d in all; sorted %v", operations, r.Operations, sorted)
		}
		// The window begins 2 s after the fake does, so the stall is 1 s into it.
		if want := time.Second; gap < want || gap > want+10*time.Millisecond {
			t.Errorf("the longest gap is %v, want %v", gap, want)
		}
		// Too few to keep is none: half of them would show gaps that were not.
		c.Completions = 100
		if r, err = run(t.Context(), c, newFake(takes(time.Millisecond)), nil, false); err != nil || len(r.Completions) > 0 {
			t.Errorf("%d of %d completions kept, %v", len(r.Completions), r.Operations, err)
		}
	})
}
