package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/perf/benchfmt"
)

// recorded is a small run with one valid trial, one invalid and one profile.
func recorded() *Run {
	trial := func(kind string, block int) Trial {
		l := Latency{Count: 1000, P50Ns: 100_000, P90Ns: 150_000, P99Ns: 250_000, P999Ns: 400_000, MaxNs: 500_000}
		return Trial{
			Variant: "v01", Block: block, Kind: kind, Viable: true, Valid: true, WindowS: 0.5, Operations: 1000, OpsPerS: 2000,
			Response: map[string]Latency{"put": l, "all": l}, Service: map[string]Latency{},
			Counters:  map[string]uint64{"wire_bytes_sent": 600_000},
			BytesPerS: 512_000,
			Series:    []Point{{OffsetS: 0, Operations: 400}, {OffsetS: 0.25, Operations: 600}},
		}
	}
	run := &Run{
		Schema: Schema, ID: "1f0c", Seed: 7, Started: time.Unix(1_800_000_000, 0), TrialsPlanned: 3, TrialsCompleted: 3,
		Experiment:  ExperimentInfo{Name: "sample", Axes: []string{"topology", "link-rate"}},
		Environment: Environment{OS: "linux", Arch: "amd64", CPU: Unavailable, GOMAXPROCS: 2, Commit: "abc", Dirty: "false"},
		Variants: []Variant{
			{
				ID: "v01", Role: RoleMeasured, Params: map[string]string{"topology": "processes", "link-rate": "200MB/s"},
				Config: map[string]string{"op": "put"},
			},
			{ID: "v02", Role: RoleAA, Params: map[string]string{"topology": "processes"}, Config: map[string]string{"op": "get"}},
		},
		Trials: []Trial{trial(TrialMeasured, 1), trial(TrialMeasured, 2), trial(TrialProfile, 0)},
	}
	run.Trials[1].Valid = false
	aa := trial(TrialMeasured, 1)
	aa.Variant = "v02"
	run.Trials = append(run.Trials, aa)
	return run
}

// benchstat's own parser reads results.txt: names, units and what may be a config.
func TestResultsParse(t *testing.T) {
	var b bytes.Buffer
	if err := writeResults(&b, recorded()); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	reader := benchfmt.NewReader(strings.NewReader(text), "results.txt")
	var names []string
	values := map[string]float64{}
	units := map[string]string{}
	for reader.Scan() {
		switch r := reader.Result().(type) {
		case *benchfmt.Result:
			names = append(names, r.Name.String())
			for _, c := range r.Config {
				if c.File && c.Key != "goos" && c.Key != "goarch" && c.Key != "pkg" {
					t.Errorf("config line %s=%s would split benchstat's tables", c.Key, c.Value)
				}
			}
			if len(names) == 1 {
				if r.Iters != 1000 {
					t.Errorf("%d iterations, want 1000", r.Iters)
				}
				for _, v := range r.Values {
					values[v.Unit] = v.Value
				}
			}
		case *benchfmt.UnitMetadata:
			units[r.Unit] = r.Value
		case *benchfmt.SyntaxError:
			t.Errorf("%v in\n%s", r, text)
		}
	}
	if err := reader.Err(); err != nil {
		t.Fatal(err)
	}
	if len(names) != 2 || names[0] != "Put/topology=processes/link-rate=200MBps-2" || names[1] != "Get/topology=processes/arm=aa-2" {
		t.Errorf("names are %q", names)
	}
	for unit, want := range map[string]float64{
		"sec/op": 500e-6, "ops/s": 2000, "B/s": 512_000, "p50-latency-ns": 100_000, "p90-latency-ns": 150_000, "p99-latency-ns": 250_000,
		"p99.9-latency-ns": 400_000, "max-latency-ns": 500_000, "wire-B/op": 600,
	} {
		got, ok := values[unit]
		if !ok {
			got, ok = values[strings.Replace(unit, "-latency-ns", "-latency-sec", 1)]
			want /= 1e9
		}
		if !ok || math.Abs(got-want) > want/1e9 {
			t.Errorf("%s is %v (there: %v), want %v; all: %v", unit, got, ok, want, values)
		}
	}
	if units["ops/s"] != "higher" || units["wire-B/op"] != "lower" {
		t.Errorf("units say %v", units)
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	f, err := CreateFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	run := recorded()
	if err := f.AppendSeries(&run.Trials[0]); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(run); err != nil {
		t.Fatal(err)
	}
	run.Complete = true
	if err := errors.Join(f.Write(run), f.Close()); err != nil {
		t.Fatal(err)
	}
	read, err := ReadRun(dir)
	if err != nil || !read.Complete || read.ID != run.ID || len(read.Trials) != 4 {
		t.Errorf("read %+v, %v", read, err)
	}
	series, err := os.ReadFile(filepath.Join(dir, SeriesFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(series)), "\n")
	var line struct {
		Variant    string
		Operations int
	}
	if len(lines) != 2 || json.Unmarshal([]byte(lines[1]), &line) != nil || line.Variant != "v01" || line.Operations != 600 {
		t.Errorf("series is %q", lines)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Errorf("temporary files stay: %v", files)
	}

	var usage *UsageError
	if _, err := CreateFolder(dir); !errors.As(err, &usage) {
		t.Errorf("a folder with files was taken: %v", err)
	}
	if _, err := CreateFolder(filepath.Join(dir, RunFile)); !errors.As(err, &usage) {
		t.Errorf("a file was taken for a folder: %v", err)
	}
	empty := t.TempDir()
	f, err = CreateFolder(empty)
	if err != nil {
		t.Fatalf("an empty folder was refused: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whoever reads while a run is written, or after it was killed, finds a whole
// run.json.
func TestRunFileIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	f, err := CreateFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	run := recorded()
	if err := f.Write(run); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		for i := range 200 {
			run.TrialsCompleted = i
			if err := f.Write(run); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
			if _, err := ReadRun(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFindRun(t *testing.T) {
	root := t.TempDir()
	for i, name := range []string{"20260101-000000-quick-aaaa", "20260102-000000-quick-bbbb"} {
		f, err := CreateFolder(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		run := recorded()
		run.Started = time.Unix(int64(2-i), 0) // the second folder is the older run
		if err := errors.Join(f.Write(run), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "not-a-run"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"latest": "20260101-000000-quick-aaaa", "bbbb": "20260102-000000-quick-bbbb",
		"20260102-000000-quick-bbbb":                      "20260102-000000-quick-bbbb",
		filepath.Join(root, "20260102-000000-quick-bbbb"): "20260102-000000-quick-bbbb",
	} {
		dir, err := FindRun(root, name)
		if err != nil || filepath.Base(dir) != want {
			t.Errorf("%s: %s, %v; want %s", name, dir, err, want)
		}
	}
	var usage *UsageError
	if _, err := FindRun(root, "cccc"); !errors.As(err, &usage) {
		t.Errorf("an unknown run: %v", err)
	}
	if _, err := FindRun(t.TempDir(), "latest"); !errors.As(err, &usage) {
		t.Errorf("no run at all: %v", err)
	}
}
