package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Tags of the lines of an .hlog beside those of the kinds, which hold response
// times an interval. Service times have a kind's tag and this suffix. They stand
// in an .hlog only where they differ from the response times.
const (
	TagService = "-service"
	TagDelay   = "delay" // operations, the whole window in one line
	TagLag     = "lag"   // messages, the whole window in one line
)

// appendLine appends a histogram as a line, unless it is empty.
//
// About hdrhistogram-go v1.4.0: the times stand in the histogram, in
// milliseconds since the epoch, and Reset clears them with the tag; a tag with a
// comma, space or newline breaks the line, and ours have none.
func appendLine(lines []byte, h *Histogram, tag string, start, end time.Time) ([]byte, error) {
	if h.TotalCount() == 0 {
		return lines, nil
	}
	h.SetTag(tag)
	h.SetStartTimeMs(start.UnixMilli())
	h.SetEndTimeMs(end.UnixMilli())
	buf := bytes.NewBuffer(lines)
	if err := hdrhistogram.NewHistogramLogWriter(buf).OutputIntervalHistogram(h.Histogram); err != nil {
		return lines, fmt.Errorf("encode histogram %s: %w", tag, err)
	}
	return buf.Bytes(), nil
}

// WriteHlog writes the recording in HdrHistogram's log format 1.3: for each
// interval a line for each kind of operation that was done in it, tagged with
// the kind's name; so the counts of those lines add up to Operations. Values are
// in nanoseconds, the lines' maxima in milliseconds.
func (r *Recording) WriteHlog(w io.Writer) error {
	// The library's OutputStartTime cuts the start to whole seconds.
	ms := r.Start.UnixMilli()
	_, err := fmt.Fprintf(w, "#[raftlab load: clients=%d rate=%g ops-per-message=%d, latencies in ns]\n"+
		"#[Histogram log format version %s]\n"+
		"#[StartTime: %d.%03d (seconds since epoch), %s]\n"+
		"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
		r.Config.Clients, r.Config.Rate, r.Config.OpsPerMessage, hdrhistogram.HISTOGRAM_LOG_FORMAT_VERSION,
		ms/1000, ms%1000, r.Start.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	if err != nil {
		return fmt.Errorf("write hlog: %w", err)
	}
	lines := bytes.Clone(r.lines)
	if lines, err = appendLine(lines, r.Delay(), TagDelay, r.Start, r.End); err != nil {
		return err
	}
	if lines, err = appendLine(lines, r.Lag(), TagLag, r.Start, r.End); err != nil {
		return err
	}
	if _, err := w.Write(lines); err != nil {
		return fmt.Errorf("write hlog: %w", err)
	}
	return nil
}

// ReadHlog reads an .hlog and adds up the histograms of each tag. Clamped values
// are not told apart in an .hlog.
func ReadHlog(r io.Reader) (map[string]*Histogram, error) {
	byTag := map[string]*Histogram{}
	log := hdrhistogram.NewHistogramLogReader(r)
	for {
		h, err := log.NextIntervalHistogram()
		if err != nil {
			return nil, fmt.Errorf("read hlog: %w", err)
		}
		if h == nil {
			return byTag, nil
		}
		sum := byTag[h.Tag()]
		if sum == nil {
			sum = NewHistogram()
			byTag[h.Tag()] = sum
		}
		if sum.Merge(h) != 0 {
			return nil, errors.New("read hlog: a value is beyond 60 s")
		}
	}
}
