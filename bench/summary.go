package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"raftlab/bench/stats"
)

// confidence of every interval, verdict and answer, where there are blocks
// enough for it.
const confidence = 0.95

// Summarize says what a run means, from its valid measured trials. It works on
// runs cut short too.
func Summarize(run *Run) Summary {
	s := newSummarizer(run)
	var summary Summary
	for i := range run.Variants {
		summary.Variants = append(summary.Variants, s.variant(&run.Variants[i]))
	}
	summary.Knees = newSummarizer(withLate(run)).knees()
	summary.Answers = s.answers(summary.Variants)
	if special := s.rateAnswers(summary.Knees); special != nil {
		summary.Answers = special
	} else if special = stageAnswers(summary.Variants); special != nil {
		summary.Answers = special
	}
	summary.Judgements = s.judgements(summary.Variants)
	return summary
}

// blocks are the figures of one variant, one value a block, NaN where there is
// none.
type blocks struct {
	trials          int
	samples, errors uint64
	unrecovered     int
	viable          bool
	problem         string
	figures         map[string][]float64 // by metric, and bytes/s
	stages          stageNames
}

// Figures beside the metrics.
const (
	catchUpS  = "catch-up-s"
	failedOps = "failed-ops"
)

func newBlocks(run *Run, v *Variant, fit fitness) *blocks {
	b := &blocks{viable: fit.able(), figures: map[string][]float64{}}
	if !b.viable {
		b.problem = fit.problem
	}
	linkRate := v.linkRate()
	for i := range run.Trials {
		t := &run.Trials[i]
		if t.Variant != v.ID || t.Kind != TrialMeasured {
			continue
		}
		if !t.Viable {
			b.set(power, t.Block, 0)
		}
		if t.Problem != "" && b.problem == "" {
			b.problem = t.Problem
		}
		b.errors += t.Failed()
		if !t.Viable || !t.Valid || t.Operations == 0 {
			continue
		}
		b.trials++
		b.samples += t.Operations
		l := t.Response["all"]
		for metric, value := range map[string]float64{
			"ops/s": t.OpsPerS, MetricBytes: t.BytesPerS,
			"p50-latency-ns": float64(l.P50Ns), "p90-latency-ns": float64(l.P90Ns), "p99-latency-ns": float64(l.P99Ns),
			"p99.9-latency-ns": float64(l.P999Ns), "max-latency-ns": float64(l.MaxNs), power: t.OpsPerS / l.MeanNs,
			offeredOps: float64(t.Operations+t.Failed()) / t.WindowS,
		} {
			b.set(metric, t.Block, value)
		}
		if x, ok := cpuPerOp(t); ok {
			b.set(cpuNanosPerOp, t.Block, x)
			b.set(coresUsed, t.Block, x/1e9*t.OpsPerS)
		}
		if x, ok := t.carried(); ok && linkRate > 0 {
			b.set(linkUsed, t.Block, x/linkRate)
		}
		for _, c := range costs {
			if x, ok := c.of(t); ok {
				b.set(c.Unit, t.Block, x)
			}
		}
		b.setStages(t)
		if t.CatchUpS > 0 {
			b.set(catchUpS, t.Block, t.CatchUpS)
		}
		b.addImpact(t)
	}
	return b
}

// set puts a value at its block, counted from 1.
func (b *blocks) set(metric string, block int, value float64) {
	values := b.figures[metric]
	for len(values) < block {
		values = append(values, math.NaN())
	}
	if block >= 1 {
		values[block-1] = value
	}
	b.figures[metric] = values
}

func (b *blocks) estimate(metric string) Estimate {
	return Estimate(stats.MedianInterval(b.figures[metric], confidence))
}

type summarizer struct {
	run    *Run
	blocks map[string]*blocks
}

func newSummarizer(run *Run) *summarizer {
	s := &summarizer{run: run, blocks: map[string]*blocks{}}
	fit := run.fitness()
	for i := range run.Variants {
		v := &run.Variants[i]
		s.blocks[v.ID] = newBlocks(run, v, fit[v.ID])
	}
	return s
}

func direction(metric string) stats.Direction {
	return stats.Direction(metric == "ops/s" || metric == MetricBytes)
}

// metric is what decides about a variant: what the experiment says, or, for
// MetricAuto, p99 where all of the variant's cell have a rate. Of what is sent by a
// clock, throughput tells only whether it was answered in time.
func (s *summarizer) metric(v *Variant) string {
	if m := s.run.Experiment.Metric; m != MetricAuto && m != "" {
		return m
	}
	cell := answerCell(v.Params, s.run.Experiment.AnswerBy)
	for i := range s.run.Variants {
		other := &s.run.Variants[i]
		if other.Role == RoleMeasured && answerCell(other.Params, s.run.Experiment.AnswerBy) == cell && !other.openLoop() {
			return "ops/s"
		}
	}
	return "p99-latency-ns"
}

// openLoop tells whether a variant's operations are sent by a clock.
func (v *Variant) openLoop() bool {
	rate := v.Config["rate"]
	return rate != "" && rate != "0"
}

func (s *summarizer) variant(v *Variant) VariantSummary {
	b := s.blocks[v.ID]
	sum := VariantSummary{
		Variant: *v, Trials: b.trials, Viable: b.viable, Problem: b.problem, Samples: b.samples, Errors: b.errors,
		OpsPerS: b.estimate("ops/s"), BytesPerS: b.estimate(MetricBytes),
		P50Ns: b.estimate("p50-latency-ns"), P90Ns: b.estimate("p90-latency-ns"), P99Ns: b.estimate("p99-latency-ns"),
		P999Ns: b.estimate("p99.9-latency-ns"), MaxNs: b.estimate("max-latency-ns"),
		CatchUpS: b.estimate(catchUpS), Costs: b.costs(), OutageNs: b.estimate(MetricOutage), RecoverNs: b.estimate(MetricRecover),
		Unrecovered: b.unrecovered, ErrorsATrial: b.estimate(failedOps),
		Stages: b.stageSummary(),
	}
	for _, id := range v.Ceilings {
		if share, ok := s.share(b, id); ok {
			sum.Ceilings = append(sum.Ceilings, share)
		}
	}
	if baseline := s.blocks[v.Against]; baseline != nil && b.trials > 0 && baseline.trials > 0 {
		metric := s.metric(v)
		var ratio stats.Estimate
		if b.comparable(baseline, metric) {
			ratio = s.ratio(v.ID, v.Against, metric)
		}
		sum.Ratio = Estimate(ratio)
		sum.Verdict = string(stats.Decide(ratio, s.margin(v), direction(metric)))
	}
	return sum
}

// share is how near a variant comes to the ceiling of that ID, if that has a
// figure.
func (s *summarizer) share(b *blocks, id string) (CeilingShare, bool) {
	i := slices.IndexFunc(s.run.Variants, func(v Variant) bool { return v.ID == id })
	if i < 0 || s.blocks[id].trials == 0 {
		return CeilingShare{}, false
	}
	ceiling := s.blocks[id]
	mine, its := b.figures["ops/s"], ceiling.figures["ops/s"]
	var fractions []float64
	for block := range min(len(mine), len(its)) {
		fractions = append(fractions, mine[block]/its[block]) // NaN when either is
	}
	return CeilingShare{
		Variant: id, Target: s.run.Variants[i].Params["target"],
		Fraction: Estimate(stats.MedianInterval(fractions, confidence)), OpsPerS: ceiling.estimate("ops/s").Center,
	}, true
}

func (s *summarizer) ratio(variant, baseline, metric string) stats.Estimate {
	return stats.PairedRatio(s.blocks[variant].figures[metric], s.blocks[baseline].figures[metric], confidence)
}

// margin is what counts as the same for a variant: what was asked, unless an A/A
// arm shows that this machine cannot tell that little.
func (s *summarizer) margin(v *Variant) float64 {
	return stats.Margin(s.run.Experiment.Margin, s.noise(v, s.metric(v), stats.PairedRatio))
}

// noise is the ratio to its baseline of the A/A arm that is nearest to what a
// variant is compared with: the arm of that baseline, else one of that baseline's
// answer, else any. Of several that are as near, the widest counts. It is zero where no
// arm has an interval, and for arms, which would excuse themselves.
func (s *summarizer) noise(v *Variant, metric string, ratio ratioFunc) stats.Estimate {
	var noise stats.Estimate
	if v.Role == RoleAA {
		return noise
	}
	baseline := v // unless it is compared with another
	by, nearest := s.run.Experiment.AnswerBy, 0
	if i := slices.IndexFunc(s.run.Variants, func(b Variant) bool { return b.ID == v.Against }); i >= 0 {
		baseline = &s.run.Variants[i]
	}
	for i := range s.run.Variants {
		aa := &s.run.Variants[i]
		if aa.Role != RoleAA {
			continue
		}
		near := 1
		switch {
		case aa.Against == baseline.ID:
			near = 3
		case answerCell(aa.Params, by) == answerCell(baseline.Params, by):
			near = 2
		}
		e := ratio(s.blocks[aa.ID].figures[metric], s.blocks[aa.Against].figures[metric], confidence)
		if e.HasInterval() && (near > nearest || near == nearest && stats.Margin(0, e) > stats.Margin(0, noise)) {
			nearest, noise = near, e
		}
	}
	return noise
}

// ratioFunc is stats.PairedRatio or stats.UnpairedRatio.
type ratioFunc func(variant, baseline []float64, confidence float64) stats.Estimate

// cells are the measured variants by cell of AnswerBy, in the order of the first
// of each.
func (s *summarizer) cells(summaries []VariantSummary) [][]*VariantSummary {
	var names []string
	var cells [][]*VariantSummary
	for i := range summaries {
		v := &summaries[i]
		if v.Variant.Role != RoleMeasured {
			continue
		}
		name := answerCell(v.Variant.Params, s.run.Experiment.AnswerBy)
		at := slices.Index(names, name)
		if at < 0 {
			at = len(names)
			names, cells = append(names, name), append(cells, nil)
		}
		cells[at] = append(cells[at], v)
	}
	return cells
}

// where holds the values of AnswerBy that a variant has.
func (s *summarizer) where(v *Variant) map[string]string {
	where := map[string]string{}
	for _, key := range s.run.Experiment.AnswerBy {
		if value, ok := v.Params[key]; ok {
			where[key] = value
		}
	}
	return where
}

// answers states, for each cell of AnswerBy, which variants are best.
func (s *summarizer) answers(summaries []VariantSummary) []Answer {
	var answers []Answer
	for _, cell := range s.cells(summaries) {
		a := s.answer(cell)
		a.Why = s.why(&a, cell)
		answers = append(answers, a)
	}
	return answers
}

// answer states which of these are best.
func (s *summarizer) answer(candidates []*VariantSummary) Answer {
	metric := s.metric(&candidates[0].Variant)
	a := Answer{Where: s.where(&candidates[0].Variant), Metric: metric, Best: []string{}}
	var values [][]float64
	viable := 0
	for _, v := range candidates {
		var figures []float64
		if v.Viable {
			figures = s.blocks[v.Variant.ID].figures[metric]
		}
		if v.Viable && v.Trials > 0 {
			viable++
		}
		values = append(values, figures)
	}
	if viable == 0 {
		a.Sentence = "No variant has a valid trial."
		return a
	}
	set := stats.Best(values, direction(metric), confidence)
	var best []*VariantSummary
	for _, i := range set.Members {
		best = append(best, candidates[i])
	}
	if len(best) == 0 { // such as recover-ns where service never came back
		a.Sentence = fmt.Sprintf("No variant has a figure of %s.", metric)
		return a
	}
	compare := func(a, b *VariantSummary) int { return s.compare(a, b, metric) }
	slices.SortStableFunc(best, compare)
	for _, v := range best {
		a.Best = append(a.Best, v.Variant.ID)
	}
	switch {
	case len(candidates) == 1:
		a.Sentence = s.describe(best[0], metric, true) + s.within(best[0], metric) + "."
	case viable == 1:
		a.Sentence = s.describe(best[0], metric, true) + " is the only one of " + strconv.Itoa(len(candidates)) + " with a valid trial."
	case set.Warning != "":
		top := slices.MinFunc(best, compare)
		a.Sentence = fmt.Sprintf("%s has the best median of %d; %s.", s.describe(top, metric, true), viable, set.Warning)
	case len(best) == 1:
		a.Confidence = set.Confidence
		a.Sentence = fmt.Sprintf("%s is the best of %d with %.0f %% confidence (%d blocks).",
			s.describe(best[0], metric, true), viable, 100*set.Confidence, set.Blocks)
	default:
		a.Confidence = set.Confidence
		var names []string
		for _, v := range best {
			names = append(names, s.describe(v, metric, false))
		}
		a.Sentence = fmt.Sprintf("%d of %d cannot be told from the best with %.0f %% confidence (%d blocks): %s.",
			len(best), viable, 100*set.Confidence, set.Blocks, namedOf(names))
	}
	a.Sentence += s.without(metric, candidates, best)
	return a
}

// Variants that a sentence names at most.
const mostNamed = 6

// without names those that are no rivals, since more of their operations failed than
// the metric leaves out.
func (s *summarizer) without(metric string, candidates, best []*VariantSummary) string {
	var names []string
	for _, v := range candidates {
		if b := s.blocks[v.Variant.ID]; v.Viable && b.lacks(metric) && !slices.Contains(best, v) {
			names = append(names, fmt.Sprintf("%s (%s)", s.nameOf(v), b.failedShare()))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf(" No %s has %s.", quantileOf(metric), namedOf(names))
}

// namedOf joins the names that a sentence has room for.
func namedOf(names []string) string {
	if more := len(names) - mostNamed; more > 0 {
		names = append(names[:mostNamed:mostNamed], fmt.Sprintf("%d more", more))
	}
	return joinWords(names)
}

// compare orders by a metric, the best first.
func (s *summarizer) compare(a, b *VariantSummary, metric string) int {
	x, y := s.blocks[a.Variant.ID].estimate(metric).Center, s.blocks[b.Variant.ID].estimate(metric).Center
	if direction(metric) == stats.HigherIsBetter {
		x, y = y, x
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// describe names a variant by what the answer leaves open, with its figure of a
// metric, and in full also with its share of the ceilings.
func (s *summarizer) describe(v *VariantSummary, metric string, full bool) string {
	b := s.blocks[v.Variant.ID]
	figures := []string{figureOf(metric, b.estimate(metric).Center)}
	if share := b.failedShare(); share != "" && isLatency(metric) {
		figures = append(figures, share)
	}
	for _, c := range v.Ceilings {
		// A rate that is given is no share of anything.
		if full && !v.Variant.openLoop() && c.Fraction.Center > 0 {
			figures = append(figures, fmt.Sprintf("%.0f %% of %s", 100*c.Fraction.Center, c.Describe()))
		}
	}
	return fmt.Sprintf("%s (%s)", s.nameOf(v), strings.Join(figures, ", "))
}

// nameOf names a variant by what the answer leaves open.
func (s *summarizer) nameOf(v *VariantSummary) string {
	var parts []string
	for _, key := range s.run.Experiment.Axes {
		if value, ok := v.Variant.Params[key]; ok && !slices.Contains(s.run.Experiment.AnswerBy, key) {
			parts = append(parts, key+"="+value)
		}
	}
	return cmp.Or(strings.Join(parts, " "), "the only variant")
}

// within is the interval of a variant's figure of a metric.
func (s *summarizer) within(v *VariantSummary, metric string) string {
	e := s.blocks[v.Variant.ID].estimate(metric)
	if e.Confidence == 0 {
		return "; " + stats.Warning(e.N)
	}
	return fmt.Sprintf(": %s to %s with %.0f %% confidence (%d blocks)", amount(metric, e.Lo), amount(metric, e.Hi), 100*e.Confidence, e.N)
}

// figureOf shows a value of a metric, which it names.
func figureOf(metric string, value float64) string {
	switch {
	case metric == "ops/s", metric == MetricBytes:
		return amount(metric, value)
	case isFailed(metric, value):
		return "no " + quantileOf(metric)
	}
	return quantileOf(metric) + " " + amount(metric, value)
}

// amount shows a value of a metric with its unit.
func amount(metric string, value float64) string {
	switch {
	case metric == "ops/s":
		return thousands(value) + " ops/s"
	case metric == MetricBytes:
		return thousands(value/1e6) + " MB/s"
	case isFailed(metric, value):
		return "failed"
	}
	return round(time.Duration(value)).String()
}

// quantileOf is the first word of a metric: p99 of p99-latency-ns.
func quantileOf(metric string) string {
	quantile, _, _ := strings.Cut(metric, "-")
	return quantile
}

// thousands writes 412345.6 as 412,346, and keeps a digit of what is below 100.
func thousands(x float64) string {
	if x < 100 {
		return fmt.Sprintf("%.1f", x)
	}
	digits := fmt.Sprintf("%.0f", x)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func joinWords(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
