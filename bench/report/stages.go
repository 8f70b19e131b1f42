package report

import (
	"fmt"
	"strings"

	"raftlab/bench"
)

// stages is where writes spend their time.
type stages struct {
	Waterfalls []waterfall
	Tables     []stageTable
	Notes      []string
}

// stageTable is one table of all variants that tell of stages.
type stageTable struct {
	Title, Note string
	Open        bool // else folded away
	Columns     []fact
	Rows        []stageTableRow
}

type stageTableRow struct {
	ID, Name string
	Cells    []cell
}

// distributionColumns are what is distributed besides the stages.
var distributionColumns = []struct {
	label, meaning, histogram string
	follower                  bool
	format                    func(float64) string
}{
	{"commands an entry", "commands that share one entry of the log", "entry_commands", false, count},
	{"commands a proposal", "commands that are proposed at once", "proposal_commands", false, count},
	{"entries a message", "entries in an append that has any", "message_entries", false, count},
	{"bytes a frame", "encoded size of a frame that the leader sent", "frame_bytes", false, memory},
	{"fsync", "how long an fsync of the leader's journal takes", "journal_fsync_duration_nanos", false, latency},
	{"apply lag", "entries committed and not yet applied on the leader, whenever some are handed out", "apply_lag_entries", false, count},
	{"followers' apply lag", "the same on followers", "apply_lag_entries", true, count},
	{"round trip", "a single frame and its answer, without the time the receiver held it", "round_trip_nanos", false, latency},
	{"first fragment to whole", "how long an entry that travels in pieces takes to arrive", "reassembly_nanos", true, latency},
}

// stages returns nil where no trial tells of any.
func (d *Data) stages() *stages {
	out := &stages{Waterfalls: d.waterfalls()}
	for _, t := range []stageTable{
		d.writesTable("All writes, on average", "Means, with intervals over blocks: they add up to the mean service time.", true,
			func(t bench.StageTime) bench.Estimate { return t.Mean }, 0),
		d.writesTable("Writes around the median", "On average over those from the 45th to the 55th percentile of the whole.", false, waterfallBands[0].of, 0.5),
		d.writesTable("Writes around the 99th percentile", "On average over those from 98.5 to 99.5 %.", false, waterfallBands[1].of, 0.99),
		d.meanwhileTable(), d.distributionTable(),
	} {
		if len(t.Rows) > 0 {
			out.Tables = append(out.Tables, t)
		}
	}
	if len(out.Tables) == 0 {
		return nil
	}
	for _, v := range d.Summary.Variants {
		if v.Stages != nil && v.Stages.Void > 0 {
			out.Notes = append(out.Notes, fmt.Sprintf("%s: of %d trials nothing is told, the leader changed", v.Variant.ID, v.Stages.Void))
		}
	}
	out.Notes = append(out.Notes, d.stageCosts()...)
	return out
}

// eachStaged calls f for each variant that tells of stages.
func (d *Data) eachStaged(f func(v *bench.VariantSummary, r stageTableRow)) {
	for i := range d.Summary.Variants {
		if v := &d.Summary.Variants[i]; v.Stages != nil {
			f(v, stageTableRow{ID: v.Variant.ID, Name: variantName(d, v.Variant)})
		}
	}
}

// writesTable has the stages of some writes, and their sum.
func (d *Data) writesTable(title, note string, open bool, of func(bench.StageTime) bench.Estimate, quantile float64) stageTable {
	t := stageTable{Title: title, Note: note, Open: open}
	for _, s := range stageRows {
		t.Columns = append(t.Columns, fact{s.column, s.meaning})
	}
	t.Columns = append(t.Columns, fact{"in all", "the sum: from when the client sent until it had the answer"})
	d.eachStaged(func(v *bench.VariantSummary, r stageTableRow) {
		if len(v.Stages.Writes) == 0 {
			return
		}
		thin := quantile > 0 && !enough(float64(v.Stages.Samples)/oneMeasuredIn, quantile)
		total := 0.0
		for _, s := range stageRows {
			var c cell
			for _, w := range v.Stages.Writes {
				if w.Stage == s.name {
					e := of(w)
					c = timeCell(e)
					total += e.Center
				}
			}
			c.Thin = thin
			r.Cells = append(r.Cells, c)
		}
		r.Cells = append(r.Cells, cell{Text: latency(total), Thin: thin})
		t.Rows = append(t.Rows, r)
	})
	return t
}

// timeCell shows a time with its interval.
func timeCell(e bench.Estimate) cell {
	if e.N == 0 {
		return cell{}
	}
	return cell{Text: signedLatency(e.Center), Note: halfWidth(e), Title: span(e)}
}

// meanwhileTable has what goes on within commit.
func (d *Data) meanwhileTable() stageTable {
	t := stageTable{
		Title: "Within commit, on average",
		Note:  "Of entries rather than writes; the leader's log and the followers work at the same time. The way there and back is commit less what followers do with an entry: network, gRPC, queues of the lanes, turns of the leader's loop. No clock of one node is compared with another's.",
		Open:  true,
	}
	rows := []meanwhile{leaderLog, fragments, followerStep, followerLog}
	for _, m := range rows {
		t.Columns = append(t.Columns, fact{m.label, m.meaning})
	}
	t.Columns = append(t.Columns, fact{"there and back", "commit less what followers do"})
	d.eachStaged(func(v *bench.VariantSummary, r stageTableRow) {
		told := false
		for _, m := range rows {
			found, ok := m.of(v.Stages)
			told = told || ok
			r.Cells = append(r.Cells, timeCell(found.Mean))
		}
		if !told {
			return
		}
		way := bench.StageTime{}
		if v.Stages.Way != nil {
			way = *v.Stages.Way
		}
		r.Cells = append(r.Cells, timeCell(way.Mean))
		t.Rows = append(t.Rows, r)
	})
	return t
}

func (d *Data) distributionTable() stageTable {
	t := stageTable{Title: "How large, how often", Note: "Mean, and after the bar the 99th percentile (medians over blocks).", Open: true}
	for _, c := range distributionColumns {
		t.Columns = append(t.Columns, fact{c.label, c.meaning})
	}
	d.eachStaged(func(v *bench.VariantSummary, r stageTableRow) {
		told := false
		for _, c := range distributionColumns {
			from := v.Stages.OnLeader
			if c.follower {
				from = v.Stages.OnFollowers
			}
			x, ok := from[c.histogram]
			if !ok {
				r.Cells = append(r.Cells, cell{})
				continue
			}
			told = true
			r.Cells = append(r.Cells, cell{
				Text: c.format(x.Mean.Center) + " | " + c.format(x.P99.Center), Note: halfWidth(x.Mean),
				Title: fmt.Sprintf("mean %s to %s, p99 %s to %s over blocks", c.format(x.Mean.Lo), c.format(x.Mean.Hi), c.format(x.P99.Lo), c.format(x.P99.Hi)),
			})
		}
		if told {
			t.Rows = append(t.Rows, r)
		}
	})
	return t
}

// stageCosts tell what measuring the stages costs, where that was measured.
func (d *Data) stageCosts() []string {
	var out []string
	d.eachStaged(func(v *bench.VariantSummary, r stageTableRow) {
		e := v.Stages.OnOff
		if e.N == 0 {
			return
		}
		s := fmt.Sprintf("%s %s: with stages measured ×%.3f of the throughput without", r.ID, r.Name, e.Center)
		if e.Hi > e.Lo {
			s += fmt.Sprintf(" (×%.3f to ×%.3f)", e.Lo, e.Hi)
		}
		out = append(out, fmt.Sprintf("%s, by %d pairs of neighbouring slices", s, e.N))
	})
	return out
}

// stageLines tell, for each variant that has a waterfall, what its writes consist
// of, in words, and what measuring that costs.
func (d *Data) stageLines() []string {
	var out []string
	for _, v := range d.staged() {
		var bands []string
		for _, band := range waterfallBands {
			var parts []string
			for _, s := range stageRows {
				for _, t := range v.Stages.Writes {
					if e := band.of(t); t.Stage == s.name && e.N > 0 {
						parts = append(parts, s.label+" "+signedLatency(e.Center))
					}
				}
			}
			bands = append(bands, band.title+": "+strings.Join(parts, ", "))
		}
		out = append(out, v.Variant.ID+" "+strings.Join(bands, "; "))
	}
	return append(out, d.stageCosts()...)
}
