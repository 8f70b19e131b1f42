package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"raftlab/bench/load"
)

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		given, canonical string
		least, most      int
	}{
		{"256", "256", 256, 256},
		{"1024KiB", "1MiB", 1 << 20, 1 << 20},
		{"64..4KiB", "64..4KiB", 64, 4096},
		{"1.5KiB..4096", "1536..4KiB", 1536, 4096},
		{"4KiB..4096", "4KiB", 4096, 4096},
		{"0..1", "0..1", 0, 1},
	} {
		var s Sizes
		if err := s.UnmarshalText([]byte(c.given)); err != nil {
			t.Errorf("%s: %v", c.given, err)
			continue
		}
		if s.String() != c.canonical || s.Least() != c.least || s.Most() != c.most {
			t.Errorf("%s: %s from %d to %d", c.given, s, s.Least(), s.Most())
		}
	}
	for given, want := range map[string]string{
		"many":     "is not a size such as 512 or 64KiB, a range such as 64..4KiB, nor a file such as @sizes.txt",
		"64..":     "is not a size",
		"..64":     "is not a size",
		"-1":       "is not a size",
		"64..1..2": "is not a size",
		"4KiB..64": "is no range: 4KiB exceeds 64",
		"@nowhere": "cannot be read: open nowhere: no such file",
		"@":        "cannot be read",
		"@" + "/":  "cannot be read",
	} {
		var s Sizes
		if err := s.UnmarshalText([]byte(given)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", given, err, want)
		}
	}
}

// What a range prints is what it was read from.
func TestSizesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.IntRange(0, 1<<30).Draw(t, "a"), rapid.IntRange(0, 1<<30).Draw(t, "b")
		one := Sizes{Sizes: load.SizeRange(min(a, b), max(a, b))}
		var s, again Sizes
		if err := s.UnmarshalText([]byte(one.Sizes.String())); err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again.String() != s.String() {
			t.Fatalf("%s became %s: %v", s, again, err)
		}
		if again.Least() != min(a, b) || again.Most() != max(a, b) {
			t.Fatalf("%d to %d became %s", a, b, again)
		}
	})
}

func TestParseSizes(t *testing.T) {
	table, err := parseSizes("# of one day\n\n 128  3 # small\r\n4KiB\t0.5\n", "s.txt")
	if err != nil || len(table) != 2 || table[0] != (load.SizeWeight{Bytes: 128, Weight: 3}) || table[1] != (load.SizeWeight{Bytes: 4096, Weight: 0.5}) {
		t.Errorf("%v, %v", table, err)
	}
	for text, want := range map[string]string{
		"":                    "s.txt has no line with a size and a weight",
		"# nothing\n":         "s.txt has no line",
		"128\n":               `s.txt:1: "128" is not a size and a weight`,
		"1 1\n\n1 2 3 # x\n":  `s.txt:3: "1 2 3" is not a size and a weight`,
		"1 1\n10XB 1\n":       `s.txt:2: size "10XB" is not a size such as 512 or 64KiB`,
		"1 1\n2 none\n":       `s.txt:2: weight "none" is not a number above 0`,
		"1 0\n":               `s.txt:1: weight "0" is not a number above 0`,
		"1 -2\n":              `s.txt:1: weight "-2" is not`,
		"1 NaN\n":             `s.txt:1: weight "NaN" is not`,
		"1 Inf\n":             `s.txt:1: weight "Inf" is not`,
		"1KiB 1\n2 1\n1024 1": `s.txt:3: size 1KiB stands on line 1 already`,
		strings.Repeat("# a long story\n", maxSizeBytes): "s.txt exceeds the limit of 64KiB",
	} {
		if _, err := parseSizes(text, "s.txt"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}

// TestSizesOfExperiment: names, the record and the checks of a variant follow
// from the sizes it was given.
func TestSizesOfExperiment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sizes.txt")
	if err := os.WriteFile(file, []byte("64 9\n1MiB 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := parse(t, "name: x\nfixed: {key-size: 16..64, chunking: none, max-message: 512KiB}\nvary: {value-size: [256, 64..1KiB, '@"+file+"']}\nceiling: none\n")
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Variants) != 2 || m.Variants[1].Name != "value-size=64..1KiB" || m.Variants[1].Config["key-size"] != "16..64" {
		t.Errorf("variants %+v", m.Variants)
	}
	// The largest value is what has to pass.
	if len(m.Skipped) != 1 || !strings.Contains(m.Skipped[0].Reason, "value-size @"+file+" makes an entry larger than chunking none") {
		t.Errorf("skipped %+v", m.Skipped)
	}
	if files := sizeFiles(m.Variants); len(files) != 0 {
		t.Errorf("files of no variant: %v", files)
	}
	if err := e.Set("chunking", "fragment"); err != nil {
		t.Fatal(err)
	}
	if m, err = Expand(e); err != nil {
		t.Fatal(err)
	}
	if files := sizeFiles(m.Variants); len(files) != 1 || len(files[file]) != 2 || files[file][1].Bytes != 1<<20 {
		t.Errorf("files: %v", files)
	}
	if again, err := Parse([]byte(e.YAML()), "again.yaml"); err != nil || again.YAML() != e.YAML() {
		t.Errorf("its YAML is not read back: %v", err)
	}
}

func TestThinkTime(t *testing.T) {
	e := parse(t, "name: x\nfixed: {think-time: 5ms}\nvary: {rate: [auto, 100]}\n")
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Skipped) != 1 || m.Skipped[0].Reason != "think-time 5ms has no meaning with rate 100, which a clock keeps" {
		t.Errorf("skipped %+v", m.Skipped)
	}
	for _, v := range m.Variants {
		want := "5ms"
		if v.Role == RoleCeiling {
			want = "0s" // a ceiling is as high as can be
		}
		if v.Config["think-time"] != want {
			t.Errorf("%s has think-time %s", v.Name, v.Config["think-time"])
		}
	}
}
