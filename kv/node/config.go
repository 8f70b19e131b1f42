package node

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/raft/v3"

	"raftlab/kv/replica"
	"raftlab/kv/storage"
	"raftlab/transport"
)

// Config says how one node is built. Each field with a knob tag is, under that
// name, a flag of `raftkv serve`, a key of an experiment, a column of a report
// and a key of the run record; Knobs walks them. The source tag names the
// setting of raft, gRPC or the runtime that the knob becomes; of one with kind
// strategy there is none, it says what a node does itself.
//
// Fields left at zero whose usage says "default: ..." are derived by Effective
// from the others; only what was set by hand can conflict.
type Config struct {
	ID            uint64 `knob:"id" kind:"identity" usage:"id of this node, unique in the cluster for ever"`
	Addr          string `knob:"addr" kind:"identity" usage:"address of the client port (KV, Cluster, health, reflection)"`
	PeerAddr      string `knob:"peer-addr" kind:"identity" usage:"address of the peer port (default: client port + 1000)"`
	Advertise     string `knob:"advertise" kind:"identity" usage:"client address that others are told (default: the one listened on)"`
	AdvertisePeer string `knob:"advertise-peer" kind:"identity" usage:"peer address that others are told (default: the one listened on)"`
	DebugAddr     string `knob:"debug-addr" kind:"identity" usage:"loopback address of the debug port: pprof, Prometheus metrics and the Lab service (default: off)"`

	MaxMessage Size      `knob:"max-message" usage:"largest gRPC message the peer port accepts" source:"grpc.MaxRecvMsgSize (peer port)"`
	MaxRequest Size      `knob:"max-request" usage:"largest gRPC message the client port accepts" source:"grpc.MaxRecvMsgSize (client port)"`
	Chunking   string    `knob:"chunking" kind:"strategy" values:"none,raft,count,reactive,bounded,fragment" usage:"how a raft message above the peer's limit is split"`
	ChunkSize  ChunkSize `knob:"chunk-size" kind:"strategy" usage:"largest encoded frame between nodes, inclusive; auto moves it with goodput, by peer (default: 1MiB or max-message, whichever is less)"`
	ChunkCount int       `knob:"chunk-count" kind:"strategy" usage:"entries a message, for chunking count"`
	AppendSize Size      `knob:"append-size" usage:"entry bytes that raft puts in one append message (default: chunk-size less framing for chunking raft, else 16MiB)" source:"raft.Config.MaxSizePerMsg"`

	Transport   string `knob:"transport" kind:"strategy" values:"unary,stream" usage:"how frames travel between nodes: one RPC each, or long-lived streams"`
	Codec       string `knob:"codec" kind:"strategy" values:"proto,append,scatter" usage:"how frames become bytes, always the same ones: by the stock protobuf marshaller, by hand into one buffer, or by hand with large data passed on uncopied"`
	Compression string `knob:"compression" values:"none,gzip,zstd,snappy,s2" source:"grpc.UseCompressor (peer port)" usage:"how messages to peers are compressed, each by itself. Limits hold before and after: a frame is planned by its size uncompressed, and stays 64 bytes and 1/2048 below max-message in case it does not compress"`
	Lanes       string `knob:"lanes" kind:"strategy" values:"shared,split" usage:"split gives control messages a connection of their own"`
	PeerQueue   Size   `knob:"peer-queue" usage:"bytes queued for a peer before messages to it are dropped"`

	LinkDelay     time.Duration `knob:"link-delay" usage:"hold every message to a peer for this long, as a slower network would"`
	LinkJitter    time.Duration `knob:"link-jitter" usage:"make link-delay this much more or less, evenly distributed; messages stay in order"`
	LinkRate      Rate          `knob:"link-rate" usage:"send to each peer at most this many bytes a second (0: unlimited)"`
	LinkDrop      Probability   `knob:"link-drop" usage:"lose a message to a peer with this probability, 0 to 1"`
	LinkDuplicate Probability   `knob:"link-duplicate" usage:"send a message to a peer twice with this probability, 0 to 1"`
	LinkReorder   Probability   `knob:"link-reorder" usage:"hold a message back so that later ones overtake it with this probability, 0 to 1"`
	LinkSeed      uint64        `knob:"link-seed" usage:"seed of link-jitter, link-drop, link-duplicate and link-reorder"`

	SnapshotWindow  Size          `knob:"snapshot-window" usage:"bytes of a snapshot on the way to a peer before more is sent; two chunks always may be"`
	SnapshotRate    Rate          `knob:"snapshot-rate" usage:"send at most this many bytes of snapshots a second, to all peers together (0: unlimited)"`
	SnapshotTimeout time.Duration `knob:"snapshot-timeout" usage:"how long sending or taking in a snapshot may make no progress"`
	SnapshotKeep    time.Duration `knob:"snapshot-keep" usage:"how long a snapshot whose transfer broke off can be resumed; the log waits for it too (0: each transfer begins anew)"`
	SnapshotLimit   Size          `knob:"snapshot-limit" usage:"bytes of all snapshots being taken in; above it they are refused"`

	Batching   string `knob:"batching" kind:"strategy" values:"none,greedy,linger,nagle" usage:"how waiting commands are gathered into one proposal"`
	Linger     Linger `knob:"linger" kind:"strategy" usage:"how long the first waiting command waits for others, for batching linger; auto finds out what pays at the present load"`
	BatchCount int    `knob:"batch-count" kind:"strategy" usage:"most commands in one proposal"`
	BatchSize  Size   `knob:"batch-size" kind:"strategy" usage:"most command bytes in one proposal"`
	Packing    string `knob:"packing" kind:"strategy" values:"entry,packed" usage:"one command a raft entry, or many"`

	Tick           time.Duration `knob:"tick" usage:"length of a raft tick" source:"raft.RawNode.Tick"`
	HeartbeatTicks int           `knob:"heartbeat-ticks" usage:"ticks between heartbeats" source:"raft.Config.HeartbeatTick"`
	ElectionTicks  int           `knob:"election-ticks" usage:"ticks without a leader before an election" source:"raft.Config.ElectionTick"`
	InflightMsgs   int           `knob:"inflight-messages" usage:"append messages in flight to a peer" source:"raft.Config.MaxInflightMsgs"`
	InflightBytes  Size          `knob:"inflight-bytes" usage:"append bytes in flight to a peer (default: 64MiB or twice append-size, whichever is more)" source:"raft.Config.MaxInflightBytes"`
	Uncommitted    Size          `knob:"uncommitted" usage:"bytes of proposals not yet committed before more are held back" source:"raft.Config.MaxUncommittedEntriesSize"`
	ApplySize      Size          `knob:"apply-size" usage:"bytes of committed entries being applied at a time" source:"raft.Config.MaxCommittedSizePerReady"`

	Storage   string `knob:"storage" kind:"strategy" values:"memory,wal" usage:"where the raft log is: in memory, or in a journal on disk with which the node comes back after a crash"`
	Sync      string `knob:"sync" kind:"strategy" values:"always,batched,never" usage:"when storage wal calls fsync: for each append, for all that queued up, or never (a crash of the machine loses acknowledged writes, one of the process does not)"`
	DataDir   string `knob:"data-dir" kind:"identity" usage:"folder of this node's journal and snapshots, for storage wal; made if it is not there"`
	SaveAfter Size   `knob:"save-after" usage:"journal bytes after which a snapshot is saved and the journal cut, or as many as the last snapshot had, whichever is more"`

	LogEntries     int  `knob:"log-entries" usage:"applied entries kept in the log for followers that lag"`
	LogSize        Size `knob:"log-size" usage:"bytes of applied entries kept in the log for followers that lag"`
	AdmissionOps   int  `knob:"admission-ops" usage:"operations under way at most; above it RESOURCE_EXHAUSTED. On streams as much again may wait for answers to be read"`
	AdmissionBytes Size `knob:"admission-bytes" usage:"bytes of operations under way at most; above it RESOURCE_EXHAUSTED. On streams as much again may wait for answers to be read"`

	Stages string `knob:"stages" values:"on,off" usage:"measure how long writes take from one stage to the next; the debug port shows it and can change it, and status shows it"`

	GRPCWindow      Size `knob:"grpc-window" usage:"HTTP/2 window of streams and connections (0: as gRPC estimates it)" source:"grpc.StaticStreamWindowSize, grpc.StaticConnWindowSize"`
	GRPCWriteBuffer Size `knob:"grpc-write-buffer" usage:"bytes that gRPC gathers for a connection before it writes them (0: gRPC's own 32KiB)" source:"grpc.WriteBufferSize"`
	StreamWorkers   int  `knob:"stream-workers" usage:"goroutines that serve client streams (0: one for each)" source:"grpc.NumStreamWorkers (client port)"`
	GOGC            int  `knob:"gogc" usage:"garbage collector's target percentage" source:"debug.SetGCPercent"`
	GOMEMLIMIT      Size `knob:"gomemlimit" usage:"memory that the garbage collector works harder and harder to stay within (0: as the environment says)" source:"debug.SetMemoryLimit"`
	GOMAXPROCS      int  `knob:"gomaxprocs" usage:"threads that run Go code at a time (0: as the environment says, or one for each core)" source:"runtime.GOMAXPROCS"`

	ScanPage    int           `knob:"scan-page" usage:"most keys in a page of Scan"`
	ScanPins    int           `knob:"scan-pins" usage:"snapshots that page tokens may pin at a time"`
	ScanPinTime time.Duration `knob:"scan-pin-time" usage:"how long a page token stays valid"`
}

// What the stages knob says.
const (
	StagesOn  = "on"
	StagesOff = "off"
)

// Where the raft log is, by the name the storage knob gives it.
const (
	StorageMemory = "memory"
	StorageWAL    = "wal"
)

const (
	// Smallest max-message that leaves room for every control message.
	minMaxMessage = 512
	// Raft keeps the two ids above for itself.
	maxNodeID = math.MaxUint64 - 2
	// gRPC silently ignores windows below this.
	minGRPCWindow = 64 << 10
	// Less would be written in bits of a frame.
	minGRPCWriteBuffer = 4 << 10
	// Each connection has a buffer of its own.
	maxGRPCWriteBuffer = 64 << 20
	// What a node without data takes.
	minMemoryLimit = 32 << 20
	// More threads Go does not run.
	maxProcs = 1 << 10
	// Below it a snapshot's chunks would be a few bytes each.
	minSnapshotRate = 1 << 10
	// Less would break off transfers for a collection of garbage.
	minSnapshotTimeout = 100 * time.Millisecond
	// More workers than this are a slip of the finger.
	maxStreamWorkers = 1 << 16
)

// DefaultConfig returns the defaults, which `raftkv serve --help` shows.
func DefaultConfig() Config {
	return Config{
		Addr:        "127.0.0.1:21001",
		MaxMessage:  4 << 20,
		MaxRequest:  64 << 20,
		Chunking:    transport.ChunkFragment,
		ChunkCount:  2,
		Transport:   transport.KindStream,
		Codec:       transport.CodecScatter,
		Compression: transport.CompressionNone,
		Lanes:       transport.LanesSplit,
		PeerQueue:   128 << 20,

		SnapshotWindow:  8 << 20,
		SnapshotTimeout: 10 * time.Second,
		SnapshotKeep:    30 * time.Second,
		SnapshotLimit:   16 << 30,

		Batching:       replica.BatchGreedy,
		Linger:         Linger{Auto: true},
		BatchCount:     4096,
		BatchSize:      8 << 20,
		Packing:        "packed",
		Tick:           100 * time.Millisecond,
		HeartbeatTicks: 1,
		ElectionTicks:  10,
		InflightMsgs:   256,
		Uncommitted:    256 << 20,
		ApplySize:      64 << 20,
		Storage:        StorageMemory,
		Sync:           storage.SyncBatched,
		SaveAfter:      64 << 20,
		LogEntries:     10000,
		LogSize:        64 << 20,
		AdmissionOps:   100000,
		AdmissionBytes: 256 << 20,
		Stages:         StagesOn,
		GRPCWindow:     1 << 20,
		StreamWorkers:  16,
		GOGC:           400,
		ScanPage:       1000,
		ScanPins:       64,
		ScanPinTime:    30 * time.Second,
	}
}

// Effective returns the config with what was left unset derived.
func (c Config) Effective() Config {
	if c.PeerAddr == "" {
		if host, port, err := net.SplitHostPort(c.Addr); err == nil {
			n, err := strconv.Atoi(port)
			if err == nil && n != 0 {
				n += 1000
			}
			c.PeerAddr = net.JoinHostPort(host, strconv.Itoa(n))
		}
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = ChunkSize(c.startChunk())
	}
	if c.AppendSize == 0 {
		c.AppendSize = 16 << 20
		if c.Chunking == transport.ChunkRaft {
			// Raft counts entries without what frames add to them (trap 1).
			c.AppendSize = c.startChunk() - c.startChunk()/8 - packFraming
		}
	}
	if c.InflightBytes == 0 {
		c.InflightBytes = max(64<<20, 2*c.AppendSize)
	}
	return c
}

// replica is what a replica is built from, as far as a config alone says it.
func (c Config) replica() replica.Config {
	return replica.Config{
		ID:   c.ID,
		Tick: c.Tick, HeartbeatTicks: c.HeartbeatTicks, ElectionTicks: c.ElectionTicks,
		AppendSize: uint64(c.AppendSize), InflightMsgs: c.InflightMsgs, InflightBytes: uint64(c.InflightBytes),
		Uncommitted: uint64(c.Uncommitted), ApplySize: uint64(c.ApplySize), SaveAfter: int64(c.SaveAfter),
		LogEntries: uint64(c.LogEntries), LogSize: uint64(c.LogSize), SnapshotKeep: c.SnapshotKeep,
		AdmissionOps: int64(c.AdmissionOps), AdmissionBytes: int64(c.AdmissionBytes),
		Stages: c.Stages == StagesOn,
	}
}

// Raft is what a node of this config, after Effective, configures raft with, but
// for storage and logger.
func (c Config) Raft() raft.Config {
	rc := c.replica()
	return rc.Raft()
}

// startChunk is the chunk size as far as it does not move: what was set, or what
// chunk-size auto starts with and snapshots keep to.
func (c Config) startChunk() Size {
	if c.ChunkSize == 0 || c.ChunkSize == AutoChunk {
		return min(1<<20, c.MaxMessage)
	}
	return Size(c.ChunkSize)
}

// Values returns every setting by its knob's name, formatted so that Set reads
// it back.
func (c Config) Values() map[string]string {
	knobs := Knobs(&c)
	values := make(map[string]string, len(knobs))
	for _, k := range knobs {
		values[k.Name] = k.String()
	}
	return values
}

// FieldError refuses a knob's value: it names the field, the value and the limit.
type FieldError struct {
	Field, Value, Problem string
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return e.Field + " " + e.Problem
	}
	return e.Field + " " + e.Value + " " + e.Problem
}

// Validate checks a config, after Effective; its errors are *FieldError.
func (c Config) Validate() error {
	fail := func(field string, value any, format string, args ...any) error {
		return &FieldError{Field: field, Value: fmt.Sprint(value), Problem: fmt.Sprintf(format, args...)}
	}
	switch {
	case c.ID == 0:
		return fail("id", c.ID, "must be at least 1")
	case c.ID > maxNodeID:
		return fail("id", c.ID, "is reserved by raft; the largest is %d", uint64(maxNodeID))
	}
	for _, a := range []struct{ field, addr string }{
		{"addr", c.Addr},
		{"peer-addr", c.PeerAddr},
		{"advertise", c.Advertise},
		{"advertise-peer", c.AdvertisePeer},
		{"debug-addr", c.DebugAddr},
	} {
		if a.addr == "" && a.field != "addr" && a.field != "peer-addr" {
			continue
		}
		if err := checkAddress(a.field, a.addr); err != nil {
			return err
		}
	}
	if c.DebugAddr != "" {
		host, _, _ := net.SplitHostPort(c.DebugAddr)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fail("debug-addr", c.DebugAddr, "must be a loopback address")
		}
	}
	if err := c.checkValues(); err != nil {
		return err
	}
	switch {
	case c.MaxMessage < minMaxMessage:
		return fail("max-message", c.MaxMessage, "is below the minimum %s", Size(minMaxMessage))
	case c.MaxMessage > math.MaxInt32:
		return fail("max-message", c.MaxMessage, "exceeds the maximum %s", Size(math.MaxInt32))
	case c.MaxRequest < minMaxMessage:
		return fail("max-request", c.MaxRequest, "is below the minimum %s", Size(minMaxMessage))
	case c.MaxRequest > math.MaxInt32:
		return fail("max-request", c.MaxRequest, "exceeds the maximum %s", Size(math.MaxInt32))
	case Size(c.ChunkSize) > c.MaxMessage && c.Chunking != transport.ChunkNone && c.Chunking != transport.ChunkReactive:
		return fail("chunk-size", c.ChunkSize, "exceeds max-message %s", c.MaxMessage)
	case c.ChunkSize < minMaxMessage && c.ChunkSize != AutoChunk:
		return fail("chunk-size", c.ChunkSize, "is below the minimum %s", Size(minMaxMessage))
	case c.ElectionTicks <= c.HeartbeatTicks:
		return fail("election-ticks", c.ElectionTicks, "must be greater than heartbeat-ticks %d", c.HeartbeatTicks)
	case c.InflightBytes < c.AppendSize:
		return fail("inflight-bytes", c.InflightBytes, "is less than append-size %s", c.AppendSize)
	case c.Batching == replica.BatchLinger && c.Linger.Wait >= c.Tick*time.Duration(c.ElectionTicks):
		return fail("linger", c.Linger, "must be less than an election timeout, tick %s times election-ticks %d", c.Tick, c.ElectionTicks)
	case c.SnapshotRate != 0 && c.SnapshotRate < minSnapshotRate:
		return fail("snapshot-rate", c.SnapshotRate, "is below the minimum %s (0: unlimited)", Rate(minSnapshotRate))
	case c.SnapshotTimeout < minSnapshotTimeout:
		return fail("snapshot-timeout", c.SnapshotTimeout, "is below the minimum %v", minSnapshotTimeout)
	case c.Storage == StorageWAL && c.DataDir == "":
		return fail("data-dir", "", "must be set with storage wal")
	case c.Storage != StorageWAL && c.DataDir != "":
		return fail("data-dir", strconv.Quote(c.DataDir), "needs storage wal: storage %s keeps nothing there", c.Storage)
	case c.Tick < time.Millisecond:
		return fail("tick", c.Tick, "is below the minimum 1ms")
	case c.GRPCWindow != 0 && c.GRPCWindow < minGRPCWindow:
		return fail("grpc-window", c.GRPCWindow, "is below the minimum %s", Size(minGRPCWindow))
	case c.GRPCWindow > math.MaxInt32:
		return fail("grpc-window", c.GRPCWindow, "exceeds the maximum %s", Size(math.MaxInt32))
	case c.GRPCWriteBuffer != 0 && c.GRPCWriteBuffer < minGRPCWriteBuffer:
		return fail("grpc-write-buffer", c.GRPCWriteBuffer, "is below the minimum %s", Size(minGRPCWriteBuffer))
	case c.GRPCWriteBuffer > maxGRPCWriteBuffer:
		return fail("grpc-write-buffer", c.GRPCWriteBuffer, "exceeds the maximum %s", Size(maxGRPCWriteBuffer))
	case c.GOMEMLIMIT != 0 && c.GOMEMLIMIT < minMemoryLimit:
		return fail("gomemlimit", c.GOMEMLIMIT, "is below the minimum %s", Size(minMemoryLimit))
	case c.GOMAXPROCS > maxProcs:
		return fail("gomaxprocs", c.GOMAXPROCS, "exceeds the maximum %d", maxProcs)
	case c.StreamWorkers > maxStreamWorkers:
		return fail("stream-workers", c.StreamWorkers, "exceeds the maximum %d", maxStreamWorkers)
	}
	if e, bad := errors.AsType[*transport.FaultsError](c.Faults().Check()); bad {
		return &FieldError{Field: "link-" + e.Field, Value: e.Value, Problem: e.Problem}
	}
	return nil
}

// checkValues checks every knob for what its type and tags allow.
func (c *Config) checkValues() error {
	for _, k := range Knobs(c) {
		if len(k.Values) > 0 && !slices.Contains(k.Values, k.String()) {
			return &FieldError{Field: k.Name, Value: k.String(), Problem: "is not one of " + strings.Join(k.Values, ", ")}
		}
		if k.negative() {
			return &FieldError{Field: k.Name, Value: k.String(), Problem: "must not be negative"}
		}
		if positive[k.Name] && k.zero() {
			return &FieldError{Field: k.Name, Value: k.String(), Problem: "must be at least 1"}
		}
	}
	return nil
}

// Knobs that have no meaning at zero.
var positive = map[string]bool{
	"chunk-count": true, "batch-count": true, "batch-size": true, "heartbeat-ticks": true,
	"inflight-messages": true, "log-entries": true, "log-size": true, "admission-ops": true,
	"admission-bytes": true, "gogc": true, "scan-page": true, "scan-pins": true,
	"scan-pin-time": true, "peer-queue": true, "apply-size": true, "uncommitted": true,
	"snapshot-window": true, "snapshot-limit": true,
	"save-after": true,
}

func checkAddress(field, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return &FieldError{Field: field, Value: strconv.Quote(addr), Problem: "is not host:port"}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		problem := "has a port outside 0 to 65535"
		if field == "peer-addr" && n > 65535 {
			problem += " (it defaults to the client port + 1000)"
		}
		return &FieldError{Field: field, Value: strconv.Quote(addr), Problem: problem}
	}
	return nil
}
