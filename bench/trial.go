package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"raftlab/bench/load"
)

// How long answers are waited for after a window. A trial in which some have not come
// by then has no figures: they would lack the longest response times.
const drainTime = 2 * time.Second

// measure runs the load and fills in the trial. Whatever became of the window, what
// was acknowledged in it is read back: the trials that went wrong are those most
// likely to have lost writes.
func (b *rig) measure(ctx context.Context, t *Trial) (err error) {
	probe, err := newProbe(b.self, b.cluster, b.debug)
	if err != nil {
		return err
	}
	if b.echo != nil {
		probe.pids = b.echo.pids
	}
	defer func() { err = errors.Join(err, probe.close()) }()
	cfg := b.loadConfig()
	var stages *switcher
	if slice := b.variant.Settings.Load.StagesSlice; slice > 0 && b.job.kind == TrialMeasured {
		stages = newSwitcher(slice, cfg.Duration, b.r.Seed+uint64(b.job.block), func(on bool) error { return probe.setStages(ctx, on) })
		cfg.Interval = stages.part()
	}
	w := window{ctx: ctx, probe: probe, length: cfg.Duration, interval: cfg.Interval}
	if plan := b.variant.Settings.Load.Events; len(plan) > 0 {
		links := b.variant.Settings.Node.Faults()
		w.onBegin = func(ctx context.Context) { w.events = startEvents(ctx, b.cluster, plan, links) }
	}
	if b.job.kind == TrialProfile {
		w.capture = newCapture(b.r.Folder, b.variant.ID, b.self, b.debug, cfg.Duration)
	}
	if cfg.Warmup == 0 {
		w.begin()
		stages.at(0)
	}
	var rec *load.Recording
	asGenerator(ctx, func(ctx context.Context) {
		defer b.spareProcs()()
		rec, err = load.Run(ctx, cfg, b.target, func(iv load.Interval) {
			if iv.Warmup && iv.Offset+iv.Length == 0 {
				w.begin()
			}
			stages.at(iv.Offset + iv.Length)
			b.r.report(b.job, Progress{Interval: iv})
		})
	})
	w.wait()
	err = errors.Join(err, stages.finish())
	if rec == nil {
		return err
	}
	b.record(t, rec, &w)
	t.Slices = stages.slices(rec.Intervals)
	if err == nil {
		err = b.judge(ctx, t, rec, &w)
	}
	if w.events != nil {
		w.events.audit(t)
	}
	return errors.Join(err, b.verify(ctx, t, cfg, rec))
}

// judge tells what a recorded window is worth, and keeps what stands in files of
// its own.
func (b *rig) judge(ctx context.Context, t *Trial, rec *load.Recording, w *window) error {
	measureImpact(t, rec.Completions)
	if w.capture != nil {
		var captureErr error
		if t.Profiles, captureErr = w.capture.end(ctx); captureErr != nil {
			t.warn(captureErr.Error())
		}
		if t.CPU, captureErr = w.capture.layers(t); captureErr != nil {
			t.warn(captureErr.Error())
		}
	}
	// What is done to a cluster may last beyond the window: that is what was to be seen.
	stuck := t.Unanswered > 0 && w.events == nil
	if t.Operations == 0 || stuck {
		t.Viable, t.Valid = false, false
		t.Problem = b.problem(ctx, rec)
		return nil
	}
	if b.job.kind == TrialMeasured {
		t.Hlog = fmt.Sprintf("%s-b%d.hlog", b.variant.ID, b.job.block)
		if err := b.r.Folder.Create(t.Hlog, rec.WriteHlog); err != nil {
			return err
		}
	}
	b.audit(t, rec, w.gc)
	if b.job.kind == TrialMeasured {
		t.judgeSteady(rec)
	}
	return nil
}

// asGenerator labels what f does and the goroutines it starts, so that profiles of
// this process tell them apart from those of the nodes, which kv/node labels.
func asGenerator(ctx context.Context, f func(context.Context)) {
	pprof.Do(ctx, pprof.Labels("node", processGenerator), f)
}

// openLoopProcs is how many goroutines of an open loop may run at a time, however
// few the cores.
const openLoopProcs = 6

// spareProcs gives the generator of an open loop more of Go's processors than there
// are cores, and returns what takes them back. Timers are looked after by those that
// are idle; when none is, a client that is due waits for the others' work, though
// the kernel would run both. Nodes of the same process would have them too, so then
// there are none.
func (b *rig) spareProcs() (restore func()) {
	procs := runtime.GOMAXPROCS(0)
	if l := &b.variant.Settings.Load; l.Rate == 0 || l.inProcess() || procs >= openLoopProcs {
		return func() {}
	}
	runtime.GOMAXPROCS(openLoopProcs)
	return func() { runtime.GOMAXPROCS(procs) }
}

// window reads the counters and takes the profiles of a measured window.
type window struct {
	ctx      context.Context
	probe    *probe
	capture  *capture
	length   time.Duration
	interval time.Duration // of the time series

	onBegin func(ctx context.Context) // of events in the window; nil for none
	events  *events                   // after begin

	wg            sync.WaitGroup
	before, after sample
	usage         []UsagePoint
	gc            float64 // CPU seconds of this process's garbage collector
}

// begin is called at the window's start and does not hold it up.
func (w *window) begin() {
	begin, timer := time.Now(), time.NewTimer(w.length)
	if w.capture != nil {
		w.capture.begin(w.ctx)
	}
	ctx, end := context.WithTimeout(w.ctx, w.length)
	if w.onBegin != nil {
		w.onBegin(ctx)
	}
	w.wg.Go(func() {
		defer end()
		defer timer.Stop()
		if w.events != nil {
			defer func() { <-w.events.done }()
		}
		w.before = w.probe.take(w.ctx)
		gc := gcTime()
		w.usage = usagePoints(begin, w.probe.follow(ctx, w.interval))
		select {
		case <-timer.C:
			w.gc = gcTime() - gc
			w.after = w.probe.take(w.ctx)
		case <-w.ctx.Done():
		}
	})
}

func (w *window) wait() { w.wg.Wait() }

// record puts a recording's figures in the trial.
func (b *rig) record(t *Trial, rec *load.Recording, w *window) {
	t.WindowS = rec.Window().Seconds()
	t.Operations, t.Errors, t.ErrorsByCode, t.Unanswered = rec.Operations, rec.Errors, rec.ErrorsByCode, rec.Unfinished
	t.OpsPerS = rec.OpsPerSecond()
	if rec.Operations > 0 {
		t.BytesPerS = t.OpsPerS * float64(rec.ValueBytes) / float64(rec.Operations)
	}
	t.Response, t.Service = map[string]Latency{}, map[string]Latency{}
	for _, k := range load.Kinds() {
		if h := rec.Response(k); h.TotalCount() > 0 {
			t.Response[k.String()] = latency(h)
			t.Service[k.String()] = latency(rec.Service(k))
		}
	}
	t.Response["all"], t.Service["all"] = withFailed(rec.ResponseAll(), t.Failed()), withFailed(rec.ServiceAll(), t.Failed())
	t.Delay = latency(rec.Delay())
	if b.echo == nil { // which keeps nothing
		t.AckedKeys = ackedKeys(rec)
	}
	if w.events != nil {
		w.events.record(t, rec.Start)
	}
	for _, iv := range rec.Intervals {
		t.Series = append(t.Series, Point{
			OffsetS: iv.Offset.Seconds(), Operations: iv.Operations, Errors: iv.Errors,
			P50Ns: int64(iv.P50), P99Ns: int64(iv.P99), MaxNs: int64(iv.Max),
		})
	}
	t.Processes, t.Counters = w.after.since(w.before)
	t.Usage = w.usage
	t.Stages = stagesBetween(w.before.stages, w.after.stages)
}

func ackedKeys(rec *load.Recording) (n int) {
	for _, revision := range rec.Acked {
		if revision > 0 {
			n++
		}
	}
	return n
}

func latency(h *load.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	return Latency{
		Count: uint64(h.TotalCount()), Clamped: h.Clamped, MeanNs: h.Mean(), MinNs: h.Min(),
		P50Ns: h.ValueAtPercentile(50), P90Ns: h.ValueAtPercentile(90),
		P99Ns: h.ValueAtPercentile(99), P999Ns: h.ValueAtPercentile(99.9), MaxNs: h.Max(),
	}
}

func (t *Trial) warn(warning string) {
	if t.Warning != "" {
		t.Warning += "; "
	}
	t.Warning += warning
}

// distrust makes a trial invalid by more than a late generator, which some figures
// can bear.
func (t *Trial) distrust(problem string) {
	if t.Problem != "" {
		problem = t.Problem + "; " + problem
	}
	t.Valid, t.Late, t.Problem = false, false, problem
}

// audit judges whether the figures can be trusted. gc is the CPU time of this
// process's garbage collector in the window.
func (b *rig) audit(t *Trial, rec *load.Recording, gc float64) {
	if l := b.variant.Settings.Load; (l.Rate > 0 || l.ThinkTime > 0) && b.job.kind != TrialProfile {
		lag := time.Duration(rec.Lag().ValueAtPercentile(99))
		response := time.Duration(t.Response["all"].P99Ns)
		problem := auditLag(lag, response, time.Duration(t.Service["all"].P99Ns))
		if problem != "" && b.outageDecides() {
			t.warn(lateForLatency)
			problem = auditOutage(lag, time.Duration(t.OutageNs))
		}
		switch {
		case problem == "":
		case l.Rate > 0:
			t.Valid, t.Late, t.Problem = false, true, problem
		default:
			t.warn(lateAfterThinking)
		}
	}
	if p, ok := t.Processes[processGenerator]; ok {
		if warning := auditGenerator(p.CPUS, t.WindowS, runtime.NumCPU()); warning != "" {
			t.warn(warning)
		}
		if warning := auditGC(gc, p.CPUS); warning != "" {
			t.warn(warning)
		}
	}
	if t.Counters["elected"] > 0 && len(t.Events) == 0 {
		t.warn("a leader was elected in the window")
	}
	if t.Counters == nil && len(t.Events) == 0 {
		t.warn("a node ended in the window, or did not answer at its end")
	}
	if t.Errors > 0 {
		t.warn(fmt.Sprintf("%d operations failed: %s", t.Errors, describeCodes(t.ErrorsByCode)))
	}
	if t.Unanswered > 0 {
		t.warn(fmt.Sprintf("%d operations had no answer %v after the window", t.Unanswered, drainTime))
	}
	if l := b.variant.Settings.Load; l.Op != "put" && l.Read != "stale" && rec.Missing > 0 && b.echo == nil {
		t.distrust(fmt.Sprintf("%d gets did not find keys that had been written", rec.Missing))
	}
}

func describeCodes(codes map[string]uint64) string {
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		parts = append(parts, fmt.Sprintf("%s %d", code, codes[code]))
	}
	return strings.Join(parts, ", ")
}

// problem says, as well as it can be known, why a variant could not do its work in a
// window.
func (b *rig) problem(ctx context.Context, rec *load.Recording) string {
	problem := fmt.Sprintf("%d operations had no answer %v after the window", rec.Unfinished, drainTime)
	rate := b.variant.Settings.Load.Rate
	switch {
	case rec.Operations == 0:
		problem = "no operation was acknowledged"
	case rate > 0:
		problem = fmt.Sprintf("it cannot follow %s operations a second: %v after the window %d that had been due in it were not answered",
			plain("rate", rate), drainTime, rec.Unfinished)
	}
	if rec.Errors > 0 {
		problem += " (" + describeCodes(rec.ErrorsByCode) + ")"
	}
	if b.cluster == nil {
		return problem
	}
	for _, n := range b.cluster.Nodes() {
		st, err := b.cluster.Status(ctx, n)
		if err != nil {
			continue
		}
		for _, peer := range st.GetTransport() {
			if p := peer.GetProblem(); p != "" {
				return fmt.Sprintf("%s: node %d to node %d: %s", problem, n.ID, peer.GetId(), p)
			}
		}
	}
	return problem
}
