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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"raftlab/bench"
	"raftlab/kv/metric"
	"raftlab/kv/node"
	"raftlab/kv/replica"
	"raftlab/kv/storage"
	"raftlab/transport"
)

// documents whose shell blocks are run, and the least number of commands that
// each has.
var documents = []struct {
	path     string
	commands int
}{
	{"README.md", 30},
	{"docs/operating.md", 20},
	{"docs/replication.md", 0},
}

// TestReadme runs the shell blocks of the documents as a newcomer would, line by
// line, on free ports. Every command has to succeed.
func TestReadme(t *testing.T) {
	for _, doc := range documents {
		t.Run(filepath.Base(doc.path), func(t *testing.T) {
			r := newReader(t)
			for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readDocument(t, doc.path), -1) {
				for line := range strings.SplitSeq(strings.TrimSpace(block[1]), "\n") {
					r.follow(line)
				}
			}
			if r.commands < doc.commands {
				t.Errorf("%s has %d commands in its blocks, at least %d expected", doc.path, r.commands, doc.commands)
			}
		})
	}
}

// Every experiment is explained under its name, with its question as it is asked.
func TestExperimentsAreExplained(t *testing.T) {
	plain := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	text := plain(readDocument(t, "docs/experiments.md"))
	for _, name := range bench.Names() {
		e, err := bench.LoadExperiment(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("**%s** *(%s)*", name, plain(e.Question)); !strings.Contains(text, want) {
			t.Errorf("docs/experiments.md does not say %s", want)
		}
	}
}

func readDocument(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// reader does what a document says, in a folder of its own.
type reader struct {
	t        *testing.T
	dir      string
	env      []string
	ports    *strings.Replacer
	nodes    map[string]*served // by the address in the line
	commands int
}

func newReader(t *testing.T) *reader {
	r := &reader{t: t, dir: t.TempDir(), env: os.Environ(), nodes: make(map[string]*served)}
	if err := os.Symlink(bin, filepath.Join(r.dir, "bin")); err != nil {
		t.Fatal(err)
	}
	const nodes = 4
	var pairs []string
	for i, port := range freePorts(t, 2*nodes) { // client ports, then debug ports
		pairs = append(pairs, fmt.Sprintf(":2%d00%d", 1+2*(i/nodes), i%nodes+1), ":"+strconv.Itoa(port))
	}
	r.ports = strings.NewReplacer(pairs...)
	return r
}

func (r *reader) follow(line string) {
	r.t.Helper()
	line = r.ports.Replace(line)
	r.commands++
	switch {
	case strings.HasPrefix(line, "export "):
		r.env = append(r.env, strings.TrimPrefix(line, "export "))
	case strings.HasPrefix(line, "bin/raftkv serve "):
		r.serve(line)
	default:
		// Another leads when a node gets no CPU for a second, and who wrote then does
		// not know what became of it.
		patiently(r.t, func(errorf errorf) {
			ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "sh", "-c", line)
			cmd.Dir, cmd.Env = r.dir, r.env
			out, err := cmd.CombinedOutput()
			if err != nil {
				errorf("$ %s\n%s%v", line, out, err)
				return
			}
			r.t.Logf("$ %s\n%s", line, out)
		})
	}
}

// served is a node that runs.
type served struct {
	line  string
	cmd   *exec.Cmd
	stdin io.Closer
}

// kill does what kill -9 does.
func (n *served) kill(t *testing.T) {
	t.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = n.cmd.Wait() // it was killed
}

// serve starts a node and waits until it says that it is ready. It ends with the
// test, because its stdin does. One that runs by the same line is killed first: so
// a document has a node crash and come back. One that runs at its address by
// another line is of another cluster, all of which is killed first.
func (r *reader) serve(line string) {
	r.t.Helper()
	args := append(strings.Fields(line)[1:], "--exit-with-stdin")
	addr := args[slices.Index(args, "--addr")+1]
	switch old := r.nodes[addr]; {
	case old == nil:
	case old.line == line:
		old.kill(r.t)
	default:
		for _, n := range r.nodes {
			n.kill(r.t)
		}
		clear(r.nodes)
	}
	cmd := exec.Command(filepath.Join(r.dir, "bin", "raftkv"), args...) //nolint:noctx // ends with its stdin, gracefully
	cmd.Dir = r.dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	n := &served{line, cmd, stdin}
	r.nodes[addr] = n
	r.t.Cleanup(func() {
		_ = n.stdin.Close()
		_ = n.cmd.Wait() // interrupted elections and the like are no concern here
	})
	if ready, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || !strings.Contains(ready, "ready") {
		rest, _ := io.ReadAll(stdout)
		r.t.Fatalf("$ %s\n%s%s%v", line, ready, rest, err)
	}
	r.t.Logf("$ %s", line)
}

// TestDocumentsNameWhatExists holds the documents to the names of the program:
// every experiment, knob and metric that they name exists, and each knob of a node is
// explained.
func TestDocumentsNameWhatExists(t *testing.T) {
	known := make(map[string]bool)
	settings := bench.Settings{}
	for _, k := range slices.Concat(node.KnobsOf(&settings.Load), node.Knobs(&settings.Node)) {
		known[k.Name] = true
	}
	metrics := make(map[string]bool)
	for _, counted := range []any{replica.Counters{}, replica.Histograms{}, storage.Counters{}, transport.Totals{}, transport.PeerStats{}} {
		metric.Each(counted, func(m metric.Metric) { metrics[m.Name] = true })
	}
	experiments, text := bench.Names(), ""
	for _, doc := range documents {
		body := readDocument(t, doc.path)
		text += body
		for _, m := range regexp.MustCompile("`raftbench run ([a-z-]+)[ `]").FindAllStringSubmatch(body, -1) {
			if !slices.Contains(experiments, m[1]) {
				t.Errorf("%s: there is no experiment %s", doc.path, m[1])
			}
		}
		for _, section := range regexp.MustCompile(`(?s)\nKnobs: (.*?)(?:\.|\n\n)`).FindAllStringSubmatch(body, -1) {
			for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(section[1], -1) {
				if !known[m[1]] {
					t.Errorf("%s: there is no knob %s", doc.path, m[1])
				}
			}
		}
	}
	for _, m := range regexp.MustCompile("`([a-z]+(?:_[a-z]+)+)`").FindAllStringSubmatch(text, -1) {
		if other := m[1] == "applied_index" || m[1] == "grpc_health_probe"; !other && !metrics[strings.TrimSuffix(strings.TrimPrefix(m[1], "raftlab_"), "_total")] {
			t.Errorf("there is no metric %s", m[1])
		}
	}
	for _, k := range node.Knobs(&settings.Node) {
		if !regexp.MustCompile("(`|--)"+k.Name+"[`= ]").MatchString(text) && k.Name != "id" {
			t.Errorf("no document explains the knob %s", k.Name)
		}
	}
}

// TestDocumentLinks follows the links between the repository's documents.
func TestDocumentLinks(t *testing.T) {
	paths := []string{"README.md", "CHANGELOG.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/decisions/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			paths = append(paths, strings.TrimPrefix(filepath.ToSlash(path), "../../"))
		}
	}
	links := 0
	for _, path := range paths {
		for _, m := range regexp.MustCompile(`\]\(([^):#]+)\)`).FindAllStringSubmatch(readDocument(t, path), -1) {
			links++
			if _, err := os.Stat(filepath.Join("..", "..", filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", path, m[1], err)
			}
		}
	}
	if links < 20 {
		t.Errorf("%d links found, at least 20 expected", links)
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
