// Package metric is how a package declares what it counts: each counter, gauge
// and histogram once, as a field of a struct, with a tag that names its kind and
// itself, and a sentence that says what it is.
//
//	type Counters struct {
//		Fsyncs  uint64            `counter:"journal_fsyncs" usage:"fsyncs of the journal's files"`
//		Largest uint64            `gauge:"largest_frame_bytes" usage:"largest frame so far, encoded"`
//		Took    *metric.Histogram `histogram:"fsync_duration_nanos" usage:"how long an fsync took"`
//	}
//
// A counter only grows while the process lives; a gauge goes both ways. A name is
// in snake case, unique among all that a node has, and ends in its unit: _bytes,
// _nanos, or the plural of what is counted. Each walks the fields; what shows
// metrics is made of nothing else.
package metric
