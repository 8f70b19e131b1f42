package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// serving is `raftkv serve` running in this process.
type serving struct {
	ready  readyLine
	stdin  *io.PipeWriter
	stderr bytes.Buffer // complete once code is known
	code   chan int
	stop   context.CancelFunc
}

// startServe runs serve until the test ends and waits for its ready line.
func startServe(t *testing.T, args ...string) *serving {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &serving{code: make(chan int, 1), stop: stop}
	stdin, stdinEnd := io.Pipe()
	stdout, stdoutEnd := io.Pipe()
	s.stdin = stdinEnd
	go func() {
		code := runWithInput(ctx, append([]string{"serve", "--id", "1", "--addr", "127.0.0.1:0"}, args...), stdin, stdoutEnd, &s.stderr)
		_ = stdoutEnd.Close()
		s.code <- code
	}()
	t.Cleanup(func() {
		stop()
		_ = stdinEnd.Close()
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("no ready line: %v; exit code %d: %s", err, <-s.code, &s.stderr)
	}
	if err := json.Unmarshal(line, &s.ready); err != nil {
		t.Fatalf("ready line %q: %v", line, err)
	}
	return s
}

func (s *serving) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-s.code:
		s.code <- code
		return code
	case <-time.After(20 * time.Second):
		t.Fatal("serve does not end")
		return 0
	}
}

func TestReadyLine(t *testing.T) {
	s := startServe(t, "--debug-addr", "127.0.0.1:0", "--log-format", "json")
	if s.ready.Event != "ready" || s.ready.ID != 1 || s.ready.PID != os.Getpid() || s.ready.Version == "" {
		t.Errorf("ready line is %+v", s.ready)
	}
	for _, addr := range []string{s.ready.Addr, s.ready.PeerAddr, s.ready.DebugAddr} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Errorf("nothing listens at %q: %v", addr, err)
			continue
		}
		_ = conn.Close()
	}
	s.stop() // as SIGINT and SIGTERM do
	if code := s.wait(t); code != exitDone {
		t.Errorf("exit code %d: %s", code, &s.stderr)
	}
	for line := range strings.Lines(s.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line %q is not JSON", line)
		}
	}
}

func TestServeEndsWithStdin(t *testing.T) {
	s := startServe(t, "--exit-with-stdin", "--log-level", "error")
	if err := s.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if code := s.wait(t); code != exitDone || s.stderr.Len() > 0 {
		t.Errorf("exit code %d: %s", code, &s.stderr)
	}
}

// What is refused: the exit code, and one line that says why.
func TestServeRefuses(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // the test is over
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"serve", 2, "id 0 must be at least 1"},
		{"serve --id 0", 2, "id 0 must be at least 1"},
		{"serve --id 18446744073709551615", 2, "id 18446744073709551615 is reserved by raft; the largest is 18446744073709551613"},
		{"serve --id x", 2, `id "x" is not a whole number from 0 to 18446744073709551615`},
		{"serve --id 18446744073709551614", 2, "id 18446744073709551614 is reserved by raft; the largest is 18446744073709551613"},
		{"serve --id 18446744073709551616", 2, `id "18446744073709551616" is not a whole number from 0 to 18446744073709551615`},
		{"serve --id 1 --addr 127.0.0.1:65000", 2, `peer-addr "127.0.0.1:66000" has a port outside 0 to 65535 (it defaults to the client port + 1000)`},
		{"serve --id 1 --inflight-bytes 1KiB", 2, "inflight-bytes 1KiB is less than append-size 16MiB"},
		{"serve --id 1 --max-message 100", 2, "max-message 100 is below the minimum 512"},
		{"serve --id 1 --timeout 5", 2, `timeout "5" is not a duration such as 500ms or 10s`},
		{"serve --id 1 --addr nowhere", 2, `addr "nowhere" is not host:port`},
		{"serve --id 1 --addr 127.0.0.1:99999", 2, `addr "127.0.0.1:99999" has a port outside 0 to 65535`},
		{"serve --id 1 --chunk-size 8MiB", 2, "chunk-size 8MiB exceeds max-message 4MiB"},
		{"serve --id 1 --chunk-size 10XB", 2, `chunk-size "10XB" is not auto or a size such as 512, 64KiB or 4MiB`},
		{"serve --id 1 --batch-count 0", 2, "batch-count 0 must be at least 1"},
		{"serve --id 1 --link-delay -1s", 2, "link-delay -1s must not be negative"},
		{"serve --id 1 --heartbeat-ticks 10", 2, "election-ticks 10 must be greater than heartbeat-ticks 10"},
		{"serve --id 1 --debug-addr 0.0.0.0:1", 2, "debug-addr 0.0.0.0:1 must be a loopback address"},
		{"serve --id 1 --colour red", 2, "unknown flag: --colour; see raftkv serve --help"},
		{"serve --id 1 more", 2, `unknown command "more" for "raftkv serve"; usage: raftkv serve --id N [flags]`},
		{"serve --id 1 --log-level loud", 2, `log-level "loud" is not one of debug, info, warn, error`},
		{"serve --id 1 --log-format xml", 2, `log-format "xml" is not one of text, json`},
		{"serve --id 1 --timeout 0s", 2, "timeout 0s must be greater than 0"},
		{"serve --id 1 --profile heap", 2, `profile "heap" is not one of cpu, mem, mutex, block, trace`},
		{"serve --id 1 --profile cpu --debug-addr 127.0.0.1:0", 2, "profile cpu cannot be combined with debug-addr 127.0.0.1:0, which captures the same for a window of time"},
		{"serve --id 1 --profile mem --profile-dir " + file, 1, "profile-dir: mkdir " + file + ": not a directory"},
		{"serve --id 1 --addr " + taken.Addr().String(), 1, "addr " + taken.Addr().String() + ": listen tcp " + taken.Addr().String() + ": bind: address already in use"},
		{"version -o yaml", 2, `output "yaml" is not one of text, json`},
		{"sing", 2, `unknown command "sing" for "raftkv"; raftkv --help lists them`},
		{"srve", 2, `unknown command "srve" for "raftkv" (did you mean serve?)`},
		{"cluster statsu", 2, `unknown command "statsu" for "raftkv cluster" (did you mean status?)`},
	} {
		t.Run(test.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr)
			if code != test.code || stderr.String() != "raftkv: "+test.want+"\n" || stdout.Len() > 0 {
				t.Errorf("exit code %d, want %d\ngot  %swant raftkv: %s", code, test.code, &stderr, test.want)
			}
		})
	}
}

func TestNoCommandIsAUsageError(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), nil, &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "serve") || stdout.Len() > 0 {
		t.Errorf("exit code %d: %s%s", code, &stdout, &stderr)
	}
}

func TestProfileIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	s := startServe(t, "--profile", "mem", "--profile-dir", dir)
	s.stop()
	if code := s.wait(t); code != exitDone {
		t.Fatalf("exit code %d: %s", code, &s.stderr)
	}
	info, err := os.Stat(filepath.Join(dir, "mem.pprof"))
	if err != nil || info.Size() == 0 {
		t.Errorf("profile: %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".profile-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestVersion(t *testing.T) {
	built := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}
	for _, test := range []struct {
		commit, dirty string
		info          *debug.BuildInfo
		want          string
		wantDirty     string
	}{
		{"def", "false", built, "def", "false"},
		{"def", "true", nil, "def-dirty", "true"},
		{"", "", built, "abc-dirty", "true"},
		{"", "", &debug.BuildInfo{}, "unknown", "unknown"},
		{"", "", nil, "unknown", "unknown"},
	} {
		v := resolveVersion(test.commit, test.dirty, test.info)
		if v.String() != test.want || v.Dirty != test.wantDirty {
			t.Errorf("stamped %q %q: %+v", test.commit, test.dirty, v)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"version", "-o", "json"}, &stdout, &stderr); code != exitDone {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	var v buildVersion
	if err := json.Unmarshal(stdout.Bytes(), &v); err != nil || v.Commit == "" || v.Go == "" {
		t.Errorf("version %s: %v", &stdout, err)
	}
}
