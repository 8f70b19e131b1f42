package kv

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// The order of slots is that of their keys, whatever is in the prefix.
func TestSlotOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few different bytes, so that keys share prefixes and end in zeros.
		key := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 1, 255}), 0, 20)
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		if rapid.Bool().Draw(t, "related") {
			b = append(bytes.Clone(a), b...)
		}
		if got, want := slotLess(slotOf(&record{head: a}), slotOf(&record{head: b})), bytes.Compare(a, b) < 0; got != want {
			t.Fatalf("slotLess(%x, %x) is %v", a, b, got)
		}
	})
}
