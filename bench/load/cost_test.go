package load

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// recording is what the generator does with one answered message: sort its
// results, record the latencies, note the revisions.
type recording struct {
	g       *generator
	stream  *stream
	results []Result
	out     outcome
}

func newRecording(rate float64, opsPerMessage int) *recording {
	c := config()
	c.Rate, c.OpsPerMessage, c.ReadRatio, c.KeyDistribution = rate, opsPerMessage, 0.5, Zipf
	g := &generator{cfg: c, work: newWorkload(c), rec: newRecorder(2, c.Keys, c.open())}
	r := &recording{g: g, stream: g.work.stream(0), results: make([]Result, opsPerMessage)}
	r.stream.message()
	for i := range r.results {
		r.results[i] = Result{ModRevision: uint64(i) + 1, Found: true, Value: make([]byte, 32)}
	}
	return r
}

func (r *recording) record(latency time.Duration) {
	r.out.response, r.out.service = latency, latency/2
	r.out.delay, r.out.lag = latency/2, latency/100
	r.g.sort(&r.out, r.stream, r.results, nil)
	r.g.rec.shard(0).count(&r.out)
	atomicMax(&r.g.last, int64(latency))
}

// BenchmarkRecord is what recording costs an operation, beside its sending.
func BenchmarkRecord(b *testing.B) {
	for _, loop := range []struct {
		name string
		rate float64
	}{{"closed", 0}, {"open", 1000}} {
		for _, ops := range []int{1, 64} {
			b.Run(fmt.Sprintf("loop=%s/ops-per-message=%d", loop.name, ops), func(b *testing.B) {
				r := newRecording(loop.rate, ops)
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					r.record(time.Duration(n%1000+1) * 10 * time.Microsecond)
					n++
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*ops), "ns/operation")
			})
		}
	}
}

func TestRecordingAllocatesNothing(t *testing.T) {
	for _, rate := range []float64{0, 1000} {
		r := newRecording(rate, 4)
		latency := time.Microsecond
		if n := testing.AllocsPerRun(1000, func() {
			r.record(latency)
			latency = latency * 11 / 10 % time.Minute
		}); n != 0 {
			t.Errorf("rate %v: %v allocations a message", rate, n)
		}
	}
}

// patient is a target that answers when its time has come, and keeps nothing.
type patient time.Duration

func (p patient) Open(context.Context, int) (Session, error) { return p, nil }
func (patient) Close() error                                 { return nil }
func (p patient) Do(_ context.Context, _ []Op, results []Result) error {
	time.Sleep(time.Duration(p))
	for i := range results {
		results[i].ModRevision = 1
	}
	return nil
}

// TestMemoryIsBounded: with 1,024 clients the generator's heap is what its
// histograms, keys and clients take, and a run with ten times the operations has no
// more of it. Only the time series grows, a point and a few lines of the .hlog an
// interval, and no more than 8 KB of it: a few megabytes for the 600 that a long
// window has unless more are asked for.
func TestMemoryIsBounded(t *testing.T) {
	const clients = 1024
	for _, rate := range []float64{0, 5000} {
		heap := func(operations, intervals int) (inUse uint64, done uint64) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				c.Clients, c.Rate, c.ReadRatio, c.ValueSize = clients, rate, 0.5, SizeRange(16, 1024)
				perSecond := float64(clients) / 0.1
				if rate > 0 {
					perSecond = rate
				}
				c.Duration = time.Duration(float64(operations) / perSecond * float64(time.Second))
				c.Interval = c.Duration / time.Duration(intervals)
				var before, now runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				n := 0
				r, err := run(t.Context(), c, patient(100*time.Millisecond), func(Interval) {
					if n++; n == intervals-1 { // the last comes when the clients are gone
						runtime.GC()
						runtime.ReadMemStats(&now)
					}
				}, false)
				if err != nil {
					t.Fatal(err)
				}
				inUse, done = now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc), r.Operations
			})
			return inUse, done
		}
		short, few := heap(10_000, 10)
		long, many := heap(100_000, 10)
		fine, _ := heap(10_000, 100)
		t.Logf("rate %v: %d KB after %d operations, %d KB after %d, %d KB with 100 intervals", rate, short>>10, few, long>>10, many, fine>>10)
		if many < 9*few {
			t.Fatalf("%d operations are not ten times %d", many, few)
		}
		// A count has six histograms of 221 KB; each shard has two counts, and beside
		// there are an interval's and the window's. A client has less than 16 KB.
		bound := uint64(2*runtime.GOMAXPROCS(0)+2)*6*230<<10 + clients*16<<10
		if long > bound {
			t.Errorf("rate %v: %d KB in use, the bound is %d KB", rate, long>>10, bound>>10)
		}
		if growth := int64(long) - int64(short); growth > 512<<10 {
			t.Errorf("rate %v: ten times the operations take %d KB more", rate, growth>>10)
		}
		if growth := int64(fine) - int64(short); growth > 100*8<<10 {
			t.Errorf("rate %v: 100 intervals instead of 10 take %d KB more", rate, growth>>10)
		}
	}
}
