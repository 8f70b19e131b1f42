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
	for _, distribution := range Distributions() {
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
		d.ValueSize = SizeRange(900, 1000)
		if trace(d, 2, 100, false) != trace(c, 2, 100, false) {
			t.Errorf("%s: the keys depend on the size of the values", distribution)
		}
	}
}

func TestMessageKeysMatchTheirIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Clients: rapid.IntRange(1, 9).Draw(t, "clients"), OpsPerMessage: rapid.IntRange(1, 5).Draw(t, "ops"),
			Keys: rapid.IntRange(1, 3000).Draw(t, "keys"), KeySize: sizes(6, 20).Draw(t, "key"), KeyPrefix: "k-",
			KeyDistribution: rapid.SampledFrom(Distributions()).Draw(t, "distribution"),
			ReadRatio:       rapid.Float64Range(0, 1).Draw(t, "ratio"), ValueSize: sizes(0, 40).Draw(t, "value"),
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
				if op.Kind == Put && (len(op.Value) < c.ValueSize.Least() || len(op.Value) > c.ValueSize.Most()) || op.Kind == Get && op.Value != nil {
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
	c.ValueSize = FixedSize(1003) // not a multiple of a word
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

func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{256, 1 << 20} {
		for _, distribution := range Distributions() {
			b.Run(fmt.Sprintf("distribution=%s/value-size=%d", distribution, size), func(b *testing.B) {
				c := config()
				c.Keys, c.ValueSize, c.KeyDistribution = 100000, FixedSize(size), distribution
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
