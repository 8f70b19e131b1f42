package node

import (
	"raftlab/kv/replica"
	"raftlab/transport"
)

// waiterBytes is about what an operation under way takes beside its own bytes.
const waiterBytes = 512

// memoryCaps is what a node with so many peers may hold beside its store: at
// most so many bytes each. Entries are counted where they can be last; while they
// are in the log and in a queue they are one copy. Not counted is what depends on
// how many clients there are and what they ask for:
//
//   - messages that gRPC is still receiving, up to max-request each, on every
//     stream of every connection;
//   - answers, between being marshalled and being written;
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
		"admission":   uint64(c.AdmissionBytes) + uint64(c.AdmissionOps)*waiterBytes,
		"uncommitted": uint64(c.Uncommitted),
		"log":         replica.HardLogFactor * uint64(c.LogSize),
		"peer-queues": uint64(peers*lanes) * uint64(c.PeerQueue),
		"reassembly":  transport.ReassemblyLimit(peers),
		"snapshot":    uint64(c.SnapshotLimit),
	}
}
