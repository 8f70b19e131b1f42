package load

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// TestHlogReadsBack reads what WriteHlog wrote with the library's own reader,
// line by line.
func TestHlogReadsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(123 * time.Millisecond) // a start between two seconds
		f := newFake(takes(2 * time.Millisecond))
		c := config()
		c.Rate, c.ReadRatio, c.Warmup, c.Duration = 200, 0.5, 250*time.Millisecond, 2500*time.Millisecond
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := r.WriteHlog(&b); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		for _, want := range []string{
			"#[Histogram log format version 1.3]\n",
			"#[StartTime: 946684800.373 (seconds since epoch), 2000-01-01T00:00:00.373Z]\n",
			"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%.400s", want, text)
			}
		}
		log := hdrhistogram.NewHistogramLogReader(strings.NewReader(text))
		count, starts := map[string]uint64{}, map[int64]int{}
		for {
			h, err := log.NextIntervalHistogram()
			if err != nil {
				t.Fatal(err)
			}
			if h == nil {
				break
			}
			count[h.Tag()] += uint64(h.TotalCount())
			if h.Tag() == "put" {
				starts[h.StartTimeMs()-r.Start.UnixMilli()]++
				if n := h.EndTimeMs() - h.StartTimeMs(); n > 1000 || n < 499 { // the reader cuts to the millisecond
					t.Errorf("an interval of %d ms", n)
				}
			}
		}
		if count["put"]+count["get"] != r.Operations || r.Operations != 500 || count["put"] == 0 || count["get"] == 0 {
			t.Errorf("%v for %d operations", count, r.Operations)
		}
		if count["put-service"] != count["put"] || count["get-service"] != count["get"] ||
			count["delay"] != r.Operations || count["lag"] != r.Operations || len(count) != 6 {
			t.Errorf("%v", count)
		}
		if len(starts) != 3 {
			t.Errorf("puts in intervals that start at %v ms", starts)
		}
	})
}

func TestReadHlogRefusesGarbage(t *testing.T) {
	if _, err := ReadHlog(strings.NewReader("1.0,1.0,1.0,HISTnonsense\n")); err == nil {
		t.Error("no error")
	}
}
