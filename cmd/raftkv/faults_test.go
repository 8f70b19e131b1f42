package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The faults of a running node, set and shown by the command line.
func TestFaults(t *testing.T) {
	var addr, debug [3]string
	for id := 1; id <= 2; id++ {
		s := startServe(t, "--id", fmt.Sprint(id), "--debug-addr", "127.0.0.1:0", "--log-level", "error", "--tick", "10ms", "--link-seed", "7", "--link-duplicate", "0.5")
		addr[id], debug[id] = s.ready.Addr, s.ready.DebugAddr
	}
	do := func(code int, args ...string) outcome {
		t.Helper()
		got := raftkv(t.Context(), "", args...)
		if got.code != code {
			t.Fatalf("raftkv %q: exit %d, want %d; stdout %q, stderr %q", args, got.code, code, got.stdout, got.stderr)
		}
		return got
	}
	faults := func(args ...string) string {
		t.Helper()
		return do(exitDone, append([]string{"faults", "--debug-addr", debug[1]}, args...)...).stdout
	}
	do(exitDone, "cluster", "init", "--endpoints", addr[1])
	do(exitDone, "cluster", "add-learner", "--id", "2", "--addr", addr[2], "--endpoints", addr[1])
	do(exitDone, "cluster", "change-membership", "--voters", "1,2", "--endpoints", addr[1])

	// What serve was started with.
	lines := strings.Split(faults(), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "FROM NODE 1 ") || !strings.HasPrefix(lines[1], "to node 2 ") || !strings.HasPrefix(lines[2], "to later ones ") {
		t.Fatalf("faults printed %q", lines)
	}
	if got := strings.Fields(lines[1])[3:11]; strings.Join(got, " ") != "0s 0s 0 0 0.5 0 no 7" {
		t.Errorf("node 2 has %q", got)
	}

	type answer struct {
		NodeID string `json:"node_id"`
		Links  []struct {
			PeerID string `json:"peer_id"`
			Lost   string `json:"messages_lost"`
			Faults struct {
				Delay     string `json:"delay_nanos"`
				Rate      string `json:"rate_bytes_per_second"`
				Drop      float64
				Partition bool
			}
		}
		Others struct {
			Delay string `json:"delay_nanos"`
		}
	}
	read := func(text string) (a answer) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), &a); err != nil || a.NodeID != "1" || len(a.Links) != 1 {
			t.Fatalf("%q: %v", text, err)
		}
		return a
	}
	got := read(faults("--delay", "1ms", "--rate", "5MB/s", "--drop", "0.01", "-o", "json"))
	if f := got.Links[0].Faults; f.Delay != "1000000" || f.Rate != "5000000" || f.Drop != 0.01 || f.Partition || got.Others.Delay != "1000000" {
		t.Errorf("set %+v", got)
	}
	// Of one peer only; what was there before is off.
	got = read(faults("--peer", "2", "--partition", "-o", "json"))
	if f := got.Links[0].Faults; f.Delay != "0" || !f.Partition || got.Others.Delay != "1000000" {
		t.Errorf("set %+v", got)
	}
	for end := time.Now().Add(10 * time.Second); got.Links[0].Lost == "0"; got = read(faults("-o", "json")) {
		if time.Now().After(end) {
			t.Fatalf("a partition loses nothing: %+v", got)
		}
	}
	if status := do(exitDone, "cluster", "status", "--endpoints", addr[1]).stdout; !strings.Contains(status, "node 2: partition: ") {
		t.Errorf("status does not tell of the partition:\n%s", status)
	}
	got = read(faults("--heal", "-o", "json"))
	if f := got.Links[0].Faults; f.Partition || f.Delay != "0" || got.Others.Delay != "0" {
		t.Errorf("healed %+v", got)
	}
	do(exitDone, "put", "k", "v", "--endpoints", addr[1])

	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"", exitUsage, `required flag(s) "debug-addr" not set`},
		{"--debug-addr nowhere", exitUsage, `debug-addr "nowhere" is not host:port`},
		{"--debug-addr DEBUG --drop 5%", exitUsage, `drop "5%" is not a probability from 0 to 1, such as 0.05`},
		{"--debug-addr DEBUG --delay soon", exitUsage, `delay "soon" is not a duration such as 5ms or 1s`},
		{"--debug-addr DEBUG --delay -1s", exitUsage, `delay -1s must not be negative`},
		{"--debug-addr DEBUG --jitter 2ms --delay 1ms", exitUsage, `jitter 2ms exceeds the delay of 1ms`},
		{"--debug-addr DEBUG --peer 2", exitUsage, `peer 2 without a fault: name one, or --heal`},
		{"--debug-addr DEBUG --peer x --heal", exitUsage, `peer "x": an id is a whole number of at least 1`},
		{"--debug-addr DEBUG --heal --partition", exitUsage, `heal cannot be combined with partition`},
		{"--debug-addr DEBUG --peer 2,9 --partition", exitFailed, `node 9 is not a peer; the peers are [2]`},
		{"--debug-addr 127.0.0.1:1 --heal", exitFailed, `no debug port at 127.0.0.1:1 (raftkv serve --debug-addr opens one): `},
	} {
		args := strings.Fields(strings.ReplaceAll(test.args, "DEBUG", debug[1]))
		got := raftkv(t.Context(), "", append([]string{"faults", "--timeout", "5s"}, args...)...)
		if got.code != test.code || got.stdout != "" || !strings.Contains(got.stderr, test.want) {
			t.Errorf("faults %s: exit %d, stdout %q, stderr %q; want %d, %q", test.args, got.code, got.stdout, got.stderr, test.code, test.want)
		}
	}
}
