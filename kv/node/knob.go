package node

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Knob is one setting of a Config, reached by its name. It implements
// pflag.Value.
type Knob struct {
	Name   string
	Usage  string
	Source string   // the raft.Config field or gRPC option it becomes; may be empty
	Values []string // what it may be, shared and not to be changed; empty for numbers and addresses
	// Identity knobs say which node this is; they are no axis of an experiment.
	Identity bool
	// Strategy knobs say what a node does itself; no library has them.
	Strategy bool

	field reflect.Value
}

// Knobs returns the settings of a config, in the order of its fields. Set on
// a Knob changes the config.
func Knobs(c *Config) []Knob { return KnobsOf(c) }

// KnobsOf walks any struct with knob tags, such as the bench's own settings; c
// is a pointer to it. A field's type may be one of its own that implements
// encoding.TextUnmarshaler, whose errors go on after the value: "is not a size".
func KnobsOf(c any) []Knob {
	v := reflect.ValueOf(c).Elem()
	tags := tagsOf(v.Type())
	knobs := make([]Knob, len(tags))
	for i, t := range tags {
		knobs[i] = t.Knob
		knobs[i].field = v.Field(t.index)
	}
	return knobs
}

// KnobOf returns the setting of that name of a struct as KnobsOf takes it.
func KnobOf(c any, name string) (Knob, bool) {
	v := reflect.ValueOf(c).Elem()
	tags := tagsOf(v.Type())
	i := slices.IndexFunc(tags, func(t tagged) bool { return t.Name == name })
	if i < 0 {
		return Knob{}, false
	}
	k := tags[i].Knob
	k.field = v.Field(tags[i].index)
	return k, true
}

// tagged is what the tags of a struct's field say of a knob, which lacks the field.
type tagged struct {
	Knob
	index int
}

// Tags by type: reading them is slow, and an experiment asks for knobs thousands of
// times.
var allTags sync.Map // of reflect.Type to []tagged

func tagsOf(t reflect.Type) []tagged {
	if known, ok := allTags.Load(t); ok {
		return known.([]tagged)
	}
	var tags []tagged
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name := tag.Get("knob")
		if name == "" {
			continue
		}
		k := Knob{
			Name: name, Usage: tag.Get("usage"), Source: tag.Get("source"),
			Identity: tag.Get("kind") == "identity", Strategy: tag.Get("kind") == "strategy",
		}
		if values := tag.Get("values"); values != "" {
			k.Values = strings.Split(values, ",")
		}
		tags = append(tags, tagged{k, i})
	}
	allTags.Store(t, tags)
	return tags
}

// Set parses a value and puts it in the config. Errors are *FieldError.
func (c *Config) Set(name, value string) error {
	if k, ok := KnobOf(c, name); ok {
		return k.Set(value)
	}
	return &FieldError{Field: name, Value: value, Problem: "is not a setting of a node"}
}

// Set parses a value and puts it in the config. Errors are *FieldError.
func (k Knob) Set(value string) error {
	fail := func(problem string) error {
		return &FieldError{Field: k.Name, Value: strconv.Quote(value), Problem: problem}
	}
	switch p := k.field.Addr().Interface().(type) {
	case *Size:
		n, err := ParseSize(value)
		if err != nil {
			return fail("is not a size such as 512, 64KiB or 4MiB")
		}
		*p = n
	case *ChunkSize:
		n, err := ParseChunkSize(value)
		if err != nil {
			return fail("is not auto or a size such as 512, 64KiB or 4MiB")
		}
		*p = n
	case *Rate:
		n, err := ParseRate(value)
		if err != nil {
			return fail("is not a rate such as 200MB/s or 1GiB/s")
		}
		*p = n
	case *time.Duration:
		d, err := time.ParseDuration(value)
		if err != nil {
			return fail("is not a duration such as 5ms or 1s")
		}
		*p = d
	case *Linger:
		l, err := ParseLinger(value)
		if err != nil {
			return fail("is not auto, nor a duration such as 500us or 1ms")
		}
		*p = l
	case *int:
		n, err := strconv.Atoi(value)
		if err != nil {
			return fail("is not a whole number")
		}
		*p = n
	case *Probability:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0 && f <= 1) { // NaN is neither
			return fail("is not a probability from 0 to 1, such as 0.05")
		}
		*p = Probability(f)
	case *float64:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return fail("is not a number")
		}
		*p = f
	case *uint64:
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return fail(fmt.Sprintf("is not a whole number from 0 to %d", uint64(math.MaxUint64)))
		}
		*p = n
	case *string:
		if len(k.Values) > 0 && !slices.Contains(k.Values, value) {
			return fail("is not one of " + strings.Join(k.Values, ", "))
		}
		*p = value
	case encoding.TextUnmarshaler: // a type of the owner of the struct; see KnobsOf
		if err := p.UnmarshalText([]byte(value)); err != nil {
			return fail(err.Error())
		}
	default:
		panic(fmt.Sprintf("knob %s has a type without a parser: %T", k.Name, p))
	}
	return nil
}

// String formats the value so that Set reads it back.
func (k Knob) String() string {
	if !k.field.IsValid() {
		return ""
	}
	return fmt.Sprint(k.field.Interface())
}

// Type names the value's form, for help texts.
func (k Knob) Type() string {
	switch v := k.field.Interface().(type) {
	case interface{ Type() string }:
		return v.Type()
	case Size:
		return "SIZE"
	case ChunkSize:
		return "SIZE|auto"
	case Rate:
		return "SIZE/s"
	case Probability:
		return "P"
	case time.Duration:
		return "DUR"
	case Linger:
		return "DUR|auto"
	case string:
		if len(k.Values) > 0 {
			return strings.Join(k.Values, "|")
		}
		switch {
		case strings.HasSuffix(k.Name, "-dir"):
			return "DIR"
		case strings.HasSuffix(k.Name, "-bin"):
			return "FILE"
		}
		return "HOST:PORT"
	}
	return "N"
}

func (k Knob) zero() bool { return k.field.IsZero() }

func (k Knob) negative() bool {
	if k.field.CanInterface() && k.field.Interface() == AutoChunk {
		return false
	}
	return k.field.CanInt() && k.field.Int() < 0 || k.field.CanFloat() && k.field.Float() < 0
}

// Linger is how long a command waits for others: a time set by hand, or auto.
type Linger struct {
	Auto bool
	Wait time.Duration // 0 with Auto
}

// ParseLinger reads auto or a duration that is not negative.
func ParseLinger(s string) (Linger, error) {
	if s == "auto" {
		return Linger{Auto: true}, nil
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = fmt.Errorf("linger %s is negative", d)
	}
	return Linger{Wait: d}, err
}

func (l Linger) String() string {
	if l.Auto {
		return "auto"
	}
	return l.Wait.String()
}

// Size is a number of bytes.
type Size int64

// ChunkSize is a number of bytes, or AutoChunk.
type ChunkSize int64

// AutoChunk is the ChunkSize that a node finds by itself, for each peer.
const AutoChunk ChunkSize = -1

// ParseChunkSize reads "auto" or a size.
func ParseChunkSize(s string) (ChunkSize, error) {
	if s == "auto" {
		return AutoChunk, nil
	}
	n, err := ParseSize(s)
	return ChunkSize(n), err
}

func (c ChunkSize) String() string {
	if c == AutoChunk {
		return "auto"
	}
	return Size(c).String()
}

// Rate is a number of bytes a second; 0 is unlimited.
type Rate int64

// Probability is from 0, never, to 1, always.
type Probability float64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"kB", 1e3},
	{"B", 1},
}

// ParseSize reads a size such as 512, 64KiB, 1.5MiB or 200MB.
func ParseSize(s string) (Size, error) {
	number, unit := s, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/unit {
			return 0, fmt.Errorf("size %q is out of range", s)
		}
		return Size(n * unit), nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || f*float64(unit) > math.MaxInt64/2 || math.IsNaN(f) {
		return 0, fmt.Errorf("size %q is not a number of bytes", s)
	}
	return Size(f * float64(unit)), nil
}

// String uses the largest unit that divides the size.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if n := int64(s); n != 0 && u.bytes > 1 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// ParseRate reads a size with an optional "/s".
func ParseRate(s string) (Rate, error) {
	n, err := ParseSize(strings.TrimSuffix(s, "/s"))
	return Rate(n), err
}

func (r Rate) String() string {
	if r == 0 {
		return "0"
	}
	return Size(r).String() + "/s"
}
