package bench

// hopelessAfter is how many blocks in a row a variant may fail to do its work before
// it is not tried again. One alone is chance: an answer that came too late, or a port
// that somebody took.
const hopelessAfter = 2

// fitness is what a variant's measured trials, in the order in which they were done,
// tell of whether it can do the work at all.
type fitness struct {
	worked   bool   // in any
	failures int    // in a row
	hopeless bool   // for good: it is not tried again
	problem  string // why it could not, at last
}

// observe takes in the next trial.
func (f *fitness) observe(t *Trial) {
	if t.Viable {
		f.worked, f.failures = true, 0
		return
	}
	f.failures++
	if !f.hopeless {
		f.problem, f.hopeless = t.Problem, f.failures >= hopelessAfter
	}
}

// able tells whether the variant can do the work: unless it is hopeless, or never
// did. Blocks in which it could are told all the same.
func (f fitness) able() bool { return !f.hopeless && (f.worked || f.failures == 0) }

// fitness of all variants, by ID.
func (r *Run) fitness() map[string]fitness {
	all := map[string]fitness{}
	for i := range r.Trials {
		if t := &r.Trials[i]; t.Kind == TrialMeasured {
			f := all[t.Variant]
			f.observe(t)
			all[t.Variant] = f
		}
	}
	return all
}

// Invalid returns the trials whose figures are left out though their variant can do
// the work; where it cannot, that says more. To a search, what a variant could not
// follow is an answer. Profiles have no figures.
func (r *Run) Invalid() []*Trial {
	var invalid []*Trial
	fit := r.fitness()
	for i := range r.Trials {
		t := &r.Trials[i]
		switch {
		case t.Valid:
		case t.Kind == TrialMeasured && fit[t.Variant].able(), t.Kind == TrialSearch && t.Viable:
			invalid = append(invalid, t)
		}
	}
	return invalid
}
