package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"raftlab/bench/load"
	"raftlab/bench/stats"
)

// rateShareKey is the field that gives a rate relative to a closed loop's.
const rateShareKey = "rate-share"

// Knee is where latency begins to grow faster than throughput, of one variant that
// was measured at several rates. It is the rate with the most throughput for its
// mean response time, which Kleinrock calls power (Power and deterministic rules of
// thumb for probabilistic problems in computer communications, 1979).
type Knee struct {
	// Where holds the variant's axes but for the rate.
	Where  map[string]string `json:"where"`
	Points []KneePoint       `json:"points"`
	// Rate is the median over blocks of each one's own knee; its Center is 0 without
	// a block in which all rates are valid.
	Rate Estimate `json:"rate"`
	// Followed is the highest rate at which the variant kept up.
	Followed float64 `json:"followed"`
	// Late are the trials whose generator was late. They count here, though they are
	// invalid for other figures: the knee is then that of servers and generator together.
	Late     int    `json:"late"`
	Sentence string `json:"sentence"`
}

// KneePoint is one rate.
type KneePoint struct {
	Variant string   `json:"variant"`
	Rate    float64  `json:"rate"` // offered, operations a second
	OpsPerS Estimate `json:"ops_per_s"`
	P50Ns   Estimate `json:"p50_ns"`
	P99Ns   Estimate `json:"p99_ns"`
	Viable  bool     `json:"viable"` // false when the backlog grew without end
}

const (
	// leastRates make a knee: with fewer there is nothing between its sides.
	leastRates = 4
	// keepsUp is the share of the offered rate that is achieved by who follows.
	keepsUp = 0.98
	// Figures beside the metrics. What is offered is what was due in a window: poisson
	// arrivals are not always as many. Power is throughput for the mean response time, 0
	// where the backlog grew without end.
	offeredOps = "offered-ops/s"
	power      = "power"
)

// knees finds them, in the order of the variants.
func (s *summarizer) knees() []Knee {
	var names []string
	groups := map[string][]*Variant{}
	for _, v := range measuredVariants(s.run) {
		if !v.openLoop() {
			continue
		}
		name := withoutRate(v)
		if groups[name] == nil {
			names = append(names, name)
		}
		groups[name] = append(groups[name], v)
	}
	var knees []Knee
	for _, name := range names {
		if group := groups[name]; len(group) >= leastRates {
			slices.SortStableFunc(group, func(a, b *Variant) int { return cmp.Compare(a.rate(), b.rate()) })
			knees = append(knees, s.knee(group))
		}
	}
	return knees
}

// withLate is the run as if trials whose generator was late were valid.
func withLate(run *Run) *Run {
	c := *run
	c.Trials = slices.Clone(run.Trials)
	for i := range c.Trials {
		t := &c.Trials[i]
		t.Valid = t.Valid || t.Late && t.Kind == TrialMeasured && len(t.Violations) == 0
	}
	return &c
}

// withoutRate tells variants apart but for their rates.
func withoutRate(v *Variant) string {
	var parts []string
	for part := range strings.SplitSeq(v.Name, "/") {
		if !strings.HasPrefix(part, "rate=") && !strings.HasPrefix(part, rateShareKey+"=") {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/")
}

// rate at which a variant is driven; 0 for a closed loop.
func (v *Variant) rate() float64 {
	rate, _ := strconv.ParseFloat(v.Config["rate"], 64) // empty is none
	return rate
}

// isShare tells whether a variant's rate is a share of a closed loop's.
func (v *Variant) isShare() bool {
	share, _ := strconv.ParseFloat(v.Config[rateShareKey], 64)
	return share > 0
}

// knee of variants that differ in their rate only, the lowest first.
func (s *summarizer) knee(group []*Variant) Knee {
	k := Knee{Where: map[string]string{}}
	for key, value := range group[0].Params {
		if key != "rate" && key != rateShareKey {
			k.Where[key] = value
		}
	}
	var rates []float64
	var powers [][]float64 // by rate and block
	for _, v := range group {
		b := s.blocks[v.ID]
		p := KneePoint{
			Variant: v.ID, Rate: v.rate(), Viable: b.viable,
			OpsPerS: b.estimate("ops/s"), P50Ns: b.estimate("p50-latency-ns"), P99Ns: b.estimate("p99-latency-ns"),
		}
		k.Points = append(k.Points, p)
		if p.Viable && p.OpsPerS.N > 0 && p.OpsPerS.Center >= keepsUp*b.estimate(offeredOps).Center {
			k.Followed = max(k.Followed, p.Rate)
		}
		if !b.viable || b.trials == 0 {
			continue
		}
		rates, powers = append(rates, p.Rate), append(powers, b.figures[power])
	}
	if len(rates) >= leastRates {
		k.Rate = Estimate(stats.MedianInterval(kneeByBlock(rates, powers), confidence))
	}
	for i := range s.run.Trials {
		t := &s.run.Trials[i]
		if t.Late && t.Valid && slices.ContainsFunc(group, func(v *Variant) bool { return v.ID == t.Variant }) {
			k.Late++
		}
	}
	k.Sentence = k.describe()
	return k
}

// kneeByBlock is the rate of the most power in each block that has all rates.
func kneeByBlock(rates []float64, power [][]float64) []float64 {
	var knees []float64
	for block := range power[0] {
		best, complete := 0, true
		for i, row := range power {
			if block >= len(row) || math.IsNaN(row[block]) {
				complete = false
				break
			}
			if row[block] > power[best][block] {
				best = i
			}
		}
		if complete {
			knees = append(knees, rates[best])
		}
	}
	return knees
}

func (k *Knee) describe() string {
	if k.Rate.N == 0 {
		return "No knee: no block has valid trials at all rates that were followed."
	}
	at := func(rate float64) *KneePoint {
		best := &k.Points[0]
		for i := range k.Points {
			if math.Abs(k.Points[i].Rate-rate) < math.Abs(best.Rate-rate) {
				best = &k.Points[i]
			}
		}
		return best
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The knee is at %s ops/s", thousands(k.Rate.Center))
	if k.Rate.Confidence > 0 {
		fmt.Fprintf(&b, " (%s to %s with %.0f %% confidence, %d blocks)", thousands(k.Rate.Lo), thousands(k.Rate.Hi), 100*k.Rate.Confidence, k.Rate.N)
	} else {
		fmt.Fprintf(&b, " (%d blocks, too few for an interval)", k.Rate.N)
	}
	point, last := at(k.Rate.Center), &k.Points[len(k.Points)-1]
	first, lost := point, 0
	for i := range slices.Backward(k.Points) {
		if k.Points[i].OpsPerS.N > 0 {
			first = &k.Points[i]
		} else if k.Points[i].Viable {
			lost++
		}
	}
	fmt.Fprintf(&b, ", where throughput for its mean response time is most: p99 is %v there", round(time.Duration(point.P99Ns.Center)))
	if first != point {
		fmt.Fprintf(&b, ", %v at %s ops/s", round(time.Duration(first.P99Ns.Center)), thousands(first.Rate))
	}
	switch {
	case !last.Viable:
		fmt.Fprintf(&b, "; at %s ops/s the backlog grows without end", thousands(last.Rate))
	case last != point && last.OpsPerS.N > 0:
		fmt.Fprintf(&b, ", %v at %s ops/s", round(time.Duration(last.P99Ns.Center)), thousands(last.Rate))
	}
	if point == last {
		b.WriteString("; it is the highest rate that was tried, so the knee may lie above")
	}
	b.WriteByte('.')
	if k.Late > 0 {
		fmt.Fprintf(&b, " In %d trials the generator was late: it is the knee of servers and generator together.", k.Late)
	}
	if lost > 0 {
		fmt.Fprintf(&b, " %d of %d rates have no valid trial and are left out.", lost, len(k.Points))
	}
	return b.String()
}

// closedLoopOf is the closed loop of whose throughput a variant's rate is a share:
// that of the baseline that it is compared with, as both have to be asked to do the
// same, else its own; in either case of the baseline's build or else the first, where
// builds are compared.
func (m *Matrix) closedLoopOf(v *Planned) *Planned {
	of := v
	if i := slices.IndexFunc(m.Variants, func(b Planned) bool { return b.ID == v.Against && b.Settings.Load.RateShare > 0 }); i >= 0 {
		of = &m.Variants[i]
	}
	c := of.inClosedLoop()
	if c.Settings.StartsServer() {
		c.Settings.Load.ServerBin = m.firstBuild()
	}
	return c
}

// firstBuild is the raftkv of the first baseline, or else variant, that starts one;
// there is one.
func (m *Matrix) firstBuild() string {
	i := slices.IndexFunc(m.Variants, func(v Planned) bool { return v.Baseline && v.Settings.StartsServer() })
	if i < 0 {
		i = slices.IndexFunc(m.Variants, func(v Planned) bool { return v.Settings.StartsServer() })
	}
	return m.Variants[i].Settings.Load.ServerBin
}

// inClosedLoop is a variant without its share of a rate, and what comes with one.
func (v *Planned) inClosedLoop() *Planned {
	c := *v
	c.Settings.Load.Rate, c.Settings.Load.RateShare = 0, 0
	c.Settings = c.Settings.normalised() // those of other arrivals have the same rates
	return &c
}

func rateShareTime(m *Matrix, measure Measure) time.Duration {
	var d time.Duration
	tried := map[string]bool{}
	for i := range m.Variants {
		if m.Variants[i].Settings.Load.RateShare == 0 {
			continue
		}
		v := m.closedLoopOf(&m.Variants[i])
		if id := v.Settings.identity(); !tried[id] {
			tried[id] = true
			d += estimate(v, job{kind: TrialMeasured}, measure)
		}
	}
	return d
}

// calibrateRates turns shares of a closed loop's throughput into rates, once, before
// the first block. What cannot do its closed loop is not tried again; what is compared
// with that has its own.
func (r *runner) calibrateRates(ctx context.Context) error {
	type result struct {
		reached float64
		err     error
	}
	tried := map[string]result{}
	try := func(v *Planned) result {
		id := v.Settings.identity()
		found, ok := tried[id]
		if !ok {
			found.reached, found.err = r.closedLoop(ctx, v)
			tried[id] = found
		}
		return found
	}
	for i := range r.Matrix.Variants {
		v := &r.Matrix.Variants[i]
		if v.Settings.Load.RateShare == 0 {
			continue
		}
		found := try(r.Matrix.closedLoopOf(v))
		if found.err != nil && ctx.Err() == nil {
			found = try(v.inClosedLoop())
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(found.err, new(*UsageError)):
			return fmt.Errorf("%s in a closed loop: %w", v.Name, found.err)
		case found.err != nil:
			r.fit[i] = fitness{hopeless: true, problem: fmt.Sprintf("in a closed loop, of which its rate is a share: %v", found.err)}
			continue
		}
		l := &v.Settings.Load
		l.Rate = roundRate(l.RateShare * found.reached)
		r.run.Variants[i].Config["rate"] = plain("rate", l.Rate)
	}
	return nil
}

// closedLoop is a variant's throughput when it is driven as fast as answers come.
func (r *runner) closedLoop(ctx context.Context, v *Planned) (reached float64, err error) {
	b, err := r.openRig(ctx, v, job{kind: TrialMeasured})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	rec, err := load.Run(ctx, b.loadConfig(), b.target, nil)
	switch {
	case err != nil:
		return 0, err
	case rec.Operations == 0:
		return 0, errors.New(b.problem(ctx, rec))
	}
	return rec.OpsPerSecond(), nil
}
