package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// The way from nothing to three voters, by the command line, with real nodes in
// this process: write, read on each node, hand leadership over, remove a node.
func TestEndToEnd(t *testing.T) {
	dir := t.TempDir()
	var addr [4]string
	for id := 1; id <= 3; id++ {
		addr[id] = startServe(t, "--id", fmt.Sprint(id), "--log-level", "error", "--tick", "10ms").ready.Addr
	}
	all := strings.Join(addr[1:], ",")
	do := func(code int, endpoints string, args ...string) string {
		t.Helper()
		got := raftkv(t.Context(), "put from-stdin 1\ncas greeting hello \"hello again\"\n", append(args, "--endpoints", endpoints)...)
		if got.code != code {
			t.Fatalf("raftkv %q: exit %d, want %d; stdout %q, stderr %q", args, got.code, code, got.stdout, got.stderr)
		}
		return got.stdout
	}
	says := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("printed %q, want %q in it", got, want)
		}
	}

	// Before init nobody leads: refused, and surely not applied.
	do(exitFailed, addr[1], "put", "greeting", "early", "--timeout", "300ms")
	says(do(exitDone, addr[1], "cluster", "init"), "created")
	says(do(exitDone, addr[1], "cluster", "init"), "nothing changed")
	for id := 2; id <= 3; id++ {
		for range 2 { // the second time it is so already
			says(do(exitDone, addr[1], "cluster", "add-learner", "--id", fmt.Sprint(id), "--addr", addr[id]), "learners ")
		}
	}
	for range 2 {
		says(do(exitDone, addr[1], "cluster", "change-membership", "--voters", "1,2,3"), "voters 1,2,3; learners none")
	}

	// A follower as the only endpoint: the leader is found.
	says(do(exitDone, addr[2], "put", "greeting", "hello"), "version 1,")
	for id := 1; id <= 3; id++ {
		if got := do(exitDone, addr[id], "get", "greeting"); got != "hello" {
			t.Errorf("node %d: %q", id, got)
		}
	}
	do(exitNoKey, addr[3], "get", "nothing")
	do(exitFailed, addr[3], "put", "", "an empty key")
	if got := do(exitMismatch, all, "cas", "greeting", "--expect", "bye", "x"); got != "hello" {
		t.Errorf("cas printed %q", got)
	}
	says(do(exitDone, all, "batch", "-"), "cas\tgreeting\tversion 2")
	if got := do(exitDone, addr[2], "scan", ""); got != "from-stdin\t1\ngreeting\thello again\n" {
		t.Errorf("scan printed %q", got)
	}
	says(do(exitDone, all, "del", "from-stdin"), "deleted")
	do(exitFailed, all, "batch", filepath.Join(dir, "none"))

	says(do(exitDone, all, "cluster", "transfer-leadership", "--to", "2"), "node 2 leads in term ")
	says(do(exitDone, addr[1], "put", "after", "1"), "version 1,")
	says(do(exitDone, addr[3], "cluster", "snapshot"), "snapshot at index ")
	sameHashes(t, addr[1:], do)
	says(do(exitDone, addr[2], "cluster", "status"), "PROGRESS")

	says(do(exitDone, all, "cluster", "remove-node", "--id", "3"), "node 3 removed: voters 1,2;")
	says(do(exitDone, addr[1], "put", "after", "2"), "version 2,")
	do(exitFailed, all, "cluster", "change-membership", "--voters", "9")
	pipelineEndToEnd(t, addr[1])
}

// sameHashes waits until all nodes have applied the same and compares their
// state.
func sameHashes(t *testing.T, addresses []string, do func(code int, endpoints string, args ...string) string) {
	t.Helper()
	type state struct {
		AppliedIndex string `json:"applied_index"`
		StateHash    string `json:"state_hash"`
	}
	for end := time.Now().Add(10 * time.Second); ; {
		states := map[state]bool{}
		var last state
		for _, a := range addresses {
			if err := json.Unmarshal([]byte(do(exitDone, a, "cluster", "status", "--with-hash", "-o", "json")), &last); err != nil {
				t.Fatal(err)
			}
			states[last] = true
		}
		if len(states) == 1 && last.StateHash != "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the nodes differ: %v", states)
		}
	}
}

// pipelineEndToEnd opens a pipeline to a follower, which refuses its first
// writes.
func pipelineEndToEnd(t *testing.T, follower string) {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: []string{follower}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	p, err := c.NewPipeline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for round := range uint64(10) {
		var operations []*kvv1.Operation
		for i := range 64 {
			operations = append(operations, &kvv1.Operation{
				Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: fmt.Appendf(nil, "p/%d", i), Value: []byte("v"),
			})
		}
		results, err := p.Do(t.Context(), operations)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if err := client.ResultError(r); err != nil || r.GetVersion() != round+1 {
				t.Fatalf("round %d, operation %d: version %d, %v", round, i, r.GetVersion(), err)
			}
		}
	}
}
