package replica

import (
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Config says how a replica behaves. Sizes are in bytes.
type Config struct {
	ID uint64
	// Incarnation tells this run of the node from those before, whose entries
	// and answers are not this one's; random, never 0.
	Incarnation uint64

	Tick           time.Duration
	HeartbeatTicks int
	ElectionTicks  int

	AppendSize    uint64 // raft.Config.MaxSizePerMsg
	InflightMsgs  int    // raft.Config.MaxInflightMsgs
	InflightBytes uint64 // raft.Config.MaxInflightBytes
	Uncommitted   uint64 // raft.Config.MaxUncommittedEntriesSize
	ApplySize     uint64 // raft.Config.MaxCommittedSizePerReady

	Batcher Batcher
	Packer  Packer

	// Journal makes the log durable; nil leaves it to memory. SaveAfter is how
	// many bytes it takes in before a snapshot is saved and it is cut; it takes
	// as many as the last snapshot had, if that is more.
	Journal   Journal
	SaveAfter int64

	// Applied entries kept in the log for followers that lag.
	LogEntries uint64
	LogSize    uint64
	// SnapshotKeep is how long after a transfer of a snapshot failed the same one
	// is offered again, so that it can be resumed, and the log waits for it; 0 is
	// not at all.
	SnapshotKeep time.Duration

	// Operations under way at most, reads included, and bytes of proposals.
	AdmissionOps   int64
	AdmissionBytes int64

	// Send takes messages to peers; it must not block. Called on the raft
	// goroutine.
	Send func([]*raftpb.Message)
	// MembershipChanged hears of each new membership, before raft sends to its
	// nodes; it must not block. The membership is shared and never changed.
	MembershipChanged func(*kvv1.Membership)
	// LeaderChanged hears who leads, 0 for nobody; it must not block.
	LeaderChanged func(id uint64)

	// Stages measures how long writes take from one stage to the next, see
	// Histograms; SetStages changes it later.
	Stages bool

	Logger *slog.Logger
}

// Raft is what raft is configured with, but for its storage and logger: the
// settings, and the choices that are not knobs (raft traps 2, 3 and 11).
func (c *Config) Raft() raft.Config {
	return raft.Config{
		ID:                        c.ID,
		ElectionTick:              c.ElectionTicks,
		HeartbeatTick:             c.HeartbeatTicks,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             c.AppendSize,
		MaxCommittedSizePerReady:  c.ApplySize,
		MaxUncommittedEntriesSize: c.Uncommitted,
		MaxInflightMsgs:           c.InflightMsgs,
		MaxInflightBytes:          c.InflightBytes,
		// Not StepDownOnRemoval: see Core.leave.
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		DisableProposalForwarding: true,
	}
}

// raftConfig checks the settings and turns them into raft's.
func (c *Config) raftConfig(storage raft.Storage) (*raft.Config, error) {
	switch {
	case c.Incarnation == 0:
		return nil, fmt.Errorf("incarnation 0 is reserved")
	case c.Batcher == nil:
		return nil, fmt.Errorf("no batcher given")
	case c.InflightBytes < c.AppendSize:
		return nil, fmt.Errorf("inflight-bytes %d is less than append-size %d", c.InflightBytes, c.AppendSize)
	case c.ElectionTicks <= c.HeartbeatTicks || c.HeartbeatTicks < 1:
		return nil, fmt.Errorf("election-ticks %d must be greater than heartbeat-ticks %d, at least 1", c.ElectionTicks, c.HeartbeatTicks)
	case c.ID == 0 || raft.IsLocalMsgTarget(c.ID):
		return nil, fmt.Errorf("id %d is reserved", c.ID)
	case c.InflightMsgs < 1:
		return nil, fmt.Errorf("inflight-messages %d must be at least 1", c.InflightMsgs)
	}
	rc := c.Raft()
	rc.Storage, rc.Logger = storage, &raftLogger{c.Logger}
	return &rc, nil
}
