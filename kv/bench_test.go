package kv

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// The size that the figures are quoted for: keys of 16 bytes, values of 256.
const benchValue = 256

func benchKey(i int) []byte { return fmt.Appendf(nil, "key-%012d", i) }

// benchStore holds n keys, written in random order as a load would.
func benchStore(b *testing.B, n int, order []int) *Store {
	b.Helper()
	s := NewStore()
	value := make([]byte, benchValue)
	var results []Result
	index := uint64(0)
	for chunk := range slices.Chunk(order[:n], 64) {
		data := AppendHeader(nil, EntryHeader{Node: 1})
		for _, i := range chunk {
			data = AppendCommand(data, &Command{Kind: KindPut, Key: benchKey(i), Value: value})
		}
		index++
		var err error
		if results, err = s.Apply(index, 1, data, results[:0]); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

func random(n int) []int { return rand.New(rand.NewPCG(1, 2)).Perm(n) }

func sequential(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

// latencies holds the last ones measured, so that a run of any length costs the
// same, and reports their percentiles beside the rate.
type latencies struct {
	last [1 << 16]time.Duration
	n    int
}

func (l *latencies) since(start time.Time) {
	l.last[l.n%len(l.last)] = time.Since(start)
	l.n++
}

func (l *latencies) report(b *testing.B, ops int) {
	b.Helper()
	b.ReportMetric(float64(ops)*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	d := l.last[:min(l.n, len(l.last))]
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2]), "p50-latency-ns")
	b.ReportMetric(float64(d[len(d)*99/100]), "p99-latency-ns")
}

// An entry of puts over 100,000 keys; the latency is an entry's. With views,
// one is taken before every 1,000th entry and held until the next.
func BenchmarkApplyPut(b *testing.B) {
	const keys = 100_000
	for _, c := range []struct {
		name   string
		packed int
		views  bool
	}{{"packed=1", 1, false}, {"packed=64", 64, false}, {"packed=64/views", 64, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := benchStore(b, keys, random(keys))
			rnd := rand.New(rand.NewPCG(3, 4))
			entries := make([][]byte, 1024)
			value := make([]byte, benchValue)
			for i := range entries {
				entries[i] = AppendHeader(nil, EntryHeader{Node: 1})
				for range c.packed {
					entries[i] = AppendCommand(entries[i], &Command{Kind: KindPut, Key: benchKey(rnd.IntN(keys)), Value: value})
				}
			}
			index := s.State().Index
			var results []Result
			var view *View
			var l latencies
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if c.views && i%1000 == 0 {
					view = s.View()
				}
				index++
				start := time.Now()
				var err error
				if results, err = s.Apply(index, 1, entries[i%len(entries)], results[:0]); err != nil {
					b.Fatal(err)
				}
				l.since(start)
			}
			runtime.KeepAlive(view)
			l.report(b, c.packed)
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, keys := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			s := benchStore(b, keys, random(keys))
			wanted := make([][]byte, 4096)
			rnd := rand.New(rand.NewPCG(3, 4))
			for i := range wanted {
				wanted[i] = benchKey(rnd.IntN(keys))
			}
			var l latencies
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				start := time.Now()
				if _, _, found := s.Get(wanted[i%len(wanted)]); !found {
					b.Fatal("a key is missing")
				}
				l.since(start)
			}
			l.report(b, 1)
		})
	}
}

// A page of 1,000 keys, with its view.
func BenchmarkScan(b *testing.B) {
	const keys, page = 100_000, 1000
	s := benchStore(b, keys, random(keys))
	starts := random(keys - page)
	var l latencies
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		n, size := 0, 0
		s.View().Scan(benchKey(starts[i%len(starts)]), nil, func(it Item) bool {
			n++
			size += len(it.Value)
			return n < page
		})
		if size != page*benchValue {
			b.Fatalf("%d bytes", size)
		}
		l.since(start)
	}
	l.report(b, 1)
}

func BenchmarkWriteSnapshot(b *testing.B) {
	const keys = 100_000
	view := benchStore(b, keys, random(keys)).View()
	var buf bytes.Buffer
	if err := WriteSnapshot(&buf, view); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(buf.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if err := WriteSnapshot(io.Discard, view); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(keys*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

// In pieces of 64 KiB, as they come off a stream.
func BenchmarkDecodeSnapshot(b *testing.B) {
	const keys = 100_000
	data := snapshotOf(b, benchStore(b, keys, random(keys)).View())
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(data, 64<<10); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(keys*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}

func BenchmarkHash(b *testing.B) {
	const keys = 100_000
	view := benchStore(b, keys, random(keys)).View()
	b.SetBytes(keys * (16 + benchValue))
	for b.Loop() {
		view.Hash()
	}
}

func BenchmarkDecodeEntry(b *testing.B) {
	for _, packed := range []int{1, 64} {
		b.Run(fmt.Sprintf("packed=%d", packed), func(b *testing.B) {
			data := AppendHeader(nil, EntryHeader{Node: 1, Sequence: 1})
			for i := range packed {
				data = AppendCommand(data, &Command{Kind: KindPut, Key: benchKey(i), Value: make([]byte, benchValue)})
			}
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				if _, err := DecodeEntry(data, func(*Command) { n++ }); err != nil || n != packed {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(packed)*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

// Heap a key after a collection, with 1,000,000 keys: run it with
// -benchtime=1x. The budget is 450 bytes a key.
func BenchmarkStoreMemory(b *testing.B) {
	const keys = 1_000_000
	heap := func() float64 {
		runtime.GC()
		runtime.GC() // what finalizers and pools let go of
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	fill := func(name string, order []int, restore bool) {
		b.Run(name, func(b *testing.B) {
			var perKey float64
			for b.Loop() {
				before := heap()
				s := benchStore(b, keys, order)
				var data bytes.Buffer
				if restore {
					if err := WriteSnapshot(&data, s.View()); err != nil {
						b.Fatal(err)
					}
					s = nil
					before = heap()
					view, err := decode(data.Bytes(), 64<<10)
					if err != nil {
						b.Fatal(err)
					}
					s = NewStore()
					s.Restore(view)
				}
				perKey = (heap() - before) / keys
				runtime.KeepAlive(s)
				runtime.KeepAlive(order)
				runtime.KeepAlive(&data)
			}
			b.ReportMetric(perKey, "B/key")
		})
	}
	fill("order=sequential", sequential(keys), false)
	fill("order=random", random(keys), false)
	fill("order=restored", sequential(keys), true)
}
