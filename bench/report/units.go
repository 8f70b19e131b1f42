package report

import (
	"math"
	"strconv"
	"strings"
	"time"

	"raftlab/bench"
)

// absent stands where there is no figure.
const absent = "–"

// digits3 shows a number with three significant digits, never in powers.
func digits3(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a < 0.0995:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case a < 9.995:
		return trimZeros(strconv.FormatFloat(v, 'f', 2, 64))
	case a < 99.95:
		return trimZeros(strconv.FormatFloat(v, 'f', 1, 64))
	default:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
}

func trimZeros(s string) string {
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// count shows a number or rate: 812, 12.3k, 1.4M.
func count(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return absent
	case a >= 999.5e6:
		return digits3(v/1e9) + "G"
	case a >= 999.5e3:
		return digits3(v/1e6) + "M"
	case a >= 999.5:
		return digits3(v/1e3) + "k"
	default:
		return digits3(v)
	}
}

// latency shows nanoseconds: 812 µs, 1.25 ms.
func latency(ns float64) string {
	switch {
	case math.IsNaN(ns) || math.IsInf(ns, 0):
		return absent
	case ns >= 999.5e6:
		return digits3(ns/1e9) + " s"
	case ns >= 999.5e3:
		return digits3(ns/1e6) + " ms"
	case ns >= 999.5:
		return digits3(ns/1e3) + " µs"
	default:
		return digits3(ns) + " ns"
	}
}

// response shows a percentile of response times, of which those that failed have
// none.
func response(ns float64) string {
	if ns >= float64(bench.FailedNs) {
		return "failed"
	}
	return latency(ns)
}

// megabytes shows bytes a second as MB/s, without the unit.
func megabytes(bytesPerS float64) string { return digits3(bytesPerS / 1e6) }

// memory shows bytes in binary units.
func memory(b float64) string {
	switch {
	case b >= 1<<30:
		return digits3(b/(1<<30)) + " GiB"
	case b >= 1<<20:
		return digits3(b/(1<<20)) + " MiB"
	case b >= 1<<10:
		return digits3(b/(1<<10)) + " KiB"
	default:
		return digits3(b) + " B"
	}
}

// percent shows a fraction: 63 %, 0.4 %.
func percent(fraction float64) string {
	p := fraction * 100
	if p >= 9.95 || p == 0 {
		return strconv.FormatFloat(p, 'f', 0, 64) + " %"
	}
	return trimZeros(strconv.FormatFloat(p, 'f', 1, 64)) + " %"
}

// seconds shows a length of time: 2 s, 1 min 40 s.
func seconds(s float64) string {
	if s < 60 {
		return digits3(s) + " s"
	}
	d := time.Duration(math.Round(s)) * time.Second
	out := strconv.Itoa(int(d.Minutes())) + " min"
	if rest := int(d.Seconds()) % 60; rest != 0 {
		out += " " + strconv.Itoa(rest) + " s"
	}
	return out
}

var valueUnits = []struct {
	suffix string
	factor float64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// number reads an axis value as a quantity: a number, a size, a rate or a
// duration (in seconds).
func number(s string) (float64, bool) {
	if v, err := strconv.ParseFloat(s, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
		return v, true
	}
	if d, err := time.ParseDuration(s); err == nil {
		return d.Seconds(), true
	}
	s = strings.TrimSuffix(s, "/s")
	for _, u := range valueUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v * u.factor, err == nil
		}
	}
	return 0, false
}
