package cluster_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// serverBin is a raftkv built for these tests.
var serverBin string

func TestMain(m *testing.M) {
	// A child of TestDiesWithParent: see there.
	if os.Getenv("RAFTLAB_TEST_PARENT") != "" {
		os.Exit(parent())
	}
	dir, err := os.MkdirTemp("", "raftlab-cluster-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	serverBin = filepath.Join(dir, "raftkv")
	build := exec.Command("go", "build", "-o", serverBin, "raftlab/cmd/raftkv") //nolint:noctx // before any test
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build raftkv: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := os.RemoveAll(dir); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
