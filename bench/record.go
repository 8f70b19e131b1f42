package bench

import (
	"fmt"
	"time"

	"raftlab/bench/load"
)

// Schema is the version of run.json that this build writes and reads.
const Schema = 2

// Run is run.json: what an experiment was, where it ran, and every trial's
// figures. docs/runs.md documents it. Durations are in seconds and latencies in
// nanoseconds where their names say so.
type Run struct {
	Schema     int            `json:"schema"`
	ID         string         `json:"id"`
	Experiment ExperimentInfo `json:"experiment"`
	Command    []string       `json:"command"`
	Seed       uint64         `json:"seed"`
	Started    time.Time      `json:"started"`
	Ended      time.Time      `json:"ended"`
	// Complete is false until the last trial has been recorded.
	Complete        bool        `json:"complete"`
	TrialsPlanned   int         `json:"trials_planned"`
	TrialsCompleted int         `json:"trials_completed"`
	Environment     Environment `json:"environment"`
	Warnings        []string    `json:"warnings"`
	// SizeFiles holds what stood in the files of sizes that variants use, by the
	// name they have there.
	SizeFiles map[string][]load.SizeWeight `json:"size_files,omitempty"`
	Variants  []Variant                    `json:"variants"`
	Skipped   []Skipped                    `json:"skipped"`
	Trials    []Trial                      `json:"trials"`
	// Objective is nil unless rates were looked for.
	Objective *Objective `json:"objective,omitempty"`
}

// ExperimentInfo is the question a run answers and how it was asked.
type ExperimentInfo struct {
	Name     string `json:"name"`
	Question string `json:"question"`
	// Source is the experiment's YAML after --set and --vary.
	Source string `json:"source"`
	// Axes are the knobs that vary, in the order of the experiment.
	Axes []string `json:"axes"`
	// AnswerBy are the axes for each of whose values an answer of its own is
	// stated, such as link-delay.
	AnswerBy []string `json:"answer_by"`
	// Metric decides: ops/s, a latency percentile such as p99-latency-ns, or auto,
	// which is p99-latency-ns where operations are sent by a clock, else ops/s.
	Metric string `json:"metric"`
	// Judge is nil when there is nothing to judge.
	Judge *JudgeInfo `json:"judge,omitempty"`
	// Margin is the relative difference below which variants count as the same.
	Margin   float64 `json:"margin"`
	Blocks   int     `json:"blocks"`
	WarmupS  float64 `json:"warmup_s"`
	MeasureS float64 `json:"measure_s"`
}

// Environment is where a run ran. What cannot be had reads "unavailable".
type Environment struct {
	Commit     string `json:"commit"`
	Dirty      string `json:"dirty"` // true, false or unknown
	ServerBin  string `json:"server_bin"`
	ServerInfo string `json:"server_info"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	MemoryB    uint64 `json:"memory_bytes"`
	Kernel     string `json:"kernel"`
	Governor   string `json:"governor"`
	Race       bool   `json:"race"`
	Load1      string `json:"load1"` // before the first trial
}

// Roles of a variant.
const (
	RoleMeasured = "measured"
	// RoleCeiling marks a wire or relay variant that others are compared with.
	RoleCeiling = "ceiling"
	// RoleAA marks the baseline measured a second time, to show the noise.
	RoleAA = "aa"
)

// Variant is one point of the matrix.
type Variant struct {
	ID   string `json:"id"`   // v01, v02, ...
	Name string `json:"name"` // topology=processes/op=put/clients=16
	Role string `json:"role"`
	// Baseline marks the one that verdicts compare with.
	Baseline bool `json:"baseline"`
	// Adaptive marks one that is judged by the others of its cell.
	Adaptive bool `json:"adaptive,omitempty"`
	// Params are the axes' values; Config the full effective settings by knob.
	Params map[string]string `json:"params"`
	Config map[string]string `json:"config"`
	// Server is the build of the raftkv that it starts; empty when it starts none.
	Server string `json:"server,omitempty"`
	// Ceilings are the IDs of the wire and relay variants with the same load.
	Ceilings []string `json:"ceilings,omitempty"`
	// Against is the ID of the baseline that this one's verdict compares with:
	// the one that agrees on every axis which both read and the baseline leaves
	// open. Empty for baselines, ceilings and where there is none.
	Against string `json:"against,omitempty"`
}

// Skipped is a cell of the matrix that cannot exist, and why.
type Skipped struct {
	Params map[string]string `json:"params"`
	Reason string            `json:"reason"`
}

// Kinds of trials.
const (
	TrialMeasured = "measured"
	// TrialProfile is the extra block that pprof profiles are taken in; its
	// figures are left out of every result.
	TrialProfile = "profile"
	// TrialSearch is one of a search for the highest rate that meets the objective;
	// its figures are of its own rate, and of no use to others.
	TrialSearch = "search"
)

// Trial is one measured window of one variant.
type Trial struct {
	Variant string    `json:"variant"`
	Block   int       `json:"block"` // from 1; 0 in the profile block
	Kind    string    `json:"kind"`
	Started time.Time `json:"started"`
	// Viable is false when the variant could not do the work in this window, such as
	// chunking none with a value above the limit; Problem says why.
	Viable bool `json:"viable"`
	// Valid is false when the figures should not be trusted; Problem says why.
	Valid   bool   `json:"valid"`
	Problem string `json:"problem,omitempty"`
	Warning string `json:"warning,omitempty"`

	// Late tells that the trial is invalid since the generator fell behind its
	// schedule, which only adds to response times.
	Late bool `json:"late,omitempty"`

	// Rate is that of a search's trial, 0 for its closed loop; Met tells whether it met
	// the objective, nil when it tells nothing.
	Rate float64 `json:"rate,omitempty"`
	Met  *bool   `json:"met,omitempty"`

	WindowS    float64 `json:"window_s"`
	Operations uint64  `json:"operations"` // acknowledged in the window
	Errors     uint64  `json:"errors"`
	// ErrorsByCode counts by gRPC code name.
	ErrorsByCode map[string]uint64 `json:"errors_by_code,omitempty"`
	// Unanswered operations had no answer when the drain ended. Only with events is
	// such a trial valid.
	Unanswered uint64  `json:"unanswered,omitempty"`
	OpsPerS    float64 `json:"ops_per_s"`
	BytesPerS  float64 `json:"bytes_per_s"` // of values, acknowledged
	// Response is end - intended start; Service is end - actual start; Delay is
	// how late operations were sent. By kind of operation, and "all", in whose
	// percentiles what failed counts as FailedNs: it is not known by kind.
	Response map[string]Latency `json:"response"`
	Service  map[string]Latency `json:"service"`
	Delay    Latency            `json:"delay"`

	// Steady tells whether throughput or, where operations are sent by a clock,
	// median latency had no trend in the window: true, false or unknown; SteadyWhy
	// says it in a sentence. Drift is from the window's beginning to its end, relative
	// to the median of its intervals. Empty where nothing is judged.
	Steady    string    `json:"steady,omitempty"`
	SteadyWhy string    `json:"steady_why,omitempty"`
	Drift     *Estimate `json:"drift,omitempty"`

	// Series has one point an interval.
	Series []Point `json:"series,omitempty"`

	// Events happened to the cluster in the window. CatchUpS is how long a node that
	// joined took to have all data of when it did; 0 when it did not in the window.
	Events   []Event `json:"events,omitempty"`
	CatchUpS float64 `json:"catch_up_s,omitempty"`
	// OutageNs is the longest time without an answer at any event, without events in
	// the window; RecoverNs how long after the worst event service was as before. Only
	// in experiments with events. nil when it was not back before the next event or
	// the window's end, or there is too little before the first event.
	OutageNs  int64  `json:"outage_ns,omitempty"`
	RecoverNs *int64 `json:"recover_ns,omitempty"`

	// AckedKeys had an operation acknowledged, warm-up and drain included; VerifiedKeys
	// of them were read back after the window, all unless there was no time, and each
	// one's mod revision was at least the highest acknowledged. Unverified says why
	// they could not be read. Restarted are the nodes that were started again for it,
	// after the window. Histories are what --verify found; nil without it. Violations
	// tell what was found wrong by either.
	AckedKeys    int           `json:"acked_keys"`
	VerifiedKeys int           `json:"verified_keys"`
	Unverified   string        `json:"unverified,omitempty"`
	Restarted    []uint64      `json:"restarted,omitempty"`
	Histories    *HistoryCheck `json:"histories,omitempty"`
	Violations   []string      `json:"violations,omitempty"`

	// Processes are the nodes ("node1"...), "generator", and "wire" or "relay" with
	// its followers ("follower2"...); or "process",
	// which is all of them when the nodes run in the generator's process.
	Processes map[string]Process `json:"processes,omitempty"`
	// Counters are totals over all nodes in the window: frames, fragments, ...
	// largest_frame_sent_bytes alone is of the cluster's whole life.
	Counters map[string]uint64 `json:"counters,omitempty"`
	// Stages is nil where no node could be asked, and of ceilings.
	Stages *Stages `json:"stages,omitempty"`
	// Slices of the window, with knob stages-slice.
	Slices []Slice `json:"slices,omitempty"`
	// Usage of processes over time, which stands in trials.jsonl only.
	Usage []UsagePoint `json:"-"`
	// CPU of a profile trial is where its processes' CPU time went, by process:
	// those of Processes, and in one process its nodes and the generator.
	CPU map[string][]LayerCPU `json:"cpu,omitempty"`

	Hlog     string   `json:"hlog,omitempty"`     // file name in the run folder
	Profiles []string `json:"profiles,omitempty"` // file names in the run folder
}

// Name says which trial it is.
func (t *Trial) Name() string {
	if t.Kind == TrialProfile {
		return t.Variant + " in the profile block"
	}
	return fmt.Sprintf("%s block %d", t.Variant, t.Block)
}

// Failed counts the operations that got an error or no answer.
func (t *Trial) Failed() uint64 { return t.Errors + t.Unanswered }

// Violations are all trials', also of those that no figure comes from: what clients
// were told and does not hold.
func (r *Run) Violations() []string {
	return r.violationsOf(func(string) bool { return true })
}

func (r *Run) violationsOf(such func(variant string) bool) []string {
	var all []string
	for i := range r.Trials {
		t := &r.Trials[i]
		for _, v := range t.Violations {
			if such(t.Variant) {
				all = append(all, t.Name()+": "+v)
			}
		}
	}
	return all
}

// Latency summarises a histogram, in nanoseconds. Count, mean and least are of what was
// acknowledged.
type Latency struct {
	Count   uint64  `json:"count"`
	Clamped uint64  `json:"clamped"` // values beyond the histogram's range
	MeanNs  float64 `json:"mean_ns"`
	MinNs   int64   `json:"min_ns"`
	P50Ns   int64   `json:"p50_ns"`
	P90Ns   int64   `json:"p90_ns"`
	P99Ns   int64   `json:"p99_ns"`
	P999Ns  int64   `json:"p999_ns"`
	MaxNs   int64   `json:"max_ns"`
}

// Point is one interval of a trial's time series.
type Point struct {
	OffsetS    float64 `json:"offset_s"` // from the start of the window
	Operations uint64  `json:"operations"`
	Errors     uint64  `json:"errors"`
	P50Ns      int64   `json:"p50_ns"`
	P99Ns      int64   `json:"p99_ns"`
	MaxNs      int64   `json:"max_ns"`
}

// Process is what a process used in the window.
type Process struct {
	CPUS        float64 `json:"cpu_s"`
	RSSBytes    uint64  `json:"rss_bytes"` // at the end
	HeapBytes   uint64  `json:"heap_bytes"`
	AllocBytes  uint64  `json:"alloc_bytes"`
	AllocCount  uint64  `json:"alloc_count"`
	GCCycles    uint64  `json:"gc_cycles"`
	Goroutines  uint64  `json:"goroutines"`
	Unavailable bool    `json:"unavailable,omitempty"`
}

// Summary is what a run says, computed from its valid measured trials.
type Summary struct {
	Variants []VariantSummary `json:"variants"`
	Answers  []Answer         `json:"answers"`
	// Knees has one element for each variant that was measured at many rates.
	Knees []Knee `json:"knees,omitempty"`
	// Judgements are empty without a Judge.
	Judgements []Judgement `json:"judgements,omitempty"`
}

// VariantSummary has the figures of one variant over its blocks.
type VariantSummary struct {
	Variant Variant `json:"variant"`
	Trials  int     `json:"trials"` // with figures
	// Viable is false when it cannot do the work: it could not in two blocks in a row,
	// or in any.
	Viable  bool   `json:"viable"`
	Problem string `json:"problem,omitempty"`
	// Each is the median over blocks with an interval.
	OpsPerS   Estimate `json:"ops_per_s"`
	BytesPerS Estimate `json:"bytes_per_s"`
	P50Ns     Estimate `json:"p50_ns"`
	P90Ns     Estimate `json:"p90_ns"`
	P99Ns     Estimate `json:"p99_ns"`
	P999Ns    Estimate `json:"p999_ns"`
	MaxNs     Estimate `json:"max_ns"`
	// Samples is the number of operations behind the percentiles, all blocks.
	Samples uint64 `json:"samples"`
	// Errors are operations that failed or had no answer.
	Errors uint64 `json:"errors"`
	// CatchUpS is how long a node took that joined, over the blocks in which it did
	// within the window.
	CatchUpS Estimate `json:"catch_up_s"`
	// Costs of an operation by unit, as Costs lists them; those that are known.
	Costs map[string]Estimate `json:"costs,omitempty"`
	// OutageNs and RecoverNs are over the blocks that have them: not those, counted
	// by Unrecovered, in which service was not back in time. To be back at once counts
	// as the resolution, 10 ms.
	OutageNs    Estimate `json:"outage_ns"`
	RecoverNs   Estimate `json:"recover_ns"`
	Unrecovered int      `json:"unrecovered,omitempty"`
	// ErrorsATrial is Errors by block.
	ErrorsATrial Estimate `json:"errors_a_trial"`
	// Stages is nil when no trial tells any.
	Stages *StageSummary `json:"stages,omitempty"`
	// Ceilings has one element for each of the variant's that was measured.
	Ceilings []CeilingShare `json:"ceilings,omitempty"`
	// Ratio to the baseline and its verdict: better, worse, same, inconclusive;
	// empty for the baseline itself and where there is none to compare with.
	Ratio   Estimate `json:"ratio"`
	Verdict string   `json:"verdict"`
}

// CeilingShare is how near a variant comes to one of its ceilings.
type CeilingShare struct {
	Variant string `json:"variant"` // the ceiling's ID
	Target  string `json:"target"`  // wire or relay
	// Fraction is throughput over that of the ceiling, by block; its Center is 0
	// when the variant has no figure.
	Fraction Estimate `json:"fraction"`
	OpsPerS  float64  `json:"ops_per_s"` // of the ceiling
}

// Describe names the ceiling in words.
func (c *CeilingShare) Describe() string {
	if c.Target == TargetRelay {
		return "a gRPC relay"
	}
	return "bare gRPC"
}

// Estimate is a figure with an interval; Lo and Hi are 0 when there are too
// few blocks for one.
type Estimate struct {
	Center     float64 `json:"center"`
	Lo         float64 `json:"lo"`
	Hi         float64 `json:"hi"`
	Confidence float64 `json:"confidence"`
	N          int     `json:"n"`
}

// Answer answers the experiment's question for one cell of AnswerBy.
type Answer struct {
	// Where holds the values of AnswerBy; empty when the question has one answer.
	Where map[string]string `json:"where"`
	// Metric is what decided.
	Metric string `json:"metric"`
	// Best are the IDs of the variants not distinguishable from the best.
	Best []string `json:"best"`
	// Sentence says it in words, with the confidence.
	Sentence   string  `json:"sentence"`
	Confidence float64 `json:"confidence"`
	// Why are sentences on what makes the best better than the baseline or, where
	// that is among them, the worst; where nothing does, on what those that are best
	// have in common. Only what the blocks bear out.
	Why []string `json:"why,omitempty"`
}
