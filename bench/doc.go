// Package bench goes from a question to a recorded run.
//
// An experiment (experiment.go, read by parse.go) is YAML: fields that are fixed, fields that
// vary, and what decides. Its vocabulary (settings.go) is the knobs of a node
// and those of the load. Override (override.go) is what --set and --vary do to
// it. Expand (matrix.go) makes variants of it, a pure function: what a variant
// does not read is normalised, equal ones are merged, those that cannot exist
// are skipped with the reason, a bare gRPC echo is added as the ceiling of each
// load, and the baseline is measured twice to show the noise.
//
// Execute (runner.go) does the trials block by block: every variant once in
// each, in an order shuffled by the run's seed. A trial has a fresh cluster
// (rig.go), warm-up, measured window, drain, and reads back what was acknowledged
// (trial.go). What an experiment plans to happen to the cluster is in plan.go,
// pure, done by events.go, and what clients noticed of it found by impact.go. Usage and profiles come from capture.go, doubts from audit.go.
//
// A run leaves a folder (folder.go) with run.json, whose types are in
// record.go, results.txt for benchstat (benchfmt.go), time series, histograms
// and profiles; docs/runs.md documents each. Summarize (summary.go) says what a
// run means: it is computed from run.json alone, so that old runs can be read
// with new eyes. Package report shows it.
package bench
