package replica

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Effects is what the core wants done, in this order: send Messages at once,
// make Appends durable and report each with Appended, hand Applies to the store
// and report each with Applied, complete Answers.
type Effects struct {
	Messages   []*raftpb.Message
	Appends    []*raftpb.Message // MsgStorageAppend
	Applies    []*ApplyTask
	Answers    []Answer
	Reads      []ReadAnswer
	Membership *kvv1.Membership // when it changed
	Leader     *uint64          // when it changed
}

// Answer completes commands that will not be applied, or may be.
type Answer struct {
	refs  []waiterRef
	bytes int
	err   error
}

// ReadAnswer completes reads.
type ReadAnswer struct {
	Waiters []ReadWaiter
	Err     error
}

// ApplyTask is a step of the apply queue: entries to apply, a snapshot to
// install, one to be made or to be saved. Tasks are done in order (trap 8: a snapshot must
// not overtake older entries).
type ApplyTask struct {
	// Entries, each with the waiters of its commands or nil.
	Entries []*raftpb.Entry
	waiters []*inFlight
	// When the core knew that they are committed, from Core.began.
	committed time.Duration
	// Memberships of the configuration changes among Entries, by raft index.
	Memberships map[uint64]*kvv1.Membership
	// Restore names the snapshot to install.
	Restore *raftpb.SnapshotMetadata
	// View asks for a view of the store.
	View bool

	save     bool            // to disk, the store as it is
	incoming *kv.View        // what to restore
	message  *raftpb.Message // whose responses Applied delivers
	done     []func()        // admin waiters to call once applied
}

func (e *Effects) reset() {
	*e = Effects{
		Messages: e.Messages[:0], Appends: e.Appends[:0], Applies: e.Applies[:0],
		Answers: e.Answers[:0], Reads: e.Reads[:0],
	}
}

func (e *Effects) empty() bool {
	return len(e.Messages) == 0 && len(e.Appends) == 0 && len(e.Applies) == 0 &&
		len(e.Answers) == 0 && len(e.Reads) == 0 && e.Membership == nil && e.Leader == nil
}
