package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// runsIn makes a folder of runs: r1 to rN, a day apart, each with a file of 1000
// bytes beside its record.
func runsIn(t *testing.T, n int) (root string, now time.Time) {
	t.Helper()
	root, now = t.TempDir(), time.Unix(1_800_000_000, 0)
	for i := range n {
		run := recorded()
		run.Started = now.AddDate(0, 0, i-n)
		run.Ended = run.Started.Add(time.Minute)
		writeRun(t, filepath.Join(root, fmt.Sprintf("r%d", i+1)), run)
	}
	return root, now
}

func writeRun(t *testing.T, dir string, run *Run) {
	t.Helper()
	raw, err := json.Marshal(run)
	if err == nil {
		err = errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, RunFile), raw, 0o600),
			os.WriteFile(filepath.Join(dir, "x.hlog"), make([]byte, 1000), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func names(folders []RunFolder) []string {
	list := []string{}
	for _, f := range folders {
		list = append(list, f.Name())
	}
	return list
}

// What is broken is listed with its reason, what is no run is not listed, and
// neither of them hides the runs beside it.
func TestRunFolders(t *testing.T) {
	root, now := runsIn(t, 2)
	for name, content := range map[string]string{"truncated": `{"schema": 2, "id`, "newer": `{"schema": 99}`, "empty": ""} {
		dir := filepath.Join(root, name)
		path := filepath.Join(dir, RunFile)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, now, now)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Mkdir(filepath.Join(root, "notes"), 0o700), os.WriteFile(filepath.Join(root, RunFile), []byte("{}"), 0o600),
		os.MkdirAll(filepath.Join(root, "strange", RunFile), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	folders, err := RunFolders(root)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(folders), []string{"r1", "r2", "empty", "newer", "truncated"}; !slices.Equal(got, want) {
		t.Fatalf("listed %v, want %v", got, want)
	}
	for _, f := range folders {
		if (f.Run == nil) != (f.Err != nil) || (f.Err != nil) != !slices.Contains([]string{"r1", "r2"}, f.Name()) {
			t.Errorf("%s: run %v, %v", f.Name(), f.Run != nil, f.Err)
		}
	}
	if dirs, err := Runs(root); err != nil || !slices.Equal(dirs, []string{filepath.Join(root, "r1"), filepath.Join(root, "r2")}) {
		t.Errorf("readable are %v, %v", dirs, err)
	}
}

func TestSurplus(t *testing.T) {
	root, now := runsIn(t, 5)
	reference := recorded()
	reference.Started = now.AddDate(-1, 0, 0)
	writeRun(t, filepath.Join(root, ReferenceRuns), reference)
	// Two that did not end: one is being written, one was killed a day ago.
	for _, name := range []string{"going", "killed"} {
		run := recorded()
		run.Started = now.AddDate(0, 0, -10)
		writeRun(t, filepath.Join(root, name), run)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	writeRun(t, elsewhere, recorded())
	if err := os.Symlink(elsewhere, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	day := now.AddDate(0, 0, -1)
	if err := os.Chtimes(filepath.Join(root, "killed", RunFile), day, day); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(root, "going", RunFile), now, now); err != nil {
		t.Fatal(err)
	}
	folders, err := RunFolders(root)
	if err != nil {
		t.Fatal(err)
	}
	for keep, want := range map[int][]string{
		0: {"killed", "r1", "r2", "r3", "r4", "r5"}, 2: {"killed", "r1", "r2", "r3"}, 5: {"killed"}, 6: {}, 100: {},
	} {
		if got := names(Surplus(folders, keep, now)); !slices.Equal(got, want) {
			t.Errorf("keep %d removes %v, want %v", keep, got, want)
		}
	}

	for _, f := range Surplus(folders, 2, now) {
		want, err := FolderSize(f.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if size, err := RemoveRun(&f); err != nil || size != want || size < 1000 {
			t.Errorf("%s: removed %d bytes of %d, %v", f.Name(), size, want, err)
		}
	}
	folders, err = RunFolders(root)
	if got, want := names(folders), []string{ReferenceRuns, "going", "r4", "r5", "link"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v is left, want %v; %v", got, want, err)
	}
	if _, err := RemoveRun(&RunFolder{Dir: filepath.Dir(elsewhere)}); err == nil {
		t.Error("a folder without a run.json was removed")
	}
}
