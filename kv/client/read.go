package client

import (
	"fmt"
	"slices"
	"strings"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Read says what a read promises and which node answers it. The zero value is
// ReadLinearizable.
type Read uint8

// Reads. All but ReadStale are linearizable: they see every write acknowledged
// before they began.
const (
	// ReadLinearizable is answered by the leader, after a round of heartbeats.
	ReadLinearizable Read = iota
	// ReadLease is answered by the leader without a round while it has a lease. It
	// is unsafe after pauses in which the leader's clock stops (see CONSISTENCY_LEASE
	// in kv.proto).
	ReadLease
	// ReadFollower is answered by all nodes in turn, each of which asks the leader
	// for the round.
	ReadFollower
	// ReadStale is answered by all nodes in turn from their own state, however old.
	ReadStale
)

var readNames = []string{"linearizable", "lease", "follower", "stale"}

// ReadNames lists the names that ParseRead takes.
func ReadNames() []string { return slices.Clone(readNames) }

// ParseRead returns the Read of a name.
func ParseRead(name string) (Read, error) {
	i := slices.Index(readNames, name)
	if i < 0 {
		return 0, fmt.Errorf("read %q is not one of %s", name, strings.Join(readNames, ", "))
	}
	return Read(i), nil
}

// String returns the name.
func (r Read) String() string {
	if int(r) < len(readNames) {
		return readNames[r]
	}
	return fmt.Sprintf("read(%d)", uint8(r))
}

// Consistency is what the node is asked for.
func (r Read) Consistency() kvv1.Consistency {
	switch r {
	case ReadLease:
		return kvv1.Consistency_CONSISTENCY_LEASE
	case ReadStale:
		return kvv1.Consistency_CONSISTENCY_STALE
	case ReadLinearizable, ReadFollower:
	}
	return kvv1.Consistency_CONSISTENCY_LINEARIZABLE
}

// Spread tells that any node answers, so that all are asked in turn.
func (r Read) Spread() bool { return r == ReadFollower || r == ReadStale }
