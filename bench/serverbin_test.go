package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestShortNames(t *testing.T) {
	for _, tt := range [][2][]string{
		{{"bin/raftkv"}, {"raftkv"}},
		{{"/a/old/raftkv", "/a/new/raftkv"}, {"old", "new"}},
		{{"raftkv-1", "raftkv-2"}, {"raftkv-1", "raftkv-2"}},
		{{"/x/1/bin/raftkv", "/x/2/bin/raftkv"}, {"1", "2"}},
		{{"a/raftkv", "b/raftkv", "b/raftkv-slow"}, {"a_raftkv", "b_raftkv", "b_raftkv-slow"}},
		{{"raftkv", "old/raftkv"}, {"raftkv", "old_raftkv"}},
		{{"a/b/x", "c/b/x", "c/b_x"}, {"a/b/x", "c/b/x", "c/b_x"}},
	} {
		var got []string
		names := shortNames(tt[0])
		for _, path := range tt[0] {
			got = append(got, names[path])
		}
		if diff := cmp.Diff(tt[1], got); diff != "" {
			t.Errorf("%q: %s", tt[0], diff)
		}
	}
}

// TestShortNamesAreDifferent whatever the paths.
func TestShortNamesAreDifferent(t *testing.T) {
	path := rapid.StringMatching(`/?([ab_]{1,2}/){0,3}[ab_]{1,2}`)
	rapid.Check(t, func(t *rapid.T) {
		paths := rapid.SliceOfNDistinct(path, 1, 5, rapid.ID).Draw(t, "paths")
		names, seen := shortNames(paths), map[string]bool{}
		for _, p := range paths {
			if names[p] == "" || seen[names[p]] {
				t.Fatalf("%q: %q", paths, names)
			}
			seen[names[p]] = true
		}
	})
}

func TestServerBinAxis(t *testing.T) {
	e := parse(t, "name: x\nceiling: none\nfixed: {topology: processes}\nvary: {clients: [1, 2]}\nbaseline: {clients: 1}\n")
	if err := e.SetVary("server-bin", []string{"old/raftkv", "./new//raftkv"}); err != nil {
		t.Fatal(err)
	}
	m, err := Expand(e)
	if err != nil {
		t.Fatal(err)
	}
	want := `axes clients server-bin
v01 clients=1/server-bin=old baseline
v02 clients=1/server-bin=new against v01
v03 clients=2/server-bin=old baseline
v04 clients=2/server-bin=new against v03
v05 clients=1/server-bin=old/arm=aa aa against v01
`
	if diff := cmp.Diff(want, matrixText(m)); diff != "" {
		t.Error(diff)
	}
	if bin := m.Variants[1].Settings.Load.ServerBin; bin != "new/raftkv" || !m.Variants[1].Settings.StartsServer() {
		t.Errorf("starts %q", bin)
	}
	again := parse(t, e.YAML())
	if m, err = Expand(again); err != nil || matrixText(m) != want {
		t.Errorf("read back: %v\n%s", err, e.YAML())
	}
}

func TestServerBinFaults(t *testing.T) {
	e := parse(t, "name: x\n")
	if err := e.SetVary("server-bin", []string{"a", "./a"}); err == nil || err.Error() != "--vary server-bin: lists a twice" {
		t.Errorf("one program twice: %v", err)
	}
	if err := e.SetVary("server-bin", []string{"a", ""}); err == nil || err.Error() != "--vary server-bin: server-bin names no program" {
		t.Errorf("no program: %v", err)
	}
	if err := e.SetVary("server-bin", []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Expand(e); err == nil || err.Error() != "server-bin is an axis, but no variant starts a server; topology processes does" {
		t.Errorf("in one process: %v", err)
	}
}

// Builds are asked to do the same, whether they have a baseline or not: rates are
// shares of one build's closed loop, the baseline's or else the first.
func TestBuildsHaveOneRate(t *testing.T) {
	for baseline, build := range map[string]string{"": "a", "baseline: {clients: 1}\n": "a", "baseline: {server-bin: b}\n": "b"} {
		m, err := Expand(parse(t, "name: x\nceiling: none\nfixed: {topology: processes}\n"+
			"vary: {server-bin: [a, b], clients: [1, 2], rate-share: [0.1, 0.2]}\n"+baseline))
		if err != nil {
			t.Fatal(err)
		}
		loops := map[string]string{}
		for i := range m.Variants {
			v := &m.Variants[i]
			of := m.closedLoopOf(v)
			id := of.Settings.identity()
			if of.Settings.Load.ServerBin != build || loops[v.Params["clients"]] != "" && loops[v.Params["clients"]] != id {
				t.Errorf("%s%s: a share of the closed loop of %s", baseline, v.Name, id)
			}
			loops[v.Params["clients"]] = id
		}
	}
}
