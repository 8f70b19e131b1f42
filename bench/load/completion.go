package load

import (
	"cmp"
	"slices"
	"time"
)

// Completion is one message with operations that were acknowledged and count.
// Times are from the window's start; in a closed loop Due is when it was sent, and
// may be negative.
type Completion struct {
	Due, End   time.Duration
	Operations int
}

// Response is the response time of each of its operations.
func (c Completion) Response() time.Duration { return c.End - c.Due }

// completionChunk is how many are allocated at a time: a slice that grows would be
// copied while clients wait.
const completionChunk = 4096

// completions keeps what befell a shard's messages, at most so many.
type completions struct {
	most, kept, excess int
	chunks             [][]Completion
}

func (c *completions) add(done Completion) {
	switch {
	case c.most == 0:
		return
	case c.kept == c.most:
		c.excess++
		return
	case c.kept%completionChunk == 0:
		c.chunks = append(c.chunks, make([]Completion, 0, completionChunk))
	}
	last := &c.chunks[len(c.chunks)-1]
	*last = append(*last, done)
	c.kept++
}

// completions merges those of all shards, by their ends. complete is false when
// some were not kept.
func (r *recorder) completions() (all []Completion, complete bool) {
	complete = true
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all = append(all, slices.Concat(s.completions.chunks...)...)
		complete = complete && s.completions.excess == 0
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Completion) int { return cmp.Compare(a.End, b.End) })
	return all, complete
}
