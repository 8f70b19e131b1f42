// Package stats says what trials allow to be said. It is pure: numbers in,
// numbers out. What is random in its tests has a seed.
//
// The unit is the block: every variant is measured once in each, so what a busy
// machine does to a block it does to all variants. A variant's figures are a
// slice with one value a block, in the order of blocks; NaN stands for a block
// without a valid trial.
//
// MedianInterval gives benchstat's figure and interval or, below 6 blocks where
// benchstat has none, the whole range at a lower confidence. What is decided, is
// decided on ratios paired by block, on a log scale: PairedRatio compares a variant
// with the baseline, Margin turns the A/A arm into the least difference worth
// speaking of, Decide makes the verdict, and Best finds the set of variants that
// cannot be told from the best.
//
// With fewer than MinBlocks blocks nothing is decided, and Warning says so.
package stats
