package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReadme runs the shell blocks of README.md as a newcomer would, line by
// line, on free ports. Every command has to succeed.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin")+string(filepath.Separator), "raftlab/cmd/raftkv", "raftlab/cmd/raftbench")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	ports := freePorts(t, 3)
	env := os.Environ()
	commands := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.SplitSeq(strings.TrimSpace(block[1]), "\n") {
			for i, port := range ports {
				line = strings.ReplaceAll(line, fmt.Sprintf(":2100%d", i+1), ":"+strconv.Itoa(port))
			}
			commands++
			switch {
			case strings.HasPrefix(line, "export "):
				env = append(env, strings.TrimPrefix(line, "export "))
			case strings.HasPrefix(line, "bin/raftkv serve "):
				serveReadme(t, dir, line)
			default:
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				cmd := exec.CommandContext(ctx, "sh", "-c", line)
				cmd.Dir, cmd.Env = dir, env
				out, err := cmd.CombinedOutput()
				cancel()
				if err != nil {
					t.Fatalf("$ %s\n%s%v", line, out, err)
				}
				t.Logf("$ %s\n%s", line, out)
			}
		}
	}
	if commands < 15 {
		t.Errorf("README.md has %d commands in its blocks", commands)
	}
}

// serveReadme starts a node and waits until it says that it is ready. It ends
// with the test, because its stdin does.
func serveReadme(t *testing.T, dir, line string) {
	t.Helper()
	args := append(strings.Fields(line)[1:], "--exit-with-stdin")
	cmd := exec.Command(filepath.Join(dir, "bin", "raftkv"), args...) //nolint:noctx // ends with its stdin, gracefully
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // interrupted elections and the like are no concern here
	})
	if ready, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || !strings.Contains(ready, "ready") {
		rest, _ := io.ReadAll(stdout)
		t.Fatalf("$ %s\n%s%s%v", line, ready, rest, err)
	}
}

// freePorts returns ports of which the ones 1000 above are free as well.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range 1000 {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if peer, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1000)); err == nil { //nolint:noctx // at once
			_ = peer.Close()
			ports = append(ports, port)
		}
		_ = l.Close()
		if len(ports) == n {
			return ports
		}
	}
	t.Fatal("no free ports")
	return nil
}
