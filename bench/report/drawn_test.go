package report

import (
	"encoding/json"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"raftlab/bench"
)

// What a browser draws is what run.json says: where each mark stands between the
// ticks of its axis, by the browser's own geometry, is the median of the trials'
// figures as the file has them.
func TestChromiumDrawsTheRun(t *testing.T) {
	for name, fixture := range map[string]func() (*Data, *maker){"quick": quickLike, "chunk-size": chunkLike} {
		t.Run(name, func(t *testing.T) {
			made, _ := fixture()
			dir := t.TempDir()
			raw, err := json.Marshal(made.Run)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, bench.RunFile), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			d, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			var run bench.Run // what the file says, by itself
			if err := json.Unmarshal(raw, &run); err != nil {
				t.Fatal(err)
			}
			charts := drawn(t, render(t, d.HTML))
			throughput := func(tr *bench.Trial) float64 { return tr.OpsPerS }
			p50 := func(tr *bench.Trial) float64 { return float64(tr.Response["all"].P50Ns) }
			p99 := func(tr *bench.Trial) float64 { return float64(tr.Response["all"].P99Ns) }
			for i := range run.Variants {
				v := &run.Variants[i]
				if v.Role != bench.RoleMeasured {
					continue
				}
				for _, c := range []struct {
					section string
					hollow  bool
					figure  func(*bench.Trial) float64
				}{{"throughput", false, throughput}, {"latency", false, p50}, {"latency", true, p99}} {
					want, some := medianOf(&run, v.ID, c.figure)
					if !some {
						continue
					}
					if problem := charts.shows(c.section, v.ID, c.hollow, want); problem != "" {
						t.Errorf("%s, %s, hollow %v: %s", v.ID, c.section, c.hollow, problem)
					}
				}
			}
		})
	}
}

// medianOf is the median of a variant's valid trials.
func medianOf(run *bench.Run, id string, figure func(*bench.Trial) float64) (median float64, some bool) {
	var values []float64
	for i := range run.Trials {
		if tr := &run.Trials[i]; tr.Variant == id && tr.Kind == bench.TrialMeasured {
			if !tr.Viable {
				return 0, false
			}
			if tr.Valid {
				values = append(values, figure(tr))
			}
		}
	}
	if len(values) == 0 {
		return 0, false
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, true
}

// layoutInBrowser is the charts of a page as a browser laid them out.
type layoutInBrowser []struct {
	Section string
	Ticks   []struct {
		Y     float64
		Label string
	}
	Marks []struct {
		ID     string
		Hollow bool
		Y      float64 // of its middle
	}
}

func drawn(t *testing.T, page string) layoutInBrowser {
	t.Helper()
	probe := `<script>addEventListener("load", () => {
  const charts = [];
  for (const section of ["throughput", "latency"]) {
    for (const svg of document.querySelectorAll("#" + section + " figure.panel svg")) {
      const ticks = [...svg.querySelectorAll("text.tick[text-anchor=end]")].map((e) => ({Y: Number(e.getAttribute("y")), Label: e.textContent}));
      const marks = [...svg.querySelectorAll("path[data-id]")].map((e) => {
        const box = e.getBBox();
        return {ID: e.dataset.id, Hollow: e.classList.contains("hollow"), Y: box.y + box.height / 2};
      });
      charts.push({Section: section, Ticks: ticks, Marks: marks});
    }
  }
  document.body.dataset.charts = JSON.stringify(charts);
});</script>`
	out := browse(t, strings.Replace(page, "<body>", "<body>"+probe, 1), "1400,2000")
	found := regexp.MustCompile(`data-charts="([^"]*)"`).FindStringSubmatch(out)
	if found == nil {
		t.Fatal("the page's script did not run")
	}
	var charts layoutInBrowser
	if err := json.Unmarshal([]byte(html.UnescapeString(found[1])), &charts); err != nil {
		t.Fatal(err)
	}
	return charts
}

// shows says what is wrong with the one mark that shows a variant's figure;
// nothing when it stands where the axis has the value.
func (d layoutInBrowser) shows(section, id string, hollow bool, want float64) string {
	const off = 2.5 // pixels: triangles have their middle lower than their point
	marks := 0
	for _, chart := range d {
		if chart.Section != section {
			continue
		}
		for _, m := range chart.Marks {
			if m.ID != id || m.Hollow != hollow {
				continue
			}
			marks++
			first, last := chart.Ticks[0], chart.Ticks[len(chart.Ticks)-1]
			a, errA := figure(first.Label)
			b, errB := figure(last.Label)
			if errA != nil || errB != nil {
				return fmt.Sprintf("ticks %q and %q", first.Label, last.Label)
			}
			w := want
			if a != 0 && b != 0 {
				a, b, w = math.Log(a), math.Log(b), math.Log(want)
			}
			at := first.Y + (w-a)*(last.Y-first.Y)/(b-a)
			if math.Abs(at-m.Y) > off {
				return fmt.Sprintf("the mark is at y %.1f, and %v at %.1f", m.Y, want, at)
			}
		}
	}
	if marks != 1 {
		return fmt.Sprintf("%d marks", marks)
	}
	return ""
}

// figure reads the label of a tick: 400, 20k, 1.5M, 20 ms.
func figure(label string) (float64, error) {
	for suffix, factor := range map[string]float64{" ns": 1, " µs": 1e3, " ms": 1e6, " s": 1e9, "k": 1e3, "M": 1e6, "G": 1e9} {
		if number, ok := strings.CutSuffix(label, suffix); ok {
			v, err := strconv.ParseFloat(number, 64)
			return v * factor, err
		}
	}
	return strconv.ParseFloat(label, 64)
}
