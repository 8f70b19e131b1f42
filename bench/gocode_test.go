package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"raftlab/kv/node"
)

func goVariant(t *testing.T, fields ...string) *Variant {
	t.Helper()
	s := DefaultSettings()
	var name []string
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		if err := s.Set(key, value); err != nil {
			t.Fatal(err)
		}
		name = append(name, f)
	}
	n := s.normalised()
	return &Variant{ID: "v07", Name: strings.Join(name, "/"), Config: n.Map()}
}

// What is to be copied compiles, with gofmt's and vet's blessing, for settings of
// all kinds.
func TestGoCodeCompiles(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for name, fields := range map[string][]string{
		"default":  nil,
		"chunks":   {"topology=processes", "chunking=raft", "append-size=1000001", "max-message=1MiB", "inflight-bytes=3GiB", "tick=1500us"},
		"gzip":     {"topology=processes", "compression=gzip", "grpc-window=0", "stream-workers=0"},
		"zstd":     {"topology=processes", "compression=zstd", "conns=4", "target=pipeline", "ops-per-message=64", "linger=auto", "batching=linger"},
		"local":    {"topology=in-process", "target=direct"},
		"no limit": {"topology=in-process", "target=unary", "uncommitted=1", "op=get", "read=lease", "gogc=50"},
		"process":  {"topology=processes", "gomemlimit=1GiB", "gomaxprocs=2", "grpc-write-buffer=64KiB"},
	} {
		code, err := GoCode(goVariant(t, fields...))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"), "settings.go")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	for _, path := range files {
		// In this module, whose versions of raft and gRPC are meant.
		if out, err := exec.CommandContext(t.Context(), "go", "vet", path).CombinedOutput(); err != nil {
			code, _ := os.ReadFile(path)
			t.Errorf("%v: %s\n%s", err, out, code)
		}
	}
}

func TestGoCodeSays(t *testing.T) {
	v := goVariant(t, "topology=processes", "chunking=bounded", "chunk-size=256KiB", "append-size=2MiB", "max-message=8MiB", "conns=3", "target=pipeline")
	code, err := GoCode(v)
	if err != nil {
		t.Fatal(err)
	}
	code = strings.Join(strings.Fields(code), " ") // gofmt lines comments up
	for _, want := range []string{
		"those of v07, topology=processes/chunking=bounded", "MaxSizePerMsg: 2 << 20, // append-size", "MaxInflightMsgs: 256, // inflight-messages",
		"PreVote: true,", "CheckQuorum: true,", "ElectionTick: 10, // election-ticks", "const Tick = 100 * time.Millisecond // tick",
		"grpc.MaxRecvMsgSize(8 << 20), // max-message", "grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(8 << 20)), // max-message",
		"grpc.WithStaticStreamWindowSize(1 << 20), // grpc-window", "grpc.NumStreamWorkers(16), // stream-workers", "target pipeline: a stream of messages",
		"debug.SetGCPercent(400) // gogc", "chunking bounded: ", "chunk-size 256KiB: ", "share 3 to each node",
	} {
		if !strings.Contains(code, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if strings.Count(code, "NumStreamWorkers") != 1 {
		t.Error("the peer port has workers")
	}
	if strings.Contains(code, "linger 0s:") || strings.Contains(code, "chunk-count") {
		t.Error("it tells of what is not read")
	}
	if t.Failed() {
		t.Log(code)
	}
	if code, err := GoCode(goVariant(t, "topology=external")); err != nil || code != "" {
		t.Errorf("settings of a cluster that is not ours: %v, %s", err, code)
	}
	sized := goVariant(t)
	sized.Config["value-size"], sized.Config["key-size"] = "@gone.txt", "@gone.txt"
	if code, err := GoCode(sized); err != nil || code == "" {
		t.Errorf("sizes from a file that is gone: %v", err)
	}
	if _, err := GoCode(&Variant{ID: "v01", Config: map[string]string{"chunk-size": "large"}}); err == nil {
		t.Error("nonsense has code")
	}
}

// Every counterpart that a tag names is in the code, so none leads nowhere.
func TestGoCodeHasEverySource(t *testing.T) {
	code, err := GoCode(goVariant(t, "topology=processes", "compression=gzip", "gomemlimit=1GiB", "gomaxprocs=2", "grpc-write-buffer=64KiB"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := node.DefaultConfig()
	for _, k := range node.Knobs(&cfg) {
		for source := range strings.SplitSeq(k.Source, ", ") {
			name, _, _ := strings.Cut(source, " ")
			name = name[strings.LastIndexByte(name, '.')+1:]
			if name != "" && !strings.Contains(code, name) {
				t.Errorf("%s is said to become %s, which the code lacks", k.Name, source)
			}
		}
	}
}
