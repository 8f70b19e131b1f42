package bench

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"raftlab/bench/cluster"
	"raftlab/bench/load"
	"raftlab/bench/target"
	"raftlab/kv/node"
	"raftlab/kv/replica"
	"raftlab/transport"
)

// Topologies, by the name the topology knob gives them.
const (
	TopologyInProcess     = cluster.InProcess
	TopologyInProcessGRPC = cluster.InProcessGRPC
	TopologyProcesses     = cluster.Processes
	TopologyExternal      = cluster.External
)

// Targets, by the name the target knob gives them.
const (
	TargetUnary    = target.Unary
	TargetPipeline = target.Pipeline
	TargetCoalesce = target.Coalesce
	TargetDirect   = target.Direct
	TargetBare     = target.Bare
	TargetWire     = target.Wire
	TargetRelay    = target.Relay
	TargetEtcd     = target.Etcd
)

// Load says what drives a cluster and what kind of cluster it is. Together with
// node.Config it is the vocabulary of experiments: each knob has its home in
// one of the two.
type Load struct {
	Topology string `knob:"topology" values:"in-process,in-process-grpc,processes,external" usage:"where the nodes run: this process without gRPC between nodes, with it, child processes, or a cluster that runs already"`
	Listener string `knob:"listener" values:"tcp,bufconn" usage:"what in-process-grpc listens on"`
	// ServerBin is a path; empty for the one that raftbench finds.
	ServerBin string `knob:"server-bin" usage:"the raftkv that topology processes starts (default: see run --help)"`
	Nodes     int    `knob:"nodes" usage:"nodes of the cluster"`
	Target    string `knob:"target" values:"unary,pipeline,coalesce,direct,bare,wire,relay,etcd" usage:"what is driven: one RPC an operation, the Stream RPC, calls of one operation that the client gathers into Stream messages, the replica without client RPC, the raft library in a loop, a bare gRPC echo, one that first relays puts to a majority, or an etcd that runs already by its own client"`

	Wire string `knob:"wire" values:"unary,stream" usage:"which API target wire or relay serves"`

	Clients        int           `knob:"clients" usage:"clients, each with one message under way"`
	Conns          int           `knob:"conns" usage:"client connections that the clients share (default: 1)"`
	Rate           float64       `knob:"rate" usage:"operations a second to send, by a clock (default: closed loop, as fast as answers come)"`
	RateShare      float64       `knob:"rate-share" usage:"rate as a share of what the variant, or its baseline, reaches in a closed loop, which is tried before the first block, with the first server-bin of several (default: none)"`
	Arrivals       string        `knob:"arrivals" values:"constant,poisson" usage:"the gaps between messages at that rate: all alike, or exponential, as of independent clients; with a rate or rate-share only"`
	AttemptTimeout time.Duration `knob:"attempt-timeout" usage:"how long target unary, pipeline or coalesce waits for an answer before it asks another node; a write that the first may have then fails, its outcome unknown (0: as long as it takes)"`
	ThinkTime      time.Duration `knob:"think-time" usage:"how long a client waits after an answer before it sends again; without a rate only"`
	OpsPerMsg      int           `knob:"ops-per-message" usage:"operations in one message of target pipeline or direct"`
	Op             string        `knob:"op" values:"put,get,mixed" usage:"what clients do; mixed is shared out by read-ratio"`
	ReadRatio      float64       `knob:"read-ratio" usage:"share of gets for op mixed, 0 to 1"`
	Read           string        `knob:"read" values:"linearizable,lease,follower,stale" usage:"what gets promise, and who answers: the leader by a round or under its lease, all nodes with a round, all nodes without"`
	ValueSize      Sizes         `knob:"value-size" usage:"bytes of a value: one size, a range of which all are alike, or a file whose lines are a size and its weight"`
	KeySize        Sizes         `knob:"key-size" usage:"bytes of a key, in the forms of value-size; each key keeps its size"`
	Keys           int           `knob:"keys" usage:"distinct keys"`
	Events         Plan          `knob:"events" usage:"what is done to the cluster in the window, such as: kill leader at 1s; restart killed at 2s"`
	StagesSlice    time.Duration `knob:"stages-slice" usage:"how long the nodes measure stages before they leave off as long, in turn, which tells what measuring costs (0: as stages says all the time)"`
	Distribution   string        `knob:"key-distribution" values:"uniform,zipf,sequential,hotspot,latest" usage:"which keys are picked: all alike, by zipf's law with 0.99, in turn, a fifth for four fifths of the operations, or near the newest"`
	// Searched tells that an objective's search gives the rate.
	Searched bool
}

// Settings are everything that makes one variant.
type Settings struct {
	Load Load
	Node node.Config
}

// DefaultSettings is what an experiment starts from.
func DefaultSettings() Settings {
	return Settings{
		Load: Load{
			Topology: TopologyInProcessGRPC, Listener: "tcp", Nodes: 3, Target: TargetUnary, Wire: "unary",
			Clients: 16, Arrivals: load.Constant, OpsPerMsg: 1, Op: "put", Read: "linearizable", ReadRatio: 0.5,
			ValueSize: fixedSize(256), KeySize: fixedSize(16), Keys: 10000, Distribution: "uniform",
		},
		Node: node.DefaultConfig(),
	}
}

// knobs returns the settings' knobs, those that say which node it is excluded.
func (s *Settings) knobs() []node.Knob {
	all := slices.Concat(node.KnobsOf(&s.Load), node.Knobs(&s.Node))
	return slices.DeleteFunc(all, func(k node.Knob) bool { return k.Identity })
}

// knob is the one of that name.
func (s *Settings) knob(key string) (node.Knob, bool) {
	if k, ok := node.KnobOf(&s.Load, key); ok {
		return k, true
	}
	k, ok := node.KnobOf(&s.Node, key)
	return k, ok && !k.Identity
}

// Vocabulary lists every field that an experiment may set.
func Vocabulary() []node.Knob {
	s := DefaultSettings()
	return s.knobs()
}

// Set parses a value into the named field.
func (s *Settings) Set(key, value string) error {
	k, ok := s.knob(key)
	if !ok {
		return unknownField(key)
	}
	err := k.Set(value)
	if err != nil && value == "auto" && strings.Contains(k.Usage, "(default:") {
		err = k.Set("0") // left to be derived
	}
	return err
}

// Get returns the named field's value as Set reads it; "" for no such field.
func (s *Settings) Get(key string) string {
	if k, ok := s.knob(key); ok {
		return k.String()
	}
	return ""
}

// Map returns all fields' values by name.
func (s *Settings) Map() map[string]string {
	m := make(map[string]string)
	for _, k := range s.knobs() {
		m[k.Name] = k.String()
	}
	return m
}

// canonical returns the form in which a field's value is compared and shown:
// 1024KiB is 1MiB.
func canonical(key, value string) (string, error) {
	s := DefaultSettings()
	if err := s.Set(key, value); err != nil {
		return "", err
	}
	if value == "auto" {
		return value, nil
	}
	if key == serverBinKey {
		if value == "" {
			return "", errors.New("server-bin names no program")
		}
		return filepath.Clean(value), nil
	}
	if key == "rate" && s.Load.Rate == 0 {
		return "", fmt.Errorf("rate %s sends nothing; it must be greater than 0, or auto for a closed loop", value)
	}
	return s.Get(key), nil
}

func unknownField(key string) error {
	return fmt.Errorf("unknown field %q%s", key, didYouMean(key, fieldNames()))
}

func fieldNames() []string {
	var names []string
	for _, k := range Vocabulary() {
		names = append(names, k.Name)
	}
	return names
}

// didYouMean suggests the nearest name, if one is near.
func didYouMean(word string, names []string) string {
	best, distance := "", min(len(word)/2, 3)+1
	for _, name := range names {
		if d := editDistance(word, name); d < distance {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(diagonal+cost, row[j]+1, row[j+1]+1)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// effective derives what was left unset.
func (s Settings) effective() Settings {
	s.Node = s.Node.Effective()
	if s.Load.Conns == 0 {
		s.Load.Conns = 1
	}
	s.Load.Conns = min(s.Load.Conns, max(s.Load.Clients, 1))
	return s
}

// reads tells whether a variant with these settings, before what is unset was
// derived, reads a field at all. One that it does not read is inert: it neither
// names nor tells apart variants. A field that no case names is read by nobody.
func (s *Settings) reads(key string) bool {
	l := &s.Load
	switch key {
	case "topology", "target", "clients", "think-time", "op", "value-size", "key-size", "keys", "key-distribution":
		return true
	case "rate":
		return l.RateShare == 0
	case rateShareKey:
		return !isEcho(l.Target)
	case "arrivals":
		return l.Searched || l.Rate > 0 && s.reads("rate") || l.RateShare > 0 && s.reads(rateShareKey)
	case "listener":
		return l.Topology == TopologyInProcessGRPC
	case "nodes":
		return l.Topology != TopologyExternal && l.Target != TargetWire // the followers of a relay too
	case "conns":
		return l.Target != TargetDirect && l.Target != TargetBare
	case "events":
		return !isEcho(l.Target) && l.Target != TargetEtcd && l.Target != TargetBare
	case "stages-slice":
		return l.Topology != TopologyExternal && !isEcho(l.Target) && l.Target != TargetEtcd && l.Target != TargetBare
	case "attempt-timeout":
		return l.Target == TargetUnary || l.Target == TargetPipeline || l.Target == TargetCoalesce
	case "wire":
		return isEcho(l.Target)
	case serverBinKey:
		return l.Topology == TopologyProcesses && !isEcho(l.Target)
	case "ops-per-message":
		return l.Target == TargetPipeline || l.Target == TargetDirect || l.Target == TargetBare || isEcho(l.Target) && l.Wire == "stream"
	case "read-ratio":
		return l.Op == "mixed"
	case "read":
		return l.Op != "put"
	}
	switch {
	case l.Topology == TopologyExternal:
		return false
	case isEcho(l.Target):
		return echoReads(key)
	case l.Target == TargetBare:
		return s.bareReads(key)
	}
	return s.nodeReads(key)
}

// echoReads is reads of the servers of a ceiling, of how nodes are built.
func echoReads(key string) bool {
	switch key {
	case "max-request", "grpc-window", "grpc-write-buffer", "stream-workers", "gogc", "gomemlimit", "gomaxprocs":
		return true
	}
	return false
}

// bareReads is reads of the raft library in a loop.
func (s *Settings) bareReads(key string) bool {
	switch key {
	case "packing", "batch-count", "batch-size", "uncommitted", "apply-size", "log-entries", "gogc", "gomemlimit", "gomaxprocs":
		return true
	case "append-size":
		return s.Load.Nodes > 1 || s.Node.Packing == replica.PackPacked
	case "inflight-messages", "inflight-bytes":
		return s.Load.Nodes > 1
	}
	return false
}

// nodeReads is reads of raftkv's nodes. The load has no scans, so what is about them
// is inert.
func (s *Settings) nodeReads(key string) bool {
	l, n := &s.Load, &s.Node
	local := l.Topology == TopologyInProcess
	peers := l.Nodes > 1 || l.Events.does(DoJoin)
	frames := peers && !local
	// An entry of many commands is as large as a message may be, whoever gets it.
	packed := n.Packing == replica.PackPacked
	framed := frames || packed && !local
	// Who is up all the time finds what it needs in the log.
	behind := peers && l.Events.does(DoJoin, DoRestart, DoPause, DoPartition, DoSlow)
	switch key {
	case "batching", "packing", "uncommitted", "apply-size", "tick", "election-ticks", "storage", "log-entries", "log-size",
		"admission-ops", "admission-bytes", "gogc", "gomemlimit", "gomaxprocs":
		return true
	case "max-request", "stream-workers":
		return l.Target != TargetDirect
	case "grpc-window", "grpc-write-buffer":
		return frames || l.Target != TargetDirect
	case "transport", "lanes", "codec", "compression":
		return frames
	case "chunking", "max-message":
		return framed
	case "chunk-size":
		if n.Chunking == transport.ChunkRaft {
			return framed && n.AppendSize == 0 // which derives from it
		}
		return framed && n.Chunking != transport.ChunkNone && n.Chunking != transport.ChunkReactive
	case "chunk-count":
		return frames && n.Chunking == transport.ChunkCount
	case "append-size":
		return peers || packed
	case "inflight-messages", "inflight-bytes", "heartbeat-ticks", "peer-queue",
		"link-delay", "link-jitter", "link-rate", "link-drop", "link-duplicate", "link-reorder":
		return peers
	case "link-seed":
		return peers && (n.LinkJitter > 0 || n.LinkDrop > 0 || n.LinkDuplicate > 0 || n.LinkReorder > 0)
	case "snapshot-timeout", "snapshot-keep":
		return behind
	case "snapshot-window", "snapshot-rate", "snapshot-limit":
		return behind && !local
	case "batch-count", "batch-size":
		return n.Batching != replica.BatchNone
	case "linger":
		return n.Batching == replica.BatchLinger
	case "sync", "save-after":
		return n.Storage == node.StorageWAL
	case "stages":
		return l.StagesSlice == 0
	}
	return false
}

// inProcess tells whether the nodes are part of this process.
func (l *Load) inProcess() bool {
	return l.Topology == TopologyInProcess || l.Topology == TopologyInProcessGRPC
}

// impossible says why a cluster with these settings cannot exist or cannot do
// the work; empty when it can. axes are the fields that the experiment varies.
func (s *Settings) impossible(axes func(key string) bool) string {
	l, n := &s.Load, &s.Node
	switch {
	case l.Target == TargetDirect && !l.inProcess():
		return fmt.Sprintf("target direct drives nodes in this process, not topology %s", l.Topology)
	case isEcho(l.Target) && l.Topology == TopologyExternal:
		return fmt.Sprintf("target %s needs a server of its own, which topology external does not start", l.Target)
	case isEcho(l.Target) && l.Topology == TopologyInProcess:
		return fmt.Sprintf("target %s is gRPC, which topology in-process is without", l.Target)
	case l.Target == TargetRelay && l.Op != "put":
		return fmt.Sprintf("target relay relays puts: op %s does not pass through it", l.Op)
	case isEcho(l.Target) && l.Op == "get" && !l.ValueSize.Fixed():
		return fmt.Sprintf("target %s answers gets with values of one size: value-size %s has many", l.Target, l.ValueSize)
	case l.ThinkTime > 0 && l.RateShare > 0:
		return fmt.Sprintf("think-time %s has no meaning with rate-share %s, which a clock keeps", l.ThinkTime, plain(rateShareKey, l.RateShare))
	case l.ThinkTime > 0 && l.Rate > 0:
		return fmt.Sprintf("think-time %s has no meaning with rate %s, which a clock keeps", l.ThinkTime, plain("rate", l.Rate))
	case l.Target == TargetBare && l.Topology != TopologyInProcess:
		return fmt.Sprintf("target bare is raft in this process without a transport, not topology %s", l.Topology)
	case l.Target == TargetBare && l.Op != "put" && !slices.Contains(target.EtcdReads(), l.Read):
		return fmt.Sprintf("target bare has reads %s, not %s", strings.Join(target.EtcdReads(), " and "), l.Read)
	case l.Target == TargetEtcd && l.Topology != TopologyExternal:
		return "target etcd drives a cluster that runs already: --endpoints says where"
	case l.Target == TargetEtcd && l.OpsPerMsg > 1 && axes("ops-per-message"):
		return "target etcd sends one operation a message"
	case l.Target == TargetEtcd && l.Op != "put" && !slices.Contains(target.EtcdReads(), l.Read):
		return fmt.Sprintf("target etcd has reads %s, not %s", strings.Join(target.EtcdReads(), " and "), l.Read)
	case l.Topology == TopologyInProcess && axes("chunking"):
		return "topology in-process hands messages over whole: there is nothing to chunk"
	}
	if reason := l.Events.impossible(s); reason != "" && !isEcho(l.Target) {
		return reason
	}
	if !isEcho(l.Target) && l.Topology != TopologyExternal {
		c := n.Effective()
		c.ID = 1
		if c.Storage == node.StorageWAL {
			c.DataDir = "of its own" // each node is given one
		}
		if err := c.Validate(); err != nil {
			return err.Error()
		}
		// Raft's own entry adds index and term, kv's adds header and tags.
		const overhead = 96
		entry := uint64(l.ValueSize.Most()) + uint64(l.KeySize.Most()) + overhead
		limit := transport.MaxEntryBytes(n.Chunking, transport.FrameLimit(n.Compression, int(n.MaxMessage)))
		if s.reads("chunking") && l.Op != "get" && entry > limit {
			return fmt.Sprintf("value-size %s makes an entry larger than chunking %s can carry under max-message %s",
				l.ValueSize, n.Chunking, n.MaxMessage)
		}
	}
	return ""
}

// validate refuses values of the load that have no meaning.
func (l *Load) validate() error {
	type limit struct {
		key      string
		value    float64
		min, max float64
	}
	for _, c := range []limit{
		{"nodes", float64(l.Nodes), 1, 9},
		{"clients", float64(l.Clients), 1, 100000},
		{"conns", float64(l.Conns), 0, 10000},
		{"rate", l.Rate, 0, 1e9},
		{rateShareKey, l.RateShare, 0, 10},
		{"ops-per-message", float64(l.OpsPerMsg), 1, 1e6},
		{"read-ratio", l.ReadRatio, 0, 1},
		{"keys", float64(l.Keys), 1, 1e8},
		{"think-time", float64(l.ThinkTime), 0, float64(time.Hour)},
		{"attempt-timeout", float64(l.AttemptTimeout), 0, float64(time.Hour)},
	} {
		if c.value < c.min {
			return fmt.Errorf("%s %s is below the minimum %s", c.key, plain(c.key, c.value), plain(c.key, c.min))
		}
		if c.value > c.max {
			return fmt.Errorf("%s %s exceeds the maximum %s", c.key, plain(c.key, c.value), plain(c.key, c.max))
		}
	}
	if err := validateSlice(l.StagesSlice); err != nil {
		return err
	}
	if err := l.ValueSize.within("value-size", 0, 1<<30); err != nil {
		return err
	}
	return l.KeySize.within("key-size", 8, 4096)
}

// plain formats a number as the field is written: 1s, not 1e+09.
func plain(key string, value float64) string {
	if key == "think-time" || key == "attempt-timeout" {
		return time.Duration(value).String()
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}
