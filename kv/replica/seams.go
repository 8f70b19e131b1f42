package replica

import (
	"errors"
	"fmt"
	"io"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
)

// Errors that a caller can act on. A write that fails with one for which
// Applied(err) is false was not applied and never will be.
var (
	// ErrNotLeader: the proposal never entered a log. Ask the leader.
	ErrNotLeader = errors.New("not the leader")
	// ErrOverloaded: admission caps are reached; nothing was proposed.
	ErrOverloaded = errors.New("overloaded")
	// ErrTooLarge: the entry is larger than what can be replicated now.
	ErrTooLarge = errors.New("entry too large")
	// ErrStopped: the node is stopping; nothing was proposed.
	ErrStopped = errors.New("node is stopping")
	// ErrUnknownOutcome: leadership was lost, or the node stopped, after the
	// command was proposed. It may still be applied.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrRefused: a membership change is not possible as things are.
	ErrRefused = errors.New("refused")
	// ErrNoLeader: a read found no leader before its deadline.
	ErrNoLeader = errors.New("no leader")
	// ErrBehind: this node did not apply what a read must see before its deadline.
	// Nothing was read; another node may answer.
	ErrBehind = errors.New("this node does not keep up")
)

// TooLargeError says how large and what the limit is. It is ErrTooLarge.
type TooLargeError struct {
	Size, Limit uint64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("entry of %d bytes exceeds the limit of %d bytes", e.Size, e.Limit)
}

// Is makes a TooLargeError an ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// Log is the raft log and hard state in memory, as raft reads it. It is used on
// the raft goroutine only, and holds nothing that is not durable if it has to be.
type Log interface {
	raft.Storage
	// Append adds entries, in place of those at their indexes and after, and keeps
	// the hard state. An empty one changes nothing. An error is fatal to the node.
	Append(entries []*raftpb.Entry, hs *raftpb.HardState) error
	// Restore drops the log in favour of a snapshot of the given metadata.
	Restore(meta *raftpb.SnapshotMetadata) error
	// Compact drops entries up to and including index.
	Compact(index uint64) error
	// Bytes is the size of the entries held.
	Bytes() uint64
}

// Journal makes the log durable, for a node that comes back with its memory. An
// error of any method is fatal to the node.
type Journal interface {
	// Write makes appends durable, in order: entries, hard state, and for a
	// snapshot that the log restarts there. They are acknowledged when it
	// returns. One goroutine calls it, with all that has queued up meanwhile.
	Write(appends []*raftpb.Message) error
	// SaveSnapshot keeps what write writes as the state at meta; when it returns,
	// it is found after a crash. One call at a time.
	SaveSnapshot(meta *raftpb.SnapshotMetadata, write func(io.Writer) error) error
	// Release drops what a saved snapshot at index makes unnecessary. The
	// goroutine of Write calls it.
	Release(index uint64) error
}

// Waiter hears what became of the commands it proposed. Done is called exactly
// once for each, with its tag, on a goroutine of the replica: it must not block.
type Waiter interface {
	Done(tag int, result kv.Result, err error)
}

// Proposal is a command on its way into the log. The command's bytes must stay
// unchanged until Done.
type Proposal struct {
	Command kv.Command
	Waiter  Waiter
	Tag     int

	size    int           // encoded, set on admission
	arrived time.Duration // since the core began
}

// ReadWaiter hears that reads may go on. Ready is called exactly once, on a
// goroutine of the replica: it must not block. With a nil error the store, read
// at any time from now, shows every write acknowledged before the read began.
type ReadWaiter interface {
	Ready(err error)
}
