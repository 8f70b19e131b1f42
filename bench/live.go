package bench

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// Live shows where a run is, on one line of a terminal that it rewrites once a
// second. On anything but a terminal it shows nothing.
type Live struct {
	w     io.Writer
	fd    int
	on    bool
	now   func() time.Time
	last  time.Time
	drawn bool
}

// NewLive returns a Live on w.
func NewLive(w io.Writer) *Live {
	l := &Live{w: w, now: time.Now}
	if f, ok := w.(*os.File); ok {
		l.fd = int(f.Fd())
		l.on = term.IsTerminal(l.fd)
	}
	return l
}

// Show takes in progress; it draws at most once a second.
func (l *Live) Show(p Progress) {
	if !l.on {
		return
	}
	now := l.now()
	if now.Sub(l.last) < time.Second {
		return
	}
	l.last = now
	width := 80
	if w, _, err := term.GetSize(l.fd); err == nil && w > 0 {
		width = w
	}
	l.draw(liveLine(p), width)
}

func (l *Live) draw(line string, width int) {
	runes := []rune(line)
	line = string(runes[:min(len(runes), width-1)])
	// Back to the line's start, and erase what was there. A terminal that is gone
	// is no reason to end a run.
	_, _ = fmt.Fprintf(l.w, "\r\x1b[K%s", line)
	l.drawn = true
}

// liveLine says where a run is and what it sees, the most wanted first.
func liveLine(p Progress) string {
	var b strings.Builder
	fmt.Fprintf(&b, "trial %d of %d, %v left", p.Trial, p.Trials, p.Left.Round(time.Second))
	if iv := p.Interval; iv.Length > 0 {
		fmt.Fprintf(&b, "  %.0f ops/s", float64(iv.Operations)/iv.Length.Seconds())
		if iv.P50 > 0 {
			fmt.Fprintf(&b, "  p50 %v  p99 %v", round(iv.P50), round(iv.P99))
		}
		fmt.Fprintf(&b, "  errors %d", iv.Errors)
		if iv.Warmup {
			b.WriteString("  (warm-up)")
		}
	} else if r := p.Result; r != nil {
		l := r.Response["all"]
		fmt.Fprintf(&b, "  %.0f ops/s  %s  %s  errors %d",
			r.OpsPerS, figureOf("p50-latency-ns", float64(l.P50Ns)), figureOf("p99-latency-ns", float64(l.P99Ns)), r.Failed())
	}
	if p.Variant != nil {
		if p.Kind == TrialProfile {
			b.WriteString("  profiles of")
		}
		b.WriteString("  " + p.Variant.Name)
		if p.Rate > 0 {
			fmt.Fprintf(&b, " at %s ops/s", thousands(p.Rate))
		}
	}
	return b.String()
}

// round keeps three digits.
func round(d time.Duration) time.Duration {
	for unit := time.Nanosecond; unit < time.Minute; unit *= 10 {
		if d < 1000*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Second)
}

// Clear removes the line.
func (l *Live) Clear() {
	if l.drawn {
		_, _ = fmt.Fprint(l.w, "\r\x1b[K")
		l.drawn = false
	}
}
