package bench

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Experiment is a question with axes. Its fields' order is kept, since it is
// the order of variants and of columns.
type Experiment struct {
	Name     string
	Question string
	Fixed    []Field
	Vary     []Axis
	Arms     []Arm
	// Baseline picks the variants that verdicts compare with: those whose
	// settings are these. Empty for no comparison.
	Baseline []Field
	AnswerBy []string
	// Metric decides: one of Metrics, or MetricAuto.
	Metric string
	// Judge is nil when there is nothing to judge.
	Judge *Judge
	// Margin is the relative difference below which two variants count as same.
	Margin float64
	// Ceilings are the targets, of CeilingTargets, that are added for each load of
	// a gRPC target as bounds of what it can reach.
	Ceilings []string
	Measure  Measure
	// Searched tells that an objective's search gives the rates.
	Searched bool
}

// Field is one setting and its value in canonical form.
type Field struct {
	Key, Value string
}

// Axis is one dimension of a cross product. A plain axis sets the field of its
// own name; a bundle sets several fields at once.
type Axis struct {
	Key    string
	Values [][]Field
}

// Arm is one dimension's worth of alternatives of its own: the cross product of
// its lists.
type Arm []ArmField

// ArmField is a field of an arm and the values it takes.
type ArmField struct {
	Key    string
	Values []string
}

// Measure says how long and how often.
type Measure struct {
	Warmup   time.Duration
	Duration time.Duration
	Blocks   int
	Interval time.Duration
	// Profile is the measured window of the profile block, whole seconds; 0 for
	// no such block.
	Profile time.Duration
}

// MetricAuto decides by p99 where operations are sent by a clock, else by ops/s.
const MetricAuto = "auto"

// Metrics are what an experiment can decide by.
var Metrics = []string{
	"ops/s", MetricBytes, "p50-latency-ns", "p90-latency-ns", "p99-latency-ns", "p99.9-latency-ns", "max-latency-ns",
	MetricOutage, MetricRecover,
}

// MetricBytes are those of values, acknowledged: what tells different sizes apart.
const MetricBytes = "bytes/s"

// Metrics of experiments with events.
const (
	MetricOutage  = "outage-ns"  // longest time without an answer
	MetricRecover = "recover-ns" // until service was as before the event
)

// CeilingTargets are what can be a ceiling.
var CeilingTargets = []string{TargetWire, TargetRelay}

// noCeilings is written where an experiment wants none.
const noCeilings = "none"

// SetCeilings replaces the ceilings; "none" by itself is no ceiling. Errors are
// *UsageError.
func (e *Experiment) SetCeilings(names []string) error {
	if len(names) == 1 && names[0] == noCeilings {
		e.Ceilings = nil
		return nil
	}
	for i, name := range names {
		if !slices.Contains(CeilingTargets, name) {
			return usagef("ceiling %q is not one of %s, or %s alone", name, strings.Join(CeilingTargets, ", "), noCeilings)
		}
		if slices.Contains(names[:i], name) {
			return usagef("ceiling lists %s twice", name)
		}
	}
	e.Ceilings = slices.Clone(names)
	return nil
}

// MaxExperimentBytes bounds an experiment file.
const MaxExperimentBytes = 1 << 20

// UsageError is a fault of the command line or of an experiment file, as
// opposed to one of the machine; Where is "file:line" or empty.
type UsageError struct {
	Where string
	Err   error
}

func (e *UsageError) Error() string {
	if e.Where == "" {
		return e.Err.Error()
	}
	return e.Where + ": " + e.Err.Error()
}

// Unwrap returns what is wrong, without the place.
func (e *UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

//go:embed experiments/*.yaml
var embedded embed.FS

// Names lists the embedded experiments.
func Names() []string {
	files, err := fs.Glob(embedded, "experiments/*.yaml")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".yaml")
	}
	return files
}

// Source returns the YAML of an embedded experiment or of a file.
func Source(name string) (source []byte, file string, err error) {
	if slices.Contains(Names(), name) {
		source, err = embedded.ReadFile("experiments/" + name + ".yaml")
		return source, name + ".yaml", err
	}
	if !strings.ContainsAny(name, "./") {
		return nil, "", usagef("no experiment %q%s; there are %s", name, didYouMean(name, Names()), strings.Join(Names(), ", "))
	}
	f, err := os.Open(name) //nolint:gosec // the user's own file
	if err != nil {
		return nil, "", &UsageError{Err: err}
	}
	source, err = io.ReadAll(io.LimitReader(f, MaxExperimentBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, "", &UsageError{Err: err}
	}
	return source, name, nil
}

// LoadExperiment reads an embedded experiment or a file. Errors are *UsageError.
func LoadExperiment(name string) (*Experiment, error) {
	source, file, err := Source(name)
	if err != nil {
		return nil, err
	}
	return Parse(source, file)
}

// Parse reads an experiment; file names it in errors, which are *UsageError
// with the line.
func Parse(source []byte, file string) (*Experiment, error) {
	if len(source) > MaxExperimentBytes {
		return nil, &UsageError{file + ":1", fmt.Errorf("experiment exceeds the limit of %d bytes", MaxExperimentBytes)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(source))
	var document, more yaml.Node
	err := decoder.Decode(&document)
	switch {
	case errors.Is(err, io.EOF):
		return nil, &UsageError{file + ":1", errors.New("experiment is empty")}
	case err != nil:
		return nil, yamlError(file, err)
	}
	if err := decoder.Decode(&more); err == nil {
		return nil, &UsageError{at(file, &more), errors.New("a second document; an experiment is one")}
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlError(file, err)
	}
	p := parser{file: file}
	e := p.experiment(document.Content[0])
	if p.err != nil {
		return nil, p.err
	}
	return e, nil
}

// MinDuration is the shortest measured window.
const MinDuration = 50 * time.Millisecond

func defaultMeasure() Measure {
	return Measure{Warmup: 500 * time.Millisecond, Duration: 2 * time.Second, Blocks: 5, Profile: time.Second}
}

// mostPoints is how many points the time series of a window has unless more are
// asked for: neither its memory nor its file grows with the window.
const mostPoints = 600

// interval of the time series: what was asked, else a tenth of the window and at
// most a second, but not more often than every 50 ms or mostPoints times.
func (m Measure) interval() time.Duration {
	if m.Interval > 0 {
		return m.Interval
	}
	return max(min(m.Duration/10, time.Second), 50*time.Millisecond, m.Duration/mostPoints)
}

// axisKeys are the fields that vary or arms set, each once, in order.
func (e *Experiment) axisKeys() []string {
	var keys []string
	add := func(key string) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, axis := range e.Vary {
		for _, value := range axis.Values {
			for _, f := range value {
				add(f.Key)
			}
		}
	}
	for _, arm := range e.Arms {
		for _, f := range arm {
			add(f.Key)
		}
	}
	return keys
}
