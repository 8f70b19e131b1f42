package metric

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Kind says how a metric moves.
type Kind string

// Kinds, as the tags name them.
const (
	Counter       Kind = "counter"
	Gauge         Kind = "gauge"
	HistogramKind Kind = "histogram"
	usageTag           = "usage"
	nanosUnit          = "nanos"
)

var kinds = []Kind{Counter, Gauge, HistogramKind}

// Metric is one declared field with its value.
type Metric struct {
	Kind Kind
	Name string
	// Usage says in a sentence, without its full stop, what is counted.
	Usage string
	// Value of a counter or a gauge, and the Histogram of a histogram: the live
	// one, nil where nothing is recorded.
	Value     uint64
	Histogram *Histogram
}

// Unit is the last word of the name: bytes, nanos, or what is counted.
func (m Metric) Unit() string { return m.Name[strings.LastIndexByte(m.Name, '_')+1:] }

// Nanos tells that the value is a time in nanoseconds.
func (m Metric) Nanos() bool { return m.Unit() == nanosUnit }

// Each calls f for each tagged field of a struct, in order. Fields may be of
// unsigned integers, durations (in nanoseconds), bools (0 or 1) and *Histogram;
// a field without a tag is no metric. It panics where a declaration is wrong.
func Each(of any, f func(Metric)) {
	v := reflect.Indirect(reflect.ValueOf(of))
	for field, value := range v.Fields() {
		m, ok := declared(v.Type(), field)
		if !ok {
			continue
		}
		switch x := value.Interface().(type) {
		case *Histogram:
			m.Histogram = x
		case time.Duration:
			m.Value = uint64(max(0, x))
		case bool:
			if x {
				m.Value = 1
			}
		default:
			m.Value = value.Uint()
		}
		f(m)
	}
}

// Make gives each *Histogram field of a struct an empty histogram.
func Make(of any) {
	v := reflect.ValueOf(of).Elem()
	for _, value := range v.Fields() {
		if value.Type() == reflect.TypeFor[*Histogram]() {
			value.Set(reflect.ValueOf(new(Histogram)))
		}
	}
}

func declared(of reflect.Type, field reflect.StructField) (Metric, bool) {
	m := Metric{Usage: field.Tag.Get(usageTag)}
	for _, k := range kinds {
		if name, ok := field.Tag.Lookup(string(k)); ok {
			if m.Kind != "" {
				panic(fmt.Sprintf("%s.%s is both %s and %s", of, field.Name, m.Kind, k))
			}
			m.Kind, m.Name = k, name
		}
	}
	switch {
	case m.Kind == "" && m.Usage == "":
		return m, false
	case m.Kind == "" || m.Name == "" || m.Usage == "":
		panic(fmt.Sprintf("%s.%s needs a kind, a name and a usage", of, field.Name))
	case (field.Type == reflect.TypeFor[*Histogram]()) != (m.Kind == HistogramKind):
		panic(fmt.Sprintf("%s.%s: a %s can't be a %s", of, field.Name, m.Kind, field.Type))
	case (field.Type == reflect.TypeFor[time.Duration]()) && !m.Nanos():
		panic(fmt.Sprintf("%s.%s: a time's name ends in _%s, not %s", of, field.Name, nanosUnit, m.Name))
	}
	return m, true
}
