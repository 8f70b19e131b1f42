package bench

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var (
	yamlLine    = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)
	parserFault = regexp.MustCompile(`^(did not find expected (node content|key|<document start>|',' or|'-' indicator)|found undefined tag handle)`)
)

// yamlError moves the library's line to where ours is. Of what its parser finds,
// as opposed to its scanner, it counts lines from 0.
func yamlError(file string, err error) error {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, convErr := strconv.Atoi(m[1])
		if convErr == nil && parserFault.MatchString(m[2]) {
			line++
		}
		return &UsageError{file + ":" + strconv.Itoa(line), errors.New(m[2])}
	}
	return &UsageError{file, err}
}

func at(file string, n *yaml.Node) string {
	return file + ":" + strconv.Itoa(max(n.Line, 1))
}

// parser walks the YAML tree itself, as that is the way to name the line of
// every fault. It keeps the first error and goes on with nothing.
type parser struct {
	file  string
	err   error
	plans []plannedAt
}

func (p *parser) fail(n *yaml.Node, format string, args ...any) {
	if p.err == nil {
		p.err = &UsageError{at(p.file, n), fmt.Errorf(format, args...)}
	}
}

// pair is a key with its value.
type pair struct{ key, value *yaml.Node }

// mapping returns a mapping's pairs, refusing anything else and double keys.
func (p *parser) mapping(n *yaml.Node, what string) []pair {
	if n.Kind == yaml.AliasNode {
		p.fail(n, "%s is an alias; write it out", what)
		return nil
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "%s must be a mapping such as {key: value}, not %s", what, kindName(n))
		return nil
	}
	seen := map[string]int{}
	var pairs []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode {
			p.fail(k, "a key of %s must be a word, not %s", what, kindName(k))
			return nil
		}
		if line, ok := seen[k.Value]; ok {
			p.fail(k, "duplicate key %q, first on line %d", k.Value, line)
			return nil
		}
		seen[k.Value] = k.Line
		pairs = append(pairs, pair{k, n.Content[i+1]})
	}
	return pairs
}

func (p *parser) sequence(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, "%s must be a list such as [a, b], not %s", what, kindName(n))
		return nil
	}
	if len(n.Content) == 0 {
		p.fail(n, "%s is an empty list", what)
	}
	return n.Content
}

func (p *parser) scalar(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.fail(n, "%s must be one value, not %s", what, kindName(n))
		return ""
	}
	return n.Value
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	case yaml.DocumentNode:
		return "a document"
	}
	return "nothing"
}

// field reads one setting of the vocabulary.
func (p *parser) field(key, value *yaml.Node) Field {
	text := p.scalar(value, key.Value)
	return Field{key.Value, p.canonical(key, value, text)}
}

func (p *parser) canonical(key, value *yaml.Node, text string) string {
	if p.err != nil {
		return ""
	}
	c, err := canonical(key.Value, text)
	if key.Value == "events" {
		p.plans = append(p.plans, plannedAt{value, c})
	}
	if err != nil {
		n := value
		if !slices.Contains(fieldNames(), key.Value) {
			n = key
		}
		p.fail(n, "%w", err)
	}
	return c
}

func (p *parser) fields(n *yaml.Node, what string) []Field {
	var fields []Field
	for _, kv := range p.mapping(n, what) {
		if kv.value.Kind == yaml.SequenceNode && p.err == nil {
			p.fail(kv.value, "%s takes one value under %s; lists go under vary or arms", kv.key.Value, what)
		}
		fields = append(fields, p.field(kv.key, kv.value))
	}
	return fields
}

// values reads one value or a list of them.
func (p *parser) values(key, value *yaml.Node) []string {
	nodes := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		nodes = p.sequence(value, key.Value)
	}
	var values []string
	for _, n := range nodes {
		v := p.field(key, n).Value
		if p.err == nil && slices.Contains(values, v) {
			p.fail(n, "%s lists %s twice", key.Value, v)
		}
		values = append(values, v)
	}
	return values
}

func (p *parser) vary(n *yaml.Node) []Axis {
	var axes []Axis
	for _, kv := range p.mapping(n, "vary") {
		axis := Axis{Key: kv.key.Value}
		nodes := p.sequence(kv.value, "vary's "+kv.key.Value)
		if len(nodes) > 0 && nodes[0].Kind == yaml.MappingNode {
			for _, value := range nodes {
				axis.Values = append(axis.Values, p.fields(value, kv.key.Value))
			}
		} else {
			for _, v := range p.values(kv.key, kv.value) {
				axis.Values = append(axis.Values, []Field{{kv.key.Value, v}})
			}
		}
		axes = append(axes, axis)
	}
	return axes
}

func (p *parser) arms(n *yaml.Node) []Arm {
	var arms []Arm
	for _, item := range p.sequence(n, "arms") {
		var arm Arm
		for _, kv := range p.mapping(item, "an arm") {
			arm = append(arm, ArmField{kv.key.Value, p.values(kv.key, kv.value)})
		}
		arms = append(arms, arm)
	}
	return arms
}

func (p *parser) duration(n *yaml.Node, key string, least time.Duration) time.Duration {
	d, err := time.ParseDuration(p.scalar(n, key))
	switch {
	case err != nil:
		p.fail(n, "%s %q is not a duration such as 500ms or 2s", key, n.Value)
	case d < least:
		p.fail(n, "%s %v is below the minimum %v", key, d, least)
	case d > time.Hour:
		p.fail(n, "%s %v exceeds the maximum 1h", key, d)
	}
	return d
}

func (p *parser) measure(n *yaml.Node) Measure {
	m := defaultMeasure()
	for _, kv := range p.mapping(n, "measure") {
		key, v := kv.key.Value, kv.value
		switch key {
		case "warmup":
			m.Warmup = p.duration(v, key, 0)
		case "duration":
			m.Duration = p.duration(v, key, MinDuration)
		case "interval":
			m.Interval = p.duration(v, key, 10*time.Millisecond)
		case "profile":
			m.Profile = p.duration(v, key, 0)
			if m.Profile > 0 && m.Profile < time.Second {
				p.fail(v, "profile %v is below the minimum 1s, or 0s for none", m.Profile)
			}
		case "blocks":
			b, err := strconv.Atoi(p.scalar(v, key))
			if err != nil || b < 1 || b > 1000 {
				p.fail(v, "blocks %q is not a number from 1 to 1000", v.Value)
			}
			m.Blocks = b
		default:
			p.fail(kv.key, "unknown key %q under measure%s", key,
				didYouMean(key, []string{"warmup", "duration", "interval", "profile", "blocks"}))
		}
	}
	return m
}

var (
	// defaultSpread is from where on a choice matters.
	defaultSpread = 0.15

	topKeys  = []string{"name", "question", "fixed", "vary", "arms", "baseline", "answer-by", "metric", "margin", "judge", "ceiling", "measure"}
	goodName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
)

// share reads a number from 0 to 1.
func (p *parser) share(n *yaml.Node, key string) float64 {
	x, err := strconv.ParseFloat(p.scalar(n, key), 64)
	if err != nil || x < 0 || x >= 1 {
		p.fail(n, "%s %q is not a number from 0 to 1, such as 0.05", key, n.Value)
	}
	return x
}

func (p *parser) judge(n *yaml.Node) *Judge {
	j := &Judge{Spread: defaultSpread}
	for _, kv := range p.mapping(n, "judge") {
		switch v := kv.value; kv.key.Value {
		case "adaptive":
			j.Adaptive = p.fields(v, "adaptive")
		case "within":
			for _, limit := range p.mapping(v, "within") {
				metric := limit.key.Value
				if !slices.Contains(Metrics, metric) {
					p.fail(limit.key, "within names %q, which is not one of %s", metric, strings.Join(Metrics, ", "))
				}
				j.Within = append(j.Within, Tolerance{metric, p.share(limit.value, metric)})
			}
		case "spread":
			j.Spread = p.share(v, "spread")
		default:
			p.fail(kv.key, "unknown key %q under judge%s", kv.key.Value,
				didYouMean(kv.key.Value, []string{"adaptive", "within", "spread"}))
		}
	}
	switch {
	case len(j.Adaptive) == 0:
		p.fail(n, "judge needs adaptive: the settings that are judged, such as {linger: auto}")
	case len(j.Within) == 0:
		p.fail(n, "judge needs within: how near to the best is good, such as {ops/s: 0.05}")
	}
	return j
}

func (p *parser) experiment(n *yaml.Node) *Experiment {
	e := &Experiment{Metric: MetricAuto, Margin: 0.05, Ceilings: []string{TargetWire}, Measure: defaultMeasure()}
	var baseline, answerBy *yaml.Node
	for _, kv := range p.mapping(n, "an experiment") {
		v := kv.value
		switch kv.key.Value {
		case "name":
			e.Name = p.scalar(v, "name")
			if !goodName.MatchString(e.Name) {
				p.fail(v, "name %q must be lower-case letters, digits and dashes", e.Name)
			}
		case "question":
			e.Question = p.scalar(v, "question")
		case "fixed":
			e.Fixed = p.fields(v, "fixed")
		case "vary":
			e.Vary = p.vary(v)
		case "arms":
			e.Arms = p.arms(v)
		case "baseline":
			baseline = v
			e.Baseline = p.fields(v, "baseline")
		case "answer-by":
			answerBy = v
			for _, item := range p.sequence(v, "answer-by") {
				e.AnswerBy = append(e.AnswerBy, p.scalar(item, "answer-by"))
			}
		case "metric":
			e.Metric = p.scalar(v, "metric")
			if e.Metric != MetricAuto && !slices.Contains(Metrics, e.Metric) {
				p.fail(v, "metric %q is not one of %s, %s", e.Metric, MetricAuto, strings.Join(Metrics, ", "))
			}
		case "margin":
			e.Margin = p.share(v, "margin")
		case "judge":
			e.Judge = p.judge(v)
		case "ceiling":
			nodes := []*yaml.Node{v}
			if v.Kind == yaml.SequenceNode {
				nodes = p.sequence(v, "ceiling")
			}
			var names []string
			for _, item := range nodes {
				names = append(names, p.scalar(item, "ceiling"))
			}
			if err := e.SetCeilings(names); err != nil {
				p.fail(v, "%w", err)
			}
		case "measure":
			e.Measure = p.measure(v)
		default:
			p.fail(kv.key, "unknown key %q%s", kv.key.Value, didYouMean(kv.key.Value, topKeys))
		}
	}
	if p.err == nil && e.Name == "" {
		p.fail(n, "name is missing")
	}
	if answerBy != nil {
		for _, key := range e.AnswerBy {
			if !slices.Contains(e.axisKeys(), key) {
				p.fail(answerBy, "answer-by names %s, which does not vary", key)
			}
		}
	}
	p.checkPlans(e)
	if baseline != nil && len(e.Vary) == 0 && len(e.Arms) == 0 {
		p.fail(baseline, "baseline without vary or arms has nothing to compare with")
	}
	return e
}
