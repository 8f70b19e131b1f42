// Package transport carries raft messages between the nodes of a cluster. It
// knows raftpb and gRPC, and nothing of keys and values.
//
// # The way of a message
//
// The node above hands messages to Transport.Send, on its raft goroutine, and
// never waits. What happens then, file by file:
//
//	Send            server.go      finds the peer by To
//	faults          fault.go       lose it, double it or hold it back, if asked to
//	queue           queue.go       one for each lane, bounded in bytes and count
//	lane            lane.go        its goroutine takes all that waits, and for each message:
//	  Chunker       plan.go        plans frames, each within the peer's limit
//	  sizer         sizer.go       says how large they should be, under chunk-size auto
//	  link          link.go        holds them as a slower network would, if asked to
//	  carrier       stream.go      hands them to one long-lived stream,
//	                unary.go       or to one RPC each
//	  Codec         codec.go       turns them into bytes (proto.go: the stock way; wire.go: within gRPC)
//	                --- the network ---
//	  Decode        decode.go      and back
//	receive         receive.go     checks who sends
//	  Reassembler   reassemble.go  puts an entry together that came in pieces
//	  Validate      validate.go    refuses what raft would choke on
//	Handler.Step                   hands it up, on the stream's goroutine
//
// A MsgSnap takes another way: snapshot.go streams what Handler.OpenSnapshot
// reads, in chunks, to accept.go, which writes it to Handler.AcceptSnapshot's
// writer. It always ends in Handler.ReportSnapshot.
//
// Network (local.go) stands for all of this within one process.
//
// # Peers and connections
//
// Each peer has two lanes, control and log, with a connection each (LanesSplit),
// or one (LanesShared), and a third connection once a snapshot is sent. Every
// connection begins with Hello (hello.go): who calls, whom it means to reach and
// with which incarnation of its memory, and how large a message may be. It is
// kept until it breaks; PeerStats.Dials stands still meanwhile. After that the
// lane drops what it is given, reports the peer once, and calls again, at
// growing intervals of up to a second, when there is something to send.
//
// A node that a caller knows under another incarnation has lost its memory: it
// must not vote or acknowledge under its old id. Each side refuses the other,
// and the node, when it is in no cluster as far as it knows, is told through
// Handler.Refused to end.
//
// # Frames and limits
//
// A Frame is one gRPC message. Its size is known exactly before it is sent
// (frame.go), since gRPC ends the whole stream over one that is too large.
// Everything that is in each frame has a fixed width, so MaxEntryBytes says
// which entries fit before they have an index: an entry of exactly that size
// makes a frame of exactly the limit.
//
// What happens to a message that is too large is the Chunker's choice, one value
// for each name of the chunking knob. chunk-size is what bounded, count and
// fragment aim at; the peer's receive limit is what nothing may pass. Under
// bounded and count, one entry larger than chunk-size has no seam to be cut at
// and travels alone, up to the receive limit; under fragment it is cut into
// pieces of the chunk size. Strategies none and raft don't split and reactive
// doesn't read chunk-size.
//
// Config.ChunkAuto moves the chunk size of each peer to where goodput is best
// (sizer.go says by what law), from what the peer's raft acknowledges. It shows
// in PeerStats.ChunkSizeBytes. Snapshots keep to the size it starts with.
//
// A peer that can't be sent what it needs is shown with PeerStats.Problem
// "cannot follow: message N > limit L"; such messages end at Plan, and nothing
// goes over the wire. Handler.EntryLimit tells the node above which entries not
// to propose.
//
// With compression (compress.go), the limit holds for a message as it travels
// and for what it inflates to. Chunkers count bytes before compression and stay
// below the limit by what incompressible bytes may grow (FrameLimit).
//
// Strategy reactive ignores the limit that Hello told, to show what learning by
// failure costs. It keeps what the peer has not acknowledged; when the peer's
// gRPC refuses a frame, it reads the limit from the refusal (or halves, if the
// text tells none), opens the stream anew on the same connection, and sends
// again what the peer does not have. A peer that comes back with another limit
// is learned anew.
//
// # Codecs
//
// All codecs make the same bytes, so that nodes with different ones understand
// each other, and a test holds them to it. CodecProto is what the generated code
// does; CodecAppend writes by hand into one buffer; CodecScatter also leaves
// large data where it lies and lets gRPC have it by reference (codec.go).
// Receivers copy an entry's data once, out of gRPC's buffers, into memory of its
// own size; fragments stay in those buffers until the Reassembler has a place for
// them.
//
// # Faults
//
// The way to a peer can be made slow, uneven, lossy or cut (Faults). What is lost,
// doubled or held back is a whole message, before it is queued; delay and rate are
// those of frames on a line (link.go), which stay in order. Without faults a
// message pays for one atomic load. They are tested in virtual time.
//
// # Snapshots
//
// A snapshot travels on a connection of its own, as chunks with offset and
// checksum, in a window, at most at a rate. The receiver keeps what a transfer
// brought whose connection broke, one for the whole node, and answers the next
// offer of the same index and term, from whichever node, with how far it came.
// The sender makes the bytes again, which are the same on every node, and leaves
// out those. So no more is sent twice than was under way. What fails a check is
// dropped, and the next transfer begins anew; so does one of another point, or
// one that comes too late. A receiver that came as far by another way says so,
// before the first chunk or in between, and the transfer ends as if taken. After
// one that was refused the report is held back, from 100 ms to 10 s, because raft
// would begin it anew with the next heartbeat. One above the receiver's
// Config.SnapshotLimit is refused when that much has come in, and from then on when
// the same is offered.
//
// # What is not trusted
//
// Frames are taken only from callers that said Hello: who sent a frame is read,
// and checked, before anything is allocated for what it carries (scan). So are all
// sizes that it declares, and entries must have the least size of one, so that
// what they become stays in proportion to their bytes. Callers that are not
// members are remembered up to a number, and keep no member out. The memory
// that unfinished fragments hold is bounded by peer, in total and by age. So are
// snapshots: one from each sender, four in all and one that broke off, together
// at most Config.SnapshotLimit bytes, each with one incomplete record. Errors
// carry gRPC codes: PermissionDenied for a sender who is not who he says,
// InvalidArgument for what is malformed, DataLoss for a wrong checksum,
// ResourceExhausted for a cap. The node stays up.
package transport
