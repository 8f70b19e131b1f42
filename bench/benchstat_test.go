package bench

import (
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestBenchstatAgrees runs benchstat, of the version in go.mod, over the results.txt
// of two runs: its medians, intervals and p-values are those that this package
// states.
func TestBenchstatAgrees(t *testing.T) {
	benchstat := filepath.Join(t.TempDir(), "benchstat")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", benchstat, "golang.org/x/perf/cmd/benchstat")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	random := rand.New(rand.NewPCG(13, 14))
	draw := func(blocks int, level, noise float64) []float64 {
		var v []float64
		for range blocks {
			v = append(v, math.Round(level*math.Exp(noise*random.NormFloat64())))
		}
		return v
	}
	folder := func(run *Run) string {
		dir := filepath.Join(t.TempDir(), run.ID)
		f, err := CreateFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Write(run), f.Close()); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, ResultsFile)
	}
	a := arms("a", map[string][]float64{"clients=1": draw(8, 5000, 0.03), "clients=2": draw(8, 9000, 0.1), "clients=4": draw(8, 20000, 0.01)})
	b := arms("b", map[string][]float64{"clients=1": draw(9, 4800, 0.03), "clients=2": draw(9, 9000, 0.1), "clients=4": draw(9, 22000, 0.01)})
	for _, run := range []*Run{a, b} {
		for i := range run.Trials {
			run.Trials[i].BytesPerS = 256 * run.Trials[i].OpsPerS
		}
	}
	out, err := exec.CommandContext(t.Context(), benchstat, "-format", "csv", folder(a), folder(b)).Output()
	if err != nil {
		t.Fatal(err)
	}
	metrics := []string{"ops/s", MetricBytes, "p50-latency-ns", "p99-latency-ns"} // those that these runs have
	c, err := CompareRuns(a, b, CompareOptions{Metrics: metrics, MaxRegression: 0.05})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]Compared{}
	for _, r := range c.Rows {
		rows[strings.Replace(strings.TrimSuffix(r.Metric, "-ns"), MetricBytes, "B/s", 1)+" "+r.Variant] = r
	}
	reader := csv.NewReader(strings.NewReader(string(out)))
	reader.FieldsPerRecord = -1
	lines, err := reader.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	unit, compared := "", 0
	for _, line := range lines {
		if len(line) == 7 && line[0] == "" && line[2] == "CI" {
			unit = strings.TrimSuffix(line[1], "-sec")
		}
		_, name, ok := strings.Cut(line[0], "/")
		r, known := rows[unit+" "+strings.TrimSuffix(name, "-0")]
		if !ok || !known || len(line) != 7 {
			continue
		}
		compared++
		scale := 1.0
		if strings.HasSuffix(unit, "-latency") {
			scale = 1e-9 // benchstat states latencies in seconds
		}
		for i, e := range []Estimate{r.A, r.B} {
			center, err := strconv.ParseFloat(line[1+2*i], 64)
			if err != nil {
				t.Fatal(err)
			}
			if want := e.Center * scale; math.Abs(center-want) > 1e-9*want {
				t.Errorf("%s %s: benchstat's median is %v, this one %v", unit, name, center, want)
			}
			half := 100 * max(e.Hi/e.Center-1, 1-e.Lo/e.Center)
			if want := fmt.Sprintf("%.0f%%", half); line[2+2*i] != want {
				t.Errorf("%s %s: benchstat's interval is ± %s, this one %s", unit, name, line[2+2*i], want)
			}
		}
		if want := fmt.Sprintf("p=%.3f n=8+9", r.P); line[6] != want || (line[5] == "~") != (r.P > 0.05) {
			t.Errorf("%s %s: benchstat has %q %q, this one %s", unit, name, line[5], line[6], want)
		}
	}
	if compared != 3*len(metrics) {
		t.Errorf("%d figures were compared, of %d\n%s", compared, 3*len(metrics), out)
	}
}
