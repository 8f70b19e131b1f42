// Package kv is the replicated state machine: what a client's command is, how
// commands travel in a raft entry, the ordered copy-on-write store that applies
// them, and the snapshot records that carry the store to another node. It is
// pure: no goroutines, no clock, no I/O of its own.
//
// # From a command to a result
//
// The leader packs commands into the data of one raft entry: AppendHeader, then
// AppendCommand for each. The bytes are the Entry message of
// proto/raftlab/kv/v1/command.proto; the codec is written by hand because it
// runs for every operation on every node, and decodes into one Command that is
// used again.
//
// Every node gives the committed entries to its Store in the order of the log:
// Apply for normal entries, SetMembership for configuration changes. Apply
// answers each command with a Result, the same on every node. Nothing but the
// entries decides what a result is, so whatever depends on time uses the clock
// in the entry's header.
//
// # Revisions
//
// A store begins at revision 1, and each command that changes something adds
// one; a batch is one command. A delete of a missing key, a failed
// compare-and-swap and a batch of reads change nothing. A key remembers the
// revision that created it, the one that last wrote it, and its version, which
// counts its writes and begins again at 1 after a delete. The raft index is
// something else, and stands beside the revision in a Result.
//
// A batch does its steps in order, each seeing those before it. When a
// compare-and-swap in it fails, the steps before are undone, and the results end
// with the one that failed.
//
// # Sessions
//
// A client that did not hear the answer to a command can't know whether it was
// applied. Within a session it sends the command again, under the same sequence,
// and the store answers as it did the first time instead of applying it twice
// (session.go). Answers are kept until the client says that it has them; sessions
// end a time after their last command, by the clocks in the entries. They are
// part of the state: of its hash, and of snapshots.
//
// # Reading
//
// Get looks at the store as it is. View takes a copy of the whole that later
// writes leave alone, at a cost that does not depend on the number of keys: scan
// it, hash it, or stream it to another node with WriteSnapshot. There a
// SnapshotDecoder checks the bytes as they come in and makes a View of them, for
// Restore.
//
// # Memory
//
// A key with its value is one allocation, its record of 64 bytes another, and its
// places in the tree and in the index take 50 to 90 bytes more. A value of 256 KiB
// or more that is most of its entry is not copied, but stays where the entry has it
// (record.go). A put that finds its key with a value of the same size, up to 1 KiB,
// overwrites it and allocates nothing, unless a view may show it or the put is part
// of a batch; so items and results have copies of such values, and alias larger ones.
package kv
