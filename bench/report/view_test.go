package report

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raftlab/bench"
)

// viewed serves a folder with a run, one that was killed before its report, a
// broken one and a secret beside them, and returns how to ask for a path.
func viewed(t *testing.T) (run *bench.Run, get func(path string, host ...string) (*http.Response, string)) {
	t.Helper()
	outer := t.TempDir()
	root := filepath.Join(outer, "profiles")
	d, _ := chunkLike()
	raw, err := json.Marshal(d.Run)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"secret":                           "not for the web",
		"profiles/good/run.json":           string(raw),
		"profiles/good/report.html":        "<p>the saved report",
		"profiles/good/report.md":          "# as Markdown",
		"profiles/good/pprof/v01/cpu.data": "\x1f\x8b",
		"profiles/killed/run.json":         string(raw),
		"profiles/broken/run.json":         `{"schema":`,
		"profiles/notes/todo.txt":          "no run",
	} {
		path := filepath.Join(outer, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outer, "secret"), filepath.Join(root, "good", "link.txt")); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(View(root))
	t.Cleanup(server.Close)
	return d.Run, func(path string, host ...string) (*http.Response, string) {
		t.Helper()
		// The path as it is: a client would clean it.
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = path
		if len(host) > 0 {
			req.Host = host[0]
		}
		resp, err := server.Client().Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
}

func TestView(t *testing.T) {
	run, get := viewed(t)
	sentence := bench.Summarize(run).Answers[0].Sentence
	for _, c := range []struct {
		path, kind string
		want       []string
		not        string
	}{
		{"/", "text/html", []string{run.Experiment.Name, run.Environment.Commit[:7], "./runs/good/report.html", "./runs/killed/", "Cannot be read.", "broken"}, "notes"},
		{"/runs/good/", "text/html", []string{"./report.html", "./pprof/v01/cpu.data", "run.json"}, "link.txt"},
		{"/runs/broken/", "text/html", []string{"Cannot be read.", "run.json"}, ""},
		{"/runs/good/report.html", "text/html", []string{"the saved report"}, ""},
		{"/runs/killed/report.html", "text/html", []string{"<!doctype html>", run.Experiment.Question}, "the saved report"},
		{"/runs/good/report.md", "text/plain", []string{"# as Markdown"}, ""},
		{"/runs/good/run.json", "application/json", []string{`"schema"`}, ""},
		{"/runs/good/pprof/v01/cpu.data", "application/octet-stream", []string{"\x1f\x8b"}, ""},
	} {
		resp, body := get(c.path)
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), c.kind) {
			t.Errorf("%s: %s, %s", c.path, resp.Status, resp.Header.Get("Content-Type"))
		}
		for _, w := range c.want {
			if !strings.Contains(body, w) {
				t.Errorf("%s lacks %q", c.path, w)
			}
		}
		if c.not != "" && strings.Contains(body, c.not) {
			t.Errorf("%s shows %q", c.path, c.not)
		}
		if !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s may load things: %q", c.path, resp.Header.Get("Content-Security-Policy"))
		}
	}
	if _, body := get("/"); !strings.Contains(body, strings.Fields(sentence)[0]) {
		t.Errorf("the list lacks the answer %q", sentence)
	}
}

// Nothing but the runs' own files can be had, by whatever path.
func TestViewStaysInside(t *testing.T) {
	_, get := viewed(t)
	for _, path := range []string{
		"/runs/good/../../secret", "/runs/good/..%2f..%2fsecret", "/runs/good/%2e%2e/%2e%2e/secret", "/runs/good/link.txt",
		"/runs/..%2f/secret", "/runs/../secret", "/runs/%2e%2e/secret", "/runs/good/..%5c..%5csecret", "/runs/good//etc/passwd",
		"/runs/good/%2fetc%2fpasswd", "/runs/notes/", "/runs/notes/todo.txt", "/runs/./todo.txt", "/runs/good/pprof", "/runs/good/pprof/",
		"/runs/good/nothing", "/runs/nothing/", "/runs/", "/secret", "/runs/good/run.json/", "/runs/broken/report.html", "/runs/good/a%00b",
	} {
		resp, body := get(path)
		if resp.StatusCode == http.StatusOK || strings.Contains(body, "not for the web") || strings.Contains(body, "root:") {
			t.Errorf("%s: %s, %.60q", path, resp.Status, body)
		}
		if resp.StatusCode >= 500 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for host, want := range map[string]int{
		"evil.example": http.StatusForbidden, "evil.example:80": http.StatusForbidden, "192.0.2.1:80": http.StatusForbidden,
		"localhost": http.StatusOK, "localhost:8080": http.StatusOK, "127.0.0.1:1": http.StatusOK, "[::1]:80": http.StatusOK, "[::1]": http.StatusOK,
	} {
		if resp, _ := get("/", host); resp.StatusCode != want {
			t.Errorf("host %s: %s, want %d", host, resp.Status, want)
		}
	}
}
