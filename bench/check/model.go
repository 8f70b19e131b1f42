package check

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"

	"raftlab/bench/load"
)

// state is a key at a moment. The zero state is that before the first operation,
// of which nothing is known: the key may be there or not.
type state struct {
	// revision is the key's, 0 for a key that is not there; or, unless exact, the
	// least that it can be.
	revision uint64
	exact    bool
	value    uint64 // load.HashValue; 0 when not known
}

// answer is what an operation returned with; known is false for a write without
// an answer.
type answer struct {
	known    bool
	found    bool
	revision uint64
	value    uint64
}

// input is an operation as it was called.
type input struct {
	kind  load.Kind
	value uint64 // of a put
}

// step applies an operation to a state, unless that cannot have had the answer.
func (s state) step(in input, out answer) (bool, state) {
	switch {
	case in.kind == load.Put && out.known:
		return out.revision > s.revision, state{out.revision, true, in.value}
	case in.kind == load.Put:
		return true, state{s.revision + 1, false, in.value}
	case !out.found:
		return s.revision == 0, state{exact: true}
	}
	sameRevision := out.revision == s.revision || !s.exact && out.revision > s.revision
	sameValue := s.value == 0 || out.value == 0 || out.value == s.value
	after := state{out.revision, true, s.value}
	if after.value == 0 {
		after.value = out.value
	}
	return out.revision > 0 && sameRevision && sameValue, after
}

var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) { return s.(state).step(in.(input), out.(answer)) },
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(answer)
		switch {
		case i.kind == load.Put && o.known:
			return fmt.Sprintf("put %s: revision %d", short(i.value), o.revision)
		case i.kind == load.Put:
			return fmt.Sprintf("put %s: no answer", short(i.value))
		case !o.found:
			return "get: no such key"
		}
		return fmt.Sprintf("get: %s of revision %d", short(o.value), o.revision)
	},
	DescribeState: func(s any) string {
		st := s.(state)
		switch {
		case st == state{}:
			return "unknown"
		case st.exact && st.revision == 0:
			return "no such key"
		case !st.exact:
			return fmt.Sprintf("%s of revision %d or later", short(st.value), st.revision)
		}
		return fmt.Sprintf("%s of revision %d", short(st.value), st.revision)
	},
}

// short is a value's hash as pictures show it.
func short(hash uint64) string {
	if hash == 0 {
		return "?"
	}
	return fmt.Sprintf("%04x", hash>>48)
}

// operations are a history's as porcupine takes them. Of a history that was cut,
// what returned after the cut may have met operations that are not in it: its writes
// count as unanswered and its gets for nothing.
func operations(h load.History) []porcupine.Operation {
	var last time.Duration
	for _, a := range h.Accesses {
		last = max(last, a.Call)
		if a.Return != load.Never {
			last = max(last, a.Return)
		}
	}
	var all []porcupine.Operation
	for _, a := range h.Accesses {
		known := a.Return != load.Never && a.Return < h.Cut
		if !known && a.Kind == load.Get {
			continue
		}
		op := porcupine.Operation{
			ClientId: a.Client, Input: input{a.Kind, 0}, Call: int64(a.Call), Return: int64(a.Return),
			Output: answer{known: known, found: a.Found, revision: a.Revision, value: a.Value},
		}
		if a.Kind == load.Put {
			op.Input = input{a.Kind, a.Value}
		}
		if !known {
			op.Return, op.Output = int64(last)+1, answer{}
		}
		all = append(all, op)
	}
	return all
}
