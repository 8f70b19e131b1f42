package load

import (
	"context"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// sizes draws any kind of Sizes within bounds.
func sizes(least, most int) *rapid.Generator[Sizes] {
	return rapid.Custom(func(t *rapid.T) Sizes {
		size := rapid.IntRange(least, most)
		switch rapid.IntRange(0, 2).Draw(t, "form") {
		case 0:
			return FixedSize(size.Draw(t, "size"))
		case 1:
			a, b := size.Draw(t, "a"), size.Draw(t, "b")
			return SizeRange(min(a, b), max(a, b))
		}
		var table []SizeWeight
		for range rapid.IntRange(1, 5).Draw(t, "lines") {
			table = append(table, SizeWeight{size.Draw(t, "size"), rapid.Float64Range(0.1, 10).Draw(t, "weight")})
		}
		s, err := WeightedSizes(table)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestSizesShape(t *testing.T) {
	const draws = 100000
	weighted, err := WeightedSizes([]SizeWeight{{100, 1}, {7, 2.5}, {4096, 0.5}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		sizes Sizes
		share map[int]float64
	}{
		{"range", SizeRange(3, 6), map[int]float64{3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}},
		{"table", weighted, map[int]float64{100: 0.25, 7: 0.625, 4096: 0.125}},
		{"table, raised", weighted.AtLeast(50), map[int]float64{100: 0.25, 50: 0.625, 4096: 0.125}},
		{"range of two", SizeRange(0, 1), map[int]float64{0: 0.5, 1: 0.5}},
	} {
		r, drawn, sum := newRandom(1, 1), map[int]float64{}, 0.0
		for range draws {
			n := tt.sizes.draw(&r)
			drawn[n]++
			sum += float64(n)
		}
		var count, want []float64
		mean := 0.0
		for size, p := range tt.share {
			count, want = append(count, drawn[size]), append(want, p*draws)
			mean += p * float64(size)
		}
		checkShape(t, tt.name, count, want)
		if got := tt.sizes.Mean(); math.Abs(got-mean) > 1e-9*mean {
			t.Errorf("%s: mean %v, want %v", tt.name, got, mean)
		}
	}
}

func TestSizesBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := sizes(0, 1000).Draw(t, "sizes")
		floor := rapid.IntRange(0, 1200).Draw(t, "floor")
		raised := s.AtLeast(floor)
		a, b := newRandom(1, 1), newRandom(1, 1)
		for range 50 {
			n := s.draw(&a)
			if n < s.Least() || n > s.Most() {
				t.Fatalf("%v: %d", s, n)
			}
			if m := raised.draw(&b); s.Fixed() == raised.Fixed() && s.table != nil && m != max(n, floor) || m < floor || m > raised.Most() {
				t.Fatalf("%v at least %d: %d became %d", s, floor, n, m)
			}
		}
		if mean := s.Mean(); mean < float64(s.Least())-1e-9 || mean > float64(s.Most())+1e-9 {
			t.Fatalf("%v: mean %v", s, mean)
		}
	})
}

func TestWeightedSizesRefuses(t *testing.T) {
	for want, table := range map[string][]SizeWeight{
		"the table is empty":    nil,
		"weight 0 of 5 bytes":   {{5, 0}},
		"weight -1 of 5 bytes":  {{4, 1}, {5, -1}},
		"weight NaN of 5 bytes": {{5, math.NaN()}},
	} {
		if _, err := WeightedSizes(table); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", table, err, want)
		}
	}
}

// TestKeysOfManySizes: a key has one size, by its index alone, and no two keys are
// one.
func TestKeysOfManySizes(t *testing.T) {
	c := config()
	c.KeySize = SizeRange(5, 64)
	seen, bytes := map[string]int{}, map[int]bool{}
	for i := range c.Keys {
		key := string(c.AppendKey(nil, i))
		if other, ok := seen[key]; ok {
			t.Fatalf("keys %d and %d are both %q", other, i, key)
		}
		seen[key], bytes[len(key)] = i, true
		d := c
		d.Seed++
		if again := string(d.AppendKey(nil, i)); again != key {
			t.Fatalf("key %d is %q, with another seed %q", i, key, again)
		}
	}
	if len(bytes) != 60 {
		t.Errorf("%d sizes of 60", len(bytes))
	}
}

// TestValueBytesAreWhatWasMoved: written by puts and found by gets.
func TestValueBytesAreWhatWasMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var moved uint64
		f := newFake(func(ctx context.Context, _ time.Duration, ops []Op, results []Result) error {
			if err := sleep(ctx, 3*time.Millisecond); err != nil {
				return err
			}
			for i, op := range ops {
				moved += uint64(len(op.Value))
				if op.Kind == Get {
					results[i].Found, results[i].Value = true, make([]byte, 11)
					moved += 11
				}
			}
			return nil
		})
		c := config()
		c.Clients, c.OpsPerMessage, c.ReadRatio, c.ValueSize, c.Rate = 1, 3, 0.5, SizeRange(0, 500), 300
		r, err := run(t.Context(), c, f, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if r.ValueBytes != moved || moved == 0 {
			t.Errorf("%d bytes of values, the target saw %d", r.ValueBytes, moved)
		}
	})
}
