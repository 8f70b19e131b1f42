package bench

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"raftlab/bench/load"
)

// Each pair of slices has one of either kind, and both come first about as often.
func TestSliceOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, n := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 50).Draw(t, "n")
		order := sliceOrder(seed, n)
		if len(order) != n/2*2 || !slices.Equal(order, sliceOrder(seed, n)) {
			t.Fatalf("%d slices of %d, %v", len(order), n, order)
		}
		for i := 0; i < len(order); i += 2 {
			if order[i] == order[i+1] {
				t.Fatalf("slices %d and %d are alike", i, i+1)
			}
		}
	})
	first := 0
	for _, on := range sliceOrder(1, 2000) {
		if first++; first%2 == 1 && on {
			first += 1000000
		}
	}
	if n := first / 1000000; n < 400 || n > 600 {
		t.Errorf("seed 1: measured first in %d of 1000 pairs", n)
	}
}

// A slice has the operations of its intervals but for the first, in which the nodes
// are told; pairs are of neighbours.
func TestSlices(t *testing.T) {
	var told []bool
	s := newSwitcher(40*time.Millisecond, 250*time.Millisecond, 3, func(on bool) error { told = append(told, on); return nil })
	var intervals []load.Interval
	for offset := -20 * time.Millisecond; offset < 250*time.Millisecond; offset += 10 * time.Millisecond {
		iv := load.Interval{Offset: offset, Length: 10 * time.Millisecond, Warmup: offset < 0, Operations: 7}
		k := int(offset / (40 * time.Millisecond))
		if offset >= 0 && offset%(40*time.Millisecond) != 0 && k < len(s.order) {
			iv.Operations = 100
			if s.order[k] {
				iv.Operations = 99
			}
		}
		intervals = append(intervals, iv)
		s.at(offset + iv.Length)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if len(s.order) != 6 || !slices.Equal(told, s.order) {
		t.Errorf("told %v, the order is %v", told, s.order)
	}
	found := s.slices(intervals)
	if len(found) != 6 || math.Abs(found[1].OffsetS-0.05) > 1e-9 || math.Abs(found[1].LengthS-0.03) > 1e-9 {
		t.Fatalf("%+v", found)
	}
	on, off := slicePairs(found)
	if len(on) != 3 || len(off) != 3 {
		t.Fatalf("pairs %v and %v", on, off)
	}
	for i := range on {
		if math.Abs(on[i]-9900) > 1e-6 || math.Abs(off[i]-10000) > 1e-6 {
			t.Errorf("pair %d: %g with stages, %g without", i, on[i], off[i])
		}
	}
	// Without one interval its slice is out, and with it the pair.
	found = s.slices(slices.Delete(slices.Clone(intervals), 8, 9))
	if len(found) != 5 {
		t.Errorf("%d slices", len(found))
	}
	if on, _ := slicePairs(found); len(on) > 2 {
		t.Errorf("%d pairs of %+v", len(on), found)
	}
}

func TestSwitcherTellsWhatFailed(t *testing.T) {
	s := newSwitcher(40*time.Millisecond, 80*time.Millisecond, 1, func(bool) error { return errors.New("gone") })
	s.at(0)
	if err := s.finish(); err == nil {
		t.Error("no error")
	}
}

func TestSliceLimits(t *testing.T) {
	for value, want := range map[string]string{
		"39ms": "stages-slice 39ms is below the minimum 40ms (0: none)",
		"61s":  "stages-slice 1m1s exceeds the maximum 1m0s",
		"1s":   "stages-slice 1s does not fit twice into a window of 1.5s",
		"-1s":  "stages-slice -1s is below the minimum 40ms (0: none)",
	} {
		e, err := Parse([]byte("name: x\nquestion: Why?\nfixed: {topology: in-process, target: direct}\nmeasure: {warmup: 0s, duration: 1500ms, blocks: 1}\n"), "x.yaml")
		if err == nil {
			if err = e.Set("stages-slice", value); err == nil {
				_, err = Expand(e)
			}
		}
		if !errors.As(err, new(*UsageError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

// What stages cost is the ratio of all pairs of all trials.
func TestStagesCost(t *testing.T) {
	run := synthetic(nil, []Variant{variant("v01", "clients=16", RoleMeasured, "", "")}, map[string][]float64{"v01": {100, 101}})
	for i := range run.Trials {
		for k := range 10 {
			s := Slice{OffsetS: float64(k) + 0.25, LengthS: 0.75, Stages: k%2 == i, Operations: uint64(1000 + 10*k)}
			if s.Stages {
				s.Operations = s.Operations * 99 / 100
			}
			run.Trials[i].Slices = append(run.Trials[i].Slices, s)
		}
	}
	s := Summarize(run).Variants[0].Stages
	if s == nil || s.OnOff.N != 10 || s.OnOff.Center < 0.985 || s.OnOff.Center > 0.995 || s.OnOff.Lo > 0.99 || s.OnOff.Hi < 0.99 {
		t.Errorf("%+v", s)
	}
}
