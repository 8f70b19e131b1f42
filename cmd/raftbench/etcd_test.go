package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raftlab/bench"
	"raftlab/bench/target/etcdtest"
)

// The experiment quick over a second system: what it has no counterpart for is
// skipped and printed, all else is measured and read back like raftlab.
func TestEtcd(t *testing.T) {
	endpoints := strings.Join(etcdtest.Start(t, 3), ",")
	patiently(t, func(errorf errorf) {
		dir := filepath.Join(t.TempDir(), "run")
		code, out, stderr := cli(t.Context(), "run", "quick", "--target", "etcd", "--endpoints", endpoints,
			"--out", dir, "--duration", "200ms", "--blocks", "1", "--set", "keys=100", "--no-profiles")
		if !strings.Contains(stderr, "skipped clients=16 op=put ops-per-message=64: target etcd sends one operation a message") {
			t.Fatalf("what was skipped is not told:\n%s", stderr)
		}
		if code != exitDone {
			errorf("exit %d: %s%s", code, stderr, out)
			return
		}
		run, err := bench.ReadRun(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(run.Variants) != 6 || !run.Complete || !strings.HasPrefix(run.Environment.ServerInfo, "etcd 3.") {
			t.Errorf("%d variants, complete %v, server %q", len(run.Variants), run.Complete, run.Environment.ServerInfo)
		}
		for i := range run.Trials {
			checkTrial(t, errorf, dir, &run.Trials[i], bench.Variant{Name: run.Trials[i].Variant, Config: map[string]string{"op": "get", "target": bench.TargetEtcd}})
		}
		for _, v := range bench.Summarize(run).Variants {
			if v.OpsPerS.Center <= 0 {
				errorf("%s has no figure", v.Variant.Name)
			}
		}
		if html, err := os.ReadFile(filepath.Join(dir, "report.html")); err != nil || !strings.Contains(string(html), "etcd 3.") {
			t.Errorf("the report does not name the etcd: %v", err)
		}
	})
}

func TestEtcdIsAway(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	code, _, stderr := cli(t.Context(), "run", "quick", "--target", "etcd", "--endpoints", "127.0.0.1:1", "--out", dir)
	if code != exitFailed || !strings.HasPrefix(stderr, "raftbench: no etcd answers at 127.0.0.1:1: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run folder is left: %v", err)
	}
	for args, want := range map[string]string{
		"run quick --target etcd": "target etcd drives a cluster that runs already: --endpoints says where",
		"run quick --target etdc": `target "etdc" is not one of`,
		"run reads --target etcd --endpoints 127.0.0.1:1 --set read=lease": "target etcd has reads linearizable and stale, not lease",
		"run reads --set topology=external":                                "topology external needs --endpoints",
	} {
		if code, _, stderr := cli(t.Context(), strings.Fields(args)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}
