package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"raftlab/bench"
)

// blocksOf reads how much an opt-in test shall do; it skips the test without.
func blocksOf(t *testing.T, name, what string) int {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skipf("%s; set %s=20 to run it, with nothing else on the machine", what, name)
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is not a number of repetitions", name, value)
	}
	return n
}

// builtRaftbench runs the built program, as users do, and returns what it printed
// and its exit code.
func builtRaftbench(t *testing.T, args ...string) (stdout string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "raftbench"), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestAARepeated measures the same thing twice, again and again: the 95 % interval
// of the ratio may exclude 1 in one of twenty. More than three of twenty happens by
// chance in 1.6 %.
func TestAARepeated(t *testing.T) {
	repetitions := blocksOf(t, "RAFTLAB_AA", "it measures for minutes")
	file := experimentFile(t, "name: aa\nceiling: none\nfixed: {topology: in-process, target: direct, keys: 1000}\nvary: {clients: [16]}\n"+
		"baseline: {clients: 16}\nmeasure: {warmup: 100ms, duration: 300ms, blocks: 6, profile: 0s}\n")
	excluded, verdicts := 0, map[string]int{}
	for i := range repetitions {
		out, code := builtRaftbench(t, "run", file, "--out", filepath.Join(t.TempDir(), "run"), "-o", "json")
		var answer struct {
			Run     bench.Run
			Summary bench.Summary
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil || code != exitDone || len(answer.Summary.Variants) != 2 {
			t.Fatalf("exit %d, %v: %s", code, err, out)
		}
		aa := answer.Summary.Variants[1]
		if aa.Variant.Role != bench.RoleAA || aa.Ratio.Confidence != 0.95 {
			t.Fatalf("the A/A arm is %+v", aa)
		}
		verdicts[aa.Verdict]++
		outside := aa.Ratio.Lo > 1 || aa.Ratio.Hi < 1
		if outside {
			excluded++
		}
		var figures []string
		for _, trial := range answer.Run.Trials {
			figures = append(figures, fmt.Sprintf("%s %.0f", trial.Variant, trial.OpsPerS))
		}
		t.Logf("%2d: ratio %.4f (%.4f to %.4f), excludes 1: %v; %s", i+1, aa.Ratio.Center, aa.Ratio.Lo, aa.Ratio.Hi, outside, strings.Join(figures, ", "))
	}
	t.Logf("%d of %d intervals exclude 1; verdicts %v", excluded, repetitions, verdicts)
	if most := max(1, 3*repetitions/20); excluded > most {
		t.Errorf("%d of %d intervals exclude 1, at most %d may", excluded, repetitions, most)
	}
}

// TestSlowdownIsFound compares builds of raftkv in one run, as a user does: one
// whose operations take 10 % longer is a regression, the same one is not.
func TestSlowdownIsFound(t *testing.T) {
	blocks := blocksOf(t, "RAFTLAB_DETECT", "it measures for minutes")
	file := experimentFile(t, "name: builds\nceiling: none\nfixed: {topology: processes, nodes: 3, target: unary, clients: 1, keys: 1000}\n"+
		"measure: {warmup: 200ms, duration: 1200ms, profile: 0s}\n")
	dir := t.TempDir()
	build := func(name string, flags ...string) string {
		path := filepath.Join(dir, name, "raftkv")
		args := append(append([]string{"build", "-o", path}, flags...), "raftlab/cmd/raftkv")
		if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return path
	}
	plain, same, slow := build("plain"), build("same"), build("slow", "-tags", "slowdown")
	for _, c := range []struct {
		name, bin, verdicts string
		code                int
	}{
		{"slow", slow, "worse", exitMissed},
		{"same", same, "same or inconclusive", exitDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "run")
			out, code := builtRaftbench(t, "run", file, "--out", folder, "-o", "json", "--blocks", strconv.Itoa(blocks), "--vary", "server-bin="+plain+","+c.bin)
			var answer struct{ Summary bench.Summary }
			if err := json.Unmarshal([]byte(out), &answer); err != nil || code != exitDone {
				t.Fatalf("exit %d, %v: %s", code, err, out)
			}
			for _, v := range answer.Summary.Variants {
				t.Logf("%s %s: %s, ratio %.4f (%.4f to %.4f)", v.Variant.Name, v.Variant.Role, v.Verdict, v.Ratio.Center, v.Ratio.Lo, v.Ratio.Hi)
			}
			if v := answer.Summary.Variants[1]; !strings.Contains(c.verdicts, v.Verdict) || v.Variant.Server == "" {
				t.Errorf("the verdict is %s, not %s; build %q", v.Verdict, c.verdicts, v.Variant.Server)
			}
			if out, code = builtRaftbench(t, "compare", folder); code != c.code {
				t.Errorf("compare ends with %d, not %d", code, c.code)
			}
			t.Log(out)
		})
	}
}
