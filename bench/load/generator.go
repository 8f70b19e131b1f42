package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A client of a closed loop whose message failed altogether waits before the
// next, or a dead target would be asked a million times a second.
const (
	shortestBackoff = time.Millisecond
	longestBackoff  = 100 * time.Millisecond
)

// generator is one run of load. Times are durations since base, which is when
// the warm-up began.
type generator struct {
	cfg      Config
	work     *workload
	pacer    pacer // nil in a closed loop
	rec      *recorder
	base     time.Time
	from, to time.Duration // the window
	fine     bool          // clients wait by timers of the kernel

	stopped    atomic.Bool  // no new messages: interrupted, or the drain is over
	unfinished atomic.Int64 // closed loop: operations without an answer when the drain ended
	last       atomic.Int64 // when the last message that counts was completed
}

// Run drives a target with the load that cfg describes and measures it: warm-up,
// window, drain. It calls onInterval (nil for none) after each interval, on its own
// goroutine; the next interval waits for it to return.
//
// An error before the load began, such as a session that does not open, comes
// without a recording. When ctx ends, Run stops at once and returns the recording
// so far beside the context's error. Errors of operations are counted, not returned.
// All sessions are closed when Run returns.
func Run(ctx context.Context, cfg Config, target Target, onInterval func(Interval)) (*Recording, error) {
	return run(ctx, cfg, target, onInterval, true)
}

// run is Run, optionally by Go's timers alone, which testing/synctest can fake.
func run(ctx context.Context, cfg Config, target Target, onInterval func(Interval), fine bool) (*Recording, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.effective()
	g := &generator{cfg: cfg, work: newWorkload(cfg), from: cfg.Warmup, to: cfg.Warmup + cfg.Duration}
	if cfg.open() {
		g.pacer = newPacer(&cfg)
	}
	paced := cfg.open() || cfg.ThinkTime > 0
	g.fine = fine && paced
	g.rec = newRecorder(runtime.GOMAXPROCS(0), cfg.Keys, paced)
	g.rec.sampler = newSampler(cfg.Sample, cfg.Keys)
	for i := range g.rec.shards {
		g.rec.shards[i].completions.most = cfg.Completions / len(g.rec.shards)
	}
	streams := make([]*stream, cfg.Clients)
	for i := range streams {
		streams[i] = g.work.stream(i)
	}
	sessions, err := open(ctx, target, cfg.Clients)
	if err != nil {
		return nil, err
	}

	// Operations under way outlive an interruption of the schedule only until
	// cancel; see measure.
	ops, cancel := context.WithCancel(ctx)
	defer cancel()
	g.base = time.Now()
	done := make(chan struct{})
	var clients sync.WaitGroup
	for i, s := range sessions {
		clients.Go(func() { g.client(ops, i, s, streams[i]) })
	}
	go func() {
		clients.Wait()
		close(done)
	}()
	rec, err := g.measure(ctx, done, cancel, newCounts(paced), onInterval)
	return rec, errors.Join(err, closeAll(sessions))
}

// open opens all sessions, or none.
func open(ctx context.Context, target Target, clients int) ([]Session, error) {
	sessions := make([]Session, clients)
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() { sessions[i], errs[i] = target.Open(ctx, i) })
	}
	wg.Wait()
	var opened []Session
	for i, err := range errs {
		if err == nil {
			opened = append(opened, sessions[i])
		}
	}
	for i, err := range errs {
		if err != nil { // the first is enough: they are all alike
			return nil, errors.Join(fmt.Errorf("open client %d: %w", i, err), closeAll(opened))
		}
	}
	return sessions, nil
}

func closeAll(sessions []Session) error {
	var errs []error
	for _, s := range sessions {
		if err := s.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close session: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (g *generator) now() time.Duration { return time.Since(g.base) }

// client sends one client's messages until the window is over. It allocates
// nothing an operation unless it fails.
func (g *generator) client(ctx context.Context, number int, session Session, stream *stream) {
	var (
		shard   = g.rec.shard(number)
		sampler = g.rec.sampler
		sampled = make([]*Access, g.cfg.OpsPerMessage)
		alarm   alarm
		out     outcome
		results = make([]Result, g.cfg.OpsPerMessage)
		backoff time.Duration
	)
	if g.fine {
		alarm.fine = newFineTimer(ctx)
	}
	defer alarm.stop()
	for !g.stopped.Load() {
		free := g.now()
		ops := stream.message()
		ready := g.now()
		intended := ready
		switch {
		case g.pacer != nil:
			intended = g.pacer.take()
		case g.cfg.ThinkTime > 0:
			intended = max(free+g.cfg.ThinkTime, ready)
		}
		if intended >= g.to {
			return
		}
		start := ready
		if intended > ready {
			if !alarm.wait(ctx, g.base, intended) {
				return
			}
			start = g.now()
		}

		clear(results)
		if sampler != nil {
			sampler.begin(sampled, stream.index, start-g.from)
		}
		err := session.Do(ctx, ops, results)

		end := g.now()
		if sampler != nil {
			sampler.end(sampled, number, ops, results, err, end-g.from)
		}
		out.response, out.service = end-intended, end-start
		out.due, out.end = intended-g.from, end-g.from
		out.delay, out.lag = start-intended, start-max(intended, ready)
		g.sort(&out, stream, results, err)
		failed := len(out.errors)
		if failed > 0 && (ctx.Err() != nil || g.stopped.Load()) {
			g.unfinished.Add(int64(len(ops)))
			return // cancelled by us: neither acknowledged nor an error of the target
		}
		switch {
		case g.counts(intended, end):
			shard.count(&out)
			atomicMax(&g.last, int64(end))
		case end < g.from || g.pacer != nil:
			shard.warm(&out)
		}
		if backoff = nextBackoff(backoff, failed == len(ops)); backoff > 0 && g.pacer == nil {
			if !alarm.wait(ctx, g.base, end+backoff) {
				return
			}
		}
	}
}

// counts tells whether a message belongs to the window; doc.go says why so.
func (g *generator) counts(intended, end time.Duration) bool {
	at := end
	if g.pacer != nil {
		at = intended
	}
	return at >= g.from && at < g.to
}

// sort sorts the results of a message by what became of the operations.
func (g *generator) sort(out *outcome, stream *stream, results []Result, err error) {
	out.acknowledged = [kinds]int64{}
	out.found, out.valueBytes = 0, 0
	out.errors = out.errors[:0]
	for i := range results {
		r := &results[i]
		if err != nil {
			r.Err = err
		}
		if r.Err != nil {
			out.errors = append(out.errors, code(r.Err))
			continue
		}
		kind := stream.ops[i].Kind
		out.acknowledged[kind]++
		out.valueBytes += int64(len(stream.ops[i].Value))
		if kind == Get && r.Found {
			out.found++
			out.valueBytes += int64(len(r.Value))
		}
		g.rec.acknowledge(stream.index[i], r.ModRevision)
	}
}

// code is the gRPC code of an error, also of a context's.
func code(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

func nextBackoff(last time.Duration, failed bool) time.Duration {
	if !failed {
		return 0
	}
	return min(max(2*last, shortestBackoff), longestBackoff)
}

func atomicMax(a *atomic.Int64, v int64) {
	for {
		old := a.Load()
		if v <= old || a.CompareAndSwap(old, v) {
			return
		}
	}
}
