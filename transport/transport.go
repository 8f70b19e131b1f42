package transport

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"raftlab/kv/metric"
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
	// GRPCWriteBuffer is how many bytes gRPC gathers for a connection before it
	// writes them; 0 leaves it to gRPC.
	GRPCWriteBuffer int
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
	// Totals returns the counters that belong to no peer.
	Totals() Totals
	// Close stops sending and receiving, and waits for its goroutines.
	Close() error
}

// Server is a Transport that receives by gRPC.
type Server interface {
	Transport
	// Register adds the RaftTransport service to the peer port's server, which
	// must have been made with the receive limit that Config.MaxMessage says, and
	// be forced to use ServerCodec.
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

// Identity says who this node is, and whom it follows. It is asked for at each
// Hello, since a node learns its cluster only when it joins.
type Identity struct {
	// ClusterID is 0 while the node is in no cluster.
	ClusterID   uint64
	Node        uint64
	Incarnation uint64
	// PeerAddress is its peer port, as others are told.
	PeerAddress string
	// Leader is whom it follows, 0 for nobody.
	Leader uint64
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

// PeerStats is what happened with one peer since this node started.
type PeerStats struct {
	ID      uint64
	Address string
	Problem string // why nothing can be sent; empty when all is well

	Connected         bool          `gauge:"connected" usage:"1 when every lane to the peer is up"`
	ReceiveLimitBytes uint64        `gauge:"receive_limit_bytes" usage:"largest gRPC message the peer takes, as it told by Hello; 0 before"`
	QueueBytes        uint64        `gauge:"queue_bytes" usage:"bytes of messages that wait for the peer or are being sent"`
	ChunkSizeBytes    uint64        `gauge:"chunk_size_bytes" usage:"size wanted of a frame now, within the peer's limit; 0 when the strategy reads none"`
	RoundTrip         time.Duration `gauge:"last_round_trip_nanos" usage:"last round trip measured, without the peer's holding time; 0 before"`

	Dials          uint64 `counter:"dials" usage:"connections dialled"`
	MessagesSent   uint64 `counter:"messages_sent" usage:"raft messages sent, snapshots excepted"`
	MessagesSplit  uint64 `counter:"messages_split" usage:"raft messages that took more than one frame"`
	MessagesResent uint64 `counter:"messages_resent" usage:"raft messages sent again after the peer had refused one for its size"`
	FramesSent     uint64 `counter:"frames_sent" usage:"frames sent"`
	FragmentsSent  uint64 `counter:"fragments_sent" usage:"frames sent that are a piece of one entry"`
	BytesSent      uint64 `counter:"sent_bytes" usage:"bytes of the frames sent, encoded"`
	WireBytesSent  uint64 `counter:"wire_sent_bytes" usage:"bytes of the same frames as they travelled: compressed, five of gRPC's own each"`
	LargestFrame   uint64 `gauge:"largest_frame_sent_bytes" usage:"encoded size of the largest frame sent"`
	Refusals       uint64 `counter:"refusals" usage:"messages that the peer refused for their size"`

	MessagesDropped     uint64 `counter:"messages_dropped" usage:"raft messages given up, for any reason but a fault that was set"`
	DroppedQueueFull    uint64 `counter:"messages_dropped_queue_full" usage:"messages dropped because too much waited for the peer"`
	DroppedUnconnected  uint64 `counter:"messages_dropped_unconnected" usage:"messages dropped because there was no connection"`
	DroppedBroken       uint64 `counter:"messages_dropped_broken" usage:"messages given up when the connection broke while they were to be sent; the first of them may have arrived"`
	DroppedCannotFollow uint64 `counter:"messages_dropped_cannot_follow" usage:"messages dropped because the peer's limit does not admit them under the chunking strategy"`
	DroppedBusy         uint64 `counter:"messages_dropped_busy" usage:"snapshots not begun because another was on its way to the peer, or the node was stopping"`

	MessagesLost       uint64 `counter:"messages_lost_by_fault" usage:"messages dropped by a fault that was set"`
	MessagesDuplicated uint64 `counter:"messages_duplicated_by_fault" usage:"messages sent twice by a fault that was set"`
	MessagesReordered  uint64 `counter:"messages_reordered_by_fault" usage:"messages held back by a fault that was set"`

	SnapshotsSent        uint64 `counter:"snapshots_sent" usage:"snapshots sent whole"`
	SnapshotChunksSent   uint64 `counter:"snapshot_chunks_sent" usage:"chunks of snapshots sent"`
	SnapshotBytesSent    uint64 `counter:"snapshot_sent_bytes" usage:"bytes of these chunks"`
	SnapshotsResumed     uint64 `counter:"snapshots_resumed" usage:"transfers to the peer that went on where one before broke off"`
	SnapshotBytesResumed uint64 `counter:"snapshot_resumed_bytes" usage:"bytes that were not sent again because of it"`

	MessagesReceived uint64 `counter:"messages_received" usage:"whole raft messages received"`
	FramesReceived   uint64 `counter:"frames_received" usage:"frames received"`
	BytesReceived    uint64 `counter:"received_bytes" usage:"bytes of the frames received, encoded"`

	SnapshotsReceived            uint64 `counter:"snapshots_received" usage:"snapshots received whole"`
	SnapshotChunksReceived       uint64 `counter:"snapshot_chunks_received" usage:"chunks of snapshots received"`
	SnapshotBytesReceived        uint64 `counter:"snapshot_received_bytes" usage:"bytes of these chunks"`
	SnapshotsReceivedResumed     uint64 `counter:"snapshots_received_resumed" usage:"transfers from the peer that went on where one before broke off"`
	SnapshotBytesReceivedResumed uint64 `counter:"snapshot_received_resumed_bytes" usage:"bytes that did not come again because of it"`

	// Live, and shared by all copies.
	FrameBytes *metric.Histogram `histogram:"frame_bytes" usage:"encoded size of a frame sent"`
	RoundTrips *metric.Histogram `histogram:"round_trip_nanos" usage:"from sending a frame until its acknowledgement, without the peer's holding time"`
}

// Totals are those that belong to no peer.
type Totals struct {
	// Live, and shared by all copies; nil where nothing travels in pieces.
	Reassembly *metric.Histogram `histogram:"reassembly_nanos" usage:"from the first fragment of an entry until it was whole"`

	DroppedUnknownPeer uint64 `counter:"messages_dropped_unknown_peer" usage:"messages dropped because they were for nobody this node knows, or were forwarded in another's name"`
}
