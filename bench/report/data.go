package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"raftlab/bench"
)

// Names of the reports that Save writes into a run folder.
const (
	HTMLFile     = "report.html"
	MarkdownFile = "report.md"
)

// Data is what a report is written from. Its methods only read it, so one Data
// may be rendered by several goroutines.
type Data struct {
	// Dir is the run folder; empty for a run that is only in memory.
	Dir     string
	Run     *bench.Run
	Summary bench.Summary
	// Spectra has one element for each variant whose histograms could be read,
	// in the order of Run.Variants.
	Spectra []Spectrum
	// Heat and Stacks are of the variants that are shown in depth, as far as they
	// could be read; Stacks by ID.
	Heat   []Heat
	Stacks map[string][]bench.Stack
	// Usage is what processes used over time, by trial.
	Usage []bench.TrialUsage
	// Problems says what could not be read; reports print it with the warnings.
	Problems []string
}

// Load reads run.json and the histograms of a run folder. It fails only when
// run.json cannot be used; histograms that are missing or damaged, as a run cut
// short leaves them, become Problems.
func Load(dir string) (*Data, error) {
	run, err := bench.ReadRun(dir)
	if err != nil {
		return nil, err
	}
	d := &Data{Dir: dir, Run: run, Summary: bench.Summarize(run)}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	d.Spectra, d.Problems = readSpectra(root, run)
	d.Heat = readHeat(root, d)
	var problems []string
	d.Stacks, problems = readStacks(root, d)
	d.Problems = append(d.Problems, problems...)
	if d.Usage, err = readUsage(root); err != nil {
		d.Problems = append(d.Problems, fmt.Sprintf("%s: %v", bench.SeriesFile, err))
	}
	return d, root.Close()
}

// Save writes report.html and report.md into the run folder.
func (d *Data) Save() error {
	return errors.Join(
		bench.WriteFile(filepath.Join(d.Dir, HTMLFile), d.HTML),
		bench.WriteFile(filepath.Join(d.Dir, MarkdownFile), d.Markdown),
	)
}
