package report

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"raftlab/bench"
)

// parse reads a page and calls visit for each element.
func parse(t *testing.T, page string, visit func(*html.Node)) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		if n.Type == html.ElementNode {
			visit(n)
		}
	}
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

// loads lists everything in a page that would make a browser fetch something,
// or run what we did not write.
func loads(t *testing.T, page string) []string {
	var found []string
	scripts := 0
	parse(t, page, func(n *html.Node) {
		switch n.Data {
		case "link", "iframe", "object", "embed", "base", "audio", "video", "source", "image", "use", "form", "frame", "applet", "track", "portal":
			found = append(found, "<"+n.Data+">")
		case "meta":
			if _, ok := attr(n, "http-equiv"); ok {
				found = append(found, "meta http-equiv")
			}
		case "script":
			scripts++
		}
		for _, a := range n.Attr {
			switch a.Key {
			case "src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "xlink:href":
				if !strings.HasPrefix(a.Val, "data:") {
					found = append(found, n.Data+" "+a.Key+"="+a.Val)
				}
			case "href":
				local := strings.HasPrefix(a.Val, "#") || strings.HasPrefix(a.Val, "./")
				if n.Data != "a" || !local {
					found = append(found, n.Data+" href="+a.Val)
				}
			case "style":
				found = append(found, n.Data+" style="+a.Val)
			}
			if strings.HasPrefix(a.Key, "on") {
				found = append(found, n.Data+" "+a.Key)
			}
		}
		if (n.Data == "style" || n.Data == "script") && n.FirstChild != nil {
			text := n.FirstChild.Data
			for _, bad := range []string{"@import", "url(", "http:", "https:", "//cdn", "fetch(", "XMLHttpRequest", "import(", "import ", "WebSocket", "EventSource", "sendBeacon", "new Image", "innerHTML", "eval("} {
				if strings.Contains(text, bad) {
					found = append(found, n.Data+" contains "+bad)
				}
			}
		}
	})
	if scripts > 1 {
		found = append(found, fmt.Sprintf("%d scripts", scripts))
	}
	return found
}

func TestHTMLLoadsNothing(t *testing.T) {
	for name, page := range map[string]string{"quick": quickPage(), "chunk-size": chunkPage(), "hostile": render(t, hostile(t).HTML)} {
		if found := loads(t, page); len(found) > 0 {
			t.Errorf("%s: the page is not self-contained: %q", name, found)
		}
		if len(page) > 2<<20 {
			t.Errorf("%s: %d bytes", name, len(page))
		}
	}
}

// The check itself must see what it is there for.
func TestLoadsSeesThem(t *testing.T) {
	for _, bad := range []string{
		`<link rel="stylesheet" href="x.css">`, `<script src="a.js"></script>`, `<img src="//example.com/a.png">`,
		`<style>@import "x";</style>`, `<style>a{background:url(x)}</style>`, `<script>fetch("x")</script>`,
		`<a href="https://example.com">x</a>`, `<a href="//example.com">x</a>`, `<p onclick="x()">`, `<svg><use href="x#y"/></svg>`,
	} {
		if len(loads(t, "<!doctype html>"+bad)) == 0 {
			t.Errorf("not seen: %s", bad)
		}
	}
}

const attack = `"><script>alert(1)</script><img src=x onerror=alert(2)>'` + "`{{.}}</style></svg></title>javascript:alert(3)"

// hostile is a run whose every name tries to become code.
func hostile(t *testing.T) *Data {
	t.Helper()
	d, _ := chunkLike()
	r := d.Run
	r.ID, r.Experiment.Name, r.Experiment.Question, r.Experiment.Source = attack, attack, attack, attack
	r.Command, r.Warnings, r.Environment.CPU = []string{attack}, []string{attack}, attack
	r.Experiment.Axes = append(r.Experiment.Axes, attack)
	r.Skipped = []bench.Skipped{{Params: map[string]string{attack: attack}, Reason: attack}}
	d.Problems = []string{attack}
	for i := range d.Summary.Variants {
		v := &d.Summary.Variants[i]
		v.Variant.Params[attack] = fmt.Sprint(attack, i%2)
		v.Variant.Params["chunking"] += attack
		v.Verdict, v.Problem = attack, attack
		v.Variant.Name = attack
	}
	for i := range d.Summary.Answers {
		d.Summary.Answers[i].Sentence = attack
		d.Summary.Answers[i].Where = map[string]string{attack: attack}
	}
	for i := range r.Trials {
		tr := &r.Trials[i]
		tr.Problem, tr.Warning, tr.Violations = attack, attack, []string{attack}
		tr.ErrorsByCode = map[string]uint64{attack: 1}
		tr.Processes[attack] = bench.Process{CPUS: 1}
		tr.Profiles = []string{"javascript:alert(4)", "//example.com/x", attack, attack + "/cpu.pb.gz"}
		tr.CPU = map[string][]bench.LayerCPU{attack: {{Layer: attack, UsPerOp: bench.Estimate{Center: 1, N: 1}}}}
	}
	for id := range d.Stacks {
		d.Stacks[id] = append(d.Stacks[id], bench.Stack{Process: attack, Functions: []string{attack, attack}, Samples: 9, Nanos: 9e9})
	}
	for _, u := range d.Usage {
		u.Points[0].Processes[attack] = bench.ProcessPoint{CPUs: 1}
	}
	return d
}

func TestHostileNames(t *testing.T) {
	d := hostile(t)
	page := render(t, d.HTML)
	parse(t, page, func(n *html.Node) {
		if n.Data == "img" {
			t.Error("an <img> got in")
		}
	})
	if !strings.Contains(page, "&lt;script&gt;alert(1)") {
		t.Error("the names are not there, escaped")
	}
	var index strings.Builder
	d.Dir = filepath.Join(t.TempDir(), "javascript:alert(1)")
	if err := Index(&index, t.TempDir(), []*Data{d}); err != nil {
		t.Fatal(err)
	}
	if found := loads(t, index.String()); len(found) > 0 {
		// A relative path may climb, but must stay a path.
		found = slices.DeleteFunc(found, func(s string) bool { return strings.HasPrefix(s, "a href=../") })
		if len(found) > 0 {
			t.Errorf("index: %q", found)
		}
	}
}

func TestHTMLStructure(t *testing.T) {
	d, _ := quickLike()
	page := quickPage()
	ids, refs := map[string]bool{}, []string{}
	var svgs, figures, rows int
	parse(t, page, func(n *html.Node) {
		if id, ok := attr(n, "id"); ok {
			if ids[id] {
				t.Errorf("id %q twice", id)
			}
			ids[id] = true
		}
		if by, ok := attr(n, "aria-labelledby"); ok {
			refs = append(refs, strings.Fields(by)...)
		}
		if h, ok := attr(n, "href"); ok && strings.HasPrefix(h, "#") {
			refs = append(refs, h[1:])
		}
		switch n.Data {
		case "svg":
			svgs++
			if role, _ := attr(n, "role"); role != "img" {
				if hidden, _ := attr(n, "aria-hidden"); hidden != "true" {
					t.Error("an svg is neither an image with a title nor hidden")
				}
			}
		case "figure":
			figures++
		case "th":
			if _, ok := attr(n, "scope"); !ok {
				t.Error("a th without scope")
			}
		case "tr":
			rows++
		case "path":
			if p, _ := attr(n, "d"); strings.Contains(p, "NaN") || strings.Contains(p, "Inf") {
				t.Errorf("path %q", p)
			}
		}
	})
	for _, r := range refs {
		if !ids[r] {
			t.Errorf("nothing has the id %q that is referred to", r)
		}
	}
	// Eight panels of throughput, eight of latency, one timeline a variant; of those
	// shown in depth a heatmap, a CPU card, a flame graph and a chart of usage, and
	// what has a baseline also the difference.
	chosen, differences := d.chosen(), 0
	for _, id := range chosen {
		if slices.Contains(chosen, d.against(id)) {
			differences++
		}
	}
	if want := 16 + len(d.Run.Variants) + 4*len(chosen) + differences; figures != want {
		t.Errorf("%d figures, want %d", figures, want)
	}
	if rows < 2*len(d.Run.Variants) {
		t.Errorf("%d table rows", rows)
	}
	answer, chart := strings.Index(page, d.Summary.Answers[0].Sentence), strings.Index(page, "<figure")
	if answer < 0 || answer > chart {
		t.Error("the answer does not come before the charts")
	}
	for _, want := range []string{"coordinated omission", "64 % of 2.97k ops/s", "82 % of 2.01k ops/s", `class="ceil relay"`, "go tool pprof -http=:0 pprof/v01/", "--seed 1", "lower bounds"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// Labels of one axis must not run into each other, nor out of the picture.
func TestLabelsKeepApart(t *testing.T) {
	quick, _ := quickLike()
	chunk, _ := chunkLike()
	const perRune = 6.6 // pixels of an 11 px figure, generously
	for _, d := range []*Data{quick, chunk} {
		c := newChart(d)
		throughput, _ := c.throughput()
		latency, _ := c.latencies()
		for _, p := range slices.Concat(throughput, latency) {
			end := 0.0
			for _, x := range p.XTicks {
				var at float64
				if _, err := fmt.Sscan(x.At, &at); err != nil {
					t.Fatal(err)
				}
				half := float64(len([]rune(x.Label))) * perRune / 2
				if at-half < end {
					t.Errorf("%s: label %q overlaps the one before", p.Title, x.Label)
				}
				end = at + half
			}
			if end > float64(p.W) {
				t.Errorf("%s: labels run out of the picture", p.Title)
			}
			for _, y := range p.YTicks {
				if float64(len([]rune(y.Label)))*perRune > padLeft-5 {
					t.Errorf("%s: label %q is cut", p.Title, y.Label)
				}
			}
		}
	}
}

func TestSpectrumGreysWhatSamplesDoNotCarry(t *testing.T) {
	d, _ := chunkLike()
	for i, cv := range newChart(d).spectrum().Curves {
		n := float64(d.Spectra[i].Count)
		if cv.Solid == "" || cv.Thin == "" {
			t.Errorf("%s with %v samples: solid %t, grey %t", cv.ID, n, cv.Solid != "", cv.Thin != "")
		}
	}
	if enough(999, 0.99) || !enough(1000, 0.99) {
		t.Error("p99 takes 1000 samples")
	}
}

func TestClosedLoopIsLabelled(t *testing.T) {
	d, _ := quickLike()
	if d.closedLoop() == "" {
		t.Error("a closed loop is not labelled")
	}
	for i := range d.Run.Variants {
		d.Run.Variants[i].Config["rate"] = "5000"
	}
	if s := d.closedLoop(); s != "" {
		t.Errorf("an open loop is labelled %q", s)
	}
}

func TestIndex(t *testing.T) {
	base := t.TempDir()
	quick, _ := quickLike()
	chunk, _ := chunkLike()
	quick.Dir, chunk.Dir = filepath.Join(base, "a quick"), filepath.Join(base, "chunk")
	chunk.Run.Complete = false
	var b strings.Builder
	if err := Index(&b, base, []*Data{quick, chunk}); err != nil {
		t.Fatal(err)
	}
	if found := loads(t, b.String()); len(found) > 0 {
		t.Errorf("%q", found)
	}
	for _, want := range []string{`href="./a%20quick/report.html"`, `href="./chunk/report.html"`, chunk.Summary.Answers[1].Sentence, "Incomplete run."} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the index has no %q", want)
		}
	}
}

// browse opens a page in a browser window of that size and returns what its scripts made of it.
func browse(t *testing.T, page, window string) string {
	t.Helper()
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		t.Skip("no chromium on PATH: the page is not opened in a browser")
	}
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
		"--user-data-dir="+t.TempDir(), "--window-size="+window, "--dump-dom", "file://"+file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", browser, err, stderr.String())
	}
	if console := regexp.MustCompile(`(?m)^.*CONSOLE.*$`).FindAllString(stderr.String(), -1); len(console) > 0 {
		t.Errorf("the console says %q", console)
	}
	return string(out)
}

// A real browser opens the page: the script runs without an error and does its
// two jobs.
func TestChromium(t *testing.T) {
	d, _ := quickLike()
	// Errors and what clicks did become attributes that --dump-dom shows.
	probe := `<script>
document.body.dataset.error = "";
addEventListener("error", (e) => { document.body.dataset.error += e.message; });
addEventListener("load", () => {
  const head = [...document.querySelectorAll("table.sortable th")].find((h) => h.textContent === "ops/s");
  head.querySelector("button").click();
  document.body.dataset.top = document.querySelector("table.sortable tbody th").textContent.trim();
  const boxes = [...document.querySelectorAll(".pick input")];
  boxes.find((b) => b.checked).click();
  boxes.find((b) => !b.checked && b.dataset.pick === "3").click();
  document.body.dataset.coloured = document.querySelectorAll("#spectrum .curve.c1, #spectrum .curve.c2, #spectrum .curve.c3, #spectrum .curve.c4, #spectrum .curve.c5, #spectrum .curve.c6").length;
  document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.requests = performance.getEntriesByType("resource").length;
});
</script>`
	out := browse(t, strings.Replace(quickPage(), "<body>", "<body>"+probe, 1), "1400,2000")
	body := regexp.MustCompile(`<body[^>]*>`).FindString(out)
	best := slices.MaxFunc(d.Summary.Variants, func(a, b bench.VariantSummary) int { return int(a.OpsPerS.Center - b.OpsPerS.Center) })
	for _, want := range []string{
		`data-error=""`, `data-wide="false"`, `data-requests="0"`, `data-top="` + best.Variant.ID, fmt.Sprintf(`data-coloured="%d"`, maxHighlighted),
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	for _, section := range []string{"answer", "throughput", "latency", "percentiles", "variants", "time", "heat", "cpu", "flames", "resources", "profiles", "trust", "where", "again", "words"} {
		if !strings.Contains(out, `<section id="`+section+`"`) {
			t.Errorf("no section %s", section)
		}
	}
}

// On a phone nothing but what scrolls by itself is wider than the screen.
func TestChromiumNarrow(t *testing.T) {
	probe := `<script>addEventListener("load", () => {
  document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.narrow = innerWidth <= 500;
});</script>`
	body := regexp.MustCompile(`<body[^>]*>`).FindString(browse(t, strings.Replace(chunkPage(), "<body>", "<body>"+probe, 1), "500,900"))
	if !strings.Contains(body, `data-wide="false"`) || !strings.Contains(body, `data-narrow="true"`) {
		t.Errorf("the page is wider than its window: %s", body)
	}
}
