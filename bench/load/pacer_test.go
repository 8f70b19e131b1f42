package load

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func paced(arrivals string, rate float64, opsPerMessage int, seed uint64) pacer {
	return newPacer(&Config{Arrivals: arrivals, Rate: rate, OpsPerMessage: opsPerMessage, Seed: seed})
}

// takeAll is when the first n messages of a schedule are due.
func takeAll(p pacer, n int) []time.Duration {
	due := make([]time.Duration, n)
	for i := range due {
		due[i] = p.take()
	}
	return due
}

func TestConstantIsNeverRebased(t *testing.T) {
	p := paced(Constant, 1000, 4, 1).(*constant) // 250 messages a second
	for j, got := range takeAll(p, 1000) {
		if want := time.Duration(j) * 4 * time.Millisecond; got != want {
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
		p := paced(rapid.SampledFrom(Arrivals()).Draw(t, "arrivals"), rapid.Float64Range(0.5, 1e5).Draw(t, "rate"),
			rapid.IntRange(1, 64).Draw(t, "ops"), rapid.Uint64().Draw(t, "seed"))
		from := time.Duration(rapid.Int64Range(0, int64(20*time.Millisecond)).Draw(t, "from"))
		to := from + time.Duration(rapid.Int64Range(0, int64(20*time.Millisecond)).Draw(t, "length"))
		var want uint64
		for at := p.take(); at < to; at = p.take() {
			if at >= from {
				want++
			}
		}
		if got := p.due(from, to); got != want {
			t.Fatalf("due(%v, %v) = %d, want %d", from, to, got, want)
		}
	})
}

// Far out, where the naive count of the test above takes too long, rounding counts.
func TestConstantCountsFarOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := paced(Constant, rapid.Float64Range(0.5, 5e6).Draw(t, "rate"), rapid.IntRange(1, 64).Draw(t, "ops"), 1).(*constant)
		at := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "at"))
		if j := p.before(at); p.offset(j) < at || j > 0 && p.offset(j-1) >= at {
			t.Fatalf("before(%v) = %d", at, j)
		}
	})
}

// TestPoissonShape: the rate holds, the gaps are exponential by Kolmogorov and
// Smirnov's test, one says nothing of the next, and so the counts of equal times
// have the variance of their mean. The seeds are fixed: what passes once passes always.
func TestPoissonShape(t *testing.T) {
	const n, rate, ops = 100_000, 8000.0, 4
	const mean = ops / rate * float64(time.Second)
	for seed := range uint64(4) {
		due := takeAll(paced(Poisson, rate, ops, seed), n)
		gaps := make([]float64, n)
		for i := range due {
			gaps[i] = float64(due[i])
			if i > 0 {
				gaps[i] -= float64(due[i-1])
			}
		}
		// The deviations allowed are those of one seed in a thousand or fewer.
		if rate := n / due[n-1].Seconds(); math.Abs(rate/2000-1) > 3.5/math.Sqrt(n) {
			t.Errorf("seed %d: %v messages a second, want 2000", seed, rate)
		}
		var serial float64
		for i := 1; i < n; i++ {
			serial += (gaps[i]/mean - 1) * (gaps[i-1]/mean - 1) / n
		}
		if math.Abs(serial) > 3.5/math.Sqrt(n) {
			t.Errorf("seed %d: a gap is correlated with the one before by %v", seed, serial)
		}
		slices.Sort(gaps)
		var distance float64
		for i, gap := range gaps {
			p := -math.Expm1(-gap / mean)
			distance = max(distance, p-float64(i)/n, float64(i+1)/n-p)
		}
		if distance > 1.95/math.Sqrt(n) {
			t.Errorf("seed %d: the gaps' distribution is %v away from the exponential one", seed, distance)
		}
		for _, cell := range []time.Duration{time.Millisecond, 100 * time.Millisecond} {
			cells := int(due[n-1] / cell)
			counts := make([]float64, cells)
			for _, at := range due {
				if i := int(at / cell); i < cells {
					counts[i]++
				}
			}
			want, dispersion := float64(cell)/mean, 0.0
			for _, c := range counts {
				dispersion += (c - want) * (c - want) / want / float64(cells)
			}
			if math.Abs(dispersion-1) > 3.5*math.Sqrt((2+1/want)/float64(cells)) {
				t.Errorf("seed %d: the messages of %v have %v times the variance of their mean", seed, cell, dispersion)
			}
		}
	}
}

// TestPoissonDependsOnSeedOnly: whoever takes, and how many at a time. Another rate
// has the same bursts.
func TestPoissonDependsOnSeedOnly(t *testing.T) {
	const clients, each = 8, 1000
	alone := takeAll(paced(Poisson, 1000, 1, 7), clients*each)
	p := paced(Poisson, 1000, 1, 7)
	taken := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	for i := range taken {
		wg.Go(func() { taken[i] = takeAll(p, each) })
	}
	wg.Wait()
	for i, mine := range taken {
		if !slices.IsSorted(mine) {
			t.Errorf("client %d went back in time", i)
		}
	}
	together := slices.Concat(taken...)
	slices.Sort(together)
	if !slices.Equal(alone, together) {
		t.Error("taken by many, the schedule is another")
	}
	if slices.Equal(alone, takeAll(paced(Poisson, 1000, 1, 8), len(alone))) {
		t.Error("two seeds have one schedule")
	}
	for i, at := range takeAll(paced(Poisson, 500, 1, 7), len(alone)) {
		if (at - 2*alone[i]).Abs() > 2 {
			t.Fatalf("at half the rate message %d is due at %v, not at twice %v", i, at, alone[i])
		}
	}
}

func TestTakingAllocatesNothing(t *testing.T) {
	for _, arrivals := range Arrivals() {
		p := paced(arrivals, 1000, 1, 1)
		if n := testing.AllocsPerRun(1000, func() { p.take() }); n != 0 {
			t.Errorf("%s: %v allocations a message", arrivals, n)
		}
	}
}

// TestPoissonTellsTheStall: one client, 1 ms an operation, and a target that stands
// still for a second. The clock of response times is the schedule: by Lindley's
// recursion each operation is sent when it is due and the one before was answered, and
// that is what is recorded of it, in warm-up, window and drain, to the nanosecond.
func TestPoissonTellsTheStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall := [2]time.Duration{11500 * time.Millisecond, 12500 * time.Millisecond}
		serve := func(since time.Duration) time.Duration {
			if since >= stall[0] && since < stall[1] {
				return time.Millisecond + stall[1] - since
			}
			return time.Millisecond
		}
		f := newFake(nil)
		f.serve = func(ctx context.Context, since time.Duration, _ []Op, _ []Result) error {
			return sleep(ctx, serve(since))
		}
		c := config()
		c.Arrivals, c.Clients, c.Rate, c.Warmup, c.Duration, c.Completions = Poisson, 1, 300, 2*time.Second, 10*time.Second, 1<<20
		var want []Completion
		var warm uint64
		var longest, busy time.Duration // busy is when the client is free
		for p := paced(Poisson, c.Rate, 1, c.Seed); ; {
			due := p.take()
			if due >= c.Warmup+c.Duration {
				break
			}
			start := max(due, busy)
			busy = start + serve(start)
			if due < c.Warmup {
				warm++
				continue
			}
			longest = max(longest, start-due)
			want = append(want, Completion{Due: due - c.Warmup, End: busy - c.Warmup, Operations: 1})
		}
		drained := want[len(want)-1].End - c.Duration
		if len(want) < 2500 || longest < time.Second/2 || drained < 400*time.Millisecond {
			t.Fatalf("the schedule tests nothing: %d operations, at most %v late, drained for %v", len(want), longest, drained)
		}

		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		if !slices.Equal(r.Completions, want) {
			t.Errorf("%d completions, want %d, or at other times", len(r.Completions), len(want))
		}
		if r.Warmup != warm || r.Unfinished != 0 || r.Drained != drained || !r.Complete {
			t.Errorf("%d operations before the window, want %d; %d unfinished; drained for %v, want %v", r.Warmup, warm, r.Unfinished, r.Drained, drained)
		}
		if got := r.Delay().Max(); !near(got, longest) {
			t.Errorf("the longest delay is %v, want %v", time.Duration(got), longest)
		}
		if got := r.Service(Put).ValueAtPercentile(99.9); !near(got, time.Millisecond) {
			t.Errorf("service p99.9 is %v: only one operation was slow by itself", time.Duration(got))
		}
		if got := r.Lag().Max(); got != 0 {
			t.Errorf("lag %v: the target's fault was booked on the generator", time.Duration(got))
		}
	})
}

// TestPoissonUnfinished: what was due in the window and had no answer when the drain
// ended, or when the run was stopped, is known though nobody sent it.
func TestPoissonUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Arrivals, c.Rate, c.Warmup, c.Drain = Poisson, 1000, time.Second/2, 3*time.Second
		due := paced(Poisson, c.Rate, 1, c.Seed).due
		r, err := run(t.Context(), c, newFake(takes(time.Hour)), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if want := due(c.Warmup, c.Warmup+c.Duration); r.Unfinished != want || want < 800 {
			t.Errorf("%d unfinished, want %d", r.Unfinished, want)
		}

		ctx, cancel := context.WithTimeout(t.Context(), c.Warmup+c.Duration/2)
		defer cancel()
		if r, _ = run(ctx, c, newFake(takes(time.Hour)), nil, false); r == nil || r.Complete {
			t.Fatalf("%+v", r)
		}
		if want := due(c.Warmup, c.Warmup+c.Duration/2); r.Unfinished != want {
			t.Errorf("stopped: %d unfinished, want %d", r.Unfinished, want)
		}
	})
}

// BenchmarkTake is what a message's place in the schedule costs.
func BenchmarkTake(b *testing.B) {
	for _, arrivals := range Arrivals() {
		b.Run(fmt.Sprintf("arrivals=%s", arrivals), func(b *testing.B) {
			p := paced(arrivals, 1000, 1, 1)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p.take()
				}
			})
		})
	}
}
