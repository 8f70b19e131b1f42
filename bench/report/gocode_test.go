package report

import "testing"

// A title claims no more than the answer does.
func TestGoTitle(t *testing.T) {
	for _, tc := range []struct {
		best       int
		confidence float64
		want       string
	}{
		{1, 0.95, "v02 nagle"},
		{3, 0.95, "v02 nagle, one of 3 that cannot be told from the best"},
		{3, 0, "v02 nagle, whose median is the best so far; nothing can be concluded yet"},
	} {
		if got := (goSettings{ID: "v02", Name: "nagle", Best: tc.best, Confidence: tc.confidence}).Title(); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
