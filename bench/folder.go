package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names of the files in a run folder; docs/runs.md documents them.
const (
	RunFile     = "run.json"
	ResultsFile = "results.txt"
	SeriesFile  = "trials.jsonl"
)

// Folder is a run folder being written. run.json is replaced as a whole after
// every trial, so that a run that is cut short, however, is readable and says
// that it is incomplete.
type Folder struct {
	Dir string

	series *os.File
}

// CreateFolder makes the folder of a run. One that exists must be empty.
func CreateFolder(dir string) (*Folder, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, &UsageError{Err: fmt.Errorf("run folder: %w", err)}
		}
	case err != nil:
		return nil, &UsageError{Err: fmt.Errorf("run folder: %w", err)}
	case len(entries) > 0:
		return nil, usagef("run folder %s is not empty; a run gets a folder of its own", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, SeriesFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // for a reader's group
	if err != nil {
		return nil, &UsageError{Err: fmt.Errorf("run folder: %w", err)}
	}
	return &Folder{Dir: dir, series: f}, nil
}

// Write replaces run.json and results.txt with the run as it is now.
func (f *Folder) Write(run *Run) error {
	err := f.replace(RunFile, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(run)
	})
	return errors.Join(err, f.replace(ResultsFile, func(w io.Writer) error { return writeResults(w, run) }))
}

// seriesLine is a line of trials.jsonl.
type seriesLine struct {
	Variant string `json:"variant"`
	Block   int    `json:"block"`
	Kind    string `json:"kind"`
	Point
}

// AppendSeries appends a trial's time series to trials.jsonl.
func (f *Folder) AppendSeries(t *Trial) error {
	w := bufio.NewWriter(f.series)
	e := json.NewEncoder(w)
	for _, p := range t.Series {
		if err := e.Encode(seriesLine{t.Variant, t.Block, t.Kind, p}); err != nil {
			return err
		}
	}
	for _, p := range t.Usage {
		if err := e.Encode(usageLine{t.Variant, t.Block, t.Kind, p}); err != nil {
			return err
		}
	}
	return w.Flush()
}

// Create makes a file of the run folder, name being slash-separated and relative.
func (f *Folder) Create(name string, write func(io.Writer) error) error {
	path := filepath.Join(f.Dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return f.replace(name, write)
}

// replace writes a file of the folder that exists.
func (f *Folder) replace(name string, write func(io.Writer) error) error {
	return WriteFile(filepath.Join(f.Dir, filepath.FromSlash(name)), write)
}

// WriteFile writes a file beside its place and renames it there, so that a reader
// never sees half of it.
func WriteFile(path string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(tmp)
	err = errors.Join(write(w), w.Flush(), tmp.Chmod(0o640), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}

// Close ends the writing.
func (f *Folder) Close() error { return f.series.Close() }

// FolderSize is the number of bytes in a run folder.
func FolderSize(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		total += info.Size()
		return nil
	})
	return total, err
}

// FindRun returns the folder of a run by its folder, by its ID or name under
// root, or the latest one for "latest".
func FindRun(root, name string) (string, error) {
	if name != "latest" {
		if _, err := os.Stat(filepath.Join(name, RunFile)); err == nil {
			return name, nil
		}
	}
	dirs, err := Runs(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if name == "latest" {
		if len(dirs) == 0 {
			return "", usagef("no run in %s yet; raftbench run makes one", root)
		}
		return dirs[len(dirs)-1], nil
	}
	for _, dir := range slices.Backward(dirs) {
		if base := filepath.Base(dir); base == name || strings.HasSuffix(base, "-"+name) {
			return dir, nil
		}
	}
	return "", usagef("no run %q: neither a run folder nor one in %s", name, root)
}
