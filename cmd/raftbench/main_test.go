package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"raftlab/bench"
)

// bin holds a raftkv and a raftbench built for these tests.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "raftbench-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	build := exec.Command("go", "build", "-o", dir, "raftlab/cmd/raftkv", "raftlab/cmd/raftbench") //nolint:noctx // before any test
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := os.RemoveAll(dir); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// cli runs the program in this process.
func cli(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// errorf says what is wrong.
type errorf func(format string, args ...any)

// patiently tries what a machine that stands still for seconds can spoil, such as a
// window in which something has to be answered: again if anything is wrong with it,
// three times in all. What must hold on any machine, try tells t itself.
func patiently(t *testing.T, try func(errorf errorf)) {
	t.Helper()
	for left := 2; ; left-- {
		var wrong []string
		try(func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) })
		switch {
		case len(wrong) == 0:
			return
		case left == 0 || t.Failed():
			t.Fatal(strings.Join(wrong, "\n"))
		}
		t.Logf("tried again after\n%s", strings.Join(wrong, "\n"))
	}
}

func experimentFile(t *testing.T, source string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUsage(t *testing.T) {
	file := experimentFile(t, "name: x\nfixed: {topology: in-process, target: direct}\n")
	broken := experimentFile(t, "name: x\nfixed:\n  clients: many\n")
	sizes := filepath.Join(t.TempDir(), "sizes.txt")
	if err := os.WriteFile(sizes, []byte("# of one day\n64 3\n4KiB none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // where there are no runs
	for _, c := range []struct {
		args []string
		code int
		want string // on stderr
	}{
		{nil, 2, "which command?"},
		{[]string{"rum"}, 2, `unknown command "rum" (did you mean run?)`},
		{[]string{"xyzzy"}, 2, `unknown command "xyzzy"; raftbench --help lists them`},
		{[]string{"run", "a", "b"}, 2, "accepts at most 1 arg"},
		{[]string{"run", "--blocsk", "3"}, 2, "unknown flag: --blocsk; see raftbench run --help"},
		{[]string{"run", "quikc"}, 2, `no experiment "quikc" (did you mean quick?)`},
		{[]string{"run", "./nothing.yaml"}, 2, "no such file"},
		{[]string{"run", broken}, 2, `x.yaml:3: clients "many" is not a whole number`},
		{[]string{"run", file, "--set", "clients"}, 2, `--set "clients" is not FIELD=VALUE`},
		{[]string{"run", file, "--set", "clints=3"}, 2, `unknown field "clints" (did you mean clients?)`},
		{[]string{"run", file, "--set", "clients=0"}, 2, "clients 0 is below the minimum 1"},
		{[]string{"run", file, "--set", "rate=-5"}, 2, "rate -5 is below the minimum 0"},
		{[]string{"run", file, "--set", "rate=0"}, 2, "rate 0 sends nothing; it must be greater than 0"},
		{[]string{"run", file, "--set", "value-size=5GiB"}, 2, "value-size 5GiB exceeds the maximum 1GiB"},
		{[]string{"run", file, "--set", "value-size=64..5GiB"}, 2, "value-size 5GiB of 64..5GiB exceeds the maximum 1GiB"},
		{[]string{"run", file, "--set", "value-size=4KiB..64"}, 2, `value-size "4KiB..64" is no range: 4KiB exceeds 64`},
		{[]string{"run", file, "--set", "value-size=@nowhere.txt"}, 2, `value-size "@nowhere.txt" cannot be read: open nowhere.txt: no such file`},
		{[]string{"run", file, "--set", "value-size=@" + sizes}, 2, sizes + `:3: weight "none" is not a number above 0`},
		{[]string{"run", file, "--set", "key-size=4..64"}, 2, "key-size 4 of 4..64 is below the minimum 8"},
		{[]string{"run", file, "--set", "key-distribution=gauss"}, 2, `key-distribution "gauss" is not one of uniform, zipf, sequential, hotspot, latest`},
		{[]string{"run", file, "--set", "think-time=soon"}, 2, `think-time "soon" is not a duration`},
		{[]string{"run", file, "--set", "think-time=-1ms"}, 2, "think-time -1ms is below the minimum 0s"},
		{[]string{"run", file, "--set", "attempt-timeout=2h"}, 2, "attempt-timeout 2h0m0s exceeds the maximum 1h0m0s"},
		{[]string{"run", file, "--set", "think-time=1ms", "--set", "rate=5"}, 2, "think-time 1ms has no meaning with rate 5"},
		{[]string{"run", file, "--set", "target=wire", "--set", "topology=in-process-grpc", "--set", "op=get", "--set", "value-size=1..2"}, 2, "target wire answers gets with values of one size: value-size 1..2 has many"},
		{[]string{"run", "quick", "--set", "heartbeat-ticks=10"}, 2, "election-ticks 10 must be greater than heartbeat-ticks 10"},
		{[]string{"run", "quick", "--set", "batch-count=0"}, 2, "batch-count 0 must be at least 1"},
		{[]string{"run", "quick", "--set", "link-delay=-1ms"}, 2, "link-delay -1ms must not be negative"},
		{[]string{"run", "quick", "--set", "inflight-bytes=1KiB"}, 2, "inflight-bytes 1KiB is less than append-size 16MiB"},
		{[]string{"run", file, "--blocks", "x"}, 2, `blocks "x" is not a whole number`},
		{[]string{"run", file, "--duration", "5"}, 2, `duration "5" is not a duration such as 500ms or 2s`},
		{[]string{"run", file, "--endpoints", "foo"}, 2, `endpoint "foo" is not host:port`},
		{[]string{"run", file, "--endpoints", "127.0.0.1:99999"}, 2, `endpoint "127.0.0.1:99999" has a port outside 1 to 65535`},
		{[]string{"run", file, "--vary", "clients="}, 2, `--vary "clients=" is not FIELD=A,B`},
		{[]string{"run", file, "--vary", "clients=1,1"}, 2, "clients: lists 1 twice"},
		{[]string{"run", file, "--duration", "-1s"}, 2, "duration -1s is not from 50ms to 1h"},
		{[]string{"run", file, "--duration", "0"}, 2, "duration 0s is not from 50ms to 1h"},
		{[]string{"run", file, "--blocks", "0"}, 2, "blocks 0 is not from 1 to 1000"},
		{[]string{"run", file, "--out", full}, 2, "is not empty"},
		{[]string{"run", file, "--out", "/proc/nothing/here"}, 2, "run folder"},
		{[]string{"run", file, "--objective", "ops/s>100"}, 2, "limits throughput, which is what is looked for"},
		{[]string{"run", file, "--objective", "p99<1s", "--strict"}, 2, "--strict is for measured trials"},
		{[]string{"run", file, "--objective", "p99<fast"}, 2, "has a limit that is not a duration"},
		{[]string{"run", file, "--set", "rate-share=-1"}, 2, "rate-share -1 is below the minimum 0"},
		{[]string{"run", file, "--vary", "server-bin=a,b"}, 2, "server-bin is an axis, but no variant starts a server"},
		{[]string{"run", file, "-o", "xml"}, 2, `output "xml" is not one of text, json`},
		{[]string{"run", file, "--profile", "cpu"}, 2, "--profile cpu cannot be combined with the profile block"},
		{[]string{"run", file, "--profile", "gpu"}, 2, `profile "gpu" is not one of block, cpu, mem, mutex, trace`},
		{[]string{"run", file, "--set", "topology=processes", "--set", "target=unary", "--server-bin", "/nonexistent/raftkv"}, 2, "server-bin"},
		{[]string{"run", file, "--set", "topology=processes", "--set", "target=unary", "--server-bin", "/bin/false"}, 2, "is no raftkv"},
		{[]string{"run", file, "--set", "topology=processes"}, 2, "target direct drives nodes in this process"},
		{[]string{"show"}, 2, "show needs the name"},
		{[]string{"show", "nothing"}, 2, `no experiment "nothing"`},
		{[]string{"report", "latest"}, 2, "no run in profiles yet"},
		{[]string{"report", "latest", "--format", "pdf"}, 2, `format "pdf" is not one of`},
		{[]string{"report"}, 2, "requires at least 1 arg(s), only received 0; usage: raftbench report RUN|latest..."},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			code, _, stderr := cli(t.Context(), c.args...)
			if code != c.code || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d with %q, want %d with %q", code, stderr, c.code, c.want)
			}
			if c.args != nil && strings.Count(stderr, "\n") != 1 { // without a command, help follows
				t.Errorf("more than one line: %s", stderr)
			}
		})
	}
}

func TestListAndShow(t *testing.T) {
	code, out, _ := cli(t.Context(), "list")
	if code != 0 || !strings.Contains(out, "quick ") || !strings.Contains(out, "chunk-size ") {
		t.Errorf("list: exit %d, %q", code, out)
	}
	code, out, _ = cli(t.Context(), "show", "quick")
	if code != 0 || !strings.Contains(out, "name: quick") {
		t.Errorf("show: exit %d, %q", code, out)
	}
	code, out, _ = cli(t.Context(), "show", "--fields")
	if code != 0 || !strings.Contains(out, "chunk-size ") || !strings.Contains(out, "key-distribution ") || strings.Contains(out, "peer-addr") {
		t.Errorf("fields: exit %d, %q", code, out)
	}
	t.Chdir(t.TempDir())
	code, out, _ = cli(t.Context(), "list", "--runs", "-o", "json")
	if code != 0 || out != "[]\n" {
		t.Errorf("no runs: exit %d, %q", code, out)
	}
	code, out, _ = cli(t.Context(), "version")
	if code != 0 || !strings.HasPrefix(out, "raftbench commit ") {
		t.Errorf("version: exit %d, %q", code, out)
	}
}

func TestJudge(t *testing.T) {
	good := bench.Trial{Kind: bench.TrialMeasured, Viable: true, Valid: true, Operations: 5}
	invalid := bench.Trial{Kind: bench.TrialMeasured, Viable: true, Problem: "late", Operations: 5}
	hopeless := bench.Trial{Variant: "v02", Kind: bench.TrialMeasured, Problem: "too large"}
	down := bench.Trial{Kind: bench.TrialMeasured, Problem: "then none for 2s", Operations: 5}
	for name, c := range map[string]struct {
		trials []bench.Trial
		strict bool
		code   int
	}{
		"good":               {[]bench.Trial{good}, true, 0},
		"invalid":            {[]bench.Trial{good, invalid}, false, 0},
		"invalid, strict":    {[]bench.Trial{good, invalid}, true, 5},
		"not viable, strict": {[]bench.Trial{good, hopeless}, true, 0},
		"once, strict":       {[]bench.Trial{good, down, good}, true, 5},
		"all went down":      {[]bench.Trial{down, hopeless}, false, 1},
		"nothing":            {[]bench.Trial{hopeless}, false, 1},
	} {
		f := runFlags{strict: c.strict}
		code := exitDone
		if err := f.judge(&bench.Run{Trials: c.trials}); err != nil {
			code = exitCode(t.Context(), err)
		}
		if code != c.code {
			t.Errorf("%s: exit %d, want %d", name, code, c.code)
		}
	}
	for outcome, want := range map[bench.RateOutcome]int{
		bench.RateIsFound: exitDone, bench.RateAbove: exitDone, bench.RateMissed: exitMissed, bench.RateInconclusive: exitInconclusive, bench.RateFailed: exitFailed,
	} {
		code := exitDone
		if err := new(runFlags).judge(&bench.Run{Objective: &bench.Objective{Rates: []bench.RateFound{{Outcome: outcome}}}}); err != nil {
			code = exitCode(t.Context(), err)
		}
		if code != want {
			t.Errorf("a search that ends %s: exit %d, want %d", outcome, code, want)
		}
	}
}

// A violation fails a run wherever it was found, also one that was interrupted.
func TestViolationFailsTheRun(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		trial bench.Trial
		ctx   context.Context
		err   error
	}{
		"measured":    {bench.Trial{Kind: bench.TrialMeasured}, t.Context(), nil},
		"profile":     {bench.Trial{Kind: bench.TrialProfile, Viable: true, Operations: 5}, t.Context(), nil},
		"search":      {bench.Trial{Kind: bench.TrialSearch}, t.Context(), nil},
		"interrupted": {bench.Trial{Kind: bench.TrialMeasured}, interrupted, context.Canceled},
	} {
		c.trial.Violations = []string{"key 7 has mod revision 1, acknowledged was 2"}
		good := bench.Trial{Kind: bench.TrialMeasured, Viable: true, Valid: true, Operations: 5}
		run := &bench.Run{Trials: []bench.Trial{good, c.trial}}
		err := new(runFlags).finish(runCommand(), &bench.Options{Folder: &bench.Folder{}}, run, c.err)
		if err == nil || exitCode(c.ctx, err) != exitFailed || !strings.Contains(err.Error(), "key 7 has mod revision 1") {
			t.Errorf("%s: exit %d, %v", name, exitCode(c.ctx, err), err)
		}
	}
}

// A server from another commit is refused, unless it was named.
func TestBuildMismatch(t *testing.T) {
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.commit=0123abcd -X main.dirty=false",
		"-o", filepath.Join(dir, "raftbench"), "raftlab/cmd/raftbench")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Symlink(filepath.Join(bin, "raftkv"), filepath.Join(dir, "raftkv")); err != nil {
		t.Fatal(err)
	}
	file := experimentFile(t, "name: x\nceiling: none\nfixed: {topology: processes, keys: 10}\nmeasure: {warmup: 0s, duration: 500ms, blocks: 1}\n")
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "raftbench"), append([]string{"run", file, "--no-profiles"}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("--out", filepath.Join(dir, "refused"))
	if err == nil || !strings.Contains(out, "raftbench from 0123abcd dirty false") {
		t.Errorf("a mismatch was accepted: %v, %s", err, out)
	}
	patiently(t, func(errorf errorf) {
		if out, err := run("--out", filepath.Join(t.TempDir(), "run"), "--server-bin", filepath.Join(bin, "raftkv")); err != nil {
			errorf("a named server was refused: %v, %s", err, out)
		}
	})
}
