package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

func dialLab(t *testing.T, m *member) labv1.LabClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.DebugAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return labv1.NewLabClient(conn)
}

// histogramsOf are those of a response by name, with peer:N behind those of peers.
func histogramsOf(r *labv1.StagesResponse) map[string]*labv1.Histogram {
	all := map[string]*labv1.Histogram{}
	for _, h := range r.GetHistograms() {
		name := h.GetName()
		if h.GetPeerId() != 0 {
			name += fmt.Sprint("/", h.GetPeerId())
		}
		all[name] = h
	}
	return all
}

func countOf(h *labv1.Histogram) (n uint64) {
	for _, b := range h.GetBuckets() {
		n += b.GetCount()
	}
	return n
}

// A stream shows the stages of the writes that were made meanwhile.
func TestStages(t *testing.T) {
	for _, packing := range []string{replica.PackPacked, replica.PackEntry} {
		t.Run("packing="+packing, func(t *testing.T) {
			members := startCluster(t, 3, func(o *Options) {
				o.Config.DebugAddr = "127.0.0.1:0"
				o.Config.Storage, o.Config.DataDir, o.Config.Packing = StorageWAL, t.TempDir(), packing
			})
			ctx, cancel := context.WithCancel(within(t, 3*time.Minute))
			defer cancel()
			stream, err := dialLab(t, members[0]).Stages(ctx, &labv1.StagesRequest{IntervalNanos: uint64(10 * time.Millisecond)})
			if err != nil {
				t.Fatal(err)
			}
			receive := func() map[string]*labv1.Histogram {
				t.Helper()
				resp, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if resp.GetNodeId() != 1 || resp.GetUnixNanos() == 0 {
					t.Errorf("of node %d at %d", resp.GetNodeId(), resp.GetUnixNanos())
				}
				return histogramsOf(resp)
			}
			before := receive()
			began := time.Now()
			requests, err := members[0].kv.Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			const messages, operations = 10, 20
			for i := range messages {
				var ops []*kvv1.Operation
				for j := range operations {
					ops = append(ops, op(uint64(1+i*operations+j), opPut, "k", "v"))
				}
				exchangeOps(t, requests, ops...)
			}
			took := time.Since(began)
			// Responses that were sent before are still to be read, and an answer can be
			// on its way before it is counted.
			var after map[string]*labv1.Histogram
			committed := members[0].state(ctx, t).GetCounters()["entries_proposed"]
			const commands = messages * operations
			const unsampled = 7 // of those whose clocks are read for one in eight
			for after == nil || countOf(after["stage_commit_nanos"]) < commands || countOf(after["stage_answer_nanos"])+unsampled < commands {
				after = receive()
			}
			for _, stage := range []string{"queue", "append", "commit", "apply", "answer"} {
				h := after["stage_"+stage+"_nanos"]
				n, sum := countOf(h)-countOf(before[h.GetName()]), h.GetSum()-before[h.GetName()].GetSum()
				least, most := uint64(commands), uint64(commands)
				switch stage {
				case "append": // entries, with what is not of commands: a new term, configuration changes
					least, most = committed-unsampled, committed+20
				case "apply", "answer":
					least = commands - unsampled
				}
				if n < least || n > most {
					t.Errorf("stage %s has %d values of %d to %d", stage, n, least, most)
				}
				if sum == 0 || sum > n*uint64(took) {
					t.Errorf("stage %s: %d values are %v in sum, the whole took %v", stage, n, time.Duration(sum), took)
				}
				if h.GetUnit() != "nanos" || !strings.HasPrefix(h.GetSentence(), "Leader: ") {
					t.Errorf("%v", h)
				}
			}
			if got := after["entry_commands"].GetSum(); got != messages*operations {
				t.Errorf("%d commands in entries", got)
			}
			if got := after["proposal_commands"].GetSum(); got != messages*operations {
				t.Errorf("%d commands in proposals", got)
			}
			if got := after["message_entries"].GetSum(); got < 2*committed {
				t.Errorf("%d entries in messages to two peers, %d proposed", got, committed)
			}
			for _, name := range []string{"apply_lag_entries", "journal_fsync_duration_nanos", "frame_bytes/2", "frame_bytes/3", "round_trip_nanos/2"} {
				if countOf(after[name]) == 0 {
					t.Errorf("nothing in %s: %v", name, after[name])
				}
			}
			if n := countOf(after["stage_step_nanos"]) + countOf(after["stage_durable_nanos"]); n != 0 {
				t.Errorf("the leader received %d entries", n)
			}
			checkBreakdown(ctx, t, members[0], "write_nanos", "queue", "commit", "apply", "answer")
			told := map[string]uint64{}
			for _, d := range members[0].state(ctx, t).GetDistributions() {
				told[d.GetName()] = d.GetCount()
				if d.GetCount() == 0 || d.GetP50() > d.GetP99() || d.GetP99() > d.GetMax() || d.GetMean() > float64(d.GetMax()) || d.GetSentence() == "" {
					t.Errorf("status tells %v", d)
				}
			}
			if told["stage_commit_nanos"] != commands || told["entry_commands"] != committed || told["stage_step_nanos"] != 0 {
				t.Errorf("status tells %v, %d entries were committed", told, committed)
			}
			for _, m := range members[1:] {
				for countOf(histogramsOf(m.Stages())["stage_durable_nanos"])+unsampled < committed {
					if ctx.Err() != nil {
						t.Fatalf("node %d received %v", m.cfg.ID, m.Stages())
					}
					time.Sleep(time.Millisecond)
				}
				checkBreakdown(ctx, t, m, "received_entry_nanos", "step", "durable")
			}

			cancel()
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.Canceled {
				t.Errorf("the stream ended with %v", err)
			}
		})
	}
}

// checkBreakdown wants whole operations to consist of these stages, whose own
// histograms have the same when all were measured together.
func checkBreakdown(ctx context.Context, t *testing.T, m *member, name string, parts ...string) {
	t.Helper()
	r := m.Stages()
	i := slices.IndexFunc(r.GetBreakdowns(), func(b *labv1.Breakdown) bool { return b.GetName() == name })
	if i < 0 {
		t.Fatalf("no %s in %v", name, r.GetBreakdowns())
	}
	b := r.GetBreakdowns()[i]
	if !slices.Equal(b.GetParts(), parts) || b.GetUnit() != "nanos" || b.GetSentence() == "" {
		t.Fatalf("%s is %q of %q in %s", name, b.GetSentence(), b.GetParts(), b.GetUnit())
	}
	var count uint64
	sums := make([]uint64, len(parts))
	below := uint64(0)
	for _, k := range b.GetBuckets() {
		count += k.GetCount()
		total := uint64(0)
		for i, sum := range k.GetSums() {
			sums[i] += sum
			total += sum
		}
		if mean := total / k.GetCount(); mean > k.GetUpperBound() || mean < below {
			t.Errorf("%s: the sums of the bucket from %d to %d are %d on average", name, below, k.GetUpperBound(), mean)
		}
		below = k.GetUpperBound()
	}
	own := histogramsOf(r)["stage_"+parts[len(parts)-1]+"_nanos"]
	if count != countOf(own) && ctx.Err() == nil { // the last is being recorded
		time.Sleep(time.Millisecond)
		checkBreakdown(ctx, t, m, name, parts...)
		return
	}
	if count == 0 || count != countOf(own) || sums[len(parts)-1] != own.GetSum() {
		t.Errorf("%s has %d values with %d of the last part; its histogram %d with %d",
			name, count, sums[len(parts)-1], countOf(own), own.GetSum())
	}
}

// With knob stages off there are distributions, and no stages, until the Lab
// service switches them on; off again, they stay as they are.
func TestStagesOff(t *testing.T) {
	m := startCluster(t, 1, func(o *Options) { o.Config.Stages, o.Config.DebugAddr = StagesOff, "127.0.0.1:0" })[0]
	ctx := within(t, 3*time.Minute)
	lab := dialLab(t, m)
	for _, step := range []struct {
		set, was bool
		commits  uint64 // measured in the end
	}{{false, false, 0}, {true, false, 1}, {true, true, 2}, {false, true, 2}} {
		resp, err := lab.SetStages(ctx, &labv1.SetStagesRequest{On: step.set})
		if err != nil || resp.GetWasOn() != step.was {
			t.Fatalf("%+v: %v, %v", step, resp, err)
		}
		if _, err := m.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
		found := histogramsOf(m.Stages())
		if n := countOf(found["stage_commit_nanos"]); n != step.commits {
			t.Errorf("%+v: %d commits", step, n)
		}
		for name, h := range found {
			if n := countOf(h); strings.HasPrefix(name, "stage_") && step.commits == 0 && n != 0 {
				t.Errorf("%s has %d values", name, n)
			}
		}
	}
	if n := countOf(histogramsOf(m.Stages())["entry_commands"]); n != 4 {
		t.Errorf("%d entries", n)
	}
}

func TestStagesInterval(t *testing.T) {
	m := start(t, 1, func(o *Options) { o.Config.DebugAddr = "127.0.0.1:0" })
	lab, ctx := dialLab(t, m), within(t, 3*time.Minute)
	call := func(nanos uint64) error {
		stream, err := lab.Stages(ctx, &labv1.StagesRequest{IntervalNanos: nanos})
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	if err := call(0); err == nil || err.Error() != "EOF" {
		t.Errorf("once: %v", err)
	}
	for nanos, want := range map[uint64]string{
		1:             "interval_nanos 1 is below the minimum 10000000 (0: once)",
		3600e9 + 1:    "interval_nanos 3600000000001 exceeds the maximum 3600000000000",
		1<<63 + 10000: "interval_nanos 9223372036854785808 exceeds the maximum 3600000000000",
	} {
		if err := call(nanos); status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != want {
			t.Errorf("%d: %v, want %s", nanos, err, want)
		}
	}
	// The end of the node ends a stream.
	stream, err := lab.Stages(ctx, &labv1.StagesRequest{IntervalNanos: uint64(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	stopNode(t, m.Node)
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the node ended, and the stream with %v", err)
	}
}
