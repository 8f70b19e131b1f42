package report

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"raftlab/bench"
)

// page is all that the HTML shows, as plain strings and numbers.
type page struct {
	Name, Question string
	Facts          []fact // the strip below the title
	Incomplete     string
	Violations     []string
	Checked        []string
	Answers        []answer
	Judged         *judged
	Noise          []string
	Warnings       []string

	// Rates are latency over the rate, of a run that asks for rates. One that searched
	// has no figures of variants.
	Rates    []panel
	RateNote string
	Searched bool

	Legend         []seriesKey
	HasWire        bool
	HasRelay       bool
	Throughput     []panel
	ThroughputNote string
	Latency        []panel
	LatencyNote    string
	Closed         string
	Spectrum       *spectrumChart
	Timelines      []panel
	Table          *table
	TableNotes     []string
	Stages         *stages
	Heatmaps       []heatmap
	CPU            *cpuSection
	Flames         *flameSection
	Resources      *resources
	Costs          *table
	Usage          *usageCharts
	Profiles       []profiles

	Cannot                   []string
	Invalid, Skipped, Errors []string
	Environment              []fact
	Command, Source          string
	GoSettings               []goSettings
	Words                    []fact
}

func newPage(d *Data) *page {
	c := newChart(d)
	info, run := d.Run.Experiment, d.Run
	p := &page{
		Name: info.Name, Question: info.Question,
		Incomplete: d.incomplete(), Violations: d.Run.Violations(), Checked: d.checked(), Answers: d.answers(), Judged: d.judged(), Noise: d.noise(),
		Warnings: d.warnings(), Legend: c.legend(), Closed: d.closedLoop(),
		Spectrum: c.spectrum(), Timelines: c.timelines(), Table: newTable(d),
		Heatmaps: d.heatmaps(), CPU: d.cpuSection(), Flames: d.flames(),
		Stages: d.stages(), Resources: d.resources(), Costs: d.costTable(), Usage: d.usageCharts(), Profiles: d.profiles(),
		Invalid: d.invalid(), Skipped: d.skipped(), Errors: d.errorCodes(),
		Environment: d.environment(), Command: d.command(), Source: strings.TrimSpace(info.Source), Words: slices.Concat(words(), d.outageWords()),
		GoSettings: d.goSettings(),
	}
	p.Rates, p.RateNote, p.Searched = d.rates(), d.rateNote(), run.Objective != nil
	p.Throughput, p.ThroughputNote = c.throughput()
	p.Latency, p.LatencyNote = c.latencies()
	for _, v := range d.Summary.Variants {
		for _, share := range v.Ceilings {
			p.HasWire = p.HasWire || share.Target == bench.TargetWire
			p.HasRelay = p.HasRelay || share.Target == bench.TargetRelay
		}
		if !v.Viable {
			p.Cannot = append(p.Cannot, v.Variant.ID+" "+variantName(d, v.Variant)+": "+v.Problem)
		}
	}
	if p.Table.HasInterval {
		p.TableNotes = append(p.TableNotes, "± is the wider side of the interval over blocks; other figures show theirs when pointed at")
	}
	if p.Table.HasThin {
		p.TableNotes = append(p.TableNotes, "Grey: fewer than 10/(1-p) samples in a trial")
	}
	p.Facts = []fact{
		{"variants", fmt.Sprint(len(run.Variants))},
		{"blocks", fmt.Sprint(info.Blocks)},
		{"window", seconds(info.MeasureS)},
		{"trials", fmt.Sprintf("%d of %d", run.TrialsCompleted, run.TrialsPlanned)},
		{"took", duration(run)},
		{"started", run.Started.UTC().Format("2006-01-02 15:04 UTC")},
		{"machine", fmt.Sprintf("%d cores, %s", run.Environment.Cores, run.Environment.Go)},
		{"commit", shortCommit(run.Environment)},
	}
	return p
}

func shortCommit(e bench.Environment) string {
	c := e.Commit
	if len(c) > 12 {
		c = c[:12]
	}
	if c == "" {
		c = "unknown"
	}
	if e.Dirty == "true" {
		c += ", changed"
	}
	return c
}

// noise says how far the baseline was from itself.
func (d *Data) noise() []string {
	var out []string
	for i := range d.Summary.Variants {
		v := &d.Summary.Variants[i]
		if v.Variant.Role != bench.RoleAA || v.Ratio.Center <= 0 {
			continue
		}
		s := fmt.Sprintf("%s: ×%s", variantName(d, v.Variant), digits3(v.Ratio.Center))
		if v.Ratio.Hi > v.Ratio.Lo {
			s += fmt.Sprintf(" (×%s to ×%s)", digits3(v.Ratio.Lo), digits3(v.Ratio.Hi))
		}
		out = append(out, s)
	}
	return out
}

// Size of the percentile spectrum.
const (
	spectrumW, spectrumH  = 1080, 430
	spectrumL, spectrumR  = 62, 36
	spectrumT, spectrumB  = 24, 46
	maxHighlighted        = 6
	defaultBestHighlights = 4
)

// spectrumChart is one chart of all variants, some of them highlighted.
type spectrumChart struct {
	panel
	Curves []curve
	Max    int // how many can be highlighted
}

type curve struct {
	Index      int
	ID, Label  string
	Solid      string // as far as samples carry
	Thin       string // beyond that
	Class      string // c1 to c6 when highlighted at first
	Checked    bool
	Best       bool
	Samples    string
	Percentile string // in words, for the chart's description
}

func (c *chart) spectrum() *spectrumChart {
	if len(c.d.Spectra) == 0 {
		return nil
	}
	most, lo, hi := 1.0, math.Inf(1), 0.0
	for _, s := range c.d.Spectra {
		for _, p := range s.Points {
			most = max(most, 1/(1-p.Quantile))
			if p.Ns > 0 {
				lo, hi = min(lo, float64(p.Ns)), max(hi, float64(p.Ns))
			}
		}
	}
	x := scale{lo: 1, hi: max(most, 100), from: spectrumL, to: spectrumW - spectrumR, log: true}
	y := logScale(lo, hi, spectrumH-spectrumB, spectrumT)
	out := &spectrumChart{Max: maxHighlighted, panel: panel{
		ID: "spectrum", Title: "Response time by percentile", W: spectrumW, H: spectrumH,
		Plot:   newRect(spectrumL, spectrumT, spectrumW-spectrumR, spectrumH-spectrumB),
		XLabel: "percentile of operations", YLabel: "response time, log scale",
	}}
	for _, v := range y.ticks() {
		out.YTicks = append(out.YTicks, tick{At: px(y.at(v)), Label: latency(v)})
	}
	for _, t := range []struct {
		name string
		beat float64
	}{{"0", 1}, {"50", 2}, {"90", 10}, {"99", 100}, {"99.9", 1e3}, {"99.99", 1e4}, {"99.999", 1e5}, {"99.9999", 1e6}, {"99.99999", 1e7}} {
		if t.beat <= x.hi*1.01 {
			out.XTicks = append(out.XTicks, tick{At: px(x.at(t.beat)), Label: t.name + " %"})
		}
	}
	chosen := c.highlights()
	var words []string
	for i, s := range c.d.Spectra {
		v := c.byID[s.Variant]
		if v == nil || len(s.Points) == 0 {
			continue
		}
		cv := curve{Index: i, ID: s.Variant, Label: variantName(c.d, v.Variant), Best: c.bestIDs[s.Variant], Samples: count(float64(s.Count))}
		if k := slices.Index(chosen, s.Variant); k >= 0 {
			cv.Checked, cv.Class = true, colour(k)
		}
		var solid, thin [][2]float64
		for _, p := range s.Points {
			at := [2]float64{x.at(1 / (1 - p.Quantile)), y.at(float64(p.Ns))}
			if enough(float64(s.Count), p.Quantile) {
				solid = append(solid, at)
				continue
			}
			if len(thin) == 0 && len(solid) > 0 {
				thin = append(thin, solid[len(solid)-1])
			}
			thin = append(thin, at)
		}
		cv.Solid, cv.Thin = polyline(solid), polyline(thin)
		out.Curves = append(out.Curves, cv)
		if cv.Checked {
			words = append(words, fmt.Sprintf("%s: slowest %s of %s operations", cv.Label, latency(float64(s.MaxNs)), cv.Samples))
		}
	}
	out.Desc = strings.Join(words, "; ")
	return out
}

// highlights are the variants the spectrum shows in colour at first: the best
// of each answer in turn, and baselines.
func (c *chart) highlights() []string {
	var ids []string
	add := func(id string, limit int) {
		has := slices.ContainsFunc(c.d.Spectra, func(s Spectrum) bool { return s.Variant == id })
		if has && len(ids) < limit && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for round := range defaultBestHighlights {
		for _, a := range c.d.Summary.Answers {
			if round < len(a.Best) {
				add(a.Best[round], defaultBestHighlights)
			}
		}
	}
	for _, v := range c.d.Summary.Variants {
		if v.Variant.Baseline {
			add(v.Variant.ID, maxHighlighted)
		}
	}
	for _, v := range measured(c.d.Summary.Variants) {
		add(v.ID, 3)
	}
	return ids
}

// profiles are the pprof files of one variant.
type profiles struct {
	ID, Name string
	Files    []profileFile
}

type profileFile struct{ Href, Label, Command string }

func (d *Data) profiles() []profiles {
	var out []profiles
	for _, v := range d.Run.Variants {
		p := profiles{ID: v.ID, Name: variantName(d, v)}
		for _, t := range d.Run.Trials {
			if t.Variant != v.ID {
				continue
			}
			for _, f := range t.Profiles {
				// Names are relative to the run folder, where this page lies too.
				f = path.Clean(f)
				name := strings.TrimSuffix(path.Join(path.Base(path.Dir(f)), path.Base(f)), ".pb.gz")
				p.Files = append(p.Files, profileFile{Href: "./" + f, Label: name, Command: "go tool pprof -http=:0 " + shellQuote(f)})
			}
		}
		if len(p.Files) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// words are the terms a reader may not know.
func words() []fact {
	return []fact{
		{"variant", "one point of the experiment's matrix: a full set of settings"},
		{"trial, block", "a trial is one measured window of one variant on a fresh cluster; a block is one trial of every variant, in shuffled order, so that drift of the machine hits all alike"},
		{"median and interval", "a variant's figure is the median over its trials; ± is the wider side of the interval. Percentiles are each trial's own, never averaged over merged clients"},
		{"among the best", "the set of variants that cannot be told apart from the best one; a member is not shown to be slower, nor to be equal"},
		{"baseline, A/A", "verdicts compare with the baseline, paired by block. The A/A arm is the baseline measured twice: what it differs by is noise"},
		{"judged: within, beyond, unclear", "an adaptive setting against the best fixed one of its cell, paired by block: within the limit when the whole interval is, beyond it when the whole interval is, else unclear. Which fixed one that is, is told for each block by all others, so that luck in the block itself counts for neither; where fixed ones hardly differ nothing is judged"},
		{"response time", "from when an operation was meant to start until its answer, so that waiting in the generator counts"},
		{"closed loop, coordinated omission", "in a closed loop a client sends only after its last answer. While the server stalls nothing is sent, so one stall is recorded once a client instead of for every operation that would have come: the tail is a lower bound. With a rate, operations are due by the clock and a stall counts in full"},
		{"p99", "the time that 99 of 100 operations did not exceed; failed when more than one of 100 failed. A percentile p of n samples is greyed when n < 10/(1-p)"},
		{"layer", "a part of the program that CPU time is told apart by: of a sampled stack the innermost function that works for itself decides. What moves, compares or hashes bytes counts for its caller, allocation, collection and scheduling for the runtime, the kernel's time for syscalls"},
		{"wire", "a ceiling: a bare gRPC echo with the same messages and process settings and the best number of connections: what that API can do on this machine at most"},
		{"relay", "a ceiling: wire, which first sends each put to followers over a gRPC stream each and waits for a majority: what replication over gRPC can do on this machine at most"},
	}
}
