package kv

// Kind says what a Command does. The values are those of CommandKind in
// proto/raftlab/kv/v1/command.proto.
type Kind uint8

// Kinds of commands. Get occurs only as a step of a Batch; the session kinds
// never do.
const (
	KindPut            Kind = 1
	KindDelete         Kind = 2
	KindCompareAndSwap Kind = 3
	KindBatch          Kind = 4
	KindGet            Kind = 5
	KindOpenSession    Kind = 6
	KindKeepSession    Kind = 7
	KindCloseSession   Kind = 8
)

// Command is a client's mutation. Its byte slices are read and never changed.
type Command struct {
	Kind         Kind
	ExpectAbsent bool
	Key          []byte
	Value        []byte
	Expect       []byte
	Steps        []Command // of a batch

	SessionID       uint64 // 0 without a session
	SessionSequence uint64 // of the command in its session, from 1
	// The client has the answers to all commands of the session before this one.
	SessionAcknowledged uint64
	SessionTTL          int64 // of a session to be opened, nanoseconds
}

// EntryHeader identifies an entry: raft does not tell which index a proposal
// got, so waiters are found by proposer and sequence.
type EntryHeader struct {
	Node        uint64
	Incarnation uint64
	Sequence    uint64
	Clock       int64 // the proposer's clock, unix nanoseconds
}

// Result answers one Command. Value may alias the store and must not be changed.
type Result struct {
	Revision       uint64 // of the store, after the command
	Index          uint64 // raft index of the entry
	Version        uint64 // writes of the key since it was created
	CreateRevision uint64
	ModRevision    uint64
	Value          []byte   // what a get found, or the present value on a mismatch
	Found          bool     // the key existed: see Result in kv.proto
	Succeeded      bool     // false when a compare-and-swap did not match
	Steps          []Result // of a batch, up to the one that failed

	SessionID    uint64  // that was opened
	Refusal      Refusal // why the command was not applied; 0 if it was
	ValueOmitted bool    // the answer to a command that came twice lacks its values
}
