package transport

import (
	"math"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// protocolVersion is what Hello carries. Another version is refused.
const protocolVersion = 1

// maxAddress bounds the address of a caller, which is remembered: more than any
// name of a host has.
const maxAddress = 1024

// checkHello decides whether a node answers a caller. member and known are what
// its membership says about the caller. A caller in no cluster has to be a member
// of this one: a node that joins calls those only who called it, which they do
// once they know it for a member. One who knows the cluster need not be: this
// node may have to hear from it that it was added. fatal means that the caller's cluster
// knows this node with another memory while it has none of the cluster: it is a
// node without a durable log that came back under its old id. It could vote
// twice and its log is shorter than the leader believes, so it has to end.
func checkHello(self Identity, known Peer, member bool, r *transportv1.HelloRequest) (fatal bool, err error) {
	switch {
	case r.GetProtocol() != protocolVersion:
		return false, status.Errorf(codes.FailedPrecondition, "protocol %d, this node speaks %d", r.GetProtocol(), protocolVersion)
	case r.GetFrom() == 0 || r.GetFrom() >= reservedIDs || r.GetFrom() == self.Node:
		return false, status.Errorf(codes.PermissionDenied, "Hello from node id %d at node %d", r.GetFrom(), self.Node)
	case r.GetReceiveLimitBytes() < MinLimit:
		return false, status.Errorf(codes.InvalidArgument, "receive limit %d is below the minimum %d", r.GetReceiveLimitBytes(), MinLimit)
	case len(r.GetFromAddress()) > maxAddress:
		return false, status.Errorf(codes.InvalidArgument, "address of %d bytes exceeds the limit of %d", len(r.GetFromAddress()), maxAddress)
	case r.GetClusterId() != 0 && self.ClusterID != 0 && r.GetClusterId() != self.ClusterID:
		return false, status.Errorf(codes.FailedPrecondition, "node %d is in cluster %016x, node %d in cluster %016x", r.GetFrom(), r.GetClusterId(), self.Node, self.ClusterID)
	case r.GetTo() != self.Node:
		return false, status.Errorf(codes.FailedPrecondition, "this is node %d, not node %d", self.Node, r.GetTo())
	case member && known.Incarnation != 0 && r.GetFromIncarnation() != known.Incarnation:
		return false, errForgotten(r.GetFrom())
	case r.GetToIncarnation() != 0 && r.GetToIncarnation() != self.Incarnation:
		return self.ClusterID == 0 && r.GetClusterId() != 0, errForgotten(self.Node)
	case !member && r.GetClusterId() == 0 && self.ClusterID != 0:
		return false, status.Errorf(codes.FailedPrecondition, "node %d is in no cluster, and no member of cluster %016x, which node %d is in", r.GetFrom(), self.ClusterID, self.Node)
	}
	return false, nil
}

// errForgotten is the answer to and about a node whose memory is gone.
func errForgotten(id uint64) error {
	return status.Errorf(codes.FailedPrecondition,
		"node %d came back without its memory: remove node %d, add it again under a new id", id, id)
}

// checkHelloAnswer is the caller's side: is it the node it meant to reach?
func checkHelloAnswer(self Identity, peer Peer, r *transportv1.HelloResponse) error {
	switch {
	case r.GetProtocol() != protocolVersion:
		return status.Errorf(codes.FailedPrecondition, "node %d speaks protocol %d, this node %d", peer.ID, r.GetProtocol(), protocolVersion)
	case r.GetNode() != peer.ID:
		return status.Errorf(codes.FailedPrecondition, "%s is node %d, not node %d", peer.Address, r.GetNode(), peer.ID)
	case self.ClusterID != 0 && r.GetClusterId() != 0 && r.GetClusterId() != self.ClusterID:
		return status.Errorf(codes.FailedPrecondition, "node %d is in cluster %016x, not %016x", peer.ID, r.GetClusterId(), self.ClusterID)
	case peer.Incarnation != 0 && r.GetIncarnation() != peer.Incarnation:
		return errForgotten(peer.ID)
	case r.GetReceiveLimitBytes() < MinLimit:
		return status.Errorf(codes.FailedPrecondition, "node %d has receive limit %d, below the minimum %d", peer.ID, r.GetReceiveLimitBytes(), MinLimit)
	}
	return nil
}

// Bounds of what is remembered about callers: a caller has a connection a lane,
// and few nodes call that are not members.
const (
	maxEpochs    = 8
	maxStrangers = 1024
)

// sessions remembers who said Hello, by node.
type sessions struct {
	mu     sync.Mutex
	byNode map[uint64]caller
	hellos uint64 // so many were said
}

// caller is one life of a node and the epochs it used last, that one at the end:
// a lane that keeps its connection stays known, however often others of the node
// say Hello.
type caller struct {
	Peer

	epochs []uint64
	member bool   // when it said Hello last
	hello  uint64 // which one that was
}

// add admits an epoch. restarted means that the node was known in another life.
// A caller that is not a member may take the place of another one, evicted, which
// is not known any more; 0 is nobody.
func (s *sessions) add(from Peer, epoch uint64, member bool) (restarted bool, evicted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, known := s.byNode[from.ID]
	if !member && (!known || c.member) {
		evicted = s.makeRoom()
	}
	restarted = known && c.Incarnation != from.Incarnation
	if restarted {
		c.epochs = nil
	}
	if len(c.epochs) == maxEpochs {
		c.epochs = slices.Delete(c.epochs, 0, 1)
	}
	s.hellos++
	s.byNode[from.ID] = caller{from, append(c.epochs, epoch), member, s.hellos}
	return restarted, evicted
}

// makeRoom lets the stranger go that called longest ago when there are as many
// as there may be. Members always have room: whoever says Hello under many names
// must not keep them out.
func (s *sessions) makeRoom() (evicted uint64) {
	strangers, oldest := 0, uint64(math.MaxUint64)
	for id, c := range s.byNode {
		if c.member {
			continue
		}
		strangers++
		if c.hello < oldest {
			evicted, oldest = id, c.hello
		}
	}
	if strangers < maxStrangers {
		return 0
	}
	delete(s.byNode, evicted)
	return evicted
}

func (s *sessions) has(node, epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	epochs := s.byNode[node].epochs
	i := slices.Index(epochs, epoch)
	if i < 0 {
		return false
	}
	copy(epochs[i:], epochs[i+1:])
	epochs[len(epochs)-1] = epoch
	return true
}

// peer is a caller as it said Hello last; false when it is not remembered.
func (s *sessions) peer(node uint64) (Peer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, known := s.byNode[node]
	return c.Peer, known
}

// forget drops who is a member no longer. A stranger that others displaced stays
// known: it may turn out to lead.
func (s *sessions) forget(node uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byNode[node].member {
		delete(s.byNode, node)
	}
}
