package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"raftlab/bench"
)

// What every form of the report says in words, apart from the figures.

// answer is an Answer with its place in words.
type answer struct {
	Where, Sentence, Confidence string
	Why                         []string
	Best                        []bestEntry // the first of them
	More                        int         // how many more there are
}

// mostBest keeps an answer's list short; the table marks them all.
const mostBest = 6

type bestEntry struct{ ID, Name, Figure string }

// fact is a name and a value.
type fact struct{ Name, Value string }

func (d *Data) answers() []answer {
	var out []answer
	for _, a := range d.Summary.Answers {
		x := answer{Sentence: a.Sentence, Why: a.Why}
		if a.Confidence > 0 && !strings.Contains(a.Sentence, "confidence") {
			x.Confidence = percent(a.Confidence)
		}
		x.Where = d.place(a.Where)
		if len(a.Best) == 0 { // an answer about a variant's rate
			x.Where = d.axesOf(a.Where)
		}
		for n, id := range a.Best {
			if a.Confidence <= 0 {
				break // the sentence says why there is no set
			}
			if n == mostBest {
				x.More = len(a.Best) - n
				break
			}
			for i := range d.Summary.Variants {
				if v := &d.Summary.Variants[i]; v.Variant.ID == id {
					name := variantName(d, withoutAxes(v.Variant, a.Where))
					x.Best = append(x.Best, bestEntry{ID: id, Name: name, Figure: headlineOf(v, a.Metric)})
				}
			}
		}
		out = append(out, x)
	}
	return out
}

// withoutAxes drops what an answer's place says already.
func withoutAxes(v bench.Variant, where map[string]string) bench.Variant {
	v.Params = maps.Clone(v.Params)
	for a := range where {
		delete(v.Params, a)
	}
	return v
}

// headlineOf is a variant's figure of a metric.
func headlineOf(v *bench.VariantSummary, metric string) string {
	e, format := v.OpsPerS, func(x float64) string {
		s := count(x) + " ops/s"
		if hasLargeValues(v) && v.BytesPerS.Center > 0 {
			s += ", " + megabytes(v.BytesPerS.Center) + " MB/s"
		}
		return s
	}
	switch metric {
	case bench.MetricBytes:
		e, format = v.BytesPerS, func(x float64) string { return megabytes(x) + " MB/s" }
	case "p50-latency-ns":
		e, format = v.P50Ns, response
	case "p90-latency-ns":
		e, format = v.P90Ns, response
	case "p99-latency-ns":
		e, format = v.P99Ns, response
	case "p99.9-latency-ns":
		e, format = v.P999Ns, response
	case "max-latency-ns":
		e, format = v.MaxNs, response
	case bench.MetricOutage:
		e, format = v.OutageNs, latency
	case bench.MetricRecover:
		e, format = v.RecoverNs, recovery
	}
	return strings.TrimSpace(format(e.Center) + " " + halfWidth(e))
}

// incomplete says how far a run came that was cut short; else it is empty.
func (d *Data) incomplete() string {
	if d.Run.Complete {
		return ""
	}
	return fmt.Sprintf("%d of %d planned trials were recorded; the figures are of those", d.Run.TrialsCompleted, d.Run.TrialsPlanned)
}

func (d *Data) warnings() []string {
	out := slices.Concat(d.Run.Warnings, d.Problems)
	for _, target := range ceilingTargets(d) {
		var above []string
		for i := range d.Summary.Variants {
			v := &d.Summary.Variants[i]
			if share := ceiling(v, target); share != nil && share.Fraction.Center > 1 {
				above = append(above, v.Variant.ID)
			}
		}
		if len(above) > 0 {
			out = append(out, some(above, 6)+" reached more than the ceiling "+target+": it was measured too low, and fractions of it mean little")
		}
	}
	// The same warning of many trials is said once.
	var order []string
	where := map[string][]string{}
	for _, t := range d.Run.Trials {
		if t.Warning == "" || t.Kind == bench.TrialProfile {
			continue
		}
		if where[t.Warning] == nil {
			order = append(order, t.Warning)
		}
		where[t.Warning] = append(where[t.Warning], t.Name())
	}
	for _, w := range order {
		out = append(out, some(where[w], 4)+": "+w)
	}
	return out
}

// events lists what happened to the clusters of trials.
func (d *Data) events() []string {
	var out []string
	for _, t := range d.Run.Trials {
		if len(t.Events) == 0 || t.Kind == bench.TrialProfile {
			continue
		}
		var parts []string
		for _, e := range t.Events {
			parts = append(parts, fmt.Sprintf("%s at %.2f s", e.What, e.OffsetS))
		}
		out = append(out, t.Name()+": "+strings.Join(parts, ", "))
	}
	return out
}

// some lists the first n and counts the rest.
func some(items []string, n int) string {
	if len(items) <= n {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:n], ", "), len(items)-n)
}

// invalid lists the trials whose figures are left out.
func (d *Data) invalid() []string {
	var out []string
	for _, t := range d.Run.Invalid() {
		problem := t.Problem
		if problem == "" {
			problem = "no reason recorded"
		}
		out = append(out, t.Name()+": "+problem)
	}
	return out
}

func (d *Data) skipped() []string {
	var out []string
	for _, s := range d.Run.Skipped {
		var cells []string
		for _, k := range sortedKeys(s.Params) {
			cells = append(cells, k+"="+s.Params[k])
		}
		out = append(out, strings.Join(cells, " ")+": "+s.Reason)
	}
	return out
}

// errorCodes are the failed operations of all trials by code.
func (d *Data) errorCodes() []string {
	var out []string
	for _, v := range d.Run.Variants {
		codes := map[string]uint64{}
		for _, t := range d.Run.Trials {
			if t.Variant == v.ID && t.Kind == bench.TrialMeasured {
				for c, n := range t.ErrorsByCode {
					codes[c] += n
				}
				if t.Unanswered > 0 {
					codes["no answer"] += t.Unanswered
				}
			}
		}
		var parts []string
		for _, c := range sortedKeys(codes) {
			parts = append(parts, fmt.Sprintf("%s %d", c, codes[c]))
		}
		if len(parts) > 0 {
			out = append(out, v.ID+" "+variantName(d, v)+": "+strings.Join(parts, ", "))
		}
	}
	return out
}

// closedLoop says what the tails of a closed loop hide; empty for runs that
// have none.
func (d *Data) closedLoop() string {
	closed := 0
	for _, v := range d.Run.Variants {
		if d.isClosed(v) {
			closed++
		}
	}
	switch {
	case closed == 0:
		return ""
	case closed < len(d.Run.Variants):
		return "Variants without a rate are closed loops: a client sends when its last answer came, so a stall is seen once a client and these tails are lower bounds."
	default:
		return "Closed loop: a client sends when its last answer came, so a stall is seen once a client and the tails are lower bounds."
	}
}

func (d *Data) isClosed(v bench.Variant) bool {
	rate := v.Config["rate"]
	if s := v.Params["rate"]; s != "" {
		rate = s
	}
	n, _ := number(rate)
	return n == 0
}

// environment is where a run ran.
func (d *Data) environment() []fact {
	e, r := d.Run.Environment, d.Run
	unit := func(n int, word string) string { return fmt.Sprintf("%d %s", n, word) }
	facts := []fact{
		{"run", r.ID},
		{"started", r.Started.UTC().Format("2006-01-02 15:04:05 UTC")},
		{"took", duration(r)},
		{"seed", fmt.Sprint(r.Seed)},
		{"commit", e.Commit},
		{"work tree dirty", e.Dirty},
		{"raftkv", strings.TrimSpace(e.ServerBin + " " + e.ServerInfo)},
		{"Go", e.Go},
		{"system", strings.TrimSpace(e.OS + "/" + e.Arch + " " + e.Kernel)},
		{"CPU", e.CPU},
		{"cores", unit(e.Cores, fmt.Sprintf("(GOMAXPROCS %d)", e.GOMAXPROCS))},
		{"memory", memory(float64(e.MemoryB))},
		{"frequency governor", e.Governor},
		{"load before", e.Load1},
		{"race detector", map[bool]string{true: "on: the figures mean little", false: "off"}[e.Race]},
	}
	for i := range facts {
		if facts[i].Value == "" {
			facts[i].Value = "unavailable"
		}
	}
	return facts
}

func duration(r *bench.Run) string {
	if r.Ended.Before(r.Started) || r.Ended.IsZero() {
		return "unknown"
	}
	return seconds(r.Ended.Sub(r.Started).Round(time.Second).Seconds())
}

// command is the line that runs the experiment again, with the seed it had and
// into a folder of its own.
func (d *Data) command() string {
	var parts []string
	seeded := false
	for i, a := range d.Run.Command {
		if a == "--out" || strings.HasPrefix(a, "--out=") || (i > 0 && d.Run.Command[i-1] == "--out") {
			continue
		}
		seeded = seeded || a == "--seed" || strings.HasPrefix(a, "--seed=")
		parts = append(parts, shellQuote(a))
	}
	if !seeded && len(parts) > 0 {
		parts = append(parts, "--seed", fmt.Sprint(d.Run.Seed))
	}
	return strings.Join(parts, " ")
}

// shellQuote makes a word of a POSIX shell.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./=:,@%+", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
