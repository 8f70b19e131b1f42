package load

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPacerIsNeverRebased(t *testing.T) {
	p := newPacer(1000, 4) // 250 messages a second
	for j := range 1000 {
		if got, want := p.take(), time.Duration(j)*4*time.Millisecond; got != want {
			t.Fatalf("message %d is due at %v, want %v", j, got, want)
		}
	}
	// No drift far out either.
	if got, want := p.offset(250*86400), 24*time.Hour; got != want {
		t.Errorf("a day's messages take %v", got)
	}
}

func TestPacerCountsWhatIsDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPacer(rapid.Float64Range(0.5, 5e6).Draw(t, "rate"), rapid.IntRange(1, 64).Draw(t, "ops"))
		from := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "from"))
		to := from + time.Duration(rapid.Int64Range(0, int64(time.Millisecond)).Draw(t, "length"))
		var want uint64
		for j := p.before(from); p.offset(j) < to; j++ {
			want++
		}
		if j := p.before(from); p.offset(j) < from || j > 0 && p.offset(j-1) >= from {
			t.Fatalf("before(%v) = %d", from, j)
		}
		if got := p.due(from, to); got != want {
			t.Fatalf("due(%v, %v) = %d, want %d", from, to, got, want)
		}
	})
}
