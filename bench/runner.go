package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"raftlab/bench/cluster"
	"raftlab/bench/load"
)

// Options is what a run is made of.
type Options struct {
	Experiment *Experiment
	Matrix     *Matrix
	Folder     *Folder
	ID         string
	Command    []string
	Seed       uint64
	Build      Build
	// ServerBin is the raftkv of variants of topology processes that name none, and
	// ServerInfo its build.
	ServerBin, ServerInfo string
	// SelfBin is the raftbench that serves ceilings in processes of their own.
	SelfBin string
	// Endpoints of topology external.
	Endpoints []string
	// NoProfiles leaves the profile block out.
	NoProfiles bool
	// Verify records the histories of some keys in each trial, and checks that they
	// are linearizable.
	Verify bool
	// Objective, if not nil, is looked for instead of measuring blocks; the
	// experiment was prepared for it.
	Objective *Objective
	// Progress, if not nil, is called for each interval of a trial and at the end
	// of each trial, on the runner's goroutine.
	Progress func(Progress)
}

// Progress is where a run is.
type Progress struct {
	Trial, Trials int // from 1
	Variant       *Variant
	Block         int
	Kind          string
	Rate          float64 // of a search's trial; 0 is its closed loop
	// Interval is the latest; zero at a trial's start and end.
	Interval load.Interval
	Done     bool // the trial is over, and Result is it
	Result   *Trial
	Left     time.Duration // estimate
}

// job is one trial to do.
type job struct {
	variant int
	block   int // 0 for the profile block
	kind    string
	rate    float64 // of a search; 0 is its closed loop
}

// schedule lists all trials in the order in which they are done: block by block,
// each shuffled by the seed. Profiles come last: they may heat the machine. Only
// what is measured is profiled, neither its echo nor its twin.
func schedule(m *Matrix, blocks int, seed uint64, profiles bool) []job {
	var jobs []job
	for block := 1; block <= blocks; block++ {
		for _, i := range Order(seed, block, len(m.Variants)) {
			jobs = append(jobs, job{variant: i, block: block, kind: TrialMeasured})
		}
	}
	if profiles {
		for i := range m.Variants {
			if m.Variants[i].Role == RoleMeasured {
				jobs = append(jobs, job{variant: i, kind: TrialProfile})
			}
		}
	}
	return jobs
}

// What a trial takes beside warm-up and window, by topology: start, preload, read
// back, take down. Measured on two cores that others used too.
var overheads = map[string]time.Duration{
	TopologyInProcess:     80 * time.Millisecond,
	TopologyInProcessGRPC: 130 * time.Millisecond,
	TopologyProcesses:     180 * time.Millisecond,
	TopologyExternal:      50 * time.Millisecond,
}

const (
	// echoOverhead is that of each server of a ceiling.
	echoOverhead    = 40 * time.Millisecond
	profileOverhead = 250 * time.Millisecond
)

// Budget is the number of trials of a run and the time that they will take.
func Budget(m *Matrix, measure Measure, profiles bool) (trials int, d time.Duration) {
	jobs := schedule(m, measure.Blocks, 0, profiles && measure.Profile > 0)
	for _, j := range jobs {
		d += estimate(&m.Variants[j.variant], j, measure)
	}
	for i := range m.Variants {
		if m.Variants[i].Role == RoleCeiling {
			d += time.Duration(ceilingTries(m.Variants[i].Settings.Load.Clients)) * calibrateTime
		}
	}
	return len(jobs), (d + rateShareTime(m, measure)).Round(time.Second)
}

func estimate(v *Planned, j job, measure Measure) time.Duration {
	d := measure.Warmup + measure.Duration
	if j.kind == TrialProfile {
		d = measure.Warmup + measure.Profile + profileOverhead
	}
	switch v.Settings.Load.Target {
	case TargetWire:
		return d + echoOverhead
	case TargetRelay:
		return d + time.Duration(v.Settings.Load.Nodes)*echoOverhead
	}
	return d + overheads[v.Settings.Load.Topology]
}

// runner is the work of Execute.
type runner struct {
	Options
	run  *Run
	jobs []job
	done int
	// fit is by variant: what is hopeless is not tried again.
	fit []fitness
	// failed counts trials in a row, of any variants, that did not even start.
	failed int
}

// Trials in a row that fail to start before a run gives up: that is not chance.
const giveUpAfter = 3

// Execute does all trials of an experiment. The run folder is up to date after
// each. When ctx ends, the trial under way is dropped, and the run returned with
// the context's error; it stays incomplete.
func Execute(ctx context.Context, o Options) (*Run, error) {
	e := o.Experiment
	r := &runner{Options: o, fit: make([]fitness, len(o.Matrix.Variants))}
	r.jobs = schedule(o.Matrix, e.Measure.Blocks, o.Seed, !o.NoProfiles && e.Measure.Profile > 0)
	r.run = &Run{
		Schema: Schema, ID: o.ID, Command: o.Command, Seed: o.Seed, Started: time.Now(),
		Experiment: ExperimentInfo{
			Name: e.Name, Question: e.Question, Source: e.YAML(), Axes: o.Matrix.Axes, AnswerBy: slices.Clone(e.AnswerBy),
			Metric: e.Metric, Margin: e.Margin, Judge: e.Judge.info(), Blocks: e.Measure.Blocks,
			WarmupS: e.Measure.Warmup.Seconds(), MeasureS: e.Measure.Duration.Seconds(),
		},
		TrialsPlanned: len(r.jobs), Environment: observe(o.Build),
		SizeFiles: sizeFiles(o.Matrix.Variants), Skipped: slices.Clone(o.Matrix.Skipped), Trials: []Trial{}, Objective: o.Objective,
	}
	r.run.Environment.ServerBin, r.run.Environment.ServerInfo = shortPath(o.ServerBin), o.ServerInfo
	for _, v := range o.Matrix.Variants {
		r.run.Variants = append(r.run.Variants, v.Variant)
	}
	r.run.Warnings = auditStart(&r.run.Environment, e.Measure.Blocks)
	if len(o.Endpoints) > 0 {
		r.run.Warnings = append(r.run.Warnings, "the cluster ran before and is not fresh: trials share its state, and what else it does")
	}
	if err := r.Folder.Write(r.run); err != nil {
		return r.run, err
	}
	if err := cluster.ShortSlices(); err != nil {
		r.run.Warnings = append(r.run.Warnings, fmt.Sprintf("the kernel does not let the generator begin sooner than others: %v", err))
	}
	before := readMachineTime()
	err := r.trials(ctx)
	r.run.Warnings = append(r.run.Warnings, auditEnd(before, readMachineTime(), len(o.Endpoints) > 0)...)
	r.run.Warnings = append(r.run.Warnings, auditTrials(r.run)...)
	r.run.Ended = time.Now()
	r.run.Complete = err == nil
	return r.run, errors.Join(err, r.Folder.Write(r.run))
}

// trials does them all.
func (r *runner) trials(ctx context.Context) error {
	if r.Objective != nil {
		return r.search(ctx)
	}
	if err := r.calibrate(ctx); err != nil {
		return err
	}
	for _, j := range r.jobs {
		if err := r.do(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

// do does one trial and records it.
func (r *runner) do(ctx context.Context, j job) error {
	v := r.Matrix.Variants[j.variant]
	if j.kind == TrialSearch {
		v.Settings.Load.Rate = j.rate
	}
	r.report(j, Progress{})
	t, err := r.trial(ctx, &v, j)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	switch j.kind {
	case TrialSearch:
		r.judgeSearch(&t, j)
	case TrialMeasured:
		r.fit[j.variant].observe(&t)
	}
	r.run.Trials = append(r.run.Trials, t)
	r.done++
	r.run.TrialsCompleted = r.done
	if err := errors.Join(r.Folder.AppendSeries(&t), r.Folder.Write(r.run)); err != nil {
		return err
	}
	r.report(j, Progress{Done: true, Result: &t})
	return nil
}

// report tells where the run is.
func (r *runner) report(j job, p Progress) {
	if r.Progress == nil {
		return
	}
	p.Trial, p.Trials = min(r.done+1, len(r.jobs)), len(r.jobs)
	if p.Done {
		p.Trial = r.done
	}
	p.Variant, p.Block, p.Kind, p.Rate = &r.run.Variants[j.variant], j.block, j.kind, j.rate
	for _, left := range r.jobs[min(r.done, len(r.jobs)):] {
		if !r.fit[left.variant].hopeless {
			p.Left += estimate(&r.Matrix.Variants[left.variant], left, r.Experiment.Measure)
		}
	}
	r.Progress(p)
}

// trial does one trial. Its error ends the run; what is wrong with the trial
// alone stands in it.
func (r *runner) trial(ctx context.Context, v *Planned, j job) (Trial, error) {
	t := Trial{Variant: v.ID, Block: j.block, Kind: j.kind, Started: time.Now(), Viable: true, Valid: true}
	if f := &r.fit[j.variant]; f.hopeless {
		t.Viable, t.Valid, t.Problem = false, false, f.problem
		return t, nil
	}
	b, err := r.openRig(ctx, v, j)
	if err != nil {
		r.failed++
		if r.failed >= giveUpAfter || errors.As(err, new(*UsageError)) {
			return t, fmt.Errorf("%s: %w", v.Name, err)
		}
		t.Viable, t.Valid, t.Problem = false, false, err.Error()
		return t, nil
	}
	r.failed = 0
	err = b.measure(ctx, &t)
	if err := errors.Join(err, b.close()); err != nil && ctx.Err() == nil {
		t.distrust(err.Error())
	}
	return t, nil
}
