package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"raftlab/bench/load"
	"raftlab/kv/node"
)

// Sizes is the form in which experiments state sizes: one such as 256, a range
// such as 64..4KiB, whose sizes are all alike, or a file such as @sizes.txt,
// with a size and its weight on each line. A file's way is from where the program
// was started; run.json holds what stood in it.
type Sizes struct {
	load.Sizes
	text string // canonical
	// table is what stands in the file; nil without one.
	table []load.SizeWeight
}

// Bounds of a file of sizes.
const (
	maxSizeBytes = 64 << 10
	maxWeight    = 1e12
)

func fixedSize(n int) Sizes {
	return Sizes{Sizes: load.FixedSize(n), text: node.Size(n).String()}
}

// String is what UnmarshalText reads back: 1MiB for 1024KiB.
func (s Sizes) String() string { return s.text }

// Type names the forms, for help texts.
func (s Sizes) Type() string { return "SIZE|SIZE..SIZE|@FILE" }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sizes) UnmarshalText(text []byte) (err error) {
	given := string(text)
	if file, ok := strings.CutPrefix(given, "@"); ok {
		*s, err = readSizes(file)
		return err
	}
	low, high, isRange := strings.Cut(given, "..")
	if !isRange {
		high = low
	}
	least, lowErr := node.ParseSize(low)
	most, highErr := node.ParseSize(high)
	switch {
	case lowErr != nil || highErr != nil:
		return errors.New("is not a size such as 512 or 64KiB, a range such as 64..4KiB, nor a file such as @sizes.txt")
	case least > most:
		return fmt.Errorf("is no range: %s exceeds %s", least, most)
	case least == most:
		*s = fixedSize(int(least))
	default:
		*s = Sizes{Sizes: load.SizeRange(int(least), int(most)), text: least.String() + ".." + most.String()}
	}
	return nil
}

// readSizes reads a file of sizes.
func readSizes(file string) (Sizes, error) {
	f, err := os.Open(file) //nolint:gosec // the user's own file
	if err != nil {
		return Sizes{}, fmt.Errorf("cannot be read: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSizeBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return Sizes{}, fmt.Errorf("cannot be read: %w", err)
	}
	table, err := parseSizes(string(text), file)
	if err != nil {
		return Sizes{}, fmt.Errorf("cannot be used: %w", err)
	}
	sizes, err := load.WeightedSizes(table)
	if err != nil {
		return Sizes{}, fmt.Errorf("cannot be used: %s: %w", file, err)
	}
	return Sizes{Sizes: sizes, text: "@" + file, table: table}, nil
}

// parseSizes reads lines of a size and a weight. What follows a # is a comment.
// Errors name the file and the line.
func parseSizes(text, file string) ([]load.SizeWeight, error) {
	if len(text) > maxSizeBytes {
		return nil, fmt.Errorf("%s exceeds the limit of %s", file, node.Size(maxSizeBytes))
	}
	var table []load.SizeWeight
	first := map[node.Size]int{} // line of each size
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %s", file, i+1, fmt.Sprintf(format, args...))
		}
		if len(fields) != 2 {
			return nil, fail("%q is not a size and a weight", strings.TrimSpace(line))
		}
		size, err := node.ParseSize(fields[0])
		if err != nil {
			return nil, fail("size %q is not a size such as 512 or 64KiB", fields[0])
		}
		weight, err := strconv.ParseFloat(fields[1], 64)
		if err != nil || !(weight > 0 && weight <= maxWeight) {
			return nil, fail("weight %q is not a number above 0, at most %g", fields[1], maxWeight)
		}
		if before, ok := first[size]; ok {
			return nil, fail("size %s stands on line %d already", size, before)
		}
		first[size] = i + 1
		table = append(table, load.SizeWeight{Bytes: int(size), Weight: weight})
	}
	if len(table) == 0 {
		return nil, fmt.Errorf("%s has no line with a size and a weight", file)
	}
	return table, nil
}

// within refuses sizes beyond the limits of a field.
func (s Sizes) within(key string, least, most int) error {
	if s.Least() < least {
		return fmt.Errorf("%s %s is below the minimum %s", key, s.bound(s.Least()), node.Size(least))
	}
	if s.Most() > most {
		return fmt.Errorf("%s %s exceeds the maximum %s", key, s.bound(s.Most()), node.Size(most))
	}
	return nil
}

// bound names one of the sizes, and where it is from.
func (s Sizes) bound(n int) string {
	if s.Fixed() {
		return s.text
	}
	return fmt.Sprintf("%s of %s", node.Size(n), s.text)
}

// sizeFiles are the files of sizes that variants use, by name.
func sizeFiles(variants []Planned) map[string][]load.SizeWeight {
	files := map[string][]load.SizeWeight{}
	for i := range variants {
		l := &variants[i].Settings.Load
		for _, s := range []Sizes{l.ValueSize, l.KeySize} {
			if s.table != nil {
				files[strings.TrimPrefix(s.text, "@")] = s.table
			}
		}
	}
	return files
}
