package bench

import (
	"path/filepath"
	"slices"
	"strings"
)

// serverBinKey is the field that names the raftkv to start, so that builds of it
// can be compared.
const serverBinKey = "server-bin"

// StartsServer tells whether a variant starts a raftkv of its own.
func (s *Settings) StartsServer() bool { return s.reads(serverBinKey) }

// setServerBaseline makes the first of several builds what verdicts compare with:
// who compares builds asks that, and no longer what the experiment asked.
func (e *Experiment) setServerBaseline(builds []string) {
	e.Baseline = []Field{{serverBinKey, builds[0]}}
}

// serverBins are the programs that an experiment names, each once.
func (e *Experiment) serverBins() []string {
	var bins []string
	add := func(key string, values ...string) {
		for _, v := range values {
			if key == serverBinKey && v != "" && !slices.Contains(bins, v) {
				bins = append(bins, v)
			}
		}
	}
	for _, f := range slices.Concat(e.Fixed, e.Baseline) {
		add(f.Key, f.Value)
	}
	for _, axis := range e.Vary {
		for _, f := range slices.Concat(axis.Values...) {
			add(f.Key, f.Value)
		}
	}
	for _, arm := range e.Arms {
		for _, f := range arm {
			add(f.Key, f.Values...)
		}
	}
	return bins
}

// shortNames are what tells paths apart: their last elements, as many as are
// needed, joined by underscores. Elements that all paths end in are left out, so
// old/raftkv and new/raftkv are old and new.
func shortNames(paths []string) map[string]string {
	elements := make([][]string, len(paths))
	for i, p := range paths {
		elements[i] = strings.Split(strings.TrimPrefix(filepath.ToSlash(p), "/"), "/")
	}
	for len(paths) > 1 && sameEnd(elements) {
		for i, e := range elements {
			elements[i] = e[:len(e)-1]
		}
	}
	names := map[string]string{}
	for n := 1; ; n++ {
		taken := map[string]bool{}
		whole := true
		for i, e := range elements {
			names[paths[i]] = strings.Join(e[max(0, len(e)-n):], "_")
			taken[names[paths[i]]] = true
			whole = whole && len(e) <= n
		}
		if len(taken) == len(paths) {
			return names
		}
		if whole { // an underscore in a name looks like a joint
			for _, p := range paths {
				names[p] = p
			}
			return names
		}
	}
}

// sameEnd tells whether all have the same last element, and one before it.
func sameEnd(elements [][]string) bool {
	for _, e := range elements {
		if len(e) < 2 || e[len(e)-1] != elements[0][len(elements[0])-1] {
			return false
		}
	}
	return true
}
