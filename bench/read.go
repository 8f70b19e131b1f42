package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ReadRun reads the run.json of a run folder. What is no run of this build's
// schema is a *UsageError; other errors are the machine's.
func ReadRun(dir string) (*Run, error) {
	path := filepath.Join(dir, RunFile)
	raw, err := os.ReadFile(path) //nolint:gosec // the folder the caller names
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, usagef("%s is no run folder: %s: %w", dir, RunFile, fs.ErrNotExist)
	case err != nil:
		return nil, err
	}
	run := &Run{}
	var kind *json.UnmarshalTypeError
	if err := json.Unmarshal(raw, run); errors.As(err, &kind) {
		return nil, usagef("%s: %s is a %s where a %s belongs", path, kind.Field, kind.Value, kind.Type)
	} else if err != nil {
		return nil, usagef("%s is cut short or damaged: %w at byte %d", path, err, len(raw))
	}
	if run.Schema != Schema {
		return nil, usagef("%s has schema %d; this build reads %d", path, run.Schema, Schema)
	}
	if err := run.check(); err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	return run, nil
}

// mostBlocks bounds what a record may claim.
const mostBlocks = 1e6

// check refuses a record that contradicts itself, or that states figures in units
// which this build does not know.
func (r *Run) check() error {
	metrics := []string{r.Experiment.Metric}
	if j := r.Experiment.Judge; j != nil {
		for _, w := range j.Within {
			metrics = append(metrics, w.Metric)
		}
	}
	for _, m := range metrics {
		if m != "" && m != MetricAuto && !slices.Contains(Metrics, m) {
			return fmt.Errorf("metric %q is not one of %s", m, strings.Join(Metrics, ", "))
		}
	}
	known := map[string]bool{}
	for _, v := range r.Variants {
		if v.ID == "" || known[v.ID] {
			return fmt.Errorf("variant ID %q is empty or there twice", v.ID)
		}
		known[v.ID] = true
	}
	for _, v := range r.Variants {
		if v.Against != "" && !known[v.Against] {
			return fmt.Errorf("variant %s is against %s, which is not there", v.ID, v.Against)
		}
	}
	for i := range r.Trials {
		t := &r.Trials[i]
		switch {
		case !known[t.Variant]:
			return fmt.Errorf("trial %d is of variant %q, which is not there", i+1, t.Variant)
		case t.Block < 0 || t.Block > mostBlocks:
			return fmt.Errorf("trial %d is of block %d", i+1, t.Block)
		}
	}
	return nil
}
