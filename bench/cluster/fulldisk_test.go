package cluster_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// A process whose journal can't grow ends with code 1 and one line that names
// the file; what it acknowledged is there when it may write again. The limit on
// the size of files stands for a full disk: it takes no privileges, and the
// write fails half done.
func TestJournalCannotGrow(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("no shell to set the limit of the child: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	ctx := within(t, time.Minute)
	serve := []string{
		"serve", "--exit-with-stdin", "--id", "1", "--addr", "127.0.0.1:0", "--log-level", "error",
		"--storage", "wal", "--sync", "batched", "--data-dir", dir,
	}
	// In units of 512 bytes by POSIX, of 1024 in bash. The journal grows by 1 MiB.
	limited, err := cluster.StartProcess(ctx, nil, sh, append([]string{"-c", `ulimit -f 6000 && exec "$0" "$@"`, serverBin}, serve...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = limited.Kill() })
	c, err := client.New(client.Config{Endpoints: []string{limited.Ready.Addr}, RetryTime: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	if _, err := c.Init(ctx, limited.Ready.Addr); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 10_000)
	acknowledged := 0
	for err == nil && acknowledged < 1000 {
		if _, err = c.Put(ctx, fmt.Append(nil, acknowledged), value); err == nil {
			acknowledged++
		}
	}
	if acknowledged == 0 || client.Applied(err) != kvv1.Applied_APPLIED_UNKNOWN {
		t.Errorf("%d writes were acknowledged, then %v", acknowledged, err)
	}
	select {
	case <-limited.Done():
	case <-ctx.Done():
		t.Fatal("the node goes on")
	}
	lines := strings.Split(strings.TrimSpace(limited.Stderr()), "\n")
	last := lines[len(lines)-1]
	want := "raftkv: writing the journal: write to " + filepath.Join(dir, "journal-0000000001")
	if limited.ExitCode() != 1 || !strings.HasPrefix(last, want) || !strings.Contains(last, "file too large") {
		t.Errorf("exit code %d, last line %q, want %q", limited.ExitCode(), last, want)
	}
	again, err := cluster.StartProcess(ctx, nil, serverBin, serve...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Kill() })
	c2, err := client.New(client.Config{Endpoints: []string{again.Ready.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close() //nolint:errcheck // the test is over
	for i := range acknowledged {
		if got, err := c2.Get(ctx, fmt.Append(nil, i), client.ReadLinearizable); err != nil || len(got.GetValue()) != len(value) {
			t.Fatalf("write %d of %d acknowledged: %d bytes, %v", i, acknowledged, len(got.GetValue()), err)
		}
	}
	t.Logf("%d writes acknowledged; %s", acknowledged, last)
}
