package node

import (
	"errors"
	"io"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/status"

	kvv1 "raftlab/proto/raftlab/kv/v1"
	"raftlab/transport"
)

// peerHandler stands between the transport and the replica: it is what the
// transport calls, and it tells the transport who the peers are.
type peerHandler struct{ n *Node }

var _ transport.Handler = peerHandler{}

// Identity implements transport.Handler.
func (h peerHandler) Identity() transport.Identity {
	return transport.Identity{
		ClusterID: h.n.replica.Membership().GetClusterId(), Node: h.n.self.GetId(), Incarnation: h.n.self.GetIncarnation(),
		PeerAddress: h.n.self.GetPeerAddress(), Leader: h.n.replica.Leader(),
	}
}

// Peer implements transport.Handler.
func (h peerHandler) Peer(id uint64) (transport.Peer, bool) {
	m := findMember(h.n.replica.Membership(), id)
	if m == nil {
		return transport.Peer{}, false
	}
	return peerOf(m), true
}

// Step implements transport.Handler.
func (h peerHandler) Step(m *raftpb.Message) { h.n.replica.Step(m) }

// ReportUnreachable implements transport.Handler.
func (h peerHandler) ReportUnreachable(id uint64) { h.n.replica.ReportUnreachable(id) }

// ReportSnapshot implements transport.Handler.
func (h peerHandler) ReportSnapshot(id uint64, ok bool) { h.n.replica.ReportSnapshot(id, ok) }

// OpenSnapshot implements transport.Handler.
func (h peerHandler) OpenSnapshot(m *raftpb.Message) (io.ReadCloser, error) {
	return h.n.replica.OpenSnapshot(m)
}

// AcceptSnapshot implements transport.Handler.
func (h peerHandler) AcceptSnapshot(m *raftpb.Message) (transport.SnapshotWriter, error) {
	sink, err := h.n.replica.AcceptSnapshot(m)
	if err != nil {
		return nil, err // not a nil *SnapshotSink in the interface
	}
	return sink, nil
}

// EntryLimit implements transport.Handler.
func (h peerHandler) EntryLimit(bytes uint64) { h.n.replica.SetMaxEntryBytes(bytes) }

// Refused implements transport.Handler: the node's memory is not the one that
// the cluster knows, so it must not go on.
func (h peerHandler) Refused(err error) {
	if st, ok := status.FromError(err); ok {
		err = errors.New(st.Message()) // for a person: the code says no more
	}
	h.n.fail(err)
}

// membershipChanged is called by the replica for each new membership.
func (n *Node) membershipChanged(m *kvv1.Membership) {
	peers := make([]transport.Peer, 0, len(m.GetNodes()))
	for _, member := range m.GetNodes() {
		if member.GetId() != n.self.GetId() {
			peers = append(peers, peerOf(member))
		}
	}
	n.transport.SetPeers(peers)
	if n.disk == nil || n.disk.ClusterID() != 0 || m.GetClusterId() == 0 {
		return
	}
	if err := n.disk.SetClusterID(m.GetClusterId()); err != nil {
		n.fail(err)
	}
}

func peerOf(m *kvv1.Member) transport.Peer {
	return transport.Peer{ID: m.GetId(), Incarnation: m.GetIncarnation(), Address: m.GetPeerAddress()}
}

// findMember returns the node of that id; nil when it is not in the membership.
func findMember(m *kvv1.Membership, id uint64) *kvv1.Member {
	for _, member := range m.GetNodes() {
		if member.GetId() == id {
			return member
		}
	}
	return nil
}

// notLeader says who leads, as far as this node knows.
func (n *Node) notLeader() *kvv1.NotLeader {
	id := n.replica.Leader()
	return &kvv1.NotLeader{LeaderId: id, LeaderAddress: findMember(n.replica.Membership(), id).GetAddress()}
}
