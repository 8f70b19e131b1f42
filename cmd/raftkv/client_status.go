package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"raftlab/kv/node"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func statusCommand(opts *globalOptions) *cobra.Command {
	var withHash bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what a node knows about itself, the cluster and its peers",
		Long:  "Tell what the first endpoint that answers knows about itself, the cluster and its peers.",
		Args:  cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			endpoints, err := parseEndpoints(opts.endpoints)
			if err != nil {
				return err
			}
			st, err := s.FirstStatus(ctx, endpoints, withHash)
			if err != nil {
				return err
			}
			if s.opts.json() {
				return s.json(st)
			}
			return printStatus(s.cmd.OutOrStdout(), st)
		}),
	}
	cmd.Flags().BoolVar(&withHash, "with-hash", false, "also the hash of the whole state, which reads every key")
	return cmd
}

// table collects rows and prints them in columns, under a line between tables.
type table struct {
	tab *tabwriter.Writer
}

func (t table) row(cells ...any) {
	words := make([]string, 0, len(cells))
	for _, c := range cells {
		words = append(words, fmt.Sprint(c))
	}
	// An error stays in the writer, where Flush finds it.
	_, _ = fmt.Fprintln(t.tab, strings.Join(words, "\t"))
}

func printStatus(w io.Writer, st *clusterv1.StatusResponse) error {
	t := table{tab: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	sections := []func(table, *clusterv1.StatusResponse){
		statusNode, statusMembers, statusProgress, statusTransport, statusSnapshots, statusDistributions, statusLimits, statusCounters,
	}
	for _, section := range sections {
		section(t, st)
		if err := t.tab.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func statusNode(t table, st *clusterv1.StatusResponse) {
	leader := "none known"
	if st.GetLeaderId() != 0 {
		leader = fmt.Sprint("node ", st.GetLeaderId())
	}
	if st.GetLeaderAddress() != "" {
		leader += " at " + st.GetLeaderAddress()
	}
	cluster := "none yet"
	if st.GetClusterId() != 0 {
		cluster = fmt.Sprintf("%016x", st.GetClusterId())
	}
	t.row("node", st.GetNodeId())
	t.row("role", roleName(st.GetRole()))
	t.row("term", st.GetTerm())
	t.row("leader", leader)
	t.row("commit, applied", fmt.Sprintf("%d, %d", st.GetCommitIndex(), st.GetAppliedIndex()))
	t.row("log", fmt.Sprintf("%d to %d, %d bytes", st.GetLogFirstIndex(), st.GetLogLastIndex(), st.GetLogBytes()))
	t.row("store", fmt.Sprintf("revision %d, %d keys", st.GetRevision(), st.GetKeys()))
	if h := st.GetStateHash(); len(h) > 0 {
		t.row("state hash", fmt.Sprintf("%x", h))
	}
	t.row("cluster", cluster)
	t.row("incarnation", fmt.Sprintf("%016x", st.GetIncarnation()))
	t.row("version", st.GetVersion())
}

func roleName(r clusterv1.Role) string {
	name := strings.TrimPrefix(r.String(), "ROLE_")
	return strings.ReplaceAll(strings.ToLower(name), "_", "-")
}

func statusMembers(t table, st *clusterv1.StatusResponse) {
	m := st.GetMembership()
	if len(m.GetNodes()) == 0 {
		return
	}
	t.row()
	t.row("MEMBER", "ROLE", "ADDRESS", "PEER ADDRESS", "INCARNATION")
	for _, n := range m.GetNodes() {
		t.row(n.GetId(), memberRole(m, n.GetId()), n.GetAddress(), n.GetPeerAddress(), fmt.Sprintf("%016x", n.GetIncarnation()))
	}
	if removed := m.GetRemovedIds(); len(removed) > 0 {
		t.row("removed", ids(removed))
	}
}

// memberRole tells what a node is, and while a joint configuration lasts what
// it is turning into.
func memberRole(m *kvv1.Membership, id uint64) string {
	voter, outgoing := slices.Contains(m.GetVoters(), id), slices.Contains(m.GetVotersOutgoing(), id)
	joint := len(m.GetVotersOutgoing()) > 0
	switch {
	case voter && joint && !outgoing:
		return "voter (joining)"
	case voter:
		return "voter"
	case outgoing && slices.Contains(m.GetLearnersNext(), id):
		return "voter (to learner)"
	case outgoing:
		return "voter (leaving)"
	case slices.Contains(m.GetLearners(), id):
		return "learner"
	}
	return "none"
}

func statusProgress(t table, st *clusterv1.StatusResponse) {
	if len(st.GetProgress()) == 0 {
		return
	}
	t.row()
	t.row("PROGRESS", "STATE", "MATCH", "NEXT", "BEHIND", "ACTIVE", "PAUSED", "PENDING SNAPSHOT")
	for _, p := range st.GetProgress() {
		behind := uint64(0)
		if last := st.GetLogLastIndex(); last > p.GetMatchIndex() {
			behind = last - p.GetMatchIndex()
		}
		t.row(fmt.Sprint("node ", p.GetId()), p.GetState(), p.GetMatchIndex(), p.GetNextIndex(), behind,
			yesNo(p.GetRecentActive()), yesNo(p.GetPaused()), orDash(p.GetPendingSnapshotIndex()))
	}
}

func statusTransport(t table, st *clusterv1.StatusResponse) {
	if len(st.GetTransport()) == 0 {
		return
	}
	t.row()
	t.row("TRANSPORT", "CONNECTED", "LIMIT", "CHUNK", "DIALS", "MSGS OUT", "MSGS IN", "FRAMES OUT", "FRAMES IN", "BYTES OUT", "ON THE WIRE", "BYTES IN",
		"LARGEST", "SPLIT", "FRAGMENTS", "DROPPED", "REFUSED", "QUEUED")
	for _, p := range st.GetTransport() {
		t.row(fmt.Sprint("node ", p.GetId()), yesNo(p.GetConnected()), size(p.GetReceiveLimitBytes()), size(p.GetChunkSizeBytes()), p.GetDials(),
			p.GetMessagesSent(), p.GetMessagesReceived(), p.GetFramesSent(), p.GetFramesReceived(),
			p.GetBytesSent(), p.GetWireBytesSent(), p.GetBytesReceived(), p.GetLargestFrameSentBytes(),
			p.GetMessagesSplit(), p.GetFragmentsSent(), p.GetMessagesDropped(), p.GetRefusals(), p.GetQueueBytes())
	}
	for _, p := range st.GetTransport() {
		if p.GetProblem() != "" {
			// No tab: a sentence must not widen the columns.
			_, _ = fmt.Fprintf(t.tab, "node %d: %s\n", p.GetId(), p.GetProblem())
		}
		if why := drops(p); why != "" {
			_, _ = fmt.Fprintf(t.tab, "node %d: %s\n", p.GetId(), why)
		}
	}
}

// drops tells for which reasons messages were dropped; empty for none.
func drops(p *clusterv1.PeerTransport) string {
	const prefix = "messages_dropped_"
	var reasons []string
	for _, name := range slices.Sorted(maps.Keys(p.GetCounters())) {
		if n := p.GetCounters()[name]; n > 0 && strings.HasPrefix(name, prefix) {
			reasons = append(reasons, fmt.Sprintf("%s %d", strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", " "), n))
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return "dropped: " + strings.Join(reasons, ", ")
}

func statusSnapshots(t table, st *clusterv1.StatusResponse) {
	moved := slices.ContainsFunc(st.GetTransport(), func(p *clusterv1.PeerTransport) bool {
		return p.GetSnapshotChunksSent() > 0 || p.GetSnapshotChunksReceived() > 0
	})
	if !moved {
		return
	}
	t.row()
	t.row("SNAPSHOTS", "SENT", "CHUNKS OUT", "BYTES OUT", "RESUMED OUT", "NOT RESENT",
		"TAKEN", "CHUNKS IN", "BYTES IN", "RESUMED IN", "NOT TAKEN AGAIN")
	for _, p := range st.GetTransport() {
		t.row(fmt.Sprint("node ", p.GetId()), p.GetSnapshotsSent(), p.GetSnapshotChunksSent(), p.GetSnapshotBytesSent(),
			p.GetSnapshotsResumed(), p.GetSnapshotBytesResumed(),
			p.GetSnapshotsReceived(), p.GetSnapshotChunksReceived(), p.GetSnapshotBytesReceived(),
			p.GetSnapshotsReceivedResumed(), p.GetSnapshotBytesReceivedResumed())
	}
}

// telling are the distributions that status shows, in words, in this order. Those
// of peers have a row each.
var telling = []struct{ name, words string }{
	{"entry_commands", "commands an entry"},
	{"proposal_commands", "commands a proposal"},
	{"message_entries", "entries a message"},
	{"frame_bytes", "bytes a frame"},
	{"apply_lag_entries", "entries not yet applied"},
	{"journal_fsync_duration_nanos", "fsync"},
	{"round_trip_nanos", "round trip"},
	{"reassembly_nanos", "first fragment to whole entry"},
	{"heartbeat_round_trip_nanos", "leader: heartbeat to its answer"},
	{"stage_queue_nanos", "leader: waiting to be proposed"},
	{"stage_append_nanos", "leader: proposed to appended"},
	{"stage_commit_nanos", "leader: proposed to committed"},
	{"stage_apply_nanos", "leader: committed to applied"},
	{"stage_answer_nanos", "leader: applied to answered"},
	{"stage_step_nanos", "follower: received to taken in"},
	{"stage_durable_nanos", "follower: taken in to acknowledged"},
}

func statusDistributions(t table, st *clusterv1.StatusResponse) {
	if len(st.GetDistributions()) == 0 {
		return
	}
	t.row()
	t.row("MEASURED", "COUNT", "MEAN", "P50", "P99", "MAX")
	for _, d := range telling {
		for _, v := range st.GetDistributions() {
			if v.GetName() != d.name {
				continue
			}
			words := d.words
			if v.GetPeerId() != 0 {
				words += fmt.Sprintf(" (node %d)", v.GetPeerId())
			}
			t.row(words, v.GetCount(), amount(d.name, v.GetMean()), amount(d.name, float64(v.GetP50())),
				amount(d.name, float64(v.GetP99())), amount(d.name, float64(v.GetMax())))
		}
	}
}

// amount formats a value by its unit, with three digits that count.
func amount(name string, value float64) string {
	switch {
	case strings.HasSuffix(name, "_nanos"):
		d := time.Duration(value)
		for _, step := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
			if d >= 100*step {
				return d.Round(step).String()
			}
			if d >= step {
				return d.Round(step / 100).String()
			}
		}
		return d.String()
	case value < 100 && value != math.Trunc(value):
		return strconv.FormatFloat(value, 'f', 1, 64)
	default:
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
}

func statusLimits(t table, st *clusterv1.StatusResponse) {
	l := st.GetLimits()
	if l == nil {
		return
	}
	t.row()
	t.row("LIMITS")
	t.row("max-message", size(l.GetMaxMessageBytes()))
	t.row("max-request", size(l.GetMaxRequestBytes()))
	t.row("chunking", l.GetChunking())
	chunk := size(l.GetChunkSizeBytes())
	if st.GetConfig()["chunk-size"] == node.AutoChunk.String() {
		chunk = "auto, from " + chunk
	}
	t.row("chunk-size", chunk)
	entry := size(l.GetMaxEntryBytes())
	if l.GetMaxEntryBytes() >= 1<<31 {
		entry = "none"
	}
	t.row("largest entry", entry)
	if caps := l.GetMemoryCapsBytes(); len(caps) > 0 {
		sum, parts := uint64(0), []string(nil)
		for _, what := range slices.Sorted(maps.Keys(caps)) {
			sum += caps[what]
			parts = append(parts, what+" "+roughSize(caps[what]))
		}
		t.row("memory beside the store", fmt.Sprintf("%s at most: %s", roughSize(sum), strings.Join(parts, ", ")))
	}
}

func statusCounters(t table, st *clusterv1.StatusResponse) {
	if len(st.GetCounters()) == 0 {
		return
	}
	t.row()
	t.row("COUNTERS")
	for _, name := range slices.Sorted(maps.Keys(st.GetCounters())) {
		t.row(name, st.GetCounters()[name])
	}
}

func size(bytes uint64) string {
	if bytes == 0 || bytes >= 1<<62 {
		return "-"
	}
	return node.Size(bytes).String()
}

// roughSize is size with a digit after the point, for sums, which are no round numbers.
func roughSize(bytes uint64) string {
	for i, name := range []string{"GiB", "MiB", "KiB"} {
		unit := uint64(1) << (30 - 10*i)
		if bytes >= unit && bytes < 1<<62 {
			tenths := math.Round(float64(bytes) / float64(unit) * 10)
			return strconv.FormatFloat(tenths/10, 'f', -1, 64) + name
		}
	}
	return size(bytes)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
