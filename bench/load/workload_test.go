package load

import (
	"bytes"
	"compress/flate"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// trace writes down the first messages of one client's stream.
func trace(c Config, client, messages int, withValues bool) string {
	var b bytes.Buffer
	s := newWorkload(c).stream(client)
	for range messages {
		for i, op := range s.message() {
			fmt.Fprintf(&b, "%s %s %d", op.Kind, op.Key, s.index[i])
			if withValues {
				fmt.Fprintf(&b, " %x", op.Value)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func TestStreamDependsOnSeedAndClientOnly(t *testing.T) {
	for _, distribution := range []string{Uniform, Zipf, Sequential} {
		c := config()
		c.KeyDistribution, c.ReadRatio, c.OpsPerMessage = distribution, 0.3, 3
		one := trace(c, 2, 100, true)
		if again := trace(c, 2, 100, true); one != again {
			t.Errorf("%s: the same seed and client gave another stream", distribution)
		}
		if trace(c, 3, 100, true) == one {
			t.Errorf("%s: two clients have one stream", distribution)
		}
		if d := c; true {
			d.Seed++
			if trace(d, 2, 100, true) == one {
				t.Errorf("%s: two seeds give one stream", distribution)
			}
		}
		// Variants with other values are driven with the same keys.
		d := c
		d.ValueSize = 1000
		if trace(d, 2, 100, false) != trace(c, 2, 100, false) {
			t.Errorf("%s: the keys depend on the size of the values", distribution)
		}
	}
}

func TestMessageKeysMatchTheirIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Clients: rapid.IntRange(1, 9).Draw(t, "clients"), OpsPerMessage: rapid.IntRange(1, 5).Draw(t, "ops"),
			Keys: rapid.IntRange(1, 3000).Draw(t, "keys"), KeySize: rapid.IntRange(6, 20).Draw(t, "size"), KeyPrefix: "k-",
			KeyDistribution: rapid.SampledFrom([]string{Uniform, Zipf, Sequential}).Draw(t, "distribution"),
			ReadRatio:       rapid.Float64Range(0, 1).Draw(t, "ratio"), ValueSize: rapid.IntRange(0, 40).Draw(t, "value"),
			Seed: rapid.Uint64().Draw(t, "seed"), Duration: 1,
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		s := newWorkload(c).stream(rapid.IntRange(0, c.Clients-1).Draw(t, "client"))
		for range 20 {
			ops := s.message()
			if len(ops) != c.OpsPerMessage {
				t.Fatalf("%d ops", len(ops))
			}
			for i, op := range ops {
				if k := s.index[i]; k < 0 || k >= c.Keys || string(c.AppendKey(nil, k)) != string(op.Key) {
					t.Fatalf("key %q has index %d", op.Key, k)
				}
				if op.Kind == Put && len(op.Value) != c.ValueSize || op.Kind == Get && op.Value != nil {
					t.Fatalf("%s with a value of %d bytes", op.Kind, len(op.Value))
				}
			}
		}
	})
}

func TestReadRatio(t *testing.T) {
	for _, ratio := range []float64{0, 0.25, 1} {
		c := config()
		c.ReadRatio = ratio
		s, gets := newWorkload(c).stream(0), 0
		const n = 20000
		for range n {
			if s.message()[0].Kind == Get {
				gets++
			}
		}
		// Five standard deviations; exact at the ends.
		if d := math.Abs(float64(gets)/n - ratio); d > 5*math.Sqrt(ratio*(1-ratio)/n) {
			t.Errorf("ratio %v: %d of %d were gets", ratio, gets, n)
		}
	}
}

func TestSequentialCoversAllKeys(t *testing.T) {
	c := config()
	c.KeyDistribution, c.Keys, c.Clients = Sequential, 10, 4
	if got := trace(c, 1, 3, false); got != "put k/00000000000002 2\nput k/00000000000003 3\nput k/00000000000004 4\n" {
		t.Errorf("client 1 of 4: %s", got)
	}
	s, seen := newWorkload(c).stream(3), map[int]int{}
	for range 2 * c.Keys {
		s.message()
		seen[s.index[0]]++
	}
	for k := range c.Keys {
		if seen[k] != 2 {
			t.Errorf("key %d came %d times in two rounds", k, seen[k])
		}
	}
}

// TestValuesDoNotCompress: neither one value, nor one after the other, nor those
// of two clients.
func TestValuesDoNotCompress(t *testing.T) {
	c := config()
	c.ValueSize = 1003 // not a multiple of a word
	var all bytes.Buffer
	z, err := flate.NewWriter(&all, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w, written := newWorkload(c), 0
	for client := range 2 {
		s := w.stream(client)
		for range 15 { // all within flate's window of 32 KiB
			n, err := z.Write(s.message()[0].Value)
			if err != nil {
				t.Fatal(err)
			}
			written += n
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if all.Len() < written {
		t.Errorf("%d bytes compress to %d", written, all.Len())
	}
}

func TestZipf(t *testing.T) {
	const n, draws = 1000, 400000
	z, r := newZipf(n), newRandom(1, 1)
	var count [n]float64
	for range draws {
		count[z.rank(&r)]++
	}
	var zeta, chi2 float64
	for i := range n {
		zeta += math.Pow(float64(i+1), -zipfTheta)
	}
	for i, c := range count {
		want := draws * math.Pow(float64(i+1), -zipfTheta) / zeta
		chi2 += (c - want) * (c - want) / want
	}
	// 999 degrees of freedom: mean 999, standard deviation 45.
	if chi2 > 999+4*45 {
		t.Errorf("chi squared %v; the hottest keys got %v", chi2, count[:5])
	}
}

func TestZipfSpreadsRanksOverAllKeys(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 997, 1000, 4096} {
		z, r, seen := newZipf(n), newRandom(1, 1), map[uint64]bool{}
		for rank := range uint64(n) {
			seen[z.key(rank)] = true
		}
		if len(seen) != n {
			t.Errorf("%d keys: only %d are reached", n, len(seen))
		}
		for range 100 {
			if k := z.key(z.rank(&r)); k >= uint64(n) {
				t.Errorf("%d keys: key %d", n, k)
			}
		}
	}
}

func TestRandomIsUniform(t *testing.T) {
	const buckets, draws = 16, 160000
	r := newRandom(7, 3)
	var count [buckets]float64
	for range draws {
		count[r.below(buckets)]++
	}
	chi2 := 0.0
	for _, c := range count {
		d := c - draws/buckets
		chi2 += d * d / (draws / buckets)
	}
	if chi2 > 44.3 { // 15 degrees of freedom, p = 0.0001
		t.Errorf("chi squared %v", chi2)
	}
}

func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{256, 1 << 20} {
		for _, distribution := range []string{Uniform, Zipf, Sequential} {
			b.Run(fmt.Sprintf("distribution=%s/value-size=%d", distribution, size), func(b *testing.B) {
				c := config()
				c.Keys, c.ValueSize, c.KeyDistribution = 100000, size, distribution
				s := newWorkload(c).stream(0)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					s.message()
				}
			})
		}
	}
}
