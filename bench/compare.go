package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"raftlab/bench/stats"
)

// Comparison is what one run says against another, or, in one run, what values
// of an axis say against the first.
type Comparison struct {
	// A and B are the IDs of the runs; B is empty when there is one.
	A string `json:"a"`
	B string `json:"b,omitempty"`
	// Axis is what tells A from B within one run; empty for two runs.
	Axis string `json:"axis,omitempty"`
	// Paired comparisons are of the same blocks. Those of two runs are not: what
	// changed on the machine between them counts as a difference of the runs.
	Paired bool `json:"paired"`
	// MaxRegression is the loss that is let pass: 0.05 is 5 %.
	MaxRegression float64 `json:"max_regression"`
	// Confidence is that of all intervals together.
	Confidence float64    `json:"confidence"`
	Rows       []Compared `json:"rows"`
	// OnlyA and OnlyB name the variants that have no counterpart.
	OnlyA []string `json:"only_a"`
	OnlyB []string `json:"only_b"`
	// Warnings say what else is different, and what was wrong with the runs.
	Warnings []string `json:"warnings"`
	// Violations are all of B's, by trial: writes that it acknowledged and lost, or
	// histories that are not linearizable. With any, B is a regression, whatever its
	// figures are.
	Violations []string `json:"violations,omitempty"`
	Gate       Gate     `json:"gate"`
}

// Compared is a figure of one variant on both sides.
type Compared struct {
	Variant string `json:"variant"` // its name, without the compared axis
	SideA   string `json:"side_a"`  // the axis' value, or the run's ID
	SideB   string `json:"side_b"`
	Metric  string `json:"metric"`
	// A and B are medians over blocks, Ratio is B over A.
	A     Estimate `json:"a"`
	B     Estimate `json:"b"`
	Ratio Estimate `json:"ratio"`
	// Margin is the difference that counts as none: the larger of MaxRegression and
	// what the A/A arms differ by.
	Margin float64 `json:"margin"`
	// P is benchstat's, by Mann and Whitney's test of the unpaired figures.
	P float64 `json:"p"`
	// Verdict on B is better, worse, same or inconclusive.
	Verdict string `json:"verdict"`
	Gate    Gate   `json:"gate"`
	// Problem says why a side has no figures, if so.
	Problem string `json:"problem,omitempty"`
}

// Gate says whether a comparison lets B pass.
type Gate string

// Gates.
const (
	// GatePassed: a loss beyond MaxRegression is ruled out.
	GatePassed Gate = "passed"
	// GateRegression: B is surely worse, by more than the margin, or has violations.
	GateRegression Gate = "regression"
	// GateInconclusive: neither is sure.
	GateInconclusive Gate = "inconclusive"
)

// CompareOptions say what is compared.
type CompareOptions struct {
	// Metrics to compare by, of Metrics; empty for what each variant is decided by.
	Metrics []string
	// MaxRegression, see Comparison.
	MaxRegression float64
	// Axis of one run; empty for server-bin, or else the only one that varies.
	Axis string
}

// CompareRuns compares the variants of two runs that have the same name. Errors
// are *UsageError.
func CompareRuns(a, b *Run, o CompareOptions) (*Comparison, error) {
	for _, run := range []*Run{a, b} {
		if err := run.hasBlocks(); err != nil {
			return nil, err
		}
	}
	c := comparer{options: o, ratio: stats.UnpairedRatio, a: newSummarizer(a), b: newSummarizer(b)}
	c.out = &Comparison{A: a.ID, B: b.ID, OnlyA: []string{}, OnlyB: []string{}}
	if a.ID == b.ID {
		c.out.A, c.out.B = a.ID+" (first)", b.ID+" (second)"
	}
	theirs := map[string]*Variant{}
	for _, v := range measuredVariants(b) {
		theirs[v.Name] = v
	}
	for _, v := range measuredVariants(a) {
		if other := theirs[v.Name]; other != nil {
			c.pairs = append(c.pairs, pairing{name: v.Name, sideA: c.out.A, sideB: c.out.B, a: v, b: other})
			delete(theirs, v.Name)
		} else {
			c.out.OnlyA = append(c.out.OnlyA, v.Name)
		}
	}
	for _, v := range measuredVariants(b) {
		if theirs[v.Name] != nil {
			c.out.OnlyB = append(c.out.OnlyB, v.Name)
		}
	}
	if len(c.pairs) == 0 {
		return nil, usagef("runs %s (%s) and %s (%s) have no variant in common", a.ID, a.Experiment.Name, b.ID, b.Experiment.Name)
	}
	c.out.Warnings = append(differences(a, b), c.configs()...)
	c.out.Violations = b.Violations()
	return c.compare()
}

// CompareAxis compares, within one run, the variants that differ in an axis only.
// The first value that the run has of it is what the others are compared with.
// Errors are *UsageError.
func CompareAxis(run *Run, o CompareOptions) (*Comparison, error) {
	if err := run.hasBlocks(); err != nil {
		return nil, err
	}
	axis, err := comparedAxis(run, o.Axis)
	if err != nil {
		return nil, err
	}
	s := newSummarizer(run)
	c := comparer{options: o, ratio: stats.PairedRatio, a: s, b: s}
	c.out = &Comparison{A: run.ID, Axis: axis, Paired: true, OnlyA: []string{}, OnlyB: []string{}, Warnings: own("the run", run)}
	first := ""
	base := map[string]*Variant{}
	rest := func(v *Variant) string {
		var parts []string
		for _, key := range run.Experiment.Axes {
			if value, ok := v.Params[key]; ok && key != axis {
				parts = append(parts, key+"="+value)
			}
		}
		return cmp.Or(strings.Join(parts, "/"), "default")
	}
	for _, v := range measuredVariants(run) {
		value, ok := v.Params[axis]
		if ok && first == "" {
			first = value
		}
		if ok && value == first {
			base[rest(v)] = v
		}
	}
	paired := map[*Variant]bool{}
	for _, v := range measuredVariants(run) {
		value, ok := v.Params[axis]
		if !ok || value == first {
			continue
		}
		if other := base[rest(v)]; other != nil {
			c.pairs = append(c.pairs, pairing{name: rest(v), sideA: first, sideB: value, a: other, b: v})
			paired[other] = true
		} else {
			c.out.OnlyB = append(c.out.OnlyB, v.Name)
		}
	}
	for _, v := range measuredVariants(run) {
		if v.Params[axis] == first && first != "" && !paired[v] {
			c.out.OnlyA = append(c.out.OnlyA, v.Name)
		}
	}
	if len(c.pairs) == 0 {
		return nil, usagef("run %s has no two variants that differ in %s only", run.ID, axis)
	}
	c.out.Violations = run.violationsOf(func(id string) bool {
		return slices.ContainsFunc(run.Variants, func(v Variant) bool {
			value, ok := v.Params[axis]
			return v.ID == id && ok && value != first
		})
	})
	return c.compare()
}

// hasBlocks refuses a run whose trials are those of a search.
func (r *Run) hasBlocks() error {
	if r.Objective != nil {
		return usagef("run %s is a search for a rate (--objective), without blocks to compare; its report has the rates with their intervals", r.ID)
	}
	return nil
}

// comparedAxis is the axis asked for, else server-bin, else the only one.
func comparedAxis(run *Run, asked string) (string, error) {
	var varying []string
	for _, key := range run.Experiment.Axes {
		values := map[string]bool{}
		for _, v := range measuredVariants(run) {
			if value, ok := v.Params[key]; ok {
				values[value] = true
			}
		}
		if len(values) > 1 {
			varying = append(varying, key)
		}
	}
	switch {
	case len(varying) == 0:
		return "", usagef("run %s has no axis with two values: there is nothing to compare within it", run.ID)
	case slices.Contains(varying, asked):
		return asked, nil
	case asked != "":
		return "", usagef("%s does not vary in run %s; what does is %s", asked, run.ID, strings.Join(varying, ", "))
	case slices.Contains(varying, serverBinKey):
		return serverBinKey, nil
	case len(varying) == 1:
		return varying[0], nil
	}
	return "", usagef("run %s varies %s: name the one to compare with --by, or a second run", run.ID, strings.Join(varying, ", "))
}

// pairing is a variant on both sides.
type pairing struct {
	name, sideA, sideB string
	a, b               *Variant
}

// comparer is the work of CompareRuns and CompareAxis.
type comparer struct {
	options CompareOptions
	ratio   ratioFunc
	a, b    *summarizer
	pairs   []pairing
	out     *Comparison
}

func (c *comparer) compare() (*Comparison, error) {
	type figure struct {
		pairing
		metric string
	}
	var figures []figure
	for _, p := range c.pairs {
		metrics := c.options.Metrics
		if len(metrics) == 0 {
			ofA, ofB := c.a.metric(p.a), c.b.metric(p.b)
			if ofA != ofB {
				return nil, usagef("%s is decided by %s on one side and by %s on the other; name one with --metric", p.name, ofA, ofB)
			}
			metrics = []string{ofA}
		}
		for _, metric := range metrics {
			figures = append(figures, figure{p, metric})
		}
	}
	c.out.MaxRegression, c.out.Confidence, c.out.Gate = c.options.MaxRegression, confidence, GatePassed
	each := stats.Each(confidence, len(figures))
	for _, f := range figures {
		row := c.row(f.pairing, f.metric, each)
		c.out.Rows = append(c.out.Rows, row)
		switch {
		case row.Gate == GateRegression:
			c.out.Gate = GateRegression
		case row.Gate == GateInconclusive && c.out.Gate == GatePassed:
			c.out.Gate = GateInconclusive
		}
	}
	if len(c.out.Violations) > 0 {
		c.out.Gate = GateRegression
	}
	return c.out, nil
}

// row compares one figure with an interval of the given confidence.
func (c *comparer) row(p pairing, metric string, each float64) Compared {
	a, b := c.a.blocks[p.a.ID], c.b.blocks[p.b.ID]
	figuresA, figuresB := a.figures[metric], b.figures[metric]
	var ratio stats.Estimate
	rates := c.differentRates(p)
	if a.comparable(b, metric) && rates == "" {
		ratio = c.ratio(figuresB, figuresA, each)
	}
	row := Compared{
		Variant: p.name, SideA: p.sideA, SideB: p.sideB, Metric: metric,
		A: a.estimate(metric), B: b.estimate(metric), Ratio: Estimate(ratio), P: stats.MannWhitney(figuresA, figuresB),
	}
	row.Margin = stats.Margin(c.options.MaxRegression, c.a.noise(p.a, metric, c.ratio))
	row.Margin = stats.Margin(row.Margin, c.b.noise(p.b, metric, c.ratio))
	verdict := stats.Decide(ratio, row.Margin, direction(metric))
	switch {
	case rates != "":
		verdict, row.Problem = stats.Inconclusive, rates
	case !a.viable && !b.viable:
		verdict, row.Problem = stats.Same, "neither can do the work: "+b.problem
	case !b.viable:
		verdict, row.Problem = stats.Worse, p.sideB+" cannot do the work: "+b.problem
	case !a.viable:
		verdict, row.Problem = stats.Better, p.sideA+" cannot do the work: "+a.problem
	case a.lacks(metric) && b.lacks(metric):
		row.Problem = lackOf(metric)
	case b.lacks(metric):
		row.Problem = p.sideB + ": " + lackOf(metric)
	case a.lacks(metric):
		row.Problem = p.sideA + ": " + lackOf(metric)
	case !ratio.HasInterval():
		row.Problem = stats.Warning(ratio.N)
	}
	row.Verdict = string(verdict)
	row.Gate = gate(ratio, verdict, c.options.MaxRegression, direction(metric))
	if !a.viable && !b.viable && rates == "" {
		row.Gate = GatePassed
	}
	return row
}

// differentRates says that the two sides were not asked to do the same; empty where
// they were, and where the rate is what is compared.
func (c *comparer) differentRates(p pairing) string {
	a, b := p.a.rate(), p.b.rate()
	switch {
	case a == b, c.out.Axis == "rate", c.out.Axis == rateShareKey:
		return ""
	// Without a closed loop that its rate would be a share of, one cannot do the work.
	case a == 0 && p.a.isShare(), b == 0 && p.b.isShare():
		return ""
	}
	return fmt.Sprintf("they were not asked to do the same: %s on one side, %s on the other", rateWords(a), rateWords(b))
}

func rateWords(rate float64) string {
	if rate == 0 {
		return "a closed loop"
	}
	return thousands(rate) + " operations a second"
}

// gate lets pass what is surely not worse by more than was asked for. Being the
// same within a margin that is wider, since the machine is too noisy for the one
// that was asked for, is not enough.
func gate(ratio stats.Estimate, verdict stats.Verdict, most float64, better stats.Direction) Gate {
	loss := ratio.Hi // at worst
	if better == stats.HigherIsBetter {
		loss = 1 / ratio.Lo
	}
	switch {
	case verdict == stats.Worse:
		return GateRegression
	case verdict == stats.Better, ratio.HasInterval() && loss <= 1+most:
		return GatePassed
	}
	return GateInconclusive
}

func measuredVariants(run *Run) []*Variant {
	var out []*Variant
	for i := range run.Variants {
		if run.Variants[i].Role == RoleMeasured {
			out = append(out, &run.Variants[i])
		}
	}
	return out
}
