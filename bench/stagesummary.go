package bench

import (
	"fmt"
	"slices"

	"raftlab/bench/stats"
)

// StageOutside is what the stages of a write leave out of its service time: the
// client, the RPC, and the handler until the command is taken in.
const StageOutside = "outside"

// StageWay is the part of commit in which neither follower works on the entry: the
// way there and back, which is network, gRPC, the lanes' queues and the turns of the
// leader's loop. It is what is left of commit, by the leader's clock, without what
// followers do, by theirs.
const StageWay = "way"

// StageSummary is where a variant's writes spent their time, over its valid trials.
type StageSummary struct {
	// Void is the number of trials in which the leader changed: they tell nothing.
	Void int `json:"void,omitempty"`
	// Samples are the writes behind Writes, the least over the trials; one in eight
	// of them was measured.
	Samples uint64 `json:"samples"`
	// Writes are the stages of a whole write, one after the other, and StageOutside.
	// Empty with stages off.
	Writes []StageTime `json:"writes,omitempty"`
	// Way is StageWay; nil without followers. Its percentiles are those of commit
	// less those of the followers, which are not of the same writes.
	Way *StageTime `json:"way,omitempty"`
	// OnOff is throughput with stages measured over that without, by pairs of
	// neighbouring slices, which N counts; of nothing without knob stages-slice.
	OnOff Estimate `json:"on_off"`
	// OnLeader and OnFollowers are by histogram, as in Stages.
	OnLeader    map[string]DistributionSummary `json:"on_leader,omitempty"`
	OnFollowers map[string]DistributionSummary `json:"on_followers,omitempty"`
}

// StageTime is a stage's share of a write in nanoseconds. Each is a mean over
// blocks, so that the shares add up to the mean of the whole; only all writes have
// the same ones outside and inside, so that of a percentile StageOutside is the
// client's less the server's and may be negative.
type StageTime struct {
	Stage string   `json:"stage"`
	Mean  Estimate `json:"mean_ns"`
	P50   Estimate `json:"p50_ns"` // of the writes around the median of wholes
	P99   Estimate `json:"p99_ns"` // of those around the 99th percentile
}

// DistributionSummary has medians over blocks.
type DistributionSummary struct {
	Mean Estimate `json:"mean"`
	P50  Estimate `json:"p50"`
	P99  Estimate `json:"p99"`
}

// stageNames are what a variant's trials tell of.
type stageNames struct {
	void                int
	samples             uint64
	writes              []string
	way                 bool
	leaders, followings map[string]bool // histograms
	on, off             []float64       // throughput of pairs of slices
}

// What is told of each.
const (
	ofMean = "mean"
	ofP50  = "p50"
	ofP99  = "p99"
)

// Names of figures.
func writeFigure(stage, of string) string        { return "write/" + stage + "/" + of }
func leaderFigure(histogram, of string) string   { return "leader/" + histogram + "/" + of }
func followerFigure(histogram, of string) string { return "followers/" + histogram + "/" + of }

// setStages puts a trial's stages at its block.
func (b *blocks) setStages(t *Trial) {
	on, off := slicePairs(t.Slices)
	b.stages.on, b.stages.off = append(b.stages.on, on...), append(b.stages.off, off...)
	s := t.Stages
	if s == nil {
		return
	}
	if s.Void != "" {
		b.stages.void++
		return
	}
	if b.stages.leaders == nil {
		b.stages.leaders, b.stages.followings = map[string]bool{}, map[string]bool{}
	}
	for name, d := range s.OnLeader {
		b.stages.leaders[name] = true
		b.setDistribution(leaderFigure, name, t.Block, d)
	}
	for name, d := range s.OnFollowers {
		b.stages.followings[name] = true
		b.setDistribution(followerFigure, name, t.Block, d)
	}
	w := s.Writes
	if w == nil {
		return
	}
	if b.stages.samples == 0 || w.Count < b.stages.samples {
		b.stages.samples = w.Count
	}
	b.stages.writes = slices.Clone(w.Stages)
	for of, parts := range map[string][]float64{ofMean: w.Mean, ofP50: w.P50, ofP99: w.P99} {
		for i := range min(len(parts), len(w.Stages)) {
			b.set(writeFigure(w.Stages[i], of), t.Block, parts[i])
		}
	}
	b.setWay(t)
	service, ok := t.Service["put"]
	if !ok {
		return
	}
	b.stages.writes = append(b.stages.writes, StageOutside)
	for of, client := range map[string]float64{ofMean: service.MeanNs, ofP50: float64(service.P50Ns), ofP99: float64(service.P99Ns)} {
		parts := map[string][]float64{ofMean: w.Mean, ofP50: w.P50, ofP99: w.P99}[of]
		b.set(writeFigure(StageOutside, of), t.Block, client-sum(parts))
	}
}

// setWay puts the way there and back at a trial's block.
func (b *blocks) setWay(t *Trial) {
	step, stepped := t.Stages.OnFollowers["stage_step_nanos"]
	durable, kept := t.Stages.OnFollowers["stage_durable_nanos"]
	commit := slices.Index(t.Stages.Writes.Stages, "commit")
	if !stepped || !kept || commit < 0 {
		return
	}
	b.stages.way = true
	w := t.Stages.Writes
	b.set(writeFigure(StageWay, ofMean), t.Block, w.Mean[commit]-step.Mean-durable.Mean)
	b.set(writeFigure(StageWay, ofP50), t.Block, w.P50[commit]-float64(step.P50+durable.P50))
	b.set(writeFigure(StageWay, ofP99), t.Block, w.P99[commit]-float64(step.P99+durable.P99))
}

func (b *blocks) setDistribution(figure func(histogram, of string) string, name string, block int, d Distribution) {
	b.set(figure(name, ofMean), block, d.Mean)
	b.set(figure(name, ofP50), block, float64(d.P50))
	b.set(figure(name, ofP99), block, float64(d.P99))
}

func sum(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

// stageSummary is nil when no trial tells of stages.
func (b *blocks) stageSummary() *StageSummary {
	n := b.stages
	if n.leaders == nil && n.void == 0 && len(n.on) == 0 {
		return nil
	}
	s := &StageSummary{Void: n.void, Samples: n.samples, OnOff: Estimate(stats.PairedRatio(n.on, n.off, confidence))}
	share := func(stage string) StageTime {
		mean := func(of string) Estimate {
			return Estimate(stats.Mean(b.figures[writeFigure(stage, of)], confidence))
		}
		return StageTime{Stage: stage, Mean: mean(ofMean), P50: mean(ofP50), P99: mean(ofP99)}
	}
	for _, stage := range n.writes {
		s.Writes = append(s.Writes, share(stage))
	}
	if n.way {
		s.Way = new(share(StageWay))
	}
	s.OnLeader = b.distributions(leaderFigure, n.leaders)
	s.OnFollowers = b.distributions(followerFigure, n.followings)
	return s
}

func (b *blocks) distributions(figure func(histogram, of string) string, names map[string]bool) map[string]DistributionSummary {
	all := map[string]DistributionSummary{}
	for name := range names {
		all[name] = DistributionSummary{
			Mean: b.estimate(figure(name, ofMean)), P50: b.estimate(figure(name, ofP50)), P99: b.estimate(figure(name, ofP99)),
		}
	}
	return all
}

// stageAnswers say what measuring the stages costs each variant, where the windows of
// all are divided into slices to find out; else nil.
func stageAnswers(variants []VariantSummary) []Answer {
	var answers []Answer
	for i := range variants {
		v := &variants[i]
		if v.Variant.Role != RoleMeasured {
			continue
		}
		if slice := v.Variant.Config["stages-slice"]; slice == "" || slice == "0s" {
			return nil
		}
		a := Answer{Where: v.Variant.Params, Metric: "ops/s", Best: []string{}, Sentence: "No valid trial tells what measuring stages costs."}
		if v.Stages != nil && v.Stages.OnOff.N > 0 {
			a.Sentence, a.Confidence = describeCost(v.Stages.OnOff), v.Stages.OnOff.Confidence
		}
		answers = append(answers, a)
	}
	return answers
}

// describeCost words how much less is done while stages are measured.
func describeCost(onOff Estimate) string {
	cost := func(ratio float64) float64 { return 100 * (1 - ratio) }
	sentence := fmt.Sprintf("Measuring stages costs %.1f %% of throughput", cost(onOff.Center))
	switch lo, hi := cost(onOff.Hi), cost(onOff.Lo); {
	case onOff.Confidence == 0:
		return fmt.Sprintf("%s (%d pairs of slices, too few for an interval).", sentence, onOff.N)
	case lo <= 0 && hi >= 0:
		return fmt.Sprintf("Measuring stages costs no more than %.1f %% of throughput, if anything (%.1f to %.1f %% with %.0f %% confidence, %d pairs of slices).",
			hi, lo, hi, 100*onOff.Confidence, onOff.N)
	default:
		return fmt.Sprintf("%s (%.1f to %.1f %% with %.0f %% confidence, %d pairs of slices).", sentence, lo, hi, 100*onOff.Confidence, onOff.N)
	}
}
