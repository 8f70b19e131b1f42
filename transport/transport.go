package transport

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
)

// Config says how one node talks to the others.
type Config struct {
	// Kind, Lanes and Chunking are names from the lists below.
	Kind, Lanes, Chunking string
	// Codec and Compression are names from the lists below.
	Codec, Compression string
	// MaxMessage is the receive limit, in bytes, that the peer port's server was
	// made with. It is what this node's Hello tells.
	MaxMessage int
	// ChunkSize is the encoded size wanted of a frame, inclusive; ChunkCount the
	// entries a message for chunking count.
	ChunkSize, ChunkCount int
	// ChunkAuto moves the size wanted, for each peer by itself, to where goodput is
	// best. ChunkSize is then where it starts, and what snapshots use.
	ChunkAuto bool
	// QueueBytes bounds what waits in one lane to a peer. 0 means 128 MiB.
	QueueBytes int64
	// Faults are those of the way to every peer, until SetFaults says otherwise.
	Faults Faults
	// SnapshotWindow bounds the bytes of a snapshot on the way to a peer, beside
	// gRPC's own window, though two chunks always may be. 0 means 8 MiB.
	SnapshotWindow int64
	// SnapshotRate is how many bytes of snapshots are sent a second, to all peers
	// together; 0 is unlimited.
	SnapshotRate int64
	// SnapshotTimeout is how long a transfer may make no progress; 0 means 10 s.
	// There is no limit on the whole: a large snapshot over a slow link takes its
	// time.
	SnapshotTimeout time.Duration
	// SnapshotKeep is how long the receiver keeps what a transfer that broke off
	// has brought, so that the next one goes on from there; 0 is not at all.
	SnapshotKeep time.Duration
	// SnapshotLimit bounds the bytes of all snapshots being taken in; 0 means
	// 16 GiB.
	SnapshotLimit int64
	// GRPCWindow is the HTTP/2 window of streams and connections; 0 leaves it to
	// gRPC.
	GRPCWindow int
	// Dial connects to a peer port; nil is TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Logger may be nil.
	Logger *slog.Logger

	// virtualTime makes a Network's links wait by Go's timers, which testing in
	// virtual time needs, rather than by the kernel's.
	virtualTime bool
}

// withDefaults fills what was left zero.
func (c Config) withDefaults() Config {
	if c.Kind == "" {
		c.Kind = KindStream
	}
	if c.Lanes == "" {
		c.Lanes = LanesSplit
	}
	if c.Chunking == "" {
		c.Chunking = ChunkFragment
	}
	if c.Codec == "" {
		c.Codec = CodecScatter
	}
	if c.Compression == "" {
		c.Compression = CompressionNone
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = 4 << 20
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = min(1<<20, c.MaxMessage)
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = 128 << 20
	}
	if c.SnapshotWindow == 0 {
		c.SnapshotWindow = 8 << 20
	}
	if c.SnapshotTimeout == 0 {
		c.SnapshotTimeout = 10 * time.Second
	}
	if c.SnapshotLimit == 0 {
		c.SnapshotLimit = 16 << 30
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Transport carries raft messages between the nodes of one cluster.
// All methods may be called from any goroutine.
type Transport interface {
	// Send queues messages to the peers they are addressed to. It never blocks:
	// what does not fit a peer's queue, and what is addressed to an unknown
	// peer, is dropped, counted and reported through Handler.ReportUnreachable.
	// The messages, and the entries they share with the raft log, must not be
	// changed by either side afterwards. MsgSnap goes out as a stream of chunks
	// read from Handler.OpenSnapshot.
	Send(messages []*raftpb.Message)
	// SetPeers replaces the set of known peers, self excluded. Connections to
	// peers that stay are kept; those of peers that left are closed.
	SetPeers(peers []Peer)
	// SetFaults changes the faults of the way to some peers or, without peers, to
	// all, those that come later included: then none has faults of its own any
	// more. It holds for messages sent from then on; what is queued goes by the
	// new faults, and what is on its way arrives at once. Errors are *FaultsError
	// and *UnknownPeerError; then nothing was changed.
	SetFaults(peers []uint64, f Faults) error
	// Faults returns the faults of peers that come later and of each peer, in
	// order of id.
	Faults() (others Faults, links []LinkStats)
	// Stats returns a copy of the counters by peer, in order of id.
	Stats() []PeerStats
	// Close stops sending and receiving, and waits for its goroutines.
	Close() error
}

// Server is a Transport that receives by gRPC.
type Server interface {
	Transport
	// Register adds the RaftTransport service to the peer port's server, which
	// must have been made with the receive limit that Config.MaxMessage says.
	Register(grpc.ServiceRegistrar)
}

// Peer is another node of the cluster.
type Peer struct {
	ID uint64
	// Incarnation that the membership records; a node that answers with another
	// is refused. 0 is not checked.
	Incarnation uint64
	// Address of its peer port.
	Address string
}

// Identity says who this node is. It is asked for at each Hello, since a node
// learns its cluster only when it joins.
type Identity struct {
	// ClusterID is 0 while the node is in no cluster.
	ClusterID   uint64
	Node        uint64
	Incarnation uint64
	// PeerAddress is its peer port, as others are told.
	PeerAddress string
}

// Handler is the node above the transport. Its methods are called from many
// goroutines and must not block, the snapshot methods excepted.
type Handler interface {
	// Identity says who this node is.
	Identity() Identity
	// Peer says what the membership knows about a node; false when it is not a
	// member as far as this node knows.
	Peer(id uint64) (Peer, bool)
	// Step hands up one whole, validated message. The handler owns it.
	Step(m *raftpb.Message)
	// ReportUnreachable is called once when a connection to a peer breaks or its
	// queue overflows, not once a message.
	ReportUnreachable(id uint64)
	// ReportSnapshot ends every MsgSnap that Send was given (raft trap: without
	// it the follower stays in limbo).
	ReportSnapshot(id uint64, ok bool)
	// OpenSnapshot opens the snapshot that a MsgSnap from this node describes.
	OpenSnapshot(m *raftpb.Message) (io.ReadCloser, error)
	// AcceptSnapshot begins taking in the snapshot that a MsgSnap from a peer
	// describes.
	AcceptSnapshot(m *raftpb.Message) (SnapshotWriter, error)
	// EntryLimit tells the largest encoded raft entry, in bytes, that every
	// peer can be sent now under the chunking strategy. Called once while the
	// transport is made, and then on change.
	EntryLimit(bytes uint64)
	// Refused is called when a peer refuses this node's identity for good: its
	// memory is not the one that the cluster knows. The node has to end.
	Refused(err error)
}

// SnapshotWriter takes in one snapshot, in order, used by one goroutine at a
// time. When the connection breaks it is kept, to go on with the next transfer of
// the same index and term.
type SnapshotWriter interface {
	io.Writer
	// Needed tells whether the snapshot would still bring the node forward.
	Needed() bool
	// Commit verifies what was written and steps m: the MsgSnap that it was begun
	// for, or one of the same index and term from whoever brought the rest. The
	// writer is done afterwards, whatever Commit returns.
	Commit(m *raftpb.Message) error
	// Abort drops what was written.
	Abort()
}

// Chunking strategies, by the name the chunking knob gives them.
const (
	ChunkNone     = "none"
	ChunkRaft     = "raft"
	ChunkCount    = "count"
	ChunkReactive = "reactive"
	ChunkBounded  = "bounded"
	ChunkFragment = "fragment"
)

// Transport kinds, by the name the transport knob gives them.
const (
	KindLocal  = "local"
	KindUnary  = "unary"
	KindStream = "stream"
)

// Codecs, by the name the codec knob gives them. They make the same bytes.
const (
	CodecProto   = "proto"   // the generated message and the stock marshaller
	CodecAppend  = "append"  // by hand, into one pooled buffer
	CodecScatter = "scatter" // by hand, large data by reference
)

// Compressions of what is sent to peers, by the name the compression knob gives
// them. Each is of gRPC's per-message kind, at its fastest but for gzip, which is
// gRPC's own. Chunkers count the bytes before it; see FrameLimit.
const (
	CompressionNone   = "none"
	CompressionGzip   = "gzip"
	CompressionZstd   = "zstd"
	CompressionSnappy = "snappy"
	CompressionS2     = "s2"
)

// Lane layouts, by the name the lanes knob gives them.
const (
	LanesShared = "shared"
	LanesSplit  = "split"
)

// PeerStats counts what happened with one peer since this node started. All are
// totals but Connected, Problem, ReceiveLimitBytes, QueueBytes, ChunkSizeBytes and
// RoundTrip.
type PeerStats struct {
	ID                uint64
	Address           string
	Connected         bool
	ReceiveLimitBytes uint64 // told by Hello; 0 before
	Problem           string // why nothing can be sent; empty when all is well
	QueueBytes        uint64
	ChunkSizeBytes    uint64        // wanted of a frame now, within the peer's limit; 0 when the strategy reads none
	RoundTrip         time.Duration // last measured, without the peer's holding time; 0 before

	Dials           uint64
	MessagesSent    uint64
	MessagesDropped uint64
	MessagesSplit   uint64
	FramesSent      uint64
	FragmentsSent   uint64
	BytesSent       uint64 // of frames, encoded
	WireBytesSent   uint64 // of the same as they travelled: compressed, 5 bytes of gRPC's each
	LargestFrame    uint64 // encoded bytes
	Refusals        uint64 // by the peer's gRPC limit

	SnapshotsSent      uint64
	SnapshotChunksSent uint64
	SnapshotBytesSent  uint64
	// Transfers that went on where one before broke off, and the bytes that were
	// not sent again because of it.
	SnapshotsResumed     uint64
	SnapshotBytesResumed uint64

	MessagesReceived uint64
	FramesReceived   uint64
	BytesReceived    uint64

	SnapshotsReceived      uint64
	SnapshotChunksReceived uint64
	SnapshotBytesReceived  uint64
	// The same two of transfers from the peer.
	SnapshotsReceivedResumed     uint64
	SnapshotBytesReceivedResumed uint64
}
