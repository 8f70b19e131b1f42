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

// complete keeps a message's completion, within the shard's share of
// Config.Completions. The shard's lock is held.
func (s *shard) complete(o *outcome, operations int64) {
	switch {
	case s.most == 0:
	case len(s.completions) < s.most:
		s.completions = append(s.completions, Completion{o.due, o.end, int(operations)})
	default:
		s.excess++
	}
}

// completions merges those of all shards, by their ends. complete is false when
// some were not kept.
func (r *recorder) completions() (all []Completion, complete bool) {
	complete = true
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all = append(all, s.completions...)
		complete = complete && s.excess == 0
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Completion) int { return cmp.Compare(a.End, b.End) })
	return all, complete
}
