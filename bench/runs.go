package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// ReferenceRuns is the name, in the folder of runs, of what belongs to the
// repository and is never removed.
const ReferenceRuns = "reference"

// RunFolder is a folder that holds a run.json.
type RunFolder struct {
	Dir string
	Run *Run // nil when run.json cannot be read
	// Err is why it cannot.
	Err error
	// Changed is when run.json was last written.
	Changed time.Time

	link bool // Dir is a symbolic link
}

// RunFolders lists the run folders under a folder, the oldest first, also those
// whose run.json is broken. A folder without run.json is none.
func RunFolders(root string) ([]RunFolder, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var folders []RunFolder
	for _, e := range entries {
		f := RunFolder{Dir: filepath.Join(root, e.Name()), link: !e.IsDir()}
		info, err := os.Stat(filepath.Join(f.Dir, RunFile))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		f.Changed = info.ModTime()
		f.Run, f.Err = ReadRun(f.Dir)
		folders = append(folders, f)
	}
	slices.SortStableFunc(folders, func(a, b RunFolder) int { return a.began().Compare(b.began()) })
	return folders, nil
}

// began is when the run started, or what is nearest to it.
func (f *RunFolder) began() time.Time {
	if f.Run == nil {
		return f.Changed
	}
	return f.Run.Started
}

// Name is the folder's own name.
func (f *RunFolder) Name() string { return filepath.Base(f.Dir) }

// Runs lists the folders of runs that can be read, the oldest first.
func Runs(root string) ([]string, error) {
	folders, err := RunFolders(root)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(folders))
	for _, f := range folders {
		if f.Run != nil {
			dirs = append(dirs, f.Dir)
		}
	}
	return dirs, nil
}

// underWay is how long after its last writing a run that did not end may still
// be going on: longer than the longest trial.
const underWay = 2 * time.Hour

// removable tells whether a run may be removed at all: it is a folder of its own
// that does not belong to the repository, and nobody writes it.
func (f *RunFolder) removable(now time.Time) bool {
	going := f.Run != nil && f.Run.Ended.IsZero() && now.Sub(f.Changed) < underWay
	return !f.link && f.Name() != ReferenceRuns && !going
}

// Surplus are the runs to remove so that only the newest keep stay, of those
// that may be removed at all; the oldest first. It is a function of its arguments.
func Surplus(folders []RunFolder, keep int, now time.Time) []RunFolder {
	var old []RunFolder
	for _, f := range folders {
		if f.removable(now) {
			old = append(old, f)
		}
	}
	return old[:max(0, len(old)-keep)]
}

// RemoveRun removes the folder of a run and returns how many bytes it had.
func RemoveRun(f *RunFolder) (int64, error) {
	size, err := FolderSize(f.Dir)
	if err != nil {
		return 0, err
	}
	// By way of the folder that holds it, so that a link put in its place between
	// looking and removing leads nowhere.
	root, err := os.OpenRoot(filepath.Dir(f.Dir))
	if err != nil {
		return 0, err
	}
	if _, err = root.Stat(filepath.Join(f.Name(), RunFile)); errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is no run folder", f.Dir)
	}
	if err == nil {
		err = root.RemoveAll(f.Name())
	}
	return size, errors.Join(err, root.Close())
}
