package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"raftlab/bench"
	"raftlab/bench/cluster"
	"raftlab/bench/load"
)

// smoke is small, and has every topology, target and kind of operation. Nobody is
// elected but at the start, though a process gets no CPU for seconds.
const smoke = `
name: smoke
question: Does everything work together?
fixed: {keys: 100, clients: 4, tick: 500ms}
arms:
  - {topology: in-process, target: [direct, bare], op: [put, mixed]}
  - {topology: in-process-grpc, target: unary, op: put}
  - {topology: processes, target: unary, op: [put, get], stages-slice: 100ms}
  - {topology: processes, target: coalesce, op: mixed, read: follower}
  - {topology: [in-process-grpc, processes], target: pipeline, op: mixed, ops-per-message: 8}
  - {topology: in-process-grpc, listener: bufconn, target: unary, op: put, rate: 500, arrivals: [constant, poisson]}
  - {topology: processes, target: pipeline, op: mixed, ops-per-message: 4, key-distribution: latest, key-size: 8..64, value-size: 16..2KiB}
  - {topology: in-process, target: direct, op: put, key-distribution: hotspot, think-time: 1ms}
  - {topology: in-process-grpc, target: unary, op: put, value-size: 600KiB, chunking: [none, fragment], chunk-size: 64KiB, max-message: 512KiB}
baseline: {arrivals: constant}
ceiling: [wire, relay]
measure: {warmup: 50ms, duration: 400ms, blocks: 1, profile: 0s}
`

// joining has windows in which a process can start on a machine that is busy, and
// profiles of every topology.
const joining = `
name: joining
question: Does a node that joins keep others from their work?
fixed: {keys: 100, clients: 4, op: put, log-entries: 10, tick: 500ms}
arms:
  - {topology: [in-process, in-process-grpc, processes], target: unary, events: join at 20ms}
  - {topology: in-process, target: bare}
ceiling: none
measure: {warmup: 50ms, duration: 2s, blocks: 1, profile: 1s}
`

// TestSmoke runs it end to end, as users do, and checks what it leaves.
func TestSmoke(t *testing.T) {
	patiently(t, func(errorf errorf) { smokes(t, errorf) })
	noProcess(t)
}

func smokes(t *testing.T, errorf errorf) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "raftbench"), "run", experimentFile(t, smoke), "--out", dir, "-o", "json", "--seed", "5")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		errorf("%v\n%s", err, stderr.String())
		return
	}
	for _, want := range []string{"smoke: Does everything work together?", " trials, about ", "seed 5; run folder " + dir, "skipped chunk-size=64KiB chunking=none"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, stderr.String())
		}
	}
	var answer struct {
		Dir     string
		Summary bench.Summary
	}
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil || answer.Dir != dir || len(answer.Summary.Answers) != 1 {
		t.Errorf("-o json: %v, %+v", err, answer)
	}

	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !run.Complete || run.TrialsCompleted != run.TrialsPlanned || len(run.Trials) != run.TrialsPlanned || run.Seed != 5 {
		t.Errorf("complete %v, %d of %d trials, seed %d", run.Complete, run.TrialsCompleted, run.TrialsPlanned, run.Seed)
	}
	variants := map[string]bench.Variant{}
	for _, v := range run.Variants {
		variants[v.ID] = v
	}
	for i := range run.Trials {
		checkTrial(t, errorf, dir, &run.Trials[i], variants[run.Trials[i].Variant])
	}
	for _, name := range []string{"results.txt", "trials.jsonl", "report.html", "report.md"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, format := range []string{"text", "md", "html", "csv"} {
		if code, out, stderr := cli(t.Context(), "report", dir, "--format", format); code != 0 || len(out) < 500 {
			t.Errorf("report as %s: exit %d, %d bytes, %s", format, code, len(out), stderr)
		}
	}
}

// ran runs an experiment and reads it back; nil when that failed.
func ran(t *testing.T, errorf errorf, source string, args ...string) (run *bench.Run, dir, out string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "run")
	code, out, stderr := cli(t.Context(), append([]string{"run", experimentFile(t, source), "--out", dir}, args...)...)
	if code != exitDone {
		errorf("exit %d\n%s%s", code, out, stderr)
		return nil, "", ""
	}
	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	return run, dir, out
}

func TestJoining(t *testing.T) {
	patiently(t, func(errorf errorf) {
		run, dir, _ := ran(t, errorf, joining, "--server-bin", filepath.Join(bin, "raftkv"))
		if run == nil {
			return
		}
		if len(run.Trials) != 8 {
			t.Errorf("%d trials", len(run.Trials))
		}
		for i := range run.Trials {
			checkTrial(t, errorf, dir, &run.Trials[i], run.Variants[slices.IndexFunc(run.Variants, func(v bench.Variant) bool { return v.ID == run.Trials[i].Variant })])
		}
		checkUsage(t, errorf, dir, run.Trials)
	})
	noProcess(t)
}

// checkTrial tells t what no machine excuses, and errorf what one that stands still
// may do to a window.
func checkTrial(t *testing.T, errorf errorf, dir string, trial *bench.Trial, v bench.Variant) {
	t.Helper()
	name := v.Name + " " + trial.Kind
	if len(trial.Violations) != 0 {
		t.Errorf("%s: %v", name, trial.Violations)
	}
	// Whether an open loop keeps its schedule is up to the machine.
	valid := trial.Valid || v.Config["rate"] != "0"
	if !trial.Viable || !valid || trial.Operations == 0 || trial.Errors != 0 {
		errorf("%s: viable %v, valid %v (%s), %d operations, %d errors %v", name, trial.Viable, trial.Valid,
			trial.Problem, trial.Operations, trial.Errors, trial.ErrorsByCode)
		return
	}
	if v.Role != bench.RoleCeiling && trial.VerifiedKeys == 0 && v.Config["op"] != "get" {
		errorf("%s: no key was read back: %s", name, trial.Unverified)
	}
	if joins := strings.HasPrefix(v.Config["events"], bench.DoJoin); joins != (len(trial.Events) == 2) || joins && !strings.HasPrefix(trial.Events[0].What, "a node joined") {
		errorf("%s: events %+v", name, trial.Events)
	}
	checkStages(errorf, name, trial, v)
	if len(trial.Processes) == 0 {
		errorf("%s: no process", name)
	}
	if trial.Kind == bench.TrialProfile {
		checkProfiles(errorf, dir, trial, v)
		return
	}
	// The histograms, run.json and what was acknowledged are one number.
	f, err := os.Open(filepath.Join(dir, trial.Hlog))
	if err != nil {
		t.Fatal(err)
	}
	histograms, err := load.ReadHlog(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	var counted int64
	for _, k := range load.Kinds() {
		if h := histograms[k.String()]; h != nil {
			counted += h.TotalCount()
		}
	}
	if uint64(counted) != trial.Operations || trial.Response["all"].Count != trial.Operations {
		t.Errorf("%s: %d in the hlog, %d in the response times, %d operations", name, counted, trial.Response["all"].Count, trial.Operations)
	}
	var inSeries uint64
	for _, p := range trial.Series {
		inSeries += p.Operations
	}
	if inSeries != trial.Operations {
		t.Errorf("%s: %d in the series, %d operations", name, inSeries, trial.Operations)
	}
}

func checkProfiles(errorf errorf, dir string, trial *bench.Trial, v bench.Variant) {
	processes := []string{"process"}
	if v.Config["topology"] == "processes" {
		processes = []string{"generator", "node1", "node2", "node3"}
	}
	if len(trial.Profiles) != 6*len(processes) {
		errorf("%s: profiles %v", v.Name, trial.Profiles)
	}
	for _, p := range processes {
		for _, kind := range []string{"cpu", "heap", "allocs", "mutex", "block", "goroutine"} {
			path := filepath.Join(dir, "pprof", v.ID, p, kind+".pb.gz")
			if info, err := os.Stat(path); err != nil || info.Size() == 0 {
				errorf("%s: %v", path, err)
			}
		}
	}
	// Whoever runs for a second is seen.
	if len(trial.CPU) == 0 {
		errorf("%s: no CPU time by layer", v.Name)
	}
	for process, layers := range trial.CPU {
		if known := append(processes, "generator", "node1", "node2", "node3", "node4"); !slices.Contains(known, process) {
			errorf("%s: CPU time of process %q", v.Name, process)
		}
		for _, l := range layers {
			if l.UsPerOp.Center <= 0 || l.UsPerOp.N == 0 || l.UsPerOp.Lo >= l.UsPerOp.Hi {
				errorf("%s: %s %+v", v.Name, process, l)
			}
		}
	}
}

// checkUsage checks that processes were followed through windows that are long
// enough for it, as those of profiles are.
func checkUsage(t *testing.T, errorf errorf, dir string, trials []bench.Trial) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, bench.SeriesFile))
	if err != nil {
		t.Fatal(err)
	}
	usage, err := bench.ReadUsage(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	profiles := 0
	for _, trial := range trials {
		if trial.Kind == bench.TrialProfile {
			profiles++
		}
	}
	if len(usage) < profiles {
		errorf("processes were followed in %d trials, %d were long enough", len(usage), profiles)
	}
	for _, u := range usage {
		i := slices.IndexFunc(trials, func(t bench.Trial) bool {
			return t.Variant == u.Variant && t.Block == u.Block && t.Kind == u.Kind
		})
		for _, p := range u.Points {
			for name, at := range p.Processes {
				if _, ok := trials[i].Processes[name]; !ok || at.RSSBytes == 0 || at.CPUs < 0 {
					errorf("%s block %d: %s %+v", u.Variant, u.Block, name, at)
				}
			}
		}
	}
}

// noProcess checks that nothing of bin runs any more.
func noProcess(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		left := running(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running: %q", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func running(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, f := range files {
		cmdline, err := os.ReadFile(f)
		if err != nil {
			continue // it ended
		}
		if program, _, _ := strings.Cut(string(cmdline), "\x00"); strings.HasPrefix(program, bin) {
			left = append(left, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return left
}

// A run that is cut short, in order or not, leaves a readable run that says so,
// and no process.
func TestCutShort(t *testing.T) {
	file := experimentFile(t, "name: long\nceiling: none\nfixed: {topology: processes, keys: 100}\nvary: {clients: [1, 2]}\nmeasure: {warmup: 50ms, duration: 400ms, blocks: 50}\n")
	for _, c := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, exitInterrupted}, {syscall.SIGTERM, exitInterrupted}, {syscall.SIGKILL, -1}} {
		t.Run(c.signal.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "raftbench"), "run", file, "--out", dir)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for { // until a trial is recorded and the next one has its nodes
				run, err := bench.ReadRun(dir)
				if err == nil && run.TrialsCompleted >= 1 && len(running(t)) == 4 {
					break
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond)
			}
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != c.code {
				t.Errorf("ended with %v, want code %d\n%s", err, c.code, stderr.String())
			}
			noProcess(t)
			run, err := bench.ReadRun(dir)
			if err != nil {
				t.Fatal(err)
			}
			if run.Complete || run.TrialsCompleted < 1 || run.TrialsCompleted >= run.TrialsPlanned {
				t.Errorf("complete %v, %d of %d trials", run.Complete, run.TrialsCompleted, run.TrialsPlanned)
			}
			if code, out, _ := cli(t.Context(), "report", dir); code != 0 || !strings.Contains(out, "INCOMPLETE") {
				t.Errorf("its report: exit %d\n%s", code, out)
			}
		})
	}
}

// A cluster that runs already is driven where it is, and left there.
func TestEndpoints(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Config{Topology: cluster.InProcessGRPC})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	const source = "name: x\nfixed: {keys: 50}\nvary: {op: [put, get]}\nmeasure: {warmup: 20ms, duration: 500ms, blocks: 2}\n"
	patiently(t, func(errorf errorf) {
		run, dir, _ := ran(t, errorf, source, "--no-profiles", "--endpoints", strings.Join(c.Endpoints(), ","))
		if run == nil {
			return
		}
		if len(run.Trials) != 4 || !strings.Contains(strings.Join(run.Warnings, "\n"), "not fresh") {
			t.Errorf("%d trials, warnings %q", len(run.Trials), run.Warnings)
		}
		for i := range run.Trials {
			checkTrial(t, errorf, dir, &run.Trials[i], bench.Variant{Name: "external", Config: map[string]string{"op": "get", "topology": bench.TopologyExternal}})
		}
	})
	if _, err := c.Leader(t.Context()); err != nil {
		t.Errorf("the cluster is gone: %v", err)
	}
}

// Nobody there: exit 1, and no figure is made up.
func TestTargetDown(t *testing.T) {
	file := experimentFile(t, "name: x\nmeasure: {warmup: 0s, duration: 50ms, blocks: 2}\n")
	dir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code, out, stderr := cli(ctx, "run", file, "--out", dir, "--endpoints", "127.0.0.1:1")
	if code != exitFailed || !strings.Contains(stderr, "endpoint 127.0.0.1:1") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	if strings.Contains(out, "p99 ") && strings.Contains(out, "ms ") {
		t.Errorf("figures from nowhere:\n%s", out)
	}
}

// Nodes fail in the window of a run, and come back: what happened is told, nothing
// acknowledged is lost, and no process is left.
func TestFailover(t *testing.T) {
	patiently(t, func(errorf errorf) { failsOver(t, errorf) })
	noProcess(t)
}

func failsOver(t *testing.T, errorf errorf) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	source := experimentFile(t, `
name: failing
question: What do clients notice?
fixed: {topology: processes, op: mixed, rate: 200, clients: 32, keys: 50, tick: 20ms}
arms:
  - {storage: wal, events: kill leader at 500ms; restart killed at 1500ms}
  - {storage: memory, events: [none, pause leader at 500ms for 500ms, partition leader at 500ms for 500ms, slow follower by 10ms at 500ms for 500ms, transfer-leadership at 500ms]}
  - {storage: memory, events: kill follower at 500ms; restart killed at 1500ms}
answer-by: [events]
metric: outage-ns
ceiling: none
measure: {warmup: 100ms, duration: 3s, blocks: 1, profile: 0s}
`)
	code, _, stderr := cli(t.Context(), "run", source, "--verify", "--out", dir, "--server-bin", filepath.Join(bin, "raftkv"))
	if !strings.Contains(stderr, "skipped events=kill follower at 500ms; restart killed at 1.5s storage=memory: events restarts a node, which needs storage wal") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if code != exitDone {
		errorf("exit %d: %s", code, stderr)
	}
	for i := range run.Trials {
		trial := &run.Trials[i]
		plan := ""
		for _, v := range run.Variants {
			if v.ID == trial.Variant {
				plan = v.Params["events"]
			}
		}
		if len(trial.Violations) > 0 {
			t.Errorf("%s: %v", plan, trial.Violations)
		}
		if trial.VerifiedKeys == 0 || trial.OutageNs <= 0 {
			errorf("%s: %d keys verified, outage %d; %s", plan, trial.VerifiedKeys, trial.OutageNs, trial.Problem)
		}
		if h := trial.Histories; h == nil || h.Keys != 50 || h.Operations < 100 {
			errorf("%s: histories %+v", plan, h)
		}
		var did []string
		for _, e := range trial.Events {
			if e.Do != "" {
				did = append(did, e.Do)
				if e.OutageNs <= 0 || e.OffsetS < 0.4 {
					errorf("%s: %+v", plan, e)
				}
			}
		}
		want := map[string]string{"none": "", "kill": "kill restart"}
		first := strings.Fields(plan)[0]
		if _, ok := want[first]; !ok {
			want[first] = first
		}
		if got := strings.Join(did, " "); got != want[first] {
			errorf("%s: done were %q: %s", plan, got, trial.Problem)
		}
		if strings.HasPrefix(plan, "pause") && trial.OutageNs < int64(200*time.Millisecond) {
			errorf("%s: clients of the leader noticed %v only", plan, time.Duration(trial.OutageNs))
		}
	}
}

// Where events leave no majority, durable nodes come back after the window, so that
// what was acknowledged is read back all the same.
func TestNoMajorityIsVerified(t *testing.T) {
	source := experimentFile(t, "name: x\nceiling: none\nmetric: outage-ns\n"+
		"fixed: {topology: processes, storage: wal, sync: always, keys: 50, clients: 8, rate: 200, events: kill 1 at 500ms; kill 2 at 500ms}\n"+
		"measure: {warmup: 0s, duration: 1500ms, blocks: 1, profile: 0s}\n")
	patiently(t, func(errorf errorf) {
		dir := filepath.Join(t.TempDir(), "run")
		code, _, stderr := cli(t.Context(), "run", source, "--verify", "--out", dir, "--server-bin", filepath.Join(bin, "raftkv"))
		run, err := bench.ReadRun(dir)
		if err != nil {
			t.Fatal(err)
		}
		trial := &run.Trials[0]
		if code != exitDone || trial.AckedKeys == 0 || trial.VerifiedKeys != trial.AckedKeys || trial.Unverified != "" || !slices.Equal(trial.Restarted, []uint64{1, 2}) {
			errorf("exit %d, %s: %d of %d keys read back: %q; started again: %d", code, stderr, trial.VerifiedKeys, trial.AckedKeys, trial.Unverified, trial.Restarted)
		}
		if h := trial.Histories; h == nil || h.Keys == 0 {
			errorf("histories %+v", h)
		}
		if len(trial.Violations) > 0 {
			t.Errorf("%v", trial.Violations)
		}
	})
	noProcess(t)
}

// A cluster that is there but has no majority acknowledges nothing: exit 1,
// errors or unanswered operations counted, and no percentile of nothing.
func TestTargetWithoutQuorum(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Config{Topology: cluster.InProcessGRPC})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	endpoint := c.Node(3).Addr
	for _, id := range []uint64{1, 2} {
		if err := c.Node(id).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	file := experimentFile(t, "name: x\nfixed: {clients: 3, keys: 10}\nmeasure: {warmup: 0s, duration: 500ms, blocks: 2}\n")
	dir := filepath.Join(t.TempDir(), "run")
	code, out, stderr := cli(t.Context(), "run", file, "--out", dir, "--endpoints", endpoint, "--no-profiles")
	if code != exitFailed || !strings.Contains(stderr, "no operation was acknowledged") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	checkNothing(t, dir, out)
}

// checkNothing checks that a run without any acknowledged operation has no
// figure.
func checkNothing(t *testing.T, dir, out string) {
	t.Helper()
	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(run.Trials) == 0 {
		t.Fatal("no trial was recorded")
	}
	for i := range run.Trials {
		trial := &run.Trials[i]
		if trial.Valid || trial.Viable || trial.Operations != 0 || trial.Response["all"] != (bench.Latency{}) || trial.Hlog != "" || trial.Steady != "" {
			t.Errorf("a trial of nothing has figures: %+v", trial)
		}
	}
	if strings.Contains(out, " ms ") || strings.Contains(out, "ops/s,") || !strings.Contains(out, "No variant has a valid trial") {
		t.Errorf("figures from nowhere:\n%s", out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "results.txt"))
	if err != nil || strings.Contains(string(raw), "\nBenchmark") {
		t.Errorf("results from nowhere, %v:\n%s", err, raw)
	}
}

// A target that goes down in a window: what it acknowledged before counts, what
// failed after is counted too, and the trials that follow have no figures. An
// operation that fails at once is counted by its code, one that is retried until
// the drain ends as without an answer: which of them is the target's doing.
func TestTargetGoesDown(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Config{Topology: cluster.InProcessGRPC})
	if err != nil {
		t.Fatal(err)
	}
	type end struct {
		at  time.Time
		err error
	}
	closed := make(chan end, 1)
	go func() {
		for c.Node(1).Local().Store().State().Keys == 0 && t.Context().Err() == nil { // until writes arrive
			time.Sleep(5 * time.Millisecond)
		}
		err := c.Close()
		closed <- end{time.Now(), err}
	}()
	file := experimentFile(t, "name: x\nfixed: {clients: 3, keys: 10}\nmeasure: {warmup: 0s, duration: 2s, blocks: 5}\n")
	dir := filepath.Join(t.TempDir(), "run")
	code, out, stderr := cli(t.Context(), "run", file, "--out", dir, "--endpoints", strings.Join(c.Endpoints(), ","), "--no-profiles")
	down := <-closed
	if down.err != nil {
		t.Error(down.err)
	}
	// It may have been down before the window, which is short, had an answer.
	none := strings.Contains(stderr, "no operation was acknowledged in any trial") || strings.Contains(stderr, "no trial could do the work: ")
	if code != exitFailed || !none || !strings.Contains(out, "No variant has a valid trial") {
		t.Errorf("exit %d, %q\n%s", code, stderr, out)
	}
	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range run.Trials {
		trial := &run.Trials[i]
		t.Logf("block %d: %d operations, errors %v, %d without an answer, %q", trial.Block, trial.Operations, trial.ErrorsByCode, trial.Unanswered, trial.Problem)
		if trial.Valid || trial.Response["all"].Count != trial.Operations || trial.Problem == "" {
			t.Errorf("block %d: valid %v, %d operations, latencies %+v, problem %q", trial.Block, trial.Valid, trial.Operations, trial.Response["all"], trial.Problem)
		}
		if i == 0 && trial.Failed() == 0 {
			if in := down.at.Sub(trial.Started); in < time.Duration(trial.WindowS*float64(time.Second)) {
				t.Errorf("down %v into the trial, and nothing failed: %+v", in, trial)
			} else {
				t.Logf("what fails in a window is not checked: the target was down %v into the trial, after its window", in)
			}
		}
		if all := trial.Response["all"]; trial.Failed() > 0 && trial.Operations > 0 &&
			(all.MaxNs != bench.FailedNs || trial.Response["put"].MaxNs >= bench.FailedNs || all.Count != trial.Response["put"].Count) {
			t.Errorf("block %d: what failed is not the slowest of all, or is of a kind: %+v", trial.Block, trial.Response)
		}
	}
}
