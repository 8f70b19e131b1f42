package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"raftlab/bench/load"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// With stages-slice a trial's window is divided into slices in which the nodes
// measure stages and do not, so that the two are compared within one cluster and
// within moments of each other. Two trials differ by far more than measuring costs.

// Slice is a part of a window in which stages were measured throughout, or not at
// all.
type Slice struct {
	OffsetS    float64 `json:"offset_s"` // from the start of the window
	LengthS    float64 `json:"length_s"`
	Stages     bool    `json:"stages"` // whether they were measured
	Operations uint64  `json:"operations"`
}

const (
	minSlice = 40 * time.Millisecond
	maxSlice = time.Minute
	// sliceParts are the intervals of the time series in a slice. The first is left
	// out: in it the nodes are told.
	sliceParts = 4
)

// validateSlice refuses slices that tell nothing.
func validateSlice(slice time.Duration) error {
	switch {
	case slice != 0 && slice < minSlice:
		return fmt.Errorf("stages-slice %v is below the minimum %v (0: none)", slice, minSlice)
	case slice > maxSlice:
		return fmt.Errorf("stages-slice %v exceeds the maximum %v", slice, maxSlice)
	}
	return nil
}

// checkSlices refuses windows without room for a pair of slices.
func checkSlices(variants []Planned, window time.Duration) error {
	for i := range variants {
		if slice := variants[i].Settings.Load.StagesSlice; 2*slice > window {
			return usagef("stages-slice %v does not fit twice into a window of %v", slice, window)
		}
	}
	return nil
}

// sliceOrder says in which of n slices stages are measured: in one of each pair,
// which of the two is decided by the seed, so that nothing that comes and goes with
// the slices counts for one side only. n is rounded down to pairs.
func sliceOrder(seed uint64, n int) []bool {
	r := rand.New(rand.NewPCG(seed, sliceStream)) //nolint:gosec // a schedule, not a secret
	var order []bool
	for range n / 2 {
		first := r.IntN(2) == 0
		order = append(order, first, !first)
	}
	return order
}

// sliceStream keeps the order of slices apart from what else a seed decides.
const sliceStream = 0x51ce

// switcher switches the measuring of stages as a window goes by; nil does not.
type switcher struct {
	slice time.Duration
	order []bool
	queue chan bool // room for the whole order
	done  chan struct{}
	err   error // once done
}

// newSwitcher begins to switch; end it with finish. set tells all nodes.
func newSwitcher(slice, window time.Duration, seed uint64, set func(on bool) error) *switcher {
	s := &switcher{slice: slice, order: sliceOrder(seed, int(window/slice)), done: make(chan struct{})}
	s.queue = make(chan bool, len(s.order))
	go func() {
		defer close(s.done)
		for on := range s.queue {
			s.err = errors.Join(s.err, set(on))
		}
	}()
	return s
}

// part is the length of an interval of the time series.
func (s *switcher) part() time.Duration { return s.slice / sliceParts }

// at tells that the window has come to an offset, the end of an interval. It does
// not wait for the nodes.
func (s *switcher) at(offset time.Duration) {
	if s == nil {
		return
	}
	if parts := int(offset / s.part()); offset >= 0 && parts%sliceParts == 0 && parts/sliceParts < len(s.order) {
		s.queue <- s.order[parts/sliceParts]
	}
}

// finish waits until the nodes have been told everything.
func (s *switcher) finish() error {
	if s == nil {
		return nil
	}
	close(s.queue)
	<-s.done
	return s.err
}

// slices are what was done in each, without its first part. One that lacks an
// interval is left out.
func (s *switcher) slices(intervals []load.Interval) []Slice {
	if s == nil {
		return nil
	}
	found := make([]Slice, len(s.order))
	parts := make([]int, len(s.order))
	for _, iv := range intervals {
		k, part := int(iv.Offset/s.part())/sliceParts, int(iv.Offset/s.part())%sliceParts
		if iv.Warmup || iv.Offset < 0 || k >= len(found) || part == 0 {
			continue
		}
		parts[k]++
		found[k].Operations += iv.Operations
		found[k].LengthS += iv.Length.Seconds()
	}
	var out []Slice
	for k := range found {
		if parts[k] == sliceParts-1 {
			found[k].Stages, found[k].OffsetS = s.order[k], (time.Duration(k)*s.slice + s.part()).Seconds()
			out = append(out, found[k])
		}
	}
	return out
}

// slicePairs returns the throughput with and without stages of neighbouring slices.
func slicePairs(slices []Slice) (on, off []float64) {
	for i := 0; i+1 < len(slices); i++ {
		a, b := slices[i], slices[i+1]
		if a.Stages == b.Stages || a.LengthS == 0 || b.LengthS == 0 || b.OffsetS-a.OffsetS > 1.5*sliceParts/(sliceParts-1)*a.LengthS {
			continue
		}
		if b.Stages {
			a, b = b, a
		}
		on, off = append(on, float64(a.Operations)/a.LengthS), append(off, float64(b.Operations)/b.LengthS)
		i++ // each slice is of one pair
	}
	return on, off
}

// setStages tells all nodes of a trial's cluster whether to measure.
func (p *probe) setStages(ctx context.Context, on bool) error {
	nodes := p.cluster.Nodes()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		if local := n.Local(); local != nil {
			local.SetStages(on)
			continue
		}
		conn := p.conns[nodeName(n.ID)]
		if conn == nil {
			errs[i] = fmt.Errorf("stages-slice: node %d has no debug port", n.ID)
			continue
		}
		wg.Go(func() {
			if _, err := labv1.NewLabClient(conn).SetStages(ctx, &labv1.SetStagesRequest{On: on}); err != nil {
				errs[i] = fmt.Errorf("stages-slice: node %d: %w", n.ID, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
