package report

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"raftlab/bench"
)

// Spectrum is a variant's whole latency distribution: the response times of all
// its valid measured trials, merged. It is the one place where trials are
// merged; figures elsewhere are each trial's own.
type Spectrum struct {
	Variant string // its ID
	Count   int64
	MaxNs   int64
	// Points rise in Quantile, and end at the last one that single samples tell
	// apart.
	Points []SpectrumPoint
}

// SpectrumPoint is one percentile.
type SpectrumPoint struct {
	Quantile float64 // 0 <= q < 1
	Ns       int64
}

const (
	histogramMax    = 60_000_000_000 // ns, what bench/load records up to
	histogramDigits = 3
	// pointsPerDecade of 1/(1-q) is as fine as a chart can show.
	pointsPerDecade = 12
)

// enough says whether n samples support the quantile q: ten beyond it.
func enough(n, q float64) bool { return n >= 10/(1-q) }

// readSpectra merges the histograms of each variant. It keeps one of them in
// memory at a time.
func readSpectra(root *os.Root, run *bench.Run) (spectra []Spectrum, problems []string) {
	for _, v := range run.Variants {
		merged := hdrhistogram.New(1, histogramMax, histogramDigits)
		for _, t := range run.Trials {
			if t.Variant != v.ID || t.Kind != bench.TrialMeasured || !t.Valid || t.Hlog == "" {
				continue
			}
			if err := mergeHlog(root, t.Hlog, merged); err != nil {
				problems = append(problems, fmt.Sprintf("histogram of %s, block %d: %v", v.ID, t.Block, err))
			}
		}
		if merged.TotalCount() > 0 {
			spectra = append(spectra, newSpectrum(v.ID, merged))
		}
	}
	return spectra, problems
}

// mergeHlog adds the response times of an .hlog to a histogram.
func mergeHlog(root *os.Root, name string, into *hdrhistogram.Histogram) error {
	f, err := root.Open(filepath.FromSlash(name)) // root keeps it inside the run folder
	if err != nil {
		return err
	}
	err = mergeResponses(f, into)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// isResponse tells whether a line of an .hlog with that tag holds response times:
// they stand under the kind of operation; other tags are how late operations were
// sent and service times.
func isResponse(tag string) bool {
	return tag != "delay" && tag != "lag" && !strings.HasSuffix(tag, "-service")
}

// mergeResponses reads log format 1.3.
func mergeResponses(r io.Reader, into *hdrhistogram.Histogram) error {
	log := hdrhistogram.NewHistogramLogReader(r)
	for {
		h, err := log.NextIntervalHistogram()
		if err != nil {
			return fmt.Errorf("damaged: %w", err)
		}
		if h == nil {
			return nil
		}
		if !isResponse(h.Tag()) {
			continue
		}
		if dropped := into.Merge(h); dropped > 0 {
			return fmt.Errorf("%d values are above %s", dropped, latency(histogramMax))
		}
	}
}

func newSpectrum(id string, h *hdrhistogram.Histogram) Spectrum {
	s := Spectrum{Variant: id, Count: h.TotalCount(), MaxNs: h.Max()}
	last := math.Log10(float64(s.Count))
	for i := 0; ; i++ {
		x := float64(i) / pointsPerDecade
		if x > last {
			break
		}
		q := 1 - math.Pow(10, -x)
		s.Points = append(s.Points, SpectrumPoint{Quantile: q, Ns: h.ValueAtPercentile(q * 100)})
	}
	return s
}
