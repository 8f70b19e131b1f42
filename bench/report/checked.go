package report

import "fmt"

// checked says what of the clients' answers was checked, and how far; what was
// found wrong is in violations.
func (d *Data) checked() []string {
	var acked, verified, trials, short, restarted, histories, operations, unanswered, undecided int
	var unverified []string
	for _, t := range d.Run.Trials {
		if t.AckedKeys == 0 {
			continue
		}
		trials++
		acked, verified = acked+t.AckedKeys, verified+t.VerifiedKeys
		if len(t.Restarted) > 0 {
			restarted++
		}
		switch {
		case t.Unverified != "":
			unverified = append(unverified, fmt.Sprintf("UNVERIFIED: %s: what it acknowledged could not be read back: %s", t.Name(), t.Unverified))
		case t.VerifiedKeys < t.AckedKeys:
			short++
		}
		if h := t.Histories; h != nil {
			histories += h.Keys
			operations, unanswered, undecided = operations+h.Operations, unanswered+h.Unanswered, undecided+h.Undecided
		}
	}
	if trials == 0 {
		return nil
	}
	readBack := fmt.Sprintf("Acknowledged keys that were read back: %s of %s, over %d trials", count(float64(verified)), count(float64(acked)), trials)
	if short > 0 {
		readBack += fmt.Sprintf("; in %d of them there was no time for all", short)
	}
	if restarted > 0 {
		readBack += fmt.Sprintf("; in %d of them nodes that had been killed were started again for it, after the window", restarted)
	}
	out := append([]string{readBack}, unverified...)
	if histories > 0 {
		said := fmt.Sprintf("Histories checked to be linearizable: %s of a key each, with %s operations, %s of them without an answer",
			count(float64(histories-undecided)), count(float64(operations)), count(float64(unanswered)))
		if undecided > 0 {
			said += fmt.Sprintf("; %d more took too long and are undecided", undecided)
		}
		out = append(out, said)
	}
	return out
}
