package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"raftlab/bench"
)

// runsHere changes to a folder with two small runs in profiles/, and one that is
// broken.
func runsHere(t *testing.T) {
	t.Helper()
	file := experimentFile(t, "name: x\nceiling: none\nquestion: What?\nfixed: {topology: in-process, target: direct, keys: 10}\nmeasure: {warmup: 0s, duration: 300ms, blocks: 1, profile: 0s}\n")
	t.Chdir(t.TempDir())
	for _, name := range []string{"first", "second"} {
		patiently(t, func(errorf errorf) {
			dir := filepath.Join(runsRoot, name)
			if err := os.RemoveAll(dir); err != nil { // of the try before
				t.Fatal(err)
			}
			if code, _, stderr := cli(t.Context(), "run", file, "--out", dir); code != exitDone {
				errorf("exit %d: %s", code, stderr)
			}
		})
	}
	broken := filepath.Join(runsRoot, "broken")
	if err := errors.Join(os.Mkdir(broken, 0o700), os.WriteFile(filepath.Join(broken, bench.RunFile), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestListRunsAndClean(t *testing.T) {
	runsHere(t)
	code, out, stderr := cli(t.Context(), "list", "--runs")
	if code != 0 || strings.Count(out, "\n") != 3 || !strings.Contains(out, "broken") || !strings.Contains(out, " MB ") || !strings.Contains(out, "ops/s") {
		t.Errorf("exit %d, %s%s", code, out, stderr)
	}
	code, out, _ = cli(t.Context(), "list", "--runs", "-o", "json")
	var list []listedRun
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil || len(list) != 3 {
		t.Fatalf("exit %d, %v, %s", code, err, out)
	}
	for _, r := range list[:2] {
		if r.Bytes == 0 || len(r.Answers) != 1 || r.Answers[0].Sentence == "" || r.Problem != "" || !r.Complete || r.Commit == "" {
			t.Errorf("%+v", r)
		}
	}
	if list[2].Problem == "" {
		t.Errorf("nothing is wrong with %+v", list[2])
	}

	for _, c := range []struct{ args, want string }{
		{"clean", "how many runs are to stay?"},
		{"clean --keep -1", "keep -1 must not be negative"},
		{"clean --keep x", `keep "x" is not a whole number`},
		{"clean --keep 1 all", "unknown command"},
		{"view --addr :0", `addr ":0" must be a loopback address`},
		{"view --addr 0.0.0.0:0", "must be a loopback address"},
		{"view --addr 192.0.2.1:80", "must be a loopback address"},
		{"view --addr localhost", "is not host:port"},
		{"view --addr 127.0.0.1:99999", "has a port outside 0 to 65535"},
	} {
		if code, _, stderr := cli(t.Context(), strings.Fields(c.args)...); code != 2 || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d, %s", c.args, code, stderr)
		}
	}
	left := func() int {
		folders, err := bench.RunFolders(runsRoot)
		if err != nil {
			t.Fatal(err)
		}
		return len(folders)
	}
	code, dry, _ := cli(t.Context(), "clean", "--keep", "1", "--dry-run")
	if code != 0 || left() != 3 || !strings.Contains(dry, "would remove 2 of 3 runs") {
		t.Errorf("exit %d, %d left, %s", code, left(), dry)
	}
	code, out, _ = cli(t.Context(), "clean", "--keep", "1")
	if code != 0 || left() != 1 || strings.ReplaceAll(dry, "would remove", "removed") != out {
		t.Errorf("exit %d, %d left, %s after %s", code, left(), out, dry)
	}
	t.Chdir(t.TempDir())
	if code, out, _ := cli(t.Context(), "clean", "--keep", "0"); code != 0 || out != "removed 0 of 0 runs, 0 bytes (0.0 MB)\n" {
		t.Errorf("without any: exit %d, %q", code, out)
	}
}

// It serves until Ctrl-C, and ends with 0 then.
func TestView(t *testing.T) {
	runsHere(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "raftbench"), "view")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, url, ok := strings.Cut(strings.TrimSpace(line), ": ")
	if !ok {
		t.Fatalf("it says %q", line)
	}
	for path, want := range map[string]string{"": "What?", "runs/first/": "results.txt", "runs/first/report.html": "What?"} {
		if body := get(t.Context(), t, url+path); !strings.Contains(body, want) {
			t.Errorf("%s lacks %q:\n%.300s", path, want, body)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

func get(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(body)
}
