package report

import (
	"slices"

	"raftlab/bench"
)

// mostChosen bounds how many variants a report shows in depth, so that it stays
// small enough to be read and sent.
const mostChosen = 6

// chosen are the IDs of the variants that a report shows in depth: for each answer
// in turn the best and the baseline that it is compared with, then the second best,
// and so on.
func (d *Data) chosen() []string {
	var ids []string
	add := func(id string) {
		i := slices.IndexFunc(d.Run.Variants, func(v bench.Variant) bool { return v.ID == id && v.Role == bench.RoleMeasured })
		if i >= 0 && len(ids) < mostChosen && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for round := range mostChosen {
		for _, a := range d.Summary.Answers {
			if round < len(a.Best) {
				add(a.Best[round])
				add(d.against(a.Best[round]))
			}
		}
	}
	if len(ids) == 0 {
		for _, v := range d.Run.Variants {
			add(v.ID)
		}
	}
	return ids
}

// against is the ID of the baseline that a variant is compared with; empty when
// there is none.
func (d *Data) against(id string) string { return d.variant(id).Against }

// variant finds one by its ID.
func (d *Data) variant(id string) bench.Variant {
	i := slices.IndexFunc(d.Run.Variants, func(v bench.Variant) bool { return v.ID == id })
	if i < 0 {
		return bench.Variant{ID: id}
	}
	return d.Run.Variants[i]
}
