package node

import (
	"raftlab/kv/replica"
	"raftlab/transport"
)

// waiterBytes is about what an operation under way takes beside its own bytes, the
// refusal of one on a stream included.
const waiterBytes = 768

// underWay is what operations under way may take by admission-ops and
// admission-bytes: those that the replica has, and as much again the requests of
// streams whose answers are not sent, since an answer that nobody reads must not
// keep others from being served.
func (c Config) underWay() int64 {
	return int64(c.AdmissionBytes) + int64(c.AdmissionOps)*waiterBytes
}

// memoryCaps is what a node with so many peers may hold beside its store: at
// most so many bytes each. Entries are counted where they can be last; while they
// are in the log and in a queue they are one copy. Not counted is what depends on
// how many clients there are and what they ask for:
//
//   - messages that gRPC is still receiving, up to max-request each, on every
//     stream of every connection;
//   - answers, between being read from the store and being written, one on each stream
//     of every connection;
//   - reads, which pass no admission;
//
// nor that the keys of a snapshot being taken in, which is counted by its bytes,
// take more memory when they are tiny; nor buffers of a few MiB.
func (c Config) memoryCaps(peers int) map[string]uint64 {
	lanes := 1
	if c.Lanes == transport.LanesSplit {
		lanes = 2
	}
	return map[string]uint64{
		"admission":   uint64(c.underWay()),
		"streams":     uint64(c.underWay()),
		"uncommitted": uint64(c.Uncommitted),
		"log":         replica.HardLogFactor * uint64(c.LogSize),
		"peer-queues": uint64(peers*lanes) * uint64(c.PeerQueue),
		"reassembly":  transport.ReassemblyLimit(peers),
		"snapshot":    uint64(c.SnapshotLimit),
	}
}
