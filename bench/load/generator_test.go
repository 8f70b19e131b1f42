package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fake is a target whose messages take the time that serve says, and that
// counts what it acknowledged.
type fake struct {
	serve func(ctx context.Context, since time.Duration, ops []Op, results []Result) error
	base  time.Time

	mu       sync.Mutex
	revision uint64
	acked    map[string]uint64 // key -> highest revision
	done     []answer
	opened   int
}

// answer is one message that the fake acknowledged.
type answer struct {
	start, end time.Duration
	ops        int
}

func newFake(serve func(context.Context, time.Duration, []Op, []Result) error) *fake {
	return &fake{serve: serve, base: time.Now(), acked: map[string]uint64{}}
}

func (f *fake) Open(context.Context, int) (Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	return (*fakeSession)(f), nil
}

type fakeSession fake

func (s *fakeSession) Do(ctx context.Context, ops []Op, results []Result) error {
	start := time.Since(s.base)
	if err := s.serve(ctx, start, ops, results); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := answer{start: start, end: time.Since(s.base)}
	for i := range results {
		if results[i].Err != nil {
			continue
		}
		s.revision++
		results[i].ModRevision = s.revision
		s.acked[string(ops[i].Key)] = s.revision
		a.ops++
	}
	s.done = append(s.done, a)
	return nil
}

func (s *fakeSession) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened--
	return nil
}

// takes serves every message in d.
func takes(d time.Duration) func(context.Context, time.Duration, []Op, []Result) error {
	return func(ctx context.Context, _ time.Duration, _ []Op, _ []Result) error { return sleep(ctx, d) }
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// near tells whether a histogram's value is the wanted one to three digits.
func near(got int64, want time.Duration) bool {
	d := time.Duration(got) - want
	return d.Abs() <= want/1000+1
}

// check asserts what holds of every recording: whatever counts the operations
// says the same, and the highest revisions are the target's.
func check(t *testing.T, r *Recording, f *fake) {
	t.Helper()
	var hlog bytes.Buffer
	if err := r.WriteHlog(&hlog); err != nil {
		t.Fatal(err)
	}
	tags, err := ReadHlog(&hlog)
	if err != nil {
		t.Fatal(err)
	}
	var logged, series, errs, byCode uint64
	for _, k := range Kinds() {
		if h := tags[k.String()]; h != nil {
			logged += uint64(h.TotalCount())
			if !h.Equals(r.Response(k).Histogram) {
				t.Errorf("%v: the hlog holds another histogram", k)
			}
		}
	}
	for i, iv := range r.Intervals {
		series += iv.Operations
		errs += iv.Errors
		if i > 0 && iv.Offset != r.Intervals[i-1].Offset+r.Intervals[i-1].Length {
			t.Errorf("interval %d does not follow the one before: %+v", i, iv)
		}
	}
	for _, n := range r.ErrorsByCode {
		byCode += n
	}
	if logged != r.Operations || series != r.Operations || uint64(r.ResponseAll().TotalCount()) != r.Operations ||
		uint64(r.ServiceAll().TotalCount()) != r.Operations {
		t.Errorf("%d operations, %d in the hlog, %d in the intervals, %d and %d in the histograms", r.Operations, logged, series,
			r.ResponseAll().TotalCount(), r.ServiceAll().TotalCount())
	}
	if errs != r.Errors || byCode != r.Errors {
		t.Errorf("%d errors, %d in the intervals, %d by code", r.Errors, errs, byCode)
	}
	acked := map[string]uint64{}
	for i, revision := range r.Acked {
		if revision > 0 {
			acked[string(r.Config.AppendKey(nil, i))] = revision
		}
	}
	if !maps.Equal(acked, f.acked) {
		t.Errorf("%d keys acknowledged, the target says %d, or with other revisions", len(acked), len(f.acked))
	}
	if f.opened != 0 {
		t.Errorf("%d sessions are still open", f.opened)
	}
}

// counted is how many operations the fake acknowledged in [from, to), by start
// or by end.
func (f *fake) counted(from, to time.Duration, byEnd bool) uint64 {
	var n uint64
	for _, a := range f.done {
		at := a.start
		if byEnd {
			at = a.end
		}
		if at >= from && at < to {
			n += uint64(a.ops)
		}
	}
	return n
}

// TestOpenLoopTellsTheStall: one client, 100 operations a second, 1 ms each, and
// a target that stands still for a second. What that means is arithmetic: the
// operation due 10k ms into the stall is answered 1 ms after the one before, so
// it took 1001-9k ms, and about 111 of 1,000 are late. By service time a
// single operation was slow.
func TestOpenLoopTellsTheStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(ctx context.Context, since time.Duration, _ []Op, _ []Result) error {
			d := time.Millisecond
			if stall := 7 * time.Second; since >= stall && since < stall+time.Second {
				d += stall + time.Second - since
			}
			return sleep(ctx, d)
		})
		c := config()
		c.Clients, c.Rate, c.Warmup, c.Duration = 1, 100, 2*time.Second, 10*time.Second
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		if r.Operations != 1000 || r.Errors != 0 || r.Unfinished != 0 || !r.Complete || r.Warmup != 200 {
			t.Errorf("%d operations, %d errors, %d unfinished, complete %v, %d before", r.Operations, r.Errors, r.Unfinished, r.Complete, r.Warmup)
		}
		ms := time.Millisecond
		for _, want := range []struct {
			percentile float64
			value      time.Duration
		}{{50, ms}, {88, ms}, {90, (1001 - 9*100) * ms}, {95, (1001 - 9*50) * ms}, {99, (1001 - 9*10) * ms}, {100, 1001 * ms}} {
			if got := r.Response(Put).ValueAtPercentile(want.percentile); !near(got, want.value) {
				t.Errorf("response p%v is %v, want %v", want.percentile, time.Duration(got), want.value)
			}
		}
		if got := r.Service(Put).ValueAtPercentile(99.9); !near(got, ms) {
			t.Errorf("service p99.9 is %v: only one operation was slow by itself", time.Duration(got))
		}
		if got := r.Delay().Max(); !near(got, (1001-10)*ms) {
			t.Errorf("the longest delay is %v, want 991ms", time.Duration(got))
		}
		if got := r.Lag().Max(); got != 0 {
			t.Errorf("lag %v: the target's fault was booked on the generator", time.Duration(got))
		}
	})
}

// TestClosedLoopHidesTheStall is the other half: why the open loop exists.
func TestClosedLoopHidesTheStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(ctx context.Context, since time.Duration, _ []Op, _ []Result) error {
			d := 10 * time.Millisecond
			if since == 5*time.Second {
				d = time.Second
			}
			return sleep(ctx, d)
		})
		c := config()
		c.Clients, c.Duration = 1, 10*time.Second
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		// 500 before the stall, one in it, 399 after it: what ends at 10 s sharp is
		// outside of the window.
		if r.Operations != 900 || r.Unfinished != 0 {
			t.Errorf("%d operations, %d unfinished", r.Operations, r.Unfinished)
		}
		if p99 := r.Response(Put).ValueAtPercentile(99.8); !near(p99, 10*time.Millisecond) {
			t.Errorf("p99.8 %v", time.Duration(p99))
		}
		if r.Delay().TotalCount() != 0 || r.Drained != 0 {
			t.Errorf("%d delays, drained for %v", r.Delay().TotalCount(), r.Drained)
		}
	})
}

// TestWindowCountsWhatDocSays compares with the target's own books.
func TestWindowCountsWhatDocSays(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
	}{
		{"closed", func(*Config) {}},
		{"closed messages", func(c *Config) { c.OpsPerMessage = 7 }},
		{"think", func(c *Config) { c.ThinkTime = 5 * time.Millisecond }},
		{"open", func(c *Config) { c.Rate = 500 }},
		{"open messages", func(c *Config) { c.Rate, c.OpsPerMessage = 3000, 7 }},
		{"no warm-up", func(c *Config) { c.Warmup = 0 }},
		{"odd intervals", func(c *Config) { c.Interval = 300 * time.Millisecond }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(takes(3 * time.Millisecond))
				c := config()
				c.ReadRatio, c.Warmup, c.Duration = 0.5, 1500*time.Millisecond, 2500*time.Millisecond
				tt.change(&c)
				var told []Interval
				r, err := run(t.Context(), c, f, func(iv Interval) { told = append(told, iv) }, false)
				if err != nil {
					t.Fatal(err)
				}
				check(t, r, f)
				// The fake target starts a message when it is due, never later, since
				// it is not overloaded here.
				if want := f.counted(c.Warmup, c.Warmup+c.Duration, !c.open()); r.Operations != want || want == 0 {
					t.Errorf("%d operations, the target counted %d", r.Operations, want)
				}
				if c.open() && r.Operations != uint64(c.Rate*c.Duration.Seconds()/float64(c.OpsPerMessage)+0.999)*uint64(c.OpsPerMessage) {
					t.Errorf("%d operations at %v a second", r.Operations, c.Rate)
				}
				if r.Window() != c.Duration {
					t.Errorf("window of %v", r.Window())
				}
				gets := uint64(r.Response(Get).TotalCount())
				if r.Missing != gets || r.ValueBytes != (r.Operations-gets)*uint64(c.ValueSize.Most()) {
					t.Errorf("%d of %d gets found nothing, %d bytes", r.Missing, gets, r.ValueBytes)
				}
				measured := slices.DeleteFunc(slices.Clone(told), func(iv Interval) bool { return iv.Warmup })
				if !slices.Equal(measured, r.Intervals) || measured[0].Offset != 0 {
					t.Errorf("told %+v, recorded %+v", measured, r.Intervals)
				}
				if c.Warmup > 0 && (told[0].Offset != -c.Warmup || told[0].Operations == 0) {
					t.Errorf("first interval told: %+v", told[0])
				}
			})
		})
	}
}

// TestOverloadIsDrained: an open loop at twice what the target can do counts the
// backlog too, and its rate is what the target did.
func TestOverloadIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(takes(2 * time.Millisecond))
		c := config()
		c.Clients, c.Rate, c.Duration = 1, 1000, 2*time.Second
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		if r.Operations != 2000 || r.Unfinished != 0 || r.Drained != 2*time.Second {
			t.Errorf("%d operations, %d unfinished, drained for %v", r.Operations, r.Unfinished, r.Drained)
		}
		if rate := r.OpsPerSecond(); rate != 500 {
			t.Errorf("%v operations a second", rate)
		}
		if last := r.Response(Put).Max(); !near(last, 4*time.Second-1999*time.Millisecond) {
			t.Errorf("the last took %v", time.Duration(last))
		}
		if last := r.Intervals[len(r.Intervals)-1]; !last.Drain || last.Operations == 0 {
			t.Errorf("last interval %+v", last)
		}
	})
}

func TestDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(takes(time.Hour))
		c := config()
		c.Drain = 3 * time.Second
		began := time.Now()
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		if took := time.Since(began); took != c.Duration+c.Drain {
			t.Errorf("took %v", took)
		}
		if r.Operations != 0 || r.Errors != 0 || r.Unfinished != uint64(c.Clients) || !r.Complete {
			t.Errorf("%d operations, %d errors, %d unfinished", r.Operations, r.Errors, r.Unfinished)
		}

		c.Rate = 10
		f = newFake(takes(time.Hour))
		if r, err = run(t.Context(), c, f, nil, false); err != nil {
			t.Fatal(err)
		}
		if r.Operations != 0 || r.Unfinished != 10 {
			t.Errorf("open: %d operations, %d unfinished", r.Operations, r.Unfinished)
		}
	})
}

func TestStopsWhenTold(t *testing.T) {
	for _, at := range []time.Duration{500 * time.Millisecond, 2505 * time.Millisecond} {
		for _, rate := range []float64{0, 50} {
			t.Run(fmt.Sprintf("at=%v/rate=%v", at, rate), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), at)
					defer cancel()
					f := newFake(takes(10 * time.Millisecond))
					c := config()
					c.Warmup, c.Duration, c.Rate = time.Second, 10*time.Second, rate
					began := time.Now()
					r, err := run(ctx, c, f, nil, false)
					if !errors.Is(err, context.DeadlineExceeded) || r == nil {
						t.Fatalf("%v, %v", r, err)
					}
					check(t, r, f)
					if took := time.Since(began); took != at {
						t.Errorf("took %v", took)
					}
					if r.Complete || r.Window() != max(0, at-c.Warmup) || r.Errors != 0 {
						t.Errorf("complete %v, window %v, %d errors", r.Complete, r.Window(), r.Errors)
					}
					if want := f.counted(c.Warmup, at, rate == 0); r.Operations != want {
						t.Errorf("%d operations, want %d", r.Operations, want)
					}
				})
			})
		}
	}
}

func TestErrorsAreCountedByCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(ctx context.Context, since time.Duration, _ []Op, results []Result) error {
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
			switch since.Milliseconds() / 100 % 4 {
			case 0:
				return status.Error(codes.Unavailable, "no")
			case 1:
				results[1].Err = fmt.Errorf("wrapped: %w", status.Error(codes.ResourceExhausted, "full"))
			case 2:
				results[0].Err = errors.New("what is this?")
				results[1].Err = context.DeadlineExceeded
			}
			return nil
		})
		c := config()
		c.OpsPerMessage, c.Rate = 2, 1000
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		// 50 messages in each tenth of a second: three tenths of kinds 0 and 1, two of 2 and 3.
		want := map[string]uint64{"Unavailable": 300, "ResourceExhausted": 150, "Unknown": 100, "DeadlineExceeded": 100}
		if !maps.Equal(r.ErrorsByCode, want) || r.Operations != 150+200 {
			t.Errorf("%v, %d operations", r.ErrorsByCode, r.Operations)
		}
	})
}

// TestDeadTargetIsNotHammered: a closed loop backs off from a target that fails
// at once.
func TestDeadTargetIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(func(context.Context, time.Duration, []Op, []Result) error {
			return status.Error(codes.Unavailable, "dead")
		})
		c := config()
		c.Clients, c.Duration = 1, 10*time.Second
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		check(t, r, f)
		if r.Errors < 90 || r.Errors > 120 {
			t.Errorf("%d messages in ten seconds", r.Errors)
		}
	})
}

func TestOpenFails(t *testing.T) {
	target := &reluctant{fake: newFake(takes(0)), after: 2}
	if _, err := Run(t.Context(), config(), target, nil); !errors.Is(err, errReluctant) {
		t.Errorf("got %v", err)
	}
	if target.opened != 0 {
		t.Errorf("%d sessions left open", target.opened)
	}
}

var errReluctant = errors.New("no more")

// reluctant opens only so many sessions.
type reluctant struct {
	*fake
	after int64
	n     atomic.Int64
}

func (r *reluctant) Open(ctx context.Context, client int) (Session, error) {
	if r.n.Add(1) > r.after {
		return nil, errReluctant
	}
	return r.fake.Open(ctx, client)
}

func TestPreloadWritesEveryKeyOnce(t *testing.T) {
	for _, clients := range []int{1, 3, 16, 64} {
		for _, ops := range []int{1, 7} {
			writes := map[string]int{}
			var f *fake
			f = newFake(func(_ context.Context, _ time.Duration, msg []Op, _ []Result) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				for _, op := range msg {
					writes[string(op.Key)]++
				}
				return nil
			})
			c := config()
			c.Clients, c.Keys, c.OpsPerMessage, c.ReadRatio, c.KeyDistribution = clients, 50, ops, 1, Zipf
			if err := Preload(t.Context(), c, f); err != nil {
				t.Fatal(err)
			}
			for i := range c.Keys {
				if n := writes[string(c.AppendKey(nil, i))]; n != 1 {
					t.Errorf("%d clients, %d ops: key %d was written %d times", clients, ops, i, n)
				}
			}
			if f.opened != 0 {
				t.Errorf("%d sessions left open", f.opened)
			}
		}
	}
}

func TestPreloadStopsAtAnError(t *testing.T) {
	full := status.Error(codes.ResourceExhausted, "full")
	f := newFake(func(_ context.Context, _ time.Duration, _ []Op, results []Result) error {
		results[0].Err = full
		return nil
	})
	if err := Preload(t.Context(), config(), f); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

// null answers at once.
type null struct{}

func (null) Open(context.Context, int) (Session, error)           { return null{}, nil }
func (null) Close() error                                         { return nil }
func (null) Do(_ context.Context, _ []Op, results []Result) error { clear(results); return nil }

// BenchmarkGenerator is what the generator itself costs, by operation.
func BenchmarkGenerator(b *testing.B) {
	for _, tt := range []struct{ clients, ops int }{{1, 1}, {256, 1}, {256, 64}} {
		b.Run(fmt.Sprintf("clients=%d/ops-per-message=%d", tt.clients, tt.ops), func(b *testing.B) {
			c := config()
			c.Clients, c.OpsPerMessage, c.ValueSize, c.Duration = tt.clients, tt.ops, FixedSize(256), 100*time.Millisecond
			var ops uint64
			var took time.Duration
			for b.Loop() {
				r, err := Run(b.Context(), c, null{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				ops += r.Operations
				took += r.Window()
			}
			b.ReportMetric(float64(ops)/took.Seconds(), "ops/s")
			b.ReportMetric(float64(took.Nanoseconds())/float64(ops), "ns/op")
		})
	}
}

// TestClientAllocatesNothing per operation.
func TestClientAllocatesNothing(t *testing.T) {
	c := config()
	c.Clients, c.Duration, c.OpsPerMessage = 1, 200*time.Millisecond, 4
	c.ReadRatio, c.ValueSize, c.KeySize, c.KeyDistribution = 0.5, SizeRange(1, 64), SizeRange(8, 32), Latest
	c.Sample, c.Completions = 2, 1<<22 // what is sampled allocates once
	var ops uint64
	allocs := testing.AllocsPerRun(1, func() {
		r, err := Run(t.Context(), c, null{}, nil)
		if err != nil {
			t.Error(err)
			return
		}
		ops = r.Operations
	})
	// Beginning, intervals and end allocate, however many operations there are.
	const once = 2000
	if allocs > once+0.01*float64(ops) {
		t.Errorf("%v allocations for %d operations, want %d at most beside those of an operation", allocs, ops, once)
	}
}

// TestOpenLoopIsOnTime: by the kernel's timers, a target that answers at once
// is asked when it is due. The bound is wide, and one of five windows has to meet it,
// for busy machines: what is tested is that waiting, stopping and closing work with
// real time too.
func TestOpenLoopIsOnTime(t *testing.T) {
	c := config()
	c.Rate, c.Duration, c.Clients = 500, 400*time.Millisecond, 2
	for try := 1; ; try++ {
		r, err := Run(t.Context(), c, null{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Operations != 200 || r.Lag().TotalCount() != 200 {
			t.Errorf("%d operations, %d lags", r.Operations, r.Lag().TotalCount())
		}
		t.Logf("lag p50 %v, p99 %v", time.Duration(r.Lag().ValueAtPercentile(50)), time.Duration(r.Lag().ValueAtPercentile(99)))
		lag := time.Duration(r.Lag().ValueAtPercentile(50))
		if lag <= 100*time.Millisecond {
			break
		}
		if try == 5 {
			t.Fatalf("half of the messages are sent %v late", lag)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c.Rate, c.Duration = 0.01, time.Hour // the second message is due in 100 s
	began := time.Now()
	if _, err := Run(ctx, c, null{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %v", took)
	}
}
