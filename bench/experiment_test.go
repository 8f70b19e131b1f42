package bench

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseFaults(t *testing.T) {
	for _, c := range []struct {
		name, source, want string
	}{
		{"empty", "", "x.yaml:1: experiment is empty"},
		{"only a comment", "# nothing\n", "x.yaml:1: experiment is empty"},
		{"not a mapping", "- a\n", `x.yaml:1: an experiment must be a mapping such as {key: value}, not a list`},
		{"null", "name: x\nfixed:\n", `x.yaml:2: fixed must be a mapping such as {key: value}, not nothing`},
		{"broken", "name: x\nfixed: {clients: 1\n", "x.yaml:2: did not find expected ',' or '}'"},
		{"second document", "name: x\n---\nname: y\n", "x.yaml:2: a second document; an experiment is one"},
		{"unknown key", "name: x\n\nquestoin: y\n", `x.yaml:3: unknown key "questoin" (did you mean question?)`},
		{"duplicate key", "name: x\nquestion: a\nname: y\n", `x.yaml:3: duplicate key "name", first on line 1`},
		{"duplicate field", "name: x\nfixed:\n  clients: 1\n  clients: 2\n", `x.yaml:4: duplicate key "clients", first on line 3`},
		{"no name", "question: y\n", "x.yaml:1: name is missing"},
		{"bad name", "name: ../x\n", `x.yaml:1: name "../x" must be lower-case letters, digits and dashes`},
		{"unknown field", "name: x\nfixed: {\n  chunk-sise: 1}\n", `x.yaml:3: unknown field "chunk-sise" (did you mean chunk-size?)`},
		{"identity is no field", "name: x\nfixed: {id: 3}\n", `x.yaml:2: unknown field "id"`},
		{"wrong type", "name: x\nfixed:\n  clients: many\n", `x.yaml:3: clients "many" is not a whole number`},
		{"bad size", "name: x\nfixed:\n  value-size: 10XB\n", `x.yaml:3: value-size "10XB" is not a size such as 512 or 64KiB, a range such as 64..4KiB, nor a file such as @sizes.txt`},
		{"rate of nothing", "name: x\nfixed:\n  rate: 0\n", "x.yaml:3: rate 0 sends nothing; it must be greater than 0, or auto for a closed loop"},
		{"not a value", "name: x\nfixed: {chunking: zip}\n", `x.yaml:2: chunking "zip" is not one of none, raft, count, reactive, bounded, fragment`},
		{"list under fixed", "name: x\nfixed:\n  clients: [1, 2]\n", "x.yaml:3: clients takes one value under fixed; lists go under vary or arms"},
		{"mapping as value", "name: x\nfixed:\n  clients: {a: 1}\n", "x.yaml:3: clients must be one value, not a mapping"},
		{"empty list", "name: x\nvary:\n  clients: []\n", "x.yaml:3: vary's clients is an empty list"},
		{"not a list", "name: x\nvary: {clients: 3}\n", `x.yaml:2: vary's clients must be a list such as [a, b], not "3"`},
		{"twice in a list", "name: x\nvary:\n  value-size: [1MiB, 1024KiB]\n", "x.yaml:3: value-size lists 1MiB twice"},
		{"arms not a list", "name: x\narms: {clients: 1}\n", "x.yaml:2: arms must be a list such as [a, b], not a mapping"},
		{"alias", "name: x\nfixed: &f {clients: 1}\nbaseline: *f\n", "x.yaml:3: baseline is an alias; write it out"},
		{"baseline alone", "name: x\nbaseline: {clients: 1}\n", "x.yaml:2: baseline without vary or arms has nothing to compare with"},
		{"answer-by fixed", "name: x\nvary: {clients: [1, 2]}\nanswer-by: [value-size]\n", "x.yaml:3: answer-by names value-size, which does not vary"},
		{"metric", "name: x\nmetric: speed\n", `x.yaml:2: metric "speed" is not one of auto, ops/s, bytes/s, p50-latency-ns, p90-latency-ns, p99-latency-ns, p99.9-latency-ns, max-latency-ns, outage-ns, recover-ns`},
		{"margin", "name: x\nmargin: 5%\n", `x.yaml:2: margin "5%" is not a number from 0 to 1, such as 0.05`},
		{"ceiling", "name: x\nceiling: [wire, sky]\n", `x.yaml:2: ceiling "sky" is not one of wire, relay, or none alone`},
		{"ceiling twice", "name: x\nceiling: [wire, wire]\n", "x.yaml:2: ceiling lists wire twice"},
		{"judge of nothing", "name: x\njudge: {within: {ops/s: 0.05}}\n", "x.yaml:2: judge needs adaptive: the settings that are judged, such as {linger: auto}"},
		{"judge by nothing", "name: x\njudge: {adaptive: {linger: 1ms}}\n", "x.yaml:2: judge needs within: how near to the best is good, such as {ops/s: 0.05}"},
		{"judge metric", "name: x\njudge:\n  within: {speed: 0.05}\n", `x.yaml:3: within names "speed", which is not one of ops/s, bytes/s, p50-latency-ns, p90-latency-ns, p99-latency-ns, p99.9-latency-ns, max-latency-ns, outage-ns, recover-ns`},
		{"judge share", "name: x\njudge: {adaptive: {linger: 1ms}, within: {ops/s: 5}}\n", `x.yaml:2: ops/s "5" is not a number from 0 to 1, such as 0.05`},
		{"unknown judge", "name: x\njudge: {spreads: 0.1}\n", `x.yaml:2: unknown key "spreads" under judge (did you mean spread?)`},
		{"unknown measure", "name: x\nmeasure:\n  block: 3\n", `x.yaml:3: unknown key "block" under measure (did you mean blocks?)`},
		{"negative duration", "name: x\nmeasure: {duration: -1s}\n", "x.yaml:2: duration -1s is below the minimum 50ms"},
		{"not a duration", "name: x\nmeasure: {warmup: 3}\n", `x.yaml:2: warmup "3" is not a duration such as 500ms or 2s`},
		{"no blocks", "name: x\nmeasure: {blocks: 0}\n", `x.yaml:2: blocks "0" is not a number from 1 to 1000`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.source), "x.yaml")
			if _, ok := errors.AsType[*UsageError](err); !ok {
				t.Fatalf("got %v, want a usage error", err)
			}
			if err.Error() != c.want {
				t.Errorf("got  %s\nwant %s", err, c.want)
			}
		})
	}
}

func TestParseRefusesHuge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.yaml")
	if err := os.WriteFile(path, []byte(strings.Repeat("#", 2<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadExperiment(path)
	if err == nil || !strings.Contains(err.Error(), "exceeds the limit of 1048576 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownExperiment(t *testing.T) {
	_, err := LoadExperiment("quikc")
	if err == nil || !strings.HasPrefix(err.Error(), `no experiment "quikc" (did you mean quick?)`) {
		t.Errorf("got %v", err)
	}
}

const sampleYAML = `
name: sample
question: Which?
fixed: {topology: in-process-grpc, value-size: 1024KiB}
vary:
  clients: [1, 16]
  link:
    - {link-delay: 0s, link-rate: 0}
    - {link-delay: 1ms, link-rate: 200MB/s}
arms:
  - {chunking: raft, append-size: 1MiB}
  - {chunking: fragment, chunk-size: [256KiB, auto]}
baseline: {chunking: raft, append-size: 1MiB}
answer-by: [link-delay]
metric: p99-latency-ns
judge: {adaptive: {chunking: fragment, chunk-size: 256KiB}, within: {ops/s: 0.05, p99-latency-ns: 0.1}}
measure: {warmup: 1s, duration: 2s, blocks: 7}
`

func TestParse(t *testing.T) {
	e, err := Parse([]byte(sampleYAML), "sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := &Experiment{
		Name: "sample", Question: "Which?",
		Fixed: []Field{{"topology", "in-process-grpc"}, {"value-size", "1MiB"}},
		Vary: []Axis{
			{"clients", [][]Field{{{"clients", "1"}}, {{"clients", "16"}}}},
			{"link", [][]Field{
				{{"link-delay", "0s"}, {"link-rate", "0"}},
				{{"link-delay", "1ms"}, {"link-rate", "200MB/s"}},
			}},
		},
		Arms: []Arm{
			{{"chunking", []string{"raft"}}, {"append-size", []string{"1MiB"}}},
			{{"chunking", []string{"fragment"}}, {"chunk-size", []string{"256KiB", "auto"}}},
		},
		Baseline: []Field{{"chunking", "raft"}, {"append-size", "1MiB"}},
		AnswerBy: []string{"link-delay"}, Metric: "p99-latency-ns", Margin: 0.05, Ceilings: []string{TargetWire},
		Judge: &Judge{
			Adaptive: []Field{{"chunking", "fragment"}, {"chunk-size", "256KiB"}},
			Within:   []Tolerance{{"ops/s", 0.05}, {"p99-latency-ns", 0.1}}, Spread: 0.15,
		},
		Measure: Measure{Warmup: time.Second, Duration: 2 * time.Second, Blocks: 7, Profile: time.Second},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

// What YAML writes, Parse reads as the same experiment; after overrides too.
func TestYAMLRoundTrip(t *testing.T) {
	sources := map[string][]byte{"sample": []byte(sampleYAML)}
	for _, name := range Names() {
		source, _, err := Source(name)
		if err != nil {
			t.Fatal(err)
		}
		sources[name] = source
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			e, err := Parse(source, name)
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range []func() error{
				func() error { return nil },
				func() error { return e.Set("value-size", "64KiB") },
				func() error { return e.SetVary("chunk-size", []string{"64KiB", "1MiB"}) },
				func() error { return e.SetVary("clients", []string{"2", "8"}) },
				func() error { return e.Set("link-rate", "1GB/s") },
			} {
				if err := change(); err != nil {
					t.Fatal(err)
				}
				again, err := Parse([]byte(e.YAML()), name)
				if err != nil {
					t.Fatalf("%v in\n%s", err, e.YAML())
				}
				if diff := cmp.Diff(e.YAML(), again.YAML()); diff != "" {
					t.Errorf("round trip (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestSet(t *testing.T) {
	e, err := Parse([]byte(sampleYAML), "sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"chunking": "bounded", "link-delay": "3ms", "clients": "4"} {
		if err := e.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if slices.ContainsFunc(e.Vary, func(a Axis) bool { return a.Key == "clients" }) {
		t.Error("clients still varies")
	}
	for _, arm := range e.Arms {
		for _, f := range arm {
			if f.Key == "chunking" {
				t.Error("an arm still sets chunking")
			}
		}
	}
	if want := (Field{"chunking", "bounded"}); e.Baseline[0] != want {
		t.Errorf("baseline has %v, want %v", e.Baseline[0], want)
	}
	if len(e.AnswerBy) != 0 {
		t.Errorf("answers are still by %v", e.AnswerBy)
	}
	if got := e.Vary[0].Values; len(got) != 2 || len(got[0]) != 1 || got[0][0].Key != "link-rate" {
		t.Errorf("the bundle is %v, want link-rate alone", got)
	}
}

func TestOverrideFaults(t *testing.T) {
	for _, c := range []struct {
		do   func(e *Experiment) error
		want string
	}{
		{func(e *Experiment) error { return e.Set("colour", "red") }, `--set colour: unknown field "colour"`},
		{func(e *Experiment) error { return e.Set("clients", "x") }, `--set clients: clients "x" is not a whole number`},
		{func(e *Experiment) error { return e.SetVary("value-size", []string{"1", "1B"}) }, `--vary value-size: lists 1 twice`},
		{func(e *Experiment) error { return e.SetVary("tick", []string{"fast"}) }, `--vary tick: tick "fast" is not a duration such as 5ms or 1s`},
	} {
		e, err := Parse([]byte(sampleYAML), "sample.yaml")
		if err != nil {
			t.Fatal(err)
		}
		err = c.do(e)
		var usage *UsageError
		if !errors.As(err, &usage) || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sampleYAML))
	f.Add([]byte("name: x\nvary: {clients: [1]}\narms: [{}]\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("<<: {name: x}"))
	f.Fuzz(func(t *testing.T, source []byte) {
		e, err := Parse(source, "fuzz.yaml")
		if err != nil {
			if !errors.As(err, new(*UsageError)) {
				t.Fatalf("%T is not a usage error: %v", err, err)
			}
			return
		}
		if _, err := Parse([]byte(e.YAML()), "again.yaml"); err != nil {
			t.Fatalf("%v in\n%s", err, e.YAML())
		}
	})
}
