package bench

import (
	"fmt"
	"math"
	"strings"

	"raftlab/bench/load"
)

// FailedNs is what an operation that failed counts as in percentiles: longer than
// any that was answered. Whoever gives up on what is slow would otherwise have the
// better percentiles for it.
const FailedNs = int64(load.Longest)

// withFailed summarises a trial's latencies, with percentiles of all operations,
// those that failed included. It changes the histogram.
func withFailed(h *load.Histogram, failed uint64) Latency {
	l := latency(h)
	if l.Count == 0 || failed == 0 {
		return l
	}
	if err := h.RecordValues(FailedNs, int64(failed)); err != nil {
		panic(fmt.Sprintf("%d failed operations: %v", failed, err)) // it is in the range
	}
	at := func(percentile float64) int64 { return min(h.ValueAtPercentile(percentile), FailedNs) }
	l.P50Ns, l.P90Ns, l.P99Ns, l.P999Ns, l.MaxNs = at(50), at(90), at(99), at(99.9), FailedNs
	return l
}

// isLatency tells whether a metric is a percentile of latency.
func isLatency(metric string) bool { return strings.HasSuffix(metric, "-latency-ns") }

// isFailed tells whether a metric's value is that of an operation that failed.
func isFailed(metric string, value float64) bool {
	return isLatency(metric) && value >= float64(FailedNs)
}

// lacks tells whether more operations failed than the metric leaves out.
func (b *blocks) lacks(metric string) bool { return isFailed(metric, b.estimate(metric).Center) }

// comparable tells whether a metric tells two variants apart: of two that both lack
// it none is better, though their figures are one.
func (b *blocks) comparable(other *blocks, metric string) bool {
	return !b.lacks(metric) || !other.lacks(metric)
}

// lackOf says why a variant lacks a metric.
func lackOf(metric string) string {
	return "more operations failed than " + quantileOf(metric) + " leaves out"
}

// failedShare words the share of the operations that failed, of the trials that
// count; empty without any.
func (b *blocks) failedShare() string {
	failed := 0.0
	for _, n := range b.figures[failedOps] {
		if !math.IsNaN(n) {
			failed += n
		}
	}
	if failed == 0 {
		return ""
	}
	switch share := 100 * failed / (failed + float64(b.samples)); {
	case share >= 10:
		return fmt.Sprintf("%.0f %% failed", share)
	case share >= 0.1:
		return fmt.Sprintf("%.1f %% failed", share)
	}
	return "less than 0.1 % failed"
}
