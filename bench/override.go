package bench

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Set fixes a field everywhere: it stops being an axis, of arms too, and a
// baseline that names it follows. An adaptive setting that is gone is judged no more. Errors are *UsageError.
func (e *Experiment) Set(key, value string) error {
	value, err := canonical(key, value)
	if err != nil {
		return usagef("--set %s: %w", key, err)
	}
	e.drop(key)
	e.unjudge(key, value)
	e.Fixed = append(e.Fixed, Field{key, value})
	for i, f := range e.Baseline {
		if f.Key == key {
			e.Baseline[i].Value = value
		}
	}
	e.AnswerBy = slices.DeleteFunc(e.AnswerBy, func(k string) bool { return k == key })
	return nil
}

// SetVary makes a field an axis with these values. Where arms use the field, its
// values are replaced in each of them. Errors are *UsageError.
func (e *Experiment) SetVary(key string, values []string) error {
	for i, v := range values {
		c, err := canonical(key, v)
		if err != nil {
			return usagef("--vary %s: %w", key, err)
		}
		if slices.Contains(values[:i], c) {
			return usagef("--vary %s: lists %s twice", key, c)
		}
		values[i] = c
	}
	e.unjudge(key, values...)
	if key == serverBinKey {
		e.setServerBaseline(values)
	}
	inArms := false
	for _, arm := range e.Arms {
		for i, f := range arm {
			if f.Key == key {
				arm[i].Values = slices.Clone(values)
				inArms = true
			}
		}
	}
	if inArms {
		return nil
	}
	position := slices.IndexFunc(e.Vary, func(a Axis) bool { return a.Key == key })
	axis := Axis{Key: key}
	for _, v := range values {
		axis.Values = append(axis.Values, []Field{{key, v}})
	}
	if position >= 0 {
		e.Vary[position] = axis
		return nil
	}
	e.drop(key)
	e.Vary = append(e.Vary, axis)
	return nil
}

// unjudge ends the judging of an adaptive setting that an override removed.
func (e *Experiment) unjudge(key string, values ...string) {
	gone := func(f Field) bool { return f.Key == key && !slices.Contains(values, f.Value) }
	if e.Judge != nil && slices.ContainsFunc(e.Judge.Adaptive, gone) {
		e.Judge = nil
	}
}

// drop removes a field from fixed, vary and arms.
func (e *Experiment) drop(key string) {
	isKey := func(f Field) bool { return f.Key == key }
	e.Fixed = slices.DeleteFunc(e.Fixed, isKey)
	for i := range e.Vary {
		var values [][]Field
		for _, value := range e.Vary[i].Values {
			value = slices.DeleteFunc(slices.Clone(value), isKey)
			same := func(v []Field) bool { return slices.Equal(v, value) }
			if len(value) > 0 && !slices.ContainsFunc(values, same) {
				values = append(values, value)
			}
		}
		e.Vary[i].Values = values
	}
	e.Vary = slices.DeleteFunc(e.Vary, func(a Axis) bool { return len(a.Values) == 0 })
	for i := range e.Arms {
		e.Arms[i] = slices.DeleteFunc(e.Arms[i], func(f ArmField) bool { return f.Key == key })
	}
}

// YAML writes the experiment as Parse reads it.
func (e *Experiment) YAML() string {
	top := &yaml.Node{Kind: yaml.MappingNode}
	put := func(key string, value *yaml.Node) {
		top.Content = append(top.Content, scalarNode(key), value)
	}
	put("name", scalarNode(e.Name))
	if e.Question != "" {
		put("question", scalarNode(e.Question))
	}
	if len(e.Fixed) > 0 {
		put("fixed", fieldsNode(e.Fixed))
	}
	if len(e.Vary) > 0 {
		vary := &yaml.Node{Kind: yaml.MappingNode}
		for _, axis := range e.Vary {
			list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
			for _, v := range axis.Values {
				if len(v) == 1 && v[0].Key == axis.Key {
					list.Content = append(list.Content, scalarNode(v[0].Value))
				} else {
					list.Content = append(list.Content, fieldsNode(v))
				}
			}
			vary.Content = append(vary.Content, scalarNode(axis.Key), list)
		}
		put("vary", vary)
	}
	if len(e.Arms) > 0 {
		arms := &yaml.Node{Kind: yaml.SequenceNode}
		for _, arm := range e.Arms {
			n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
			for _, f := range arm {
				value := scalarNode(f.Values[0])
				if len(f.Values) > 1 {
					value = listNode(f.Values)
				}
				n.Content = append(n.Content, scalarNode(f.Key), value)
			}
			arms.Content = append(arms.Content, n)
		}
		put("arms", arms)
	}
	if len(e.Baseline) > 0 {
		put("baseline", fieldsNode(e.Baseline))
	}
	if len(e.AnswerBy) > 0 {
		put("answer-by", listNode(e.AnswerBy))
	}
	put("metric", scalarNode(e.Metric))
	put("margin", numberNode(e.Margin))
	if e.Judge != nil {
		put("judge", e.Judge.node())
	}
	if len(e.Ceilings) > 0 {
		put("ceiling", listNode(e.Ceilings))
	} else {
		put("ceiling", scalarNode(noCeilings))
	}
	measure := []Field{
		{"warmup", e.Measure.Warmup.String()},
		{"duration", e.Measure.Duration.String()},
		{"blocks", strconv.Itoa(e.Measure.Blocks)},
		{"profile", e.Measure.Profile.String()},
	}
	if e.Measure.Interval > 0 {
		measure = append(measure, Field{"interval", e.Measure.Interval.String()})
	}
	put("measure", fieldsNode(measure))

	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(top); err != nil {
		panic(fmt.Sprintf("experiment %s does not encode: %v", e.Name, err)) // a tree of scalars always does
	}
	return b.String()
}

func (j *Judge) node() *yaml.Node {
	within := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	for _, w := range j.Within {
		within.Content = append(within.Content, scalarNode(w.Metric), numberNode(w.Limit))
	}
	return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
		scalarNode("adaptive"), fieldsNode(j.Adaptive), scalarNode("within"), within, scalarNode("spread"), numberNode(j.Spread),
	}}
}

func numberNode(x float64) *yaml.Node { return scalarNode(strconv.FormatFloat(x, 'g', -1, 64)) }

func scalarNode(value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode}
	n.SetString(value)
	n.Tag = "" // let the encoder quote only what needs it
	return n
}

func fieldsNode(fields []Field) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	for _, f := range fields {
		n.Content = append(n.Content, scalarNode(f.Key), scalarNode(f.Value))
	}
	return n
}

func listNode(values []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, v := range values {
		n.Content = append(n.Content, scalarNode(v))
	}
	return n
}
