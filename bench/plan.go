package bench

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"raftlab/kv/node"
)

// Plan is what is done to the cluster of a trial in its window, in the order of
// time. It is written as sentences, such as
//
//	kill leader at 1s; restart killed at 2s
//	slow follower by 50ms at 1s for 2s
//
// and "none" without any. It has no comma, so that --vary can list plans.
type Plan []Step

// Step is one planned event.
type Step struct {
	Do   string        // the name of one of deeds
	Node string        // leader, follower, killed or an id; "" where the deed has none
	By   time.Duration // link delay of slow
	At   time.Duration // from the window's beginning
	For  time.Duration // until it is undone; 0 where it stays
}

// What can be done to a cluster.
const (
	DoKill      = "kill"
	DoRestart   = "restart"
	DoPause     = "pause"
	DoPartition = "partition"
	DoSlow      = "slow"
	DoTransfer  = "transfer-leadership"
	DoJoin      = "join"
)

// Which node, beside its id.
const (
	NodeLeader   = "leader"
	NodeFollower = "follower" // the one with the lowest id
	NodeKilled   = "killed"   // the one killed last that is not back
)

// deed is something that can be done, and what its sentence needs.
type deed struct {
	do    string
	node  bool // names a node
	delay bool // by so much
	lasts bool // for so long
	form  string
}

var deeds = []deed{
	{do: DoKill, node: true, form: "kill NODE at TIME"},
	{do: DoRestart, node: true, form: "restart killed at TIME"},
	{do: DoPause, node: true, lasts: true, form: "pause NODE at TIME for TIME"},
	{do: DoPartition, node: true, lasts: true, form: "partition NODE at TIME for TIME"},
	{do: DoSlow, node: true, delay: true, lasts: true, form: "slow NODE by DELAY at TIME for TIME"},
	{do: DoTransfer, form: "transfer-leadership at TIME"},
	{do: DoJoin, form: "join at TIME"},
}

const (
	noPlan = "none"
	// More steps than this are a slip of the finger.
	maxSteps = 100
)

// ParsePlan reads a plan. Steps come in any order.
func ParsePlan(text string) (Plan, error) {
	if text == noPlan {
		return nil, nil
	}
	var plan Plan
	for sentence := range strings.SplitSeq(text, ";") {
		step, err := parseStep(sentence)
		if err != nil {
			return nil, err
		}
		plan = append(plan, step)
	}
	if len(plan) > maxSteps {
		return nil, fmt.Errorf("has %d events, more than the maximum %d", len(plan), maxSteps)
	}
	slices.SortStableFunc(plan, func(a, b Step) int { return int(a.At - b.At) })
	killed := 0
	for _, s := range plan {
		switch s.Do {
		case DoKill:
			killed++
		case DoRestart:
			if killed--; killed < 0 {
				return nil, fmt.Errorf("restarts a node at %v, but none is killed before", s.At)
			}
		}
	}
	if err := plan.apart(); err != nil {
		return nil, err
	}
	return plan, nil
}

// apart refuses steps that change links while another does: nodes share links, and
// the end of one step would undo the other.
func (p Plan) apart() error {
	var last Step // of those so far the one that ends last
	for _, s := range p {
		if s.Do != DoSlow && s.Do != DoPartition {
			continue
		}
		if s.At < last.At+last.For {
			return fmt.Errorf("begins %q before %q is over, but only one %s or %s at a time is possible", s, last, DoSlow, DoPartition)
		}
		last = s
	}
	return nil
}

func parseStep(sentence string) (Step, error) {
	words := strings.Fields(sentence)
	if len(words) == 0 {
		return Step{}, errors.New("has an empty event; none by itself is no event")
	}
	i := slices.IndexFunc(deeds, func(d deed) bool { return d.do == words[0] })
	if i < 0 {
		var names []string
		for _, d := range deeds {
			names = append(names, d.do)
		}
		return Step{}, fmt.Errorf("has an unknown event %q%s; there are %s", words[0], didYouMean(words[0], names), strings.Join(names, ", "))
	}
	d, s := deeds[i], Step{Do: words[0]}
	words = words[1:]
	form := fmt.Errorf("says %q, which is not of the form: %s", strings.TrimSpace(sentence), d.form)
	if d.node {
		if len(words) == 0 {
			return Step{}, form
		}
		s.Node, words = words[0], words[1:]
		if err := d.checkNode(s.Node); err != nil {
			return Step{}, err
		}
	}
	times := map[string]*time.Duration{"at": &s.At}
	if d.delay {
		times["by"] = &s.By
	}
	if d.lasts {
		times["for"] = &s.For
	}
	if len(words) != 2*len(times) {
		return Step{}, form
	}
	for i := 0; i < len(words); i += 2 {
		to := times[words[i]]
		if to == nil { // not of this deed, or said before
			return Step{}, form
		}
		delete(times, words[i])
		var err error
		if *to, err = time.ParseDuration(words[i+1]); err != nil {
			return Step{}, fmt.Errorf("says %q: %s %q is not a duration such as 500ms or 2s", strings.TrimSpace(sentence), words[i], words[i+1])
		}
		if *to < 0 || *to == 0 && words[i] != "at" {
			return Step{}, fmt.Errorf("says %q: %s %s must be more than 0", strings.TrimSpace(sentence), words[i], words[i+1])
		}
	}
	return s, nil
}

func (d *deed) checkNode(name string) error {
	if id, err := strconv.Atoi(name); err == nil && d.do != DoRestart {
		if id < 1 {
			return fmt.Errorf("names node %d; the first is 1", id)
		}
		return nil
	}
	known := []string{NodeLeader, NodeFollower}
	words := "leader, follower or a node's number"
	if d.do == DoRestart {
		known, words = []string{NodeKilled}, NodeKilled
	}
	if !slices.Contains(known, name) {
		return fmt.Errorf("cannot %s %q, which is not %s", d.do, name, words)
	}
	return nil
}

// String writes the plan as ParsePlan reads it.
func (p Plan) String() string {
	if len(p) == 0 {
		return noPlan
	}
	var sentences []string
	for _, s := range p {
		sentences = append(sentences, s.String())
	}
	return strings.Join(sentences, "; ")
}

// String is the step's sentence.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(s.Do)
	if s.Node != "" {
		b.WriteString(" " + s.Node)
	}
	if s.By > 0 {
		b.WriteString(" by " + s.By.String())
	}
	b.WriteString(" at " + s.At.String())
	if s.For > 0 {
		b.WriteString(" for " + s.For.String())
	}
	return b.String()
}

// Type names the form of the knob's values.
func (Plan) Type() string { return "EVENT;..." }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Plan) UnmarshalText(text []byte) error {
	parsed, err := ParsePlan(string(text))
	if err == nil {
		*p = parsed
	}
	return err
}

// does tells whether any step is one of these deeds.
func (p Plan) does(deeds ...string) bool {
	return slices.ContainsFunc(p, func(s Step) bool { return slices.Contains(deeds, s.Do) })
}

// within refuses steps that a window of that length does not hold to their end.
func (p Plan) within(window time.Duration) error {
	for _, s := range p {
		if s.At >= window {
			return fmt.Errorf("events %q lies beyond the window of %v", s, window)
		}
		if s.At+s.For > window {
			return fmt.Errorf("events %q ends at %v, beyond the window of %v", s, s.At+s.For, window)
		}
	}
	return nil
}

// among refuses steps that name a node which a cluster of that size has not.
func (p Plan) among(nodes int) error {
	for _, s := range p {
		id, err := strconv.Atoi(s.Node)
		if err == nil && id > nodes {
			return fmt.Errorf("events %q names node %d, but nodes is %d", s, id, nodes)
		}
		if nodes < 2 && (s.Node == NodeFollower || s.Do == DoTransfer) {
			return fmt.Errorf("events %q needs a follower, but nodes is %d", s, nodes)
		}
	}
	return nil
}

// errMemory is why a node of storage memory is not restarted.
var errMemory = errors.New("events restarts a node, which needs storage wal: a node of storage memory comes back without its memory and is refused under its old id")

// impossible says why such a cluster cannot have the plan; empty when it can.
func (p Plan) impossible(s *Settings) string {
	if len(p) == 0 {
		return ""
	}
	l := &s.Load
	if l.Topology == TopologyExternal {
		return "events needs nodes of its own, which topology external does not start"
	}
	if p.does(DoPause) && l.Topology != TopologyProcesses {
		return fmt.Sprintf("events pauses a process, but topology %s has the nodes in this one", l.Topology)
	}
	if p.does(DoKill) && l.Target == TargetDirect {
		return "events kills a node, but target direct holds on to the nodes it began with"
	}
	if p.does(DoRestart) && s.Node.Storage != node.StorageWAL {
		return errMemory.Error()
	}
	if err := p.among(l.Nodes); err != nil {
		return err.Error()
	}
	return ""
}

// hasEvents tells whether any variant has a plan.
func (m *Matrix) hasEvents() bool {
	return slices.ContainsFunc(m.Variants, func(v Planned) bool { return len(v.Settings.Load.Events) > 0 })
}

// plannedAt is a plan, in canonical form, and where the YAML has it.
type plannedAt struct {
	node *yaml.Node
	text string
}

// checkPlans refuses plans that no variant of an experiment can have. What only
// some of them cannot have, Expand skips.
func (p *parser) checkPlans(e *Experiment) {
	nodes, durable := 0, false
	for _, v := range e.values("nodes") {
		n, err := strconv.Atoi(v)
		if err == nil {
			nodes = max(nodes, n)
		}
	}
	for _, v := range e.values("storage") {
		durable = durable || v == node.StorageWAL
	}
	for _, at := range p.plans {
		if p.err != nil {
			return
		}
		plan, err := ParsePlan(at.text)
		if err == nil {
			err = plan.within(e.Measure.Duration)
		}
		if err == nil {
			err = plan.among(nodes)
		}
		if err == nil && plan.does(DoRestart) && !durable {
			err = errMemory
		}
		if err != nil {
			p.fail(at.node, "%w", err)
		}
	}
}

// values are all that an experiment gives a field, or its default.
func (e *Experiment) values(key string) []string {
	var values []string
	add := func(fields []Field) {
		for _, f := range fields {
			if f.Key == key {
				values = append(values, f.Value)
			}
		}
	}
	add(e.Fixed)
	for _, axis := range e.Vary {
		for _, v := range axis.Values {
			add(v)
		}
	}
	for _, arm := range e.Arms {
		for _, f := range arm {
			if f.Key == key {
				values = append(values, f.Values...)
			}
		}
	}
	if len(values) == 0 {
		s := DefaultSettings()
		values = []string{s.Get(key)}
	}
	return values
}
