package check

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/anishathalye/porcupine"

	"raftlab/bench/load"
)

// Result is what Histories finds.
type Result struct {
	Keys       int
	Operations int // that were recorded
	Unanswered int // among them
	// Violated are the histories, by their place, that no order of their operations
	// explains. Undecided are those for which there was no time: nothing is known.
	Violated, Undecided []int
}

// Histories checks histories one by one, for so long in all.
func Histories(all []load.History, limit time.Duration) Result {
	r := Result{Keys: len(all)}
	deadline := time.Now().Add(limit)
	for i, h := range all {
		r.Operations += len(h.Accesses)
		for _, a := range h.Accesses {
			if a.Return == load.Never {
				r.Unanswered++
			}
		}
		left := time.Until(deadline)
		if left <= 0 { // 0 would be for ever
			r.Undecided = append(r.Undecided, i)
			continue
		}
		switch porcupine.CheckOperationsTimeout(model, operations(h), left) {
		case porcupine.Illegal:
			r.Violated = append(r.Violated, i)
		case porcupine.Unknown:
			r.Undecided = append(r.Undecided, i)
		case porcupine.Ok:
		}
	}
	return r
}

// How long a picture may look for the longest order that explains a part.
const pictureTime = 5 * time.Second

// Picture writes porcupine's picture of a history, a page of HTML in which the
// longest orders that explain a part of it can be seen.
func Picture(w io.Writer, h load.History) error {
	_, info := porcupine.CheckOperationsVerbose(model, operations(h), pictureTime)
	return porcupine.Visualize(model, info, w)
}

// savedOperation is an operation as Save writes it. Times are in nanoseconds from
// the window's start.
type savedOperation struct {
	Client   int    `json:"client"`
	Op       string `json:"op"`
	CallNs   int64  `json:"call_ns"`
	ReturnNs *int64 `json:"return_ns"` // null without an answer
	Revision uint64 `json:"revision,omitempty"`
	Found    bool   `json:"found,omitempty"`
	Value    string `json:"value,omitempty"` // its FNV-1a hash
}

// Save writes a history as JSON; key is the key's name.
func Save(w io.Writer, key string, h load.History) error {
	saved := struct {
		Key   string `json:"key"`
		CutNs *int64 `json:"cut_ns"` // null when nothing is missing
		// Operations in the order in which they were called.
		Operations []savedOperation `json:"operations"`
	}{Key: key}
	if h.Cut != load.Never {
		saved.CutNs = new(int64(h.Cut))
	}
	for _, a := range h.Accesses {
		op := savedOperation{Client: a.Client, Op: a.Kind.String(), CallNs: int64(a.Call), Revision: a.Revision, Found: a.Found}
		if a.Return != load.Never {
			op.ReturnNs = new(int64(a.Return))
		}
		if a.Value != 0 {
			op.Value = fmt.Sprintf("%016x", a.Value)
		}
		saved.Operations = append(saved.Operations, op)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(saved)
}
