package bench

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadRunRefuses: what is no run is the caller's fault, in one line; what
// cannot be read is the machine's.
func TestReadRunRefuses(t *testing.T) {
	whole, err := json.Marshal(recorded())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*Run)) string {
		run := recorded()
		change(run)
		raw, err := json.Marshal(run)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for name, c := range map[string]struct{ json, want string }{
		"empty":           {"", "run.json is cut short or damaged: unexpected end of JSON input at byte 0"},
		"truncated":       {string(whole[:len(whole)/2]), "run.json is cut short or damaged: unexpected end of JSON input at byte "},
		"no JSON":         {"hello", "run.json is cut short or damaged: invalid character 'h'"},
		"null":            {"null", "run.json has schema 0; this build reads 2"},
		"a list":          {"[]", "run.json:  is a array where a bench.Run belongs"},
		"a newer schema":  {edit(func(r *Run) { r.Schema = 3 }), "run.json has schema 3; this build reads 2"},
		"another unit":    {edit(func(r *Run) { r.Experiment.Metric = "p99-latency-ms" }), `metric "p99-latency-ms" is not one of ops/s, bytes/s, p50-latency-ns`},
		"a text figure":   {`{"schema": 2, "trials": [{"ops_per_s": "5 k"}]}`, "run.json: trials.ops_per_s is a string where a float64 belongs"},
		"a judge's unit":  {edit(func(r *Run) { r.Experiment.Judge = &JudgeInfo{Within: []Tolerance{{"MB/s", 0.1}}} }), `metric "MB/s" is not one of`},
		"an ID twice":     {edit(func(r *Run) { r.Variants[1].ID = "v01" }), `variant ID "v01" is empty or there twice`},
		"a lost variant":  {edit(func(r *Run) { r.Trials[1].Variant = "v77" }), `trial 2 is of variant "v77", which is not there`},
		"a lost baseline": {edit(func(r *Run) { r.Variants[1].Against = "v77" }), "variant v02 is against v77, which is not there"},
		"a huge block":    {edit(func(r *Run) { r.Trials[0].Block = 1 << 40 }), "trial 1 is of block 1099511627776"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, RunFile), []byte(c.json), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadRun(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || !errors.As(err, new(*UsageError)) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{t.TempDir(), file, filepath.Join(file, "nothing")} {
		if _, err := ReadRun(dir); err == nil || !strings.HasSuffix(err.Error(), " is no run folder: run.json: file does not exist") || !errors.As(err, new(*UsageError)) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	unreadable := t.TempDir()
	if err := os.Mkdir(filepath.Join(unreadable, RunFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRun(unreadable); err == nil || errors.As(err, new(*UsageError)) {
		t.Errorf("what cannot be read: %v", err)
	}
}
