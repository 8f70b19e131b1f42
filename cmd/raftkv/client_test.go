package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv/client/clienttest"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the files of testdata")

// outcome is what a run of the program left.
type outcome struct {
	code           int
	stdout, stderr string
}

// raftkv runs the program in process.
func raftkv(ctx context.Context, stdin string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := runWithInput(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestClientCommands(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	t.Setenv("RAFTKV_ENDPOINTS", cluster.Node(2).Address+","+cluster.Node(1).Address)
	file := filepath.Join(t.TempDir(), "batch")
	const batch = "# two\nput x 1\nput \"y z\" \"a\\tb\"\n\nget x\ndel gone\ncas x 1 2\n"
	if err := os.WriteFile(file, []byte(batch), 0o600); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		args  []string
		stdin string
		want  outcome
	}{
		{args: []string{"get", "a"}, want: outcome{exitNoKey, "", "raftkv: no such key: a\n"}},
		{args: []string{"put", "a", "hello"}, want: outcome{0, "version 1, revision 1, index 1\n", ""}},
		{args: []string{"get", "a"}, want: outcome{0, "hello", ""}},
		{args: []string{"get", "a", "--read", "stale"}, want: outcome{0, "hello", ""}},
		{args: []string{"get", "a", "--read=lease"}, want: outcome{0, "hello", ""}},
		{args: []string{"scan", "a", "--read", "follower"}, want: outcome{0, "a\thello\n", ""}},
		{args: []string{"put", "a", "-"}, stdin: "from\x00stdin\n", want: outcome{0, "version 2, revision 2, index 2\n", ""}},
		{args: []string{"get", "a"}, want: outcome{0, "from\x00stdin\n", ""}},
		{args: []string{"put", "--", "dash", "-5"}, want: outcome{0, "version 1, revision 3, index 3\n", ""}},
		{args: []string{"cas", "a", "--expect", "other", "x"}, want: outcome{exitMismatch, "from\x00stdin\n", "raftkv: mismatch: a holds another value, version 2\n"}},
		{args: []string{"cas", "a", "--expect-absent", "x"}, want: outcome{exitMismatch, "from\x00stdin\n", "raftkv: mismatch: a holds another value, version 2\n"}},
		{args: []string{"cas", "gone", "--expect", "", "x"}, want: outcome{exitMismatch, "", "raftkv: mismatch: gone does not exist\n"}},
		{args: []string{"cas", "a", "--expect", "from\x00stdin\n", "-"}, stdin: "new", want: outcome{0, "version 3, revision 4, index 7\n", ""}},
		{args: []string{"cas", "b", "--expect-absent", "1"}, want: outcome{0, "version 1, revision 5, index 8\n", ""}},
		{args: []string{"scan", ""}, want: outcome{0, "a\tnew\nb\t1\ndash\t-5\n", ""}},
		{args: []string{"scan", "", "--limit", "2"}, want: outcome{0, "a\tnew\nb\t1\n", ""}},
		{args: []string{"scan", "d"}, want: outcome{0, "dash\t-5\n", ""}},
		{args: []string{"del", "b"}, want: outcome{0, "deleted, revision 6, index 9\n", ""}},
		{args: []string{"del", "b"}, want: outcome{0, "was not there, revision 6, index 10\n", ""}},
		{args: []string{"batch", file}, want: outcome{0, "put\tx\tversion 1\nput\ty z\tversion 1\nget\tx\t1\ndel\tgone\twas not there\ncas\tx\tversion 2\n", ""}},
		{args: []string{"batch", "-"}, stdin: "put x 3\ncreate new 1\n\ncreate x 9\nput x 4", want: outcome{
			exitMismatch, "put\tx\tversion 3\ncreate\tnew\tversion 1\ncreate\tx\tmismatch: 3\n",
			"raftkv: -: line 4: mismatch: x holds another value, version 3; nothing was changed\n",
		}},
		{args: []string{"scan", "x"}, want: outcome{0, "x\t2\n", ""}},
		{args: []string{"scan", "y"}, want: outcome{0, "y z\t\"a\\tb\"\n", ""}},
		{args: []string{"cluster", "init"}, want: outcome{0, "node 2: cluster 0000000000000007 created\n", ""}},
		{args: []string{"cluster", "add-learner", "--id", "4", "--addr", "127.0.0.1:9"}, want: outcome{0, "node 4 added: voters 1,2,3; learners 4\n", ""}},
		{args: []string{"cluster", "change-membership", "--voters", "1,2,3,4"}, want: outcome{0, "voters 1,2,3,4; learners none\n", ""}},
		{args: []string{"cluster", "remove-node", "--id", "4"}, want: outcome{0, "node 4 removed: voters 1,2,3; learners none\n", ""}},
		{args: []string{"cluster", "transfer-leadership", "--to", "3"}, want: outcome{0, "node 3 leads in term 4\n", ""}},
		{args: []string{"cluster", "snapshot"}, want: outcome{0, "snapshot at index 12, term 3, 2 keys\n", ""}},
	}
	for _, step := range steps {
		if got := raftkv(t.Context(), step.stdin, step.args...); got != step.want {
			t.Errorf("raftkv %q\n got %#v\nwant %#v", step.args, got, step.want)
		}
	}
}

func TestClientCommandsJSON(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	t.Setenv("RAFTKV_ENDPOINTS", cluster.Node(1).Address)
	for _, step := range []struct {
		code int
		args []string
		want string // fields, by their JSON
	}{
		{0, []string{"put", "a", "hello"}, `{"version":"1","mod_revision":"1"}`},
		{0, []string{"get", "a"}, `{"found":true,"value":"aGVsbG8="}`},
		{exitNoKey, []string{"get", "gone"}, `{"found":false,"value":""}`},
		{exitMismatch, []string{"cas", "a", "--expect", "x", "y"}, `{"succeeded":false,"found":true,"value":"aGVsbG8="}`},
		{0, []string{"del", "gone"}, `{"deleted":false}`},
		{0, []string{"scan", ""}, `{"key":"YQ==","value":"aGVsbG8="}`},
		{0, []string{"batch", "-"}, `{"succeeded":true}`},
		{0, []string{"cluster", "init"}, `{"created":true,"node_id":"1"}`},
		{0, []string{"cluster", "status"}, `{"node_id":"1","role":"ROLE_LEADER","term":"3"}`},
		{0, []string{"cluster", "status", "--with-hash"}, `{"state_hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`},
		{0, []string{"cluster", "snapshot"}, `{"index":"12","keys":"2"}`},
	} {
		got := raftkv(t.Context(), `{"kind":"OPERATION_KIND_GET","key":"YQ=="}`, append(step.args, "-o", "json")...)
		var have, want map[string]any
		if err := json.Unmarshal([]byte(got.stdout), &have); err != nil {
			t.Errorf("%q printed %q: %v", step.args, got.stdout, err)
			continue
		}
		if err := json.Unmarshal([]byte(step.want), &want); err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			if have[name] != value {
				t.Errorf("%q: %s is %v, want %v", step.args, name, have[name], value)
			}
		}
		if got.code != step.code || strings.Count(got.stdout, "\n") != 1 {
			t.Errorf("%q: exit %d, want %d, and one line of %q", step.args, got.code, step.code, got.stdout)
		}
	}
}

// Every kind of failure: its exit code, and one line that says what it is about.
func TestClientExitCodes(t *testing.T) {
	refuse := func(code codes.Code, message string) clienttest.Step {
		return clienttest.Step{Err: clienttest.Refusal(code, message)}
	}
	hang := clienttest.Step{Delay: time.Minute}
	for name, tc := range map[string]struct {
		method string
		step   clienttest.Step
		args   []string
		code   int
		says   string
	}{
		"invalid":                {clienttest.Put, refuse(codes.InvalidArgument, "key is empty"), []string{"put", "", "v"}, exitFailed, "key is empty"},
		"retried":                {clienttest.Put, refuse(codes.Unavailable, "stopping"), []string{"put", "k", "v"}, exitDone, ""},
		"write timed out":        {clienttest.Put, hang, []string{"put", "k", "v", "--timeout", "3s"}, exitUnknown, "outcome unknown"},
		"delete timed out":       {clienttest.Delete, hang, []string{"del", "k", "--timeout", "3s"}, exitUnknown, "outcome unknown"},
		"cas timed out":          {clienttest.CompareAndSwap, hang, []string{"cas", "k", "--expect", "a", "b", "--timeout", "3s"}, exitUnknown, "outcome unknown"},
		"batch timed out":        {clienttest.Batch, hang, []string{"batch", "-", "--timeout", "3s"}, exitUnknown, "outcome unknown"},
		"leadership lost":        {clienttest.Put, clienttest.Step{Err: clienttest.Unknown(codes.Unavailable, "leadership lost")}, []string{"put", "k", "v"}, exitUnknown, "leadership lost"},
		"read timed out":         {clienttest.Get, hang, []string{"get", "k", "--timeout", "100ms"}, exitFailed, "DeadlineExceeded"},
		"scan timed out":         {clienttest.Scan, hang, []string{"scan", "", "--timeout", "100ms"}, exitFailed, "DeadlineExceeded"},
		"status timed out":       {clienttest.Status, hang, []string{"cluster", "status", "--timeout", "100ms"}, exitFailed, "DeadlineExceeded"},
		"membership timed out":   {clienttest.ChangeMembership, hang, []string{"cluster", "change-membership", "--voters", "1", "--timeout", "3s"}, exitUnknown, "may still finish"},
		"membership refused":     {clienttest.ChangeMembership, refuse(codes.FailedPrecondition, "node 9 is unknown"), []string{"cluster", "change-membership", "--voters", "9"}, exitFailed, "node 9 is unknown"},
		"last voter":             {"", clienttest.Step{}, []string{"cluster", "remove-node", "--id", "1"}, exitFailed, "last voter"},
		"init refused":           {clienttest.Init, refuse(codes.FailedPrecondition, "node 1 is in another cluster"), []string{"cluster", "init"}, exitFailed, "another cluster"},
		"nobody there":           {"", clienttest.Step{}, []string{"put", "k", "v", "--endpoints", "127.0.0.1:1", "--timeout", "3s"}, exitFailed, "127.0.0.1:1: connection refused (raftkv serve starts a node)"},
		"no node answers":        {"", clienttest.Step{}, []string{"get", "k", "--endpoints", "127.0.0.1:1,127.0.0.1:2", "--timeout", "1m"}, exitFailed, "no node answers: 127.0.0.1:1: connection refused, 127.0.0.1:2: connection refused (raftkv serve starts a node)"},
		"no such file":           {"", clienttest.Step{}, []string{"batch", filepath.Join(t.TempDir(), "none")}, exitFailed, "no such file"},
		"bad batch":              {"", clienttest.Step{}, []string{"batch", os.DevNull}, exitUsage, "no operations"},
		"too few arguments":      {"", clienttest.Step{}, []string{"put", "k"}, exitUsage, "accepts 2 arg(s), received 1; usage: raftkv put KEY VALUE"},
		"attempt below 0":        {"", clienttest.Step{}, []string{"get", "k", "--attempt-timeout", "-1s"}, exitUsage, "attempt-timeout -1s must not be negative"},
		"attempt beyond timeout": {"", clienttest.Step{}, []string{"get", "k", "--attempt-timeout", "10s"}, exitUsage, "attempt-timeout 10s must be less than timeout 10s"},
		"attempt of a change":    {"", clienttest.Step{}, []string{"cluster", "remove-node", "--id", "2", "--attempt-timeout", "1s"}, exitUsage, "unknown flag: --attempt-timeout"},
		"read exactly once":      {"", clienttest.Step{}, []string{"get", "k", "--exactly-once"}, exitUsage, "unknown flag: --exactly-once"},
		"once timed out":         {clienttest.Put, hang, []string{"put", "k", "v", "--exactly-once", "--timeout", "3s"}, exitUnknown, "outcome unknown"},
		"no session":             {clienttest.OpenSession, hang, []string{"put", "k", "v", "--exactly-once", "--timeout", "100ms"}, exitFailed, "OpenSession: DeadlineExceeded"},
		"unknown flag":           {"", clienttest.Step{}, []string{"get", "k", "--nosuch"}, exitUsage, "--nosuch"},
		"cas without expect":     {"", clienttest.Step{}, []string{"cas", "k", "v"}, exitUsage, "expect"},
		"cas with both":          {"", clienttest.Step{}, []string{"cas", "k", "v", "--expect", "x", "--expect-absent"}, exitUsage, "expect"},
		"negative limit":         {"", clienttest.Step{}, []string{"scan", "", "--limit", "-1"}, exitUsage, `limit "-1" is not a whole number from 0 to 4294967295`},
		"not true or false":      {"", clienttest.Step{}, []string{"cas", "k", "v", "--expect-absent=maybe"}, exitUsage, `expect-absent "maybe" is not true or false`},
		"unknown read":           {"", clienttest.Step{}, []string{"get", "k", "--read", "dirty"}, exitUsage, `read "dirty" is not one of linearizable, lease, follower, stale`},
		"scan of unknown read":   {"", clienttest.Step{}, []string{"scan", "k", "--read", ""}, exitUsage, `read "" is not one of linearizable, lease, follower, stale`},
		"bad port":               {"", clienttest.Step{}, []string{"get", "k", "--endpoints", "127.0.0.1:99999"}, exitUsage, `endpoint "127.0.0.1:99999" has a port outside 1 to 65535`},
		"id of raft's own":       {"", clienttest.Step{}, []string{"cluster", "add-learner", "--id", "18446744073709551614", "--addr", "a:1"}, exitUsage, "id 18446744073709551614 is reserved by raft"},
		"bad endpoint":           {"", clienttest.Step{}, []string{"get", "k", "--endpoints", "localhost"}, exitUsage, `endpoint "localhost" is not host:port`},
		"no endpoint":            {"", clienttest.Step{}, []string{"get", "k", "--endpoints", ""}, exitUsage, "no endpoints"},
		"id 0":                   {"", clienttest.Step{}, []string{"cluster", "add-learner", "--id", "0", "--addr", "a:1"}, exitUsage, "id 0"},
		"bad addr":               {"", clienttest.Step{}, []string{"cluster", "add-learner", "--id", "2", "--addr", "a"}, exitUsage, "host:port"},
		"no id":                  {"", clienttest.Step{}, []string{"cluster", "remove-node"}, exitUsage, "id"},
		"voters twice":           {"", clienttest.Step{}, []string{"cluster", "change-membership", "--voters", "1,1"}, exitUsage, "id 1 is there twice"},
		"voters not a number":    {"", clienttest.Step{}, []string{"cluster", "change-membership", "--voters", "1,b"}, exitUsage, `"b"`},
		"transfer to 0":          {"", clienttest.Step{}, []string{"cluster", "transfer-leadership", "--to", "0"}, exitUsage, "to 0"},
		"unknown format":         {"", clienttest.Step{}, []string{"get", "k", "-o", "yaml"}, exitUsage, "yaml"},
		"unknown cluster action": {"", clienttest.Step{}, []string{"cluster", "explode"}, exitUsage, "explode"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := clienttest.Start(t, 1)
			t.Setenv("RAFTKV_ENDPOINTS", cluster.Node(1).Address)
			if tc.method != "" {
				cluster.Node(1).Script(tc.method, tc.step)
			}
			got := raftkv(t.Context(), "put a b", tc.args...)
			if got.code != tc.code {
				t.Errorf("exit %d, want %d; stderr %q", got.code, tc.code, got.stderr)
			}
			if !strings.Contains(got.stderr, tc.says) {
				t.Errorf("stderr %q does not say %q", got.stderr, tc.says)
			}
			if lines := strings.Count(got.stderr, "\n"); tc.code != exitDone && lines != 1 {
				t.Errorf("%d lines on stderr: %q", lines, got.stderr)
			}
			if tc.code != exitDone && got.stdout != "" {
				t.Errorf("stdout %q", got.stdout)
			}
		})
	}
}

// Answers are lost, of all kinds of writes and of opening the session: each write is
// applied once, and no session is left.
func TestExactlyOnce(t *testing.T) {
	for _, c := range []struct {
		method string
		args   []string
		want   string
	}{
		{clienttest.Put, []string{"put", "k", "v"}, "version 1, revision 1, index 1\n"},
		{clienttest.CompareAndSwap, []string{"cas", "k", "--expect-absent", "v"}, "version 1, revision 1, index 1\n"},
		{clienttest.Delete, []string{"del", "k"}, "was not there, revision 0, index 1\n"},
		{clienttest.Batch, []string{"batch", "-"}, "create\tk\tversion 1\n"},
	} {
		cluster := clienttest.Start(t, 1)
		lost := clienttest.Step{Err: clienttest.Unknown(codes.Unavailable, "leadership lost"), Apply: true}
		cluster.Node(1).Script(c.method, lost, lost)
		got := raftkv(t.Context(), "create k v", append(c.args, "--exactly-once", "--endpoints", cluster.Node(1).Address)...)
		if got != (outcome{exitDone, c.want, ""}) || cluster.Applied("k") != 1 {
			t.Errorf("%q: %+v, applied %d times", c.args, got, cluster.Applied("k"))
		}
		if n := cluster.Sessions(); n != 0 {
			t.Errorf("%q left %d sessions", c.args, n)
		}
	}
}

// One that may have been applied is not left open because no node is up for a while.
func TestExactlyOnceOutlastsARestart(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	node, restarted := cluster.Node(1), make(chan error, 1)
	node.Script(clienttest.Put, clienttest.Step{Apply: true, Err: clienttest.Unknown(codes.Unavailable, "stopping"), Before: func() {
		go func() {
			node.Stop()
			time.Sleep(unreachableTime + 500*time.Millisecond)
			restarted <- node.Restart()
		}()
	}})
	got := raftkv(t.Context(), "", "put", "k", "v", "--exactly-once", "--timeout", "30s", "--endpoints", node.Address)
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	if got.code != exitDone || cluster.Applied("k") != 1 {
		t.Errorf("%+v, applied %d times", got, cluster.Applied("k"))
	}
}

// The first node is silent: with a limit for an attempt another answers.
func TestAttemptTimeout(t *testing.T) {
	for _, c := range []struct {
		silent string // method
		args   []string
	}{
		{clienttest.Get, []string{"get", "k"}},
		{clienttest.Scan, []string{"scan", ""}},
		{clienttest.Status, []string{"cluster", "status"}},
		{clienttest.OpenSession, []string{"put", "k", "v", "--exactly-once"}},
		{clienttest.Put, []string{"put", "k", "v", "--exactly-once"}},
	} {
		cluster := clienttest.Start(t, 2)
		if got := raftkv(t.Context(), "", "put", "k", "v", "--endpoints", cluster.Node(1).Address); got.code != exitDone {
			t.Fatalf("%+v", got)
		}
		cluster.Node(1).Script(c.silent, clienttest.Step{Delay: time.Minute, Before: func() { cluster.SetLeader(2) }})
		got := raftkv(t.Context(), "", append(c.args, "--attempt-timeout", "500ms", "--endpoints", strings.Join(cluster.Addresses(), ","))...)
		if got.code != exitDone {
			t.Errorf("%q: %+v", c.args, got)
		}
	}
}

func TestInterrupted(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cluster.Node(1).Script(clienttest.Put, clienttest.Step{Before: cancel, Delay: time.Minute})
	got := raftkv(ctx, "", "put", "k", "v", "--endpoints", cluster.Node(1).Address)
	if got.code != exitUnknown {
		t.Errorf("%+v", got)
	}
}

func TestParseBatchRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"put a":                   "line 1: put takes 2 words, not 1",
		"put a b\nget a b":        "line 2: get takes 1 words, not 2",
		"\n\ndrop a":              `line 3: "drop" is not one of`,
		`put "a b`:                "a quoted word does not end",
		`put "a"b c`:              `no space after "a"`,
		`{"kind": "nonsense"}`:    "line 1",
		`{"key": "YQ=="}`:         "without a kind",
		"# only a comment\n   \n": "no operations",
	} {
		_, _, err := parseBatch([]byte(text))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// Whatever the bytes, a quoted word reads back as it was.
func FuzzSplitWords(f *testing.F) {
	for _, seed := range []string{"", "a", "a b\t", "\"", "\\", "\x00\xff", "ü\n"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		words, err := splitWords(fmt.Sprintf(" put\t%q  %q ", a, b))
		if err != nil || len(words) != 3 || string(words[1]) != a || string(words[2]) != b {
			t.Errorf("%q %q became %q, %v", a, b, words, err)
		}
	})
}

func TestPrintStatus(t *testing.T) {
	st := &clusterv1.StatusResponse{
		NodeId: 1, Incarnation: 0x1f2e3d4c, ClusterId: 0xfeedbeef, Role: clusterv1.Role_ROLE_LEADER, Term: 7,
		LeaderId: 1, LeaderAddress: "127.0.0.1:21001", CommitIndex: 120031, AppliedIndex: 120030,
		LogFirstIndex: 110031, LogLastIndex: 120033, LogBytes: 3145728, Revision: 119000, Keys: 1000,
		StateHash: bytes.Repeat([]byte{0xab}, 32), Version: "0123abcd",
		Membership: &kvv1.Membership{
			Voters: []uint64{1, 2, 4}, VotersOutgoing: []uint64{1, 2, 3}, LearnersNext: []uint64{3}, Learners: []uint64{5},
			Nodes: []*kvv1.Member{
				{Id: 1, Incarnation: 0x1f2e3d4c, Address: "127.0.0.1:21001", PeerAddress: "127.0.0.1:22001"},
				{Id: 2, Incarnation: 2, Address: "127.0.0.1:21002", PeerAddress: "127.0.0.1:22002"},
				{Id: 3, Incarnation: 3, Address: "127.0.0.1:21003", PeerAddress: "127.0.0.1:22003"},
				{Id: 4, Incarnation: 4, Address: "127.0.0.1:21004", PeerAddress: "127.0.0.1:22004"},
				{Id: 5, Incarnation: 5, Address: "127.0.0.1:21005", PeerAddress: "127.0.0.1:22005"},
			},
			RemovedIds: []uint64{6},
		},
		Progress: []*clusterv1.PeerProgress{
			{Id: 2, MatchIndex: 120033, NextIndex: 120034, State: "replicate", RecentActive: true},
			{Id: 5, Learner: true, MatchIndex: 10, NextIndex: 11, State: "snapshot", Paused: true, PendingSnapshotIndex: 110030},
		},
		Transport: []*clusterv1.PeerTransport{
			{
				Id: 2, PeerAddress: "127.0.0.1:22002", Connected: true, ReceiveLimitBytes: 4 << 20, ChunkSizeBytes: 256 << 10, Dials: 3, MessagesSent: 54321,
				FramesSent: 60000, BytesSent: 123456789, WireBytesSent: 45678901, MessagesSplit: 12, FragmentsSent: 48, MessagesReceived: 54000,
				FramesReceived: 54000, BytesReceived: 1234567, LargestFrameSentBytes: 1048576,
			},
			{
				Id: 5, PeerAddress: "127.0.0.1:22005", ReceiveLimitBytes: 1024, Dials: 1, MessagesDropped: 4, Refusals: 1,
				Counters: map[string]uint64{"dials": 1, "messages_dropped": 4, "messages_dropped_cannot_follow": 3, "messages_dropped_busy": 1, "messages_dropped_broken": 0},
				Problem:  "cannot follow: message 2048 > limit 1024", SnapshotsSent: 1, SnapshotChunksSent: 64, SnapshotBytesSent: 65000,
			},
		},
		Limits: &clusterv1.Limits{
			MaxMessageBytes: 4 << 20, MaxRequestBytes: 64 << 20, ChunkSizeBytes: 1 << 20, Chunking: "fragment", MaxEntryBytes: 1 << 63,
			MemoryCapsBytes: map[string]uint64{"admission": 337144 << 10, "log": 256 << 20, "peer-queues": 0, "snapshot": 16 << 30, "streams": 1500},
		},
		Distributions: []*clusterv1.Distribution{
			{Name: "stage_commit_nanos", Count: 119000, Mean: 412345.6, P50: 393216, P99: 2097152, Max: 1610612736},
			{Name: "stage_answer_nanos", Count: 119000, Mean: 950.5, P50: 896, P99: 4096, Max: 131072},
			{Name: "entry_commands", Count: 119000, Mean: 3.25, P50: 2, P99: 64, Max: 4096},
			{Name: "frame_bytes", PeerId: 2, Count: 60000, Mean: 2057.61, P50: 1024, P99: 1048576, Max: 1048576},
			{Name: "apply_lag_entries", Count: 7, Mean: 1, P50: 1, P99: 1, Max: 1},
			{Name: "new_here_items", Count: 7, Mean: 1, P50: 1, P99: 1, Max: 1},
		},
		Config:   map[string]string{"chunk-size": "auto"},
		Counters: map[string]uint64{"raft_elections": 2, "proposals": 119000},
	}
	fresh := &clusterv1.StatusResponse{NodeId: 3, Role: clusterv1.Role_ROLE_FOLLOWER, Incarnation: 9, Version: "unknown"}
	for name, st := range map[string]*clusterv1.StatusResponse{"status-leader": st, "status-fresh": fresh} {
		var got bytes.Buffer
		if err := printStatus(&got, st); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".txt")
		if *rewrite {
			if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s (go test -rewrite, and read the difference):\n%s", file, got.Bytes())
		}
	}
}

// status asks on until an endpoint answers.
func TestStatusOfTheFirstThatAnswers(t *testing.T) {
	cluster := clienttest.Start(t, 2)
	cluster.Node(1).Script(clienttest.Status, clienttest.Step{Err: status.Error(codes.Unavailable, "stopping")})
	got := raftkv(t.Context(), "", "cluster", "status", "--endpoints", strings.Join(cluster.Addresses(), ","))
	if got.code != exitDone || !strings.HasPrefix(got.stdout, "node             2\n") {
		t.Errorf("%+v", got)
	}
}
