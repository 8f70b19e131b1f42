package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raftlab/bench"
)

// runFolder writes a run with one variant a name, each with these throughputs.
func runFolder(t *testing.T, id string, ops map[string][]float64) string {
	t.Helper()
	run := &bench.Run{
		Schema: bench.Schema, ID: id, Complete: true,
		Experiment: bench.ExperimentInfo{Name: "made", Metric: "ops/s", Axes: []string{"server-bin"}, Blocks: 6},
	}
	for _, name := range []string{"old", "new", "other"} {
		figures, ok := ops[name]
		if !ok {
			continue
		}
		v := bench.Variant{ID: "v" + name, Name: "server-bin=" + name, Role: bench.RoleMeasured, Params: map[string]string{"server-bin": name}}
		run.Variants = append(run.Variants, v)
		for i, x := range figures {
			run.Trials = append(run.Trials, bench.Trial{
				Variant: v.ID, Block: i + 1, Kind: bench.TrialMeasured, Viable: true, Valid: true, Operations: uint64(x), OpsPerS: x,
				Response: map[string]bench.Latency{"all": {P99Ns: int64(1e9 / x)}},
			})
		}
	}
	raw, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, bench.RunFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestCompare: what each outcome says, and its exit code.
func TestCompare(t *testing.T) {
	quiet := []float64{1000, 1002, 998, 1001, 999, 1000}
	slow := []float64{900, 902, 898, 901, 899, 900}
	noisy := []float64{1000, 1300, 800, 1100, 900, 1050}
	a := runFolder(t, "aaaa", map[string][]float64{"old": quiet, "new": slow})
	b := runFolder(t, "bbbb", map[string][]float64{"old": quiet, "new": slow, "other": quiet})
	worse := runFolder(t, "cccc", map[string][]float64{"old": slow})
	shaky := runFolder(t, "dddd", map[string][]float64{"old": noisy})
	none := runFolder(t, "eeee", map[string][]float64{"other": quiet})
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{a + " " + b, 0, "PASSED: a loss of more than 5 % is ruled out in 2 of 2 comparisons.", ""},
		{a + " " + b, 0, "UNPAIRED", ""},
		{a + " " + b, 0, "Only in B\n  - server-bin=other", ""},
		{a + " " + worse, 3, "REGRESSION: 1 of 1 comparisons.\n    server-bin=old, ops/s: B is at -10.0 % (", "a regression beyond 5 %"},
		{a + " " + worse + " --max-regression 20%", 0, "PASSED", ""},
		{a + " " + worse + " --max-regression 0.2 --metric p99-latency-ns", 0, "p99-latency-ns", ""},
		{a + " " + worse + " --metric ops/s,p99-latency-ns", 3, "REGRESSION: 2 of 2", ""},
		{a + " " + shaky, 4, "INCONCLUSIVE: a loss of more than 5 % is neither shown nor ruled out in 1 of 1 comparisons.", "inconclusive: a loss of more than 5 %"},
		{a, 3, "server-bin in run aaaa, paired by block", "a regression"},
		{a + " --by server-bin", 3, "  server-bin=new, ops/s: B is at -10.0 % (", "a regression"},
		{a + " --by clients", 2, "", "clients does not vary in run aaaa; what does is server-bin"},
		{a + " " + b + " --by server-bin", 2, "", "--by is for one run"},
		{worse + " " + none, 2, "", "runs cccc (made) and eeee (made) have no variant in common"},
		{a + " nothing", 2, "", `no run "nothing"`},
		{a + " " + b + " --metric p98", 2, "", `metric "p98" is not one of ops/s, bytes/s, p50-latency-ns`},
		{a + " " + b + " --max-regression lots", 2, "", `max-regression "lots" is not a share from 0 to below 1, such as 5% or 0.05`},
		{a + " " + b + " --max-regression 100%", 2, "", "max-regression"},
		{"", 2, "", "accepts between 1 and 2 arg(s)"},
	} {
		code, stdout, stderr := cli(t.Context(), append([]string{"compare"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || strings.Count(stderr, "\n") > 1 {
			t.Errorf("%s: exit %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
	}
	code, stdout, _ := cli(t.Context(), "compare", a, worse, "-o", "json")
	var c bench.Comparison
	if err := json.Unmarshal([]byte(stdout), &c); err != nil || code != 3 || c.Gate != bench.GateRegression || len(c.Rows) != 1 || c.Rows[0].Ratio.Center > 0.91 {
		t.Errorf("as JSON: exit %d, %v, %s", code, err, stdout)
	}
}

// TestReportOfSeveral: one after the other, one table, or a page that leads to each.
func TestReportOfSeveral(t *testing.T) {
	a := runFolder(t, "aaaa", map[string][]float64{"old": {1000, 1001}})
	b := runFolder(t, "bbbb", map[string][]float64{"old": {2000, 2001}, "new": {500, 501}})
	for format, want := range map[string][]string{
		"text": {a, b}, "md": {"\n---\n"}, "html": {"<!doctype html>", "report.html"},
		"csv": {"run,id,name,", "aaaa,vold,", "bbbb,vnew,"},
	} {
		code, stdout, stderr := cli(t.Context(), "report", a, b, "--format", format)
		for _, s := range want {
			if code != 0 || !strings.Contains(stdout, s) {
				t.Errorf("%s: exit %d, lacks %q: %s%s", format, code, s, stdout, stderr)
			}
		}
	}
	if _, stdout, _ := cli(t.Context(), "report", a, "--format", "csv"); !strings.HasPrefix(stdout, "id,name,") {
		t.Errorf("of one run: %s", stdout)
	}
}

// TestBadRunFolders: each is refused in one line, by all that read runs.
func TestBadRunFolders(t *testing.T) {
	good := runFolder(t, "aaaa", map[string][]float64{"old": {1000, 1001}})
	file := func(content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, bench.RunFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	unreadable := t.TempDir()
	if err := os.Mkdir(filepath.Join(unreadable, bench.RunFile), 0o700); err != nil {
		t.Fatal(err)
	}
	notFolder := filepath.Join(file(""), bench.RunFile)
	t.Chdir(t.TempDir())
	for name, c := range map[string]struct {
		dir  string
		code int
		want string
	}{
		"missing":        {"/nonexistent/run", 2, `no run "/nonexistent/run": neither a run folder nor one in profiles`},
		"not a folder":   {notFolder, 2, "neither a run folder nor one in profiles"},
		"empty folder":   {t.TempDir(), 2, "neither a run folder nor one in profiles"},
		"truncated":      {file(`{"schema": 2, "trials": [{"variant`), 2, "cut short or damaged"},
		"newer schema":   {file(`{"schema": 99}`), 2, "schema 99; this build reads 2"},
		"mixed units":    {file(`{"schema": 2, "experiment": {"metric": "p99-latency-ms"}}`), 2, `metric "p99-latency-ms" is not one of`},
		"text for a sum": {file(`{"schema": 2, "trials": [{"ops_per_s": "5 k"}]}`), 2, "trials.ops_per_s is a string where a float64 belongs"},
		"unreadable":     {unreadable, 1, "is a directory"},
	} {
		for _, args := range [][]string{{"report", c.dir}, {"report", good, c.dir}, {"compare", good, c.dir}, {"compare", c.dir}} {
			code, stdout, stderr := cli(t.Context(), args...)
			if code != c.code || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
				t.Errorf("%s, %s: exit %d, %s%s", name, args[0], code, stdout, stderr)
			}
		}
	}
}
