package bench

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"raftlab/kv/node"
)

// Matrix is what an experiment comes to: the variants to measure, and the cells
// that cannot exist.
type Matrix struct {
	Variants []Planned
	Skipped  []Skipped
	// Axes are the fields that vary, in the experiment's order.
	Axes []string
}

// Planned is a variant with its settings, derived ones included.
type Planned struct {
	Variant
	Settings Settings
}

// point is one cell before it is known to be possible: settings as given, and
// the axes' fields that led to them.
type point struct {
	fields   []Field
	settings Settings
}

// varies tells whether an axis sets the field.
func (p point) varies(key string) bool {
	return slices.ContainsFunc(p.fields, func(f Field) bool { return f.Key == key })
}

// Expand makes the variants of an experiment. It is a function of the
// experiment alone. Errors are *UsageError.
func Expand(e *Experiment) (*Matrix, error) {
	x := expansion{experiment: e, axes: e.axisKeys(), seen: map[string]int{}, bins: shortNames(e.serverBins())}
	points, err := x.points()
	if err != nil {
		return nil, err
	}
	for _, p := range points {
		x.add(p, RoleMeasured)
	}
	if len(x.variants) > 0 && slices.Contains(x.axes, serverBinKey) && !slices.ContainsFunc(x.variants, func(v Planned) bool { return v.Settings.StartsServer() }) {
		return nil, usagef("server-bin is an axis, but no variant starts a server; topology processes does")
	}
	x.tellInert(points)
	if err := x.addBaselines(points); err != nil {
		return nil, err
	}
	if len(x.variants) == 0 {
		if len(x.skipped) > 0 {
			return nil, usagef("no variant is possible: %s", x.skipped[0].Reason)
		}
		return nil, usagef("the experiment has no variant")
	}
	if err := checkSlices(x.variants, e.Measure.Duration); err != nil {
		return nil, err
	}
	if err := x.markAdaptive(); err != nil {
		return nil, err
	}
	x.addCeilings()
	x.addAA()
	x.number()
	return &Matrix{Variants: x.variants, Skipped: x.skipped, Axes: x.axes}, nil
}

// expansion is the work of Expand.
type expansion struct {
	experiment *Experiment
	axes       []string
	variants   []Planned
	skipped    []Skipped
	seen       map[string]int    // identity of settings -> index in variants
	bins       map[string]string // what a server-bin is called in names
}

// points is the cross product of vary with the arms, arms innermost.
func (x *expansion) points() ([]point, error) {
	base := DefaultSettings()
	base.Load.Searched = x.experiment.Searched
	if err := base.apply(x.experiment.Fixed); err != nil {
		return nil, err
	}
	combinations := [][]Field{nil}
	for _, axis := range x.experiment.Vary {
		combinations = product(combinations, axis.Values)
	}
	var arms [][]Field
	for _, arm := range x.experiment.Arms {
		expanded := [][]Field{nil}
		for _, f := range arm {
			var values [][]Field
			for _, v := range f.Values {
				values = append(values, []Field{{f.Key, v}})
			}
			expanded = product(expanded, values)
		}
		arms = append(arms, expanded...)
	}
	if len(arms) > 0 {
		combinations = product(combinations, arms)
	}
	var points []point
	for _, fields := range combinations {
		p := point{fields: override(fields), settings: base}
		if err := p.settings.apply(p.fields); err != nil {
			return nil, err
		}
		if err := p.settings.Load.validate(); err != nil {
			return nil, &UsageError{Err: err}
		}
		if err := p.settings.Load.Events.within(x.experiment.Measure.Duration); err != nil {
			return nil, &UsageError{Err: err}
		}
		points = append(points, p)
	}
	return points, nil
}

// product appends each of the right to each of the left, left outermost.
func product(left, right [][]Field) [][]Field {
	var all [][]Field
	for _, l := range left {
		for _, r := range right {
			all = append(all, slices.Concat(l, r))
		}
	}
	return all
}

// override keeps the last value of each field, at the place of its first.
func override(fields []Field) []Field {
	var kept []Field
	for _, f := range fields {
		if i := slices.IndexFunc(kept, func(k Field) bool { return k.Key == f.Key }); i >= 0 {
			kept[i] = f
		} else {
			kept = append(kept, f)
		}
	}
	return kept
}

func (s *Settings) apply(fields []Field) error {
	for _, f := range fields {
		if err := s.Set(f.Key, f.Value); err != nil {
			return &UsageError{Err: err}
		}
	}
	return nil
}

// normalised resets what a variant does not read to its default and derives the
// rest, so that equal variants have equal settings.
func (s Settings) normalised() Settings {
	n := s
	defaults := DefaultSettings()
	for _, k := range s.knobs() {
		if !s.reads(k.Name) {
			if err := n.Set(k.Name, defaults.Get(k.Name)); err != nil {
				panic(fmt.Sprintf("default of %s is refused: %v", k.Name, err)) // knobs read back what they print
			}
		}
	}
	return n.effective()
}

// identity tells variants apart: equal settings, equal identity.
func (s Settings) identity() string {
	m := s.Map()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s\n", k, m[k])
	}
	return b.String()
}

// add appends a point as a variant, unless it is impossible or there already.
// It returns the variant's index, or -1.
func (x *expansion) add(p point, role string) int {
	settings := p.settings.normalised()
	params := make(map[string]string)
	var name []string
	for _, key := range x.axes {
		set := slices.ContainsFunc(p.fields, func(f Field) bool { return f.Key == key })
		if set && p.settings.reads(key) {
			params[key] = settings.Get(key)
			if short, ok := x.bins[params[key]]; ok && key == serverBinKey {
				params[key] = short
			}
			name = append(name, key+"="+params[key])
		}
	}
	if reason := p.settings.impossible(p.varies); reason != "" {
		// What cannot exist reads nothing, so the cell is told by all its fields.
		params = make(map[string]string)
		for _, f := range p.fields {
			params[f.Key] = f.Value
		}
		same := func(s Skipped) bool { return s.Reason == reason && maps.Equal(s.Params, params) }
		if !slices.ContainsFunc(x.skipped, same) {
			x.skipped = append(x.skipped, Skipped{Params: params, Reason: reason})
		}
		return -1
	}
	id := settings.identity()
	if i, ok := x.seen[id]; ok {
		return i
	}
	x.seen[id] = len(x.variants)
	x.variants = append(x.variants, Planned{
		Variant: Variant{
			Name: cmp.Or(strings.Join(name, "/"), "default"), Role: role,
			Params: params, Config: settings.Map(),
		},
		Settings: settings,
	})
	return len(x.variants) - 1
}

// tellInert lists, as skipped, the axes that nothing which is measured reads:
// their cells fell together.
func (x *expansion) tellInert(points []point) {
	for _, key := range x.axes {
		values, read := []string{}, false
		for _, p := range points {
			if p.settings.impossible(p.varies) != "" {
				continue // it is skipped by itself
			}
			read = read || p.settings.reads(key)
			for _, f := range p.fields {
				if f.Key == key && !slices.Contains(values, f.Value) {
					values = append(values, f.Value)
				}
			}
		}
		if !read && len(values) > 0 {
			x.skipped = append(x.skipped, Skipped{
				Params: map[string]string{key: strings.Join(values, ",")}, Reason: "nothing that is measured here reads " + key,
			})
		}
	}
}

// isBaseline tells whether a variant has all the baseline's settings.
func (x *expansion) isBaseline(s *Settings) bool {
	if len(x.experiment.Baseline) == 0 {
		return false
	}
	for _, f := range x.experiment.Baseline {
		if s.Get(f.Key) != f.Value {
			return false
		}
	}
	return true
}

// comparable tells whether a baseline agrees with a variant on every axis that
// the baseline leaves open and that both read.
func (x *expansion) comparable(v, b *Settings) bool {
	for _, key := range x.axes {
		open := !slices.ContainsFunc(x.experiment.Baseline, func(f Field) bool { return f.Key == key })
		if open && v.reads(key) && b.reads(key) && v.Get(key) != b.Get(key) {
			return false
		}
	}
	return true
}

// addBaselines adds baselines that no arm has, as when --vary dropped them, and
// links each variant to its own.
func (x *expansion) addBaselines(points []point) error {
	if len(x.experiment.Baseline) == 0 {
		return nil
	}
	find := func(v *Settings) int {
		return slices.IndexFunc(x.variants, func(b Planned) bool {
			return x.isBaseline(&b.Settings) && x.comparable(v, &b.Settings)
		})
	}
	for _, p := range points {
		settings := p.settings.normalised()
		if find(&settings) >= 0 || p.settings.impossible(func(string) bool { return false }) != "" {
			continue
		}
		b := point{fields: override(slices.Concat(p.fields, x.experiment.Baseline)), settings: p.settings}
		if err := b.settings.apply(x.experiment.Baseline); err != nil {
			return err
		}
		for _, f := range x.experiment.Baseline {
			if !slices.Contains(x.axes, f.Key) {
				x.axes = append(x.axes, f.Key)
			}
		}
		x.add(b, RoleMeasured)
	}
	found := false
	for i := range x.variants {
		v := &x.variants[i]
		if x.isBaseline(&v.Settings) {
			v.Baseline = true
			found = true
			continue
		}
		if b := find(&v.Settings); b >= 0 {
			v.Against = x.variants[b].Name // number turns it into the ID
		}
	}
	switch {
	case found || len(x.variants) == 0: // Expand says why there is none
		return nil
	case len(x.skipped) > 0:
		return usagef("no variant has the baseline's settings: %s", x.skipped[0].Reason)
	}
	return usagef("no variant has the baseline's settings")
}

// markAdaptive marks what is judged.
func (x *expansion) markAdaptive() error {
	found := x.experiment.Judge == nil
	for i := range x.variants {
		v := &x.variants[i]
		v.Adaptive = x.experiment.Judge.adaptive(&v.Settings)
		found = found || v.Adaptive
	}
	if !found {
		return usagef("no variant has the settings that judge calls adaptive")
	}
	return nil
}

// addCeilings adds the ceilings of each load of a gRPC target.
func (x *expansion) addCeilings() {
	measured := len(x.variants)
	for _, kind := range x.experiment.Ceilings {
		for i := range measured {
			s := x.variants[i].Settings
			if !s.below(kind) {
				continue
			}
			if j := x.addCeiling(s, kind); j >= 0 {
				x.variants[i].Ceilings = append(x.variants[i].Ceilings, x.variants[j].Name)
			}
		}
	}
}

// below tells whether a target that is a ceiling of that kind bounds a variant.
// The relay is of puts, and its followers are on a fast network.
func (s *Settings) below(kind string) bool {
	l := &s.Load
	if l.Target != TargetUnary && l.Target != TargetPipeline || l.Topology == TopologyExternal {
		return false
	}
	if kind == TargetWire {
		return true
	}
	defaults := DefaultSettings()
	return l.Op == "put" && !slices.ContainsFunc(s.knobs(), func(k node.Knob) bool {
		return strings.HasPrefix(k.Name, "link-") && s.reads(k.Name) && k.String() != defaults.Get(k.Name)
	})
}

// addCeiling adds a ceiling of these settings and returns its index. That of gets
// is that of puts, whose messages are the same ones mirrored.
func (x *expansion) addCeiling(s Settings, kind string) int {
	s.Load.Wire = "unary"
	if s.Load.Target == TargetPipeline {
		s.Load.Wire = "stream"
	}
	s.Load.Target = kind
	if s.Load.Topology == TopologyInProcess {
		s.Load.Topology, s.Load.Listener = TopologyInProcessGRPC, "tcp"
	}
	s.Load.Op, s.Load.Rate, s.Load.RateShare, s.Load.ThinkTime, s.Load.Conns = "put", 0, 0, 0, 0
	p := point{settings: s, fields: []Field{{"target", kind}, {"wire", s.Load.Wire}}}
	for _, key := range x.axes {
		if key != "target" && key != "op" && key != "conns" && key != "think-time" && s.reads(key) {
			p.fields = append(p.fields, Field{key, s.Get(key)})
		}
	}
	axes := x.axes
	defer func() { x.axes = axes }()
	for _, key := range []string{"wire", "target"} {
		if !slices.Contains(x.axes, key) {
			x.axes = slices.Concat([]string{key}, x.axes)
		}
	}
	return x.add(p, RoleCeiling)
}

// addAA measures a baseline twice, one for each answer in which noise decides a
// verdict; where nothing is compared at all, one for each.
func (x *expansion) addAA() {
	done, compared := map[string]bool{}, map[string]bool{}
	for _, v := range x.variants {
		if v.Against != "" {
			compared[v.Against] = true
		}
	}
	for _, v := range slices.Clone(x.variants) {
		if !v.Baseline || len(compared) > 0 && !compared[v.Name] {
			continue
		}
		cell := answerCell(v.Params, x.experiment.AnswerBy)
		if done[cell] {
			continue
		}
		done[cell] = true
		aa := v
		aa.Role, aa.Baseline, aa.Against = RoleAA, false, v.Name
		aa.Name += "/arm=aa"
		x.variants = append(x.variants, aa)
	}
}

// answerCell tells answers apart.
func answerCell(params map[string]string, by []string) string {
	var parts []string
	for _, key := range by {
		parts = append(parts, key+"="+params[key])
	}
	return strings.Join(parts, "/")
}

// number gives variants their IDs, and references the IDs of what they name.
func (x *expansion) number() {
	ids := map[string]string{}
	for i := range x.variants {
		v := &x.variants[i]
		v.ID = fmt.Sprintf("v%02d", i+1)
		ids[v.Name] = v.ID
	}
	for i := range x.variants {
		v := &x.variants[i]
		v.Against = ids[v.Against]
		v.Ceilings = slices.Clone(v.Ceilings) // the A/A arm has its baseline's
		for j, name := range v.Ceilings {
			v.Ceilings[j] = ids[name]
		}
	}
}

// Order is the order of n variants in a block: shuffled by the run's seed, and
// the same for the same seed.
func Order(seed uint64, block, n int) []int {
	return rand.New(rand.NewPCG(seed, uint64(block))).Perm(n) //nolint:gosec // a schedule, not a secret
}
