package load

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Sizes says how many bytes each of many things has: all the same, any number of
// a range alike, or those of a table by their weights. It is not changed once
// made, and may be shared. The zero value is 0 bytes.
type Sizes struct {
	least, most int
	table       *sizeTable // nil without weights
}

// SizeWeight is a line of a table: of so many bytes there are Weight in the sum
// of all weights.
type SizeWeight struct {
	Bytes  int     `json:"bytes"`
	Weight float64 `json:"weight"`
}

type sizeTable struct {
	bytes []int
	upTo  []float64 // sum of the weights so far
}

// FixedSize is always n bytes.
func FixedSize(n int) Sizes { return Sizes{least: n, most: n} }

// SizeRange is from least to most bytes, both included, all alike.
func SizeRange(least, most int) Sizes { return Sizes{least: least, most: most} }

// WeightedSizes are the sizes of a table. It refuses a table without a line, and
// weights that are not above 0.
func WeightedSizes(table []SizeWeight) (Sizes, error) {
	if len(table) == 0 {
		return Sizes{}, fmt.Errorf("sizes: the table is empty")
	}
	s := Sizes{least: table[0].Bytes, most: table[0].Bytes, table: &sizeTable{}}
	sum := 0.0
	for _, line := range table {
		if !(line.Weight > 0) || math.IsInf(sum+line.Weight, 0) {
			return Sizes{}, fmt.Errorf("sizes: weight %v of %d bytes is not a number above 0", line.Weight, line.Bytes)
		}
		sum += line.Weight
		s.least, s.most = min(s.least, line.Bytes), max(s.most, line.Bytes)
		s.table.bytes = append(s.table.bytes, line.Bytes)
		s.table.upTo = append(s.table.upTo, sum)
	}
	return s, nil
}

// Least is the smallest size that there is.
func (s Sizes) Least() int { return s.least }

// Most is the largest size that there is.
func (s Sizes) Most() int { return s.most }

// Fixed tells whether all sizes are one.
func (s Sizes) Fixed() bool { return s.least == s.most }

// Mean is the size to be expected.
func (s Sizes) Mean() float64 {
	if s.table == nil {
		return (float64(s.least) + float64(s.most)) / 2
	}
	sum, before := 0.0, 0.0
	for i, upTo := range s.table.upTo {
		sum += float64(s.table.bytes[i]) * (upTo - before)
		before = upTo
	}
	return sum / before
}

// AtLeast has the same sizes, those below n raised to it.
func (s Sizes) AtLeast(n int) Sizes {
	if s.table != nil {
		table := &sizeTable{bytes: slices.Clone(s.table.bytes), upTo: s.table.upTo}
		for i := range table.bytes {
			table.bytes[i] = max(table.bytes[i], n)
		}
		s.table = table
	}
	s.least, s.most = max(s.least, n), max(s.most, n)
	return s
}

// String shows the bounds.
func (s Sizes) String() string {
	switch {
	case s.Fixed():
		return strconv.Itoa(s.least)
	case s.table != nil:
		return fmt.Sprintf("%d..%d by weight", s.least, s.most)
	}
	return fmt.Sprintf("%d..%d", s.least, s.most)
}

// draw picks a size. One that is fixed takes no random number.
func (s *Sizes) draw(r *random) int {
	switch {
	case s.Fixed():
		return s.least
	case s.table == nil:
		return s.least + int(r.below(uint64(s.most-s.least)+1))
	}
	t := s.table
	x := r.float() * t.upTo[len(t.upTo)-1]
	i, exact := slices.BinarySearch(t.upTo, x)
	if exact {
		i++ // x belongs to the line that begins with it
	}
	return t.bytes[min(i, len(t.bytes)-1)]
}
