package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"raftlab/bench/stats"
)

// Judge asks whether a setting that finds its own value is as good as the best
// fixed one, in each cell of AnswerBy.
type Judge struct {
	// Adaptive picks the variants that are judged: those whose settings are these.
	// All other measured variants of a cell are what they are judged by.
	Adaptive []Field
	// Within are the metrics and how far from the best fixed variant is good enough.
	Within []Tolerance
	// Spread is how much the fixed variants of a cell must differ in a metric for
	// the cell to be judged by it; 0.15 is 15 %.
	Spread float64
}

// Tolerance is a metric and how much worse in it is still good: 0.05 is 5 %.
type Tolerance struct {
	Metric string  `json:"metric"`
	Limit  float64 `json:"limit"`
}

// JudgeInfo is Judge as a run records it.
type JudgeInfo struct {
	Adaptive map[string]string `json:"adaptive"`
	Within   []Tolerance       `json:"within"`
	Spread   float64           `json:"spread"`
}

// info returns what a run records; nil for nil.
func (j *Judge) info() *JudgeInfo {
	if j == nil {
		return nil
	}
	i := &JudgeInfo{Adaptive: map[string]string{}, Within: slices.Clone(j.Within), Spread: j.Spread}
	for _, f := range j.Adaptive {
		i.Adaptive[f.Key] = f.Value
	}
	return i
}

// adaptive tells whether a variant is what is judged.
func (j *Judge) adaptive(s *Settings) bool {
	return j != nil && !slices.ContainsFunc(j.Adaptive, func(f Field) bool { return s.Get(f.Key) != f.Value })
}

// Judgement is what Judge finds in one cell for one metric.
type Judgement struct {
	// Where holds the values of AnswerBy.
	Where  map[string]string `json:"where"`
	Metric string            `json:"metric"`
	Limit  float64           `json:"limit"`
	// Variant is the adaptive one, Best and Worst the fixed ones that are, by their
	// IDs; empty when there is none with a valid trial.
	Variant string `json:"variant"`
	Best    string `json:"best,omitempty"`
	Worst   string `json:"worst,omitempty"`
	// Spread is how many times better the best fixed one is than the worst of those
	// with figures. Judged is false when it is too little for the choice to matter,
	// which it never is when one cannot do the work.
	Spread Estimate `json:"spread"`
	Judged bool     `json:"judged"`
	// Ratio is the adaptive variant's figure over that of the best, paired by block.
	Ratio Estimate `json:"ratio"`
	// Verdict is within, beyond or unclear; empty when not judged.
	Verdict string `json:"verdict,omitempty"`
	// Sentence says it in words.
	Sentence string `json:"sentence"`
}

// judgements judges each adaptive variant by the fixed ones of its cell.
func (s *summarizer) judgements(summaries []VariantSummary) []Judgement {
	judge := s.run.Experiment.Judge
	if judge == nil {
		return nil
	}
	var all []Judgement
	for _, cell := range s.cells(summaries) {
		var fixed []*VariantSummary
		for _, v := range cell {
			if !v.Variant.Adaptive {
				fixed = append(fixed, v)
			}
		}
		for _, v := range cell {
			if !v.Variant.Adaptive {
				continue
			}
			for _, within := range judge.Within {
				all = append(all, s.judge(v, fixed, within, judge.Spread))
			}
		}
	}
	return all
}

func (s *summarizer) judge(v *VariantSummary, fixed []*VariantSummary, within Tolerance, spread float64) Judgement {
	figures := func(v *VariantSummary) []float64 {
		if !v.Viable {
			return nil
		}
		return s.blocks[v.Variant.ID].figures[within.Metric]
	}
	var others [][]float64
	stuck := ""
	for _, f := range fixed {
		others = append(others, figures(f))
		if !f.Viable {
			stuck = f.Variant.ID
			spread = 0 // what cannot do the work at all differs enough
		}
	}
	found := stats.Judge(figures(v), others, direction(within.Metric), within.Limit, spread, confidence)
	j := Judgement{
		Where: s.where(&v.Variant), Metric: within.Metric, Limit: within.Limit, Variant: v.Variant.ID,
		Spread: Estimate(found.Spread), Judged: found.Judged, Ratio: Estimate(found.Ratio), Verdict: string(found.Verdict),
	}
	name := strings.TrimSuffix(within.Metric, "-latency-ns")
	if found.Best < 0 {
		j.Sentence = name + ": no fixed variant has valid trials."
		return j
	}
	best, worst := fixed[found.Best], fixed[found.Worst]
	j.Best, j.Worst = best.Variant.ID, worst.Variant.ID
	spreads := fmt.Sprintf("fixed ones differ by %.0f %%", 100*(j.Spread.Center-1))
	if stuck != "" {
		j.Worst = stuck
		spreads = "of the fixed ones " + stuck + " cannot do the work"
	}
	if !v.Viable {
		j.Judged, j.Verdict = true, string(stats.Beyond)
	}
	if !j.Judged {
		j.Sentence = fmt.Sprintf("%s: not judged, the fixed variants differ by %.0f %% only.", name, 100*(j.Spread.Center-1))
		return j
	}
	j.Sentence = fmt.Sprintf("%s: %s: %s %s against the best of %d fixed, %s; the limit is %.0f %%, %s.",
		name, j.Verdict, s.describe(v, within.Metric, false), change(j.Ratio, v.Viable),
		len(fixed), s.describe(best, within.Metric, false), 100*within.Limit, spreads)
	return j
}

// change shows a ratio as a percentage with its interval.
func change(ratio Estimate, viable bool) string {
	percent := func(x float64) string {
		return fmt.Sprintf("%+.1f %%", math.Round(1000*(x-1))/10+0) // no minus zero
	}
	switch {
	case !viable:
		return "cannot do the work"
	case ratio.N == 0:
		return "without a valid trial"
	case ratio.Confidence == 0:
		return fmt.Sprintf("is at %s (%d blocks, too few for an interval)", percent(ratio.Center), ratio.N)
	}
	return fmt.Sprintf("is at %s (%s to %s)", percent(ratio.Center), percent(ratio.Lo), percent(ratio.Hi))
}
