package bench

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"raftlab/bench/load"
	"raftlab/bench/stats"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// matrixText shows a matrix as the goldens have it.
func matrixText(m *Matrix) string {
	var b strings.Builder
	fmt.Fprintf(&b, "axes %s\n", strings.Join(m.Axes, " "))
	for _, v := range m.Variants {
		fmt.Fprintf(&b, "%s %s", v.ID, v.Name)
		if v.Role != RoleMeasured {
			b.WriteString(" " + v.Role)
		}
		if v.Baseline {
			b.WriteString(" baseline")
		}
		if v.Against != "" {
			b.WriteString(" against " + v.Against)
		}
		if v.Adaptive {
			b.WriteString(" adaptive")
		}
		if len(v.Ceilings) > 0 {
			b.WriteString(" below " + strings.Join(v.Ceilings, ", "))
		}
		b.WriteByte('\n')
	}
	for _, s := range m.Skipped {
		fmt.Fprintf(&b, "skipped %s: %s\n", describeParams(s.Params), s.Reason)
	}
	return b.String()
}

func describeParams(params map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(params)) {
		parts = append(parts, k+"="+params[k])
	}
	return strings.Join(parts, " ")
}

func parse(t testing.TB, source string) *Experiment {
	t.Helper()
	e, err := Parse([]byte(source), "test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestExpandGolden(t *testing.T) {
	cases := map[string]func(t *testing.T) *Experiment{
		"sample": func(t *testing.T) *Experiment { return parse(t, sampleYAML) },
		"sample-vary": func(t *testing.T) *Experiment {
			// Drops the baseline, which is added back once a link and a clients.
			e := parse(t, sampleYAML)
			if err := e.SetVary("chunking", []string{"bounded", "fragment"}); err != nil {
				t.Fatal(err)
			}
			return e
		},
		"sample-set": func(t *testing.T) *Experiment {
			e := parse(t, sampleYAML)
			if err := e.Set("chunk-size", "64KiB"); err != nil {
				t.Fatal(err)
			}
			return e
		},
		"inert": func(t *testing.T) *Experiment {
			// What a variant does not read makes no variant of its own.
			return parse(t, "name: x\nceiling: none\nvary: {chunking: [none, raft, bounded, reactive], chunk-size: [64KiB, 1MiB], chunk-count: [1, 2]}\n")
		},
		"impossible": func(t *testing.T) *Experiment {
			return parse(t, "name: x\nvary: {topology: [in-process, in-process-grpc], value-size: [1MiB, 8MiB], chunking: [bounded, fragment], chunk-size: [1MiB, 8MiB]}\n")
		},
		"targets": func(t *testing.T) *Experiment {
			return parse(t, "name: x\nvary: {topology: [in-process, processes], target: [unary, pipeline, direct, wire], ops-per-message: [1, 64], rate: [auto, 1000]}\n")
		},
		"relay": func(t *testing.T) *Experiment {
			// Only puts on a fast network are below a relay.
			return parse(t, "name: x\nceiling: [wire, relay]\nfixed: {read-ratio: 0.9}\nvary: {target: [unary, relay], op: [put, mixed], link-delay: [0s, 1ms], nodes: [3, 5]}\n")
		},
		"baseline-alone": func(t *testing.T) *Experiment {
			// With nothing to compare, the A/A arms are what is asked for.
			return parse(t, "name: x\nceiling: none\nvary: {clients: [1, 16]}\nbaseline: {nodes: 3}\nanswer-by: [clients]\n")
		},
		"one": func(t *testing.T) *Experiment { return parse(t, "name: x\n") },
	}
	for _, name := range Names() {
		cases[name] = func(t *testing.T) *Experiment {
			e, err := LoadExperiment(name)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := Expand(make(t))
			if err != nil {
				t.Fatal(err)
			}
			got := matrixText(m)
			golden := filepath.Join("testdata", "matrix-"+name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("matrix (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExpandFaults(t *testing.T) {
	for source, want := range map[string]string{
		"name: x\nfixed: {clients: 0}\n":                                                      "clients 0 is below the minimum 1",
		"name: x\nfixed: {read-ratio: 1.5}\n":                                                 "read-ratio 1.5 exceeds the maximum 1",
		"name: x\nfixed: {rate: -1}\n":                                                        "rate -1 is below the minimum 0",
		"name: x\nfixed: {chunk-size: 8MiB}\n":                                                "no variant is possible: chunk-size 8MiB exceeds max-message 4MiB",
		"name: x\nfixed: {heartbeat-ticks: 10}\n":                                             "no variant is possible: election-ticks 10 must be greater than heartbeat-ticks 10",
		"name: x\nvary: {clients: [1, 2]}\nbaseline: {topology: processes, target: direct}\n": "no variant has the baseline's settings: target direct drives nodes in this process, not topology processes",
		"name: x\njudge: {adaptive: {clients: 7}, within: {ops/s: 0.1}}\n":                    "no variant has the settings that judge calls adaptive",
		"name: x\nfixed: {topology: processes, target: direct}\n":                             "no variant is possible: target direct drives nodes in this process, not topology processes",
	} {
		_, err := Expand(parse(t, source))
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", source, err, want)
		}
	}
}

// Axes that a drawn experiment picks from.
var drawnAxes = map[string][]string{
	"topology":        {"in-process", "in-process-grpc", "processes"},
	"target":          {"unary", "pipeline", "direct"},
	"clients":         {"1", "16", "256"},
	"chunking":        {"none", "raft", "count", "bounded", "fragment"},
	"chunk-size":      {"64KiB", "1MiB", "8MiB", "auto"},
	"chunk-count":     {"1", "3"},
	"ops-per-message": {"1", "64"},
	"value-size":      {"256", "1MiB", "8MiB", "64..1MiB"},
	"op":              {"put", "get", "mixed"},
	"read-ratio":      {"0.5", "0.9"},
	"read":            {"linearizable", "lease", "follower", "stale"},
	"link-delay":      {"0s", "1ms"},
}

func drawExperiment(rt *rapid.T) *Experiment {
	e := &Experiment{Name: "drawn", Metric: "ops/s", Measure: defaultMeasure()}
	e.Ceilings = rapid.SampledFrom([][]string{nil, {TargetWire}, {TargetRelay}, {TargetWire, TargetRelay}}).Draw(rt, "ceilings")
	keys := slices.Sorted(maps.Keys(drawnAxes))
	values := func(key string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(drawnAxes[key]), 1, 3, rapid.ID[string]).Draw(rt, key)
	}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 3, rapid.ID[string]).Draw(rt, "vary") {
		if err := e.SetVary(key, values(key)); err != nil {
			rt.Fatal(err)
		}
	}
	for range rapid.IntRange(0, 3).Draw(rt, "arms") {
		var arm Arm
		for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 3, rapid.ID[string]).Draw(rt, "arm") {
			arm = append(arm, ArmField{key, values(key)})
		}
		e.Arms = append(e.Arms, arm)
	}
	return e
}

func TestExpandProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := drawExperiment(rt)
		setKey := rapid.SampledFrom(slices.Sorted(maps.Keys(drawnAxes))).Draw(rt, "set")
		setValue, err := canonical(setKey, drawnAxes[setKey][0])
		if err != nil {
			rt.Fatal(err)
		}
		if rapid.Bool().Draw(rt, "apply set") {
			if err := e.Set(setKey, setValue); err != nil {
				rt.Fatal(err)
			}
		} else {
			setKey = ""
		}
		product := 1
		for _, a := range e.Vary {
			product *= len(a.Values)
		}
		arms := 0
		for _, a := range e.Arms {
			n := 1
			for _, f := range a {
				n *= len(f.Values)
			}
			arms += n
		}
		product *= max(1, arms)

		m, err := Expand(e)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "no variant is possible") {
				rt.Fatal(err)
			}
			return
		}
		again, err := Expand(e)
		if err != nil || matrixText(m) != matrixText(again) {
			rt.Fatalf("expanding twice differs: %v", err)
		}
		measured := 0
		identities, names := map[string]string{}, map[string]bool{}
		for i, v := range m.Variants {
			if v.ID != fmt.Sprintf("v%02d", i+1) {
				rt.Fatalf("variant %d is %s", i, v.ID)
			}
			if names[v.Name] {
				rt.Fatalf("two variants are %s", v.Name)
			}
			names[v.Name] = true
			id := v.Settings.identity()
			if other, ok := identities[id]; ok {
				rt.Fatalf("%s and %s are the same", v.Name, other)
			}
			identities[id] = v.Name
			if v.Role == RoleMeasured {
				measured++
			} else if v.Role == RoleCeiling && (!isEcho(v.Settings.Load.Target) || v.Settings.Load.Rate != 0) {
				rt.Fatalf("ceiling %s is no echo in a closed loop", v.Name)
			}
			if v.Role == RoleMeasured && setKey != "" && v.Settings.Get(setKey) != setValue {
				// Only an inert field may have another value.
				if _, named := v.Params[setKey]; named {
					rt.Fatalf("%s has %s, set was %s", v.Name, v.Settings.Get(setKey), setValue)
				}
			}
			c := v.Settings.Node
			c.ID = 1
			if err := c.Validate(); err != nil {
				rt.Fatalf("%s: %v", v.Name, err)
			}
			for key, value := range v.Params {
				if v.Config[key] != value {
					rt.Fatalf("%s: %s is %s in params and %s in config", v.Name, key, value, v.Config[key])
				}
			}
		}
		if measured > product {
			rt.Fatalf("%d variants of a product of %d", measured, product)
		}
	})
}

func TestOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed, block := rapid.Uint64().Draw(rt, "seed"), rapid.IntRange(1, 9).Draw(rt, "block")
		n := rapid.IntRange(0, 50).Draw(rt, "n")
		order := Order(seed, block, n)
		if !slices.Equal(order, Order(seed, block, n)) {
			rt.Fatal("the same seed gives another order")
		}
		slices.Sort(order)
		for i, v := range order {
			if i != v {
				rt.Fatalf("not a permutation: %v", order)
			}
		}
	})
	if slices.Equal(Order(1, 1, 30), Order(1, 2, 30)) {
		t.Error("two blocks have the same order")
	}
}

// The budgets that the experiments promise, on two cores.
func TestBudgets(t *testing.T) {
	for name, limit := range map[string]float64{"quick": 150, "chunk-size": 120, "reads": 100, "wan": 90, "failover": 300} {
		e, err := LoadExperiment(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Expand(e)
		if err != nil {
			t.Fatal(err)
		}
		trials, d := Budget(m, e.Measure, true)
		t.Logf("%s: %d trials, %v", name, trials, d)
		if d.Seconds() > limit {
			t.Errorf("%s takes %v, more than %v s", name, d, limit)
		}
		if e.Measure.Blocks < stats.MinBlocks {
			t.Errorf("%s has %d blocks, too few for verdicts", name, e.Measure.Blocks)
		}
	}
}

// TestArrivals: they are read where a clock sends, and make no variant elsewhere.
func TestArrivals(t *testing.T) {
	const head = "name: x\nceiling: none\n"
	both := "arrivals: [constant, poisson]"
	for source, want := range map[string]string{
		"vary: {rate: [auto, 100], " + both + "}\n":                            "axes rate arrivals\nv01 rate=0\nv02 rate=100/arrivals=constant\nv03 rate=100/arrivals=poisson\n",
		"fixed: {think-time: 1ms}\nvary: {" + both + "}\n":                     "axes arrivals\nv01 default\nskipped arrivals=constant,poisson: nothing that is measured here reads arrivals\n",
		"fixed: {target: wire, rate-share: 0.5}\nvary: {" + both + "}\n":       "axes arrivals\nv01 default\nskipped arrivals=constant,poisson: nothing that is measured here reads arrivals\n",
		"fixed: {target: wire, wire: stream, rate: 5}\nvary: {" + both + "}\n": "axes arrivals\nv01 arrivals=constant\nv02 arrivals=poisson\n",
	} {
		m, err := Expand(parse(t, head+source))
		if err != nil {
			t.Fatal(err)
		}
		if got := matrixText(m); got != want {
			t.Errorf("%smatrix\n%s", source, got)
		}
	}

	// Rates of both are shares of one closed loop.
	e := parse(t, head+"vary: {clients: [1, 2], rate-share: [0.1, 0.2], "+both+"}\n")
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	loops := map[string]int{}
	for i := range m.Variants {
		v := &m.Variants[i]
		loops[v.Params["clients"]+" "+m.closedLoopOf(v).Settings.identity()]++
	}
	if counts := slices.Collect(maps.Values(loops)); !slices.Equal(counts, []int{4, 4}) {
		t.Errorf("closed loops of %v variants", counts)
	}
	// One schedule for all variants of a block, another in the next.
	config := func(variant, block int) load.Config {
		b := rig{r: &runner{Options: Options{Experiment: e, Matrix: m, Seed: 5}}, variant: &m.Variants[variant], job: job{block: block}}
		return b.loadConfig()
	}
	one, two, later := config(0, 1), config(1, 1), config(1, 2)
	if one.Arrivals != load.Constant || two.Arrivals != load.Poisson || one.Seed != two.Seed || later.Seed == two.Seed {
		t.Errorf("%+v\n%+v\n%+v", one, two, later)
	}

	// A search gives the rate.
	e = parse(t, head+"vary: {rate: [100, 200], "+both+"}\n")
	o, err := ParseObjective("p99<10ms")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Prepare(e, false, false); err != nil {
		t.Fatal(err)
	}
	if m, err = Expand(e); err != nil {
		t.Fatal(err)
	}
	if got := matrixText(m); got != "axes arrivals\nv01 arrivals=constant\nv02 arrivals=poisson\n" || m.Variants[1].Config["arrivals"] != load.Poisson {
		t.Errorf("with an objective\n%s", got)
	}
}
