package report

import (
	"bytes"
	"encoding/csv"
	"flag"
	"html"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"raftlab/bench"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func render(t *testing.T, f func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := f(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	quick, _ := quickLike()
	chunk, _ := chunkLike()
	for _, d := range []*Data{quick, chunk} {
		for form, f := range map[string]func(io.Writer) error{"txt": d.Text, "md": d.Markdown, "csv": d.CSV} {
			name := d.Run.Experiment.Name + "." + form
			t.Run(name, func(t *testing.T) {
				got := render(t, f)
				path := filepath.Join("testdata", name)
				if *update {
					if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("differs from %s; read the diff, then run with -update (-want +got):\n%s", path, diff)
				}
			})
		}
	}
}

func TestTextAnswersFirst(t *testing.T) {
	d, _ := chunkLike()
	out := render(t, d.Text)
	answer, table := strings.Index(out, d.Summary.Answers[0].Sentence), strings.Index(out, "ops/s")
	if answer < 0 || table < 0 || answer > table {
		t.Errorf("answer at %d, table at %d; want the answer first", answer, table)
	}
}

func TestCSVHasEveryVariant(t *testing.T) {
	d, _ := quickLike()
	lines, err := csv.NewReader(strings.NewReader(render(t, d.CSV))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != len(d.Run.Variants)+1 {
		t.Errorf("%d lines for %d variants", len(lines), len(d.Run.Variants))
	}
}

func TestLoad(t *testing.T) {
	want, m := chunkLike()
	dir := m.write(t)
	d, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Problems) != 0 {
		t.Errorf("problems: %q", d.Problems)
	}
	// Every response is there once: service times, delays and lags are not
	// taken for responses, and the profile block has no part in it.
	if diff := cmp.Diff(want.Spectra, d.Spectra); diff != "" {
		t.Errorf("spectra differ (-want +got):\n%s", diff)
	}
	if err := d.Save(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{HTMLFile, MarkdownFile} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) < 1000 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	loadExplains(t, want, d)
}

func TestLoadIncomplete(t *testing.T) {
	_, m := chunkLike()
	m.run.Complete = false
	m.run.Trials = m.run.Trials[:30]
	m.run.TrialsCompleted = 30
	m.run.Trials[0].Hlog = "../outside.hlog"
	m.run.Trials[1].Hlog = "absent.hlog"
	dir := m.write(t)
	if err := os.WriteFile(filepath.Join(dir, "v03-b1.hlog"), []byte("Tag=put,0.1,1.0,2.0,HISTFAAAAgarbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Problems) != 3 {
		t.Errorf("want three problems (outside, absent, damaged), got %q", d.Problems)
	}
	for name, f := range map[string]func(io.Writer) error{"text": d.Text, "markdown": d.Markdown, "html": d.HTML} {
		out := render(t, f)
		if !strings.Contains(strings.ToLower(out), "incomplete") || !strings.Contains(out, "30 of 110") {
			t.Errorf("%s does not say that the run is incomplete", name)
		}
		if !strings.Contains(out, "absent.hlog") {
			t.Errorf("%s does not name the missing histogram", name)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"not JSON":     {"{", "unexpected end"},
		"other schema": {`{"schema": 99}`, "schema 99"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, bench.RunFile), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a folder without run.json was loaded")
	}
}

// A run that ended before its first trial, or that has no axes, is still a report.
func TestEmptyRuns(t *testing.T) {
	one := bench.Variant{ID: "v01", Name: "default", Role: bench.RoleMeasured}
	for name, d := range map[string]*Data{
		"nothing":     {Run: &bench.Run{}},
		"one variant": {Run: &bench.Run{Variants: []bench.Variant{one}}, Summary: bench.Summary{Variants: []bench.VariantSummary{{Variant: one, Viable: true}}}},
		"one that fails": {
			Run:     &bench.Run{Variants: []bench.Variant{one}},
			Summary: bench.Summary{Variants: []bench.VariantSummary{{Variant: one}}, Answers: []bench.Answer{{Best: []string{"gone"}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range []func(io.Writer) error{d.Text, d.Markdown, d.CSV, d.HTML} {
				if out := render(t, f); strings.Contains(out, "NaN") || strings.Contains(out, "Inf") {
					t.Errorf("a figure that is none:\n%s", out)
				}
			}
		})
	}
}

func TestThinPercentilesAreMarked(t *testing.T) {
	d, _ := chunkLike() // some hundred operations a trial: p99 needs a thousand
	for _, r := range newTable(d).Rows {
		if r.Problem != "" {
			continue
		}
		thin := map[string]bool{}
		for i, c := range newTable(d).Columns {
			thin[c.Name] = r.Cells[i].Thin
		}
		if want := map[string]bool{"p50": false, "p90": false, "p99": true, "p99.9": true}; thin["p50"] != want["p50"] ||
			thin["p90"] != want["p90"] || thin["p99"] != want["p99"] || thin["p99.9"] != want["p99.9"] {
			t.Errorf("%s: thin %v", r.ID, thin)
		}
	}
}

func TestNothingIsBestWhereNothingIsConcluded(t *testing.T) {
	d, _ := chunkLike()
	for i := range d.Summary.Answers {
		a := &d.Summary.Answers[i]
		a.Confidence = 0
		for _, v := range measured(d.Summary.Variants) {
			a.Best = append(a.Best, v.ID)
		}
	}
	if out := render(t, d.Text); strings.Contains(out, "\n>") {
		t.Error("every variant is marked as the best")
	}
	if out := render(t, d.HTML); strings.Contains(out, ` is-best"`) || strings.Contains(out, `class="halo"`) {
		t.Error("the page marks variants as the best")
	}
}

func TestCeilingBelowIsWarnedOf(t *testing.T) {
	d, _ := quickLike()
	if s := strings.Join(d.warnings(), "\n"); strings.Contains(s, "ceiling") {
		t.Errorf("warned without reason: %s", s)
	}
	d.Summary.Variants[8].Ceilings[0].Fraction.Center = 1.2
	if s := strings.Join(d.warnings(), "\n"); !strings.Contains(s, "v09 reached more than the ceiling wire") {
		t.Errorf("not warned: %s", s)
	}
}

func TestTextIsSafeToPrint(t *testing.T) {
	d, _ := chunkLike()
	d.Run.Experiment.Question = "clear \x1b[2J and \u009b31m \r\n lines"
	d.Run.Variants[0].Params["chunking"] = "a|b\x07`*<script>"
	for _, f := range []func(io.Writer) error{d.Text, d.Markdown} {
		if out := render(t, f); strings.ContainsAny(out, "\x1b\x07\u009b\r") {
			t.Error("control characters reach the terminal")
		}
	}
	if out := render(t, d.Markdown); strings.Contains(out, "<script>") || strings.Contains(out, "a|b") {
		t.Error("Markdown is not escaped")
	}
}

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"raftbench", "run", "quick"}, "raftbench run quick --seed 9"},
		{[]string{"raftbench", "run", "--seed", "9"}, "raftbench run --seed 9"},
		{[]string{"raftbench", "run", "--out", "dir", "--out=dir", "quick"}, "raftbench run quick --seed 9"},
		{[]string{"raftbench", "run", "my file.yaml", "--set=a='b'"}, `raftbench run 'my file.yaml' '--set=a='\''b'\''' --seed 9`},
	} {
		d := &Data{Run: &bench.Run{Seed: 9, Command: c.args}}
		if got := d.command(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// The committed run still reads whole, and says what it said.
func TestReferenceRun(t *testing.T) {
	d, err := Load("../../profiles/reference")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Problems) > 0 || !d.Run.Complete || len(d.Summary.Answers) == 0 || len(d.Spectra) == 0 {
		t.Errorf("problems %q, complete %v, %d answers, %d spectra", d.Problems, d.Run.Complete, len(d.Summary.Answers), len(d.Spectra))
	}
	var page strings.Builder
	if err := d.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, a := range d.Summary.Answers {
		if !strings.Contains(page.String(), html.EscapeString(a.Sentence)) {
			t.Errorf("the page lacks the answer %q", a.Sentence)
		}
	}
}

func TestJudgements(t *testing.T) {
	d, _ := quickLike()
	if s := render(t, d.HTML) + render(t, d.Text); strings.Contains(s, "are judged") {
		t.Error("nothing was to be judged")
	}
	d.Run.Experiment.Judge = &bench.JudgeInfo{
		Adaptive: map[string]string{"linger": "auto"}, Spread: 0.15,
		Within: []bench.Tolerance{{Metric: "ops/s", Limit: 0.05}, {Metric: "p99-latency-ns", Limit: 0.1}},
	}
	for i, verdict := range []string{"within", "beyond", "unclear", ""} {
		d.Summary.Judgements = append(d.Summary.Judgements, bench.Judgement{
			Where:  map[string]string{"topology": "processes", "op": strconv.Itoa(i)},
			Judged: verdict != "", Verdict: verdict, Sentence: "sentence " + strconv.Itoa(i) + " <b>.",
		})
	}
	for name, f := range map[string]func(io.Writer) error{"text": d.Text, "markdown": d.Markdown, "html": d.HTML} {
		out := strings.ReplaceAll(render(t, f), "\\", "")
		for _, want := range []string{
			"linger=auto within 5 % in ops/s and 10 % in p99 of the best fixed setting, where fixed ones differ by 15 % or more?",
			"Of 4 comparisons 3 are judged: 1 within, 1 beyond, 1 unclear.", "topology processes · op 0", "sentence 3 ",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q", name, want)
			}
		}
	}
	if out := render(t, d.HTML); !strings.Contains(out, `<span class="verdict unclear">unclear</span>`) || strings.Contains(out, "<b>.") {
		t.Error("the page shows no verdict, or takes a sentence for HTML")
	}
}
