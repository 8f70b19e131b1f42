package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"raftlab/bench"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// An answer that does not come costs the block that it was in, and no other.
func TestOneAnswerIsLost(t *testing.T) {
	file := experimentFile(t, "name: x\nceiling: none\nfixed: {target: pipeline, keys: 16, clients: 4}\nmeasure: {warmup: 0s, duration: 100ms, blocks: 3, profile: 0s}\n")
	patiently(t, func(errorf errorf) {
		cluster := clienttest.Start(t, 1)
		var messages atomic.Int64
		cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, send func(*kvv1.StreamResponse) error) error {
			if messages.Add(1) == 10 {
				return nil
			}
			return send(answer(req))
		}
		dir := filepath.Join(t.TempDir(), "run")
		code, stdout, stderr := cli(t.Context(), "run", file, "--endpoints", cluster.Addresses()[0], "--out", dir)
		run, err := bench.ReadRun(dir)
		if err != nil {
			t.Fatal(err)
		}
		if code != exitDone || len(run.Trials) != 3 {
			errorf("exit %d, %s: %d trials", code, stderr, len(run.Trials))
			return
		}
		lost := &run.Trials[0]
		if lost.Viable || lost.Valid || lost.Operations == 0 || lost.VerifiedKeys == 0 || lost.Problem != "1 operations had no answer 2s after the window" {
			errorf("the block: viable %v, valid %v, %q, %d operations, %d keys read back", lost.Viable, lost.Valid, lost.Problem, lost.Operations, lost.VerifiedKeys)
		}
		if v := bench.Summarize(run).Variants[0]; !v.Viable || v.Trials != 2 || !run.Trials[1].Valid || !run.Trials[2].Valid {
			errorf("the others: %+v", v)
		}
		if !strings.Contains(stdout, "v01 block 1: 1 operations had no answer 2s after the window") || strings.Contains(stdout, "cannot do the work") {
			errorf("told\n%s", stdout)
		}
	})
}

const verified = `
name: verified
question: Does it keep its promises?
fixed: {op: mixed, target: pipeline, keys: 16, clients: 8}
ceiling: none
measure: {warmup: 0s, duration: 500ms, blocks: 1, profile: 0s}
`

// A cluster that now and then acknowledges a write without doing it, or answers
// a read from the past, fails the run, and what shows it is kept.
func TestVerifyFindsViolations(t *testing.T) {
	for name, fault := range map[string]func(answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, req *kvv1.StreamRequest) *kvv1.StreamResponse{
		"none": nil,
		"lost write": func(answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, req *kvv1.StreamRequest) *kvv1.StreamResponse {
			op := req.GetOperations()[0]
			if op.GetKind() != kvv1.OperationKind_OPERATION_KIND_PUT {
				return answer(req)
			}
			// Done to another key: the answer is as good as any.
			return answer(&kvv1.StreamRequest{Operations: []*kvv1.Operation{{Id: op.GetId(), Kind: op.GetKind(), Key: []byte("elsewhere"), Value: op.GetValue()}}})
		},
		"stale read": func(answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, req *kvv1.StreamRequest) *kvv1.StreamResponse {
			resp := answer(req)
			if r := resp.GetResults()[0]; r.GetKind() == kvv1.OperationKind_OPERATION_KIND_GET && r.GetModRevision() > 1 {
				r.ModRevision--
			}
			return resp
		},
	} {
		t.Run(name, func(t *testing.T) {
			patiently(t, func(errorf errorf) { verifies(t, errorf, fault) })
		})
	}
}

// verifies runs verified over a node with a fault, nil for none.
func verifies(t *testing.T, errorf errorf, fault func(answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, req *kvv1.StreamRequest) *kvv1.StreamResponse) {
	t.Helper()
	cluster := clienttest.Start(t, 1)
	var messages atomic.Int64
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer func(*kvv1.StreamRequest) *kvv1.StreamResponse, send func(*kvv1.StreamResponse) error) error {
		if fault != nil && len(req.GetOperations()) == 1 && messages.Add(1)%5 == 0 {
			return send(fault(answer, req))
		}
		return send(answer(req))
	}
	dir := filepath.Join(t.TempDir(), "run")
	code, stdout, stderr := cli(t.Context(), "run", experimentFile(t, verified), "--verify", "--endpoints", cluster.Addresses()[0], "--out", dir)
	run, err := bench.ReadRun(dir)
	if err != nil {
		t.Fatalf("exit %d, %s: %v", code, stderr, err)
	}
	trial := run.Trials[0]
	if trial.Histories == nil || trial.Histories.Keys == 0 || trial.Histories.Operations == 0 || trial.VerifiedKeys == 0 {
		errorf("checked %+v, %d keys: %s", trial.Histories, trial.VerifiedKeys, trial.Problem)
		return
	}
	if fault == nil {
		if len(trial.Violations) > 0 || len(trial.Histories.Files) > 0 {
			t.Errorf("%v, %v", trial.Violations, trial.Histories.Files)
		}
		if code != exitDone || !trial.Valid {
			errorf("exit %d, %s: %+v", code, stderr, trial)
		}
		return
	}
	if code != exitFailed || !strings.Contains(stderr, "violations: what clients were told does not hold") || !strings.Contains(stdout, "VIOLATION") {
		errorf("exit %d, %s\n%s", code, stderr, stdout)
	}
	if trial.Valid || len(trial.Violations) == 0 || len(trial.Histories.Files) < 2 {
		errorf("%+v, %+v", trial, trial.Histories)
	}
	for _, name := range trial.Histories.Files {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
