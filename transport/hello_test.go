package transport

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// A lane that goes on sending stays known while the node's other connections,
// one for each snapshot, say Hello over and over.
func TestSessionInUseIsNotForgotten(t *testing.T) {
	s := sessions{byNode: make(map[uint64]caller)}
	hello := func(epoch uint64) {
		t.Helper()
		if restarted, _ := s.add(Peer{ID: 7, Incarnation: 1}, epoch, true); restarted {
			t.Fatal("another life")
		}
	}
	hello(1)
	for epoch := uint64(2); epoch < 5*maxEpochs; epoch++ {
		hello(epoch)
		if !s.has(7, 1) {
			t.Fatalf("epoch 1 is forgotten at epoch %d", epoch)
		}
	}
	if s.has(7, 2) {
		t.Error("an epoch that nobody used is still known")
	}
	if n := len(s.byNode[7].epochs); n > maxEpochs {
		t.Errorf("%d epochs are remembered", n)
	}
	if restarted, _ := s.add(Peer{ID: 7, Incarnation: 2}, 100, true); !restarted || s.has(7, 1) {
		t.Error("another life of the caller was not noticed")
	}
}

// Whoever calls does not trust that the one who answers checked who was meant.
func TestCheckHelloAnswer(t *testing.T) {
	self, peer := Identity{ClusterID: 77, Node: 1, Incarnation: 11}, Peer{ID: 2, Incarnation: 12, Address: "there"}
	for _, test := range []struct {
		name   string
		change func(*transportv1.HelloResponse)
		text   string
	}{
		{"good", func(*transportv1.HelloResponse) {}, ""},
		{"in no cluster yet", func(r *transportv1.HelloResponse) { r.ClusterId = 0 }, ""},
		{"protocol", func(r *transportv1.HelloResponse) { r.Protocol = 2 }, "node 2 speaks protocol 2, this node 1"},
		{"another node", func(r *transportv1.HelloResponse) { r.Node = 3 }, "there is node 3, not node 2"},
		{"another cluster", func(r *transportv1.HelloResponse) { r.ClusterId = 78 }, "is in cluster 000000000000004e, not 000000000000004d"},
		{"another memory", func(r *transportv1.HelloResponse) { r.Incarnation = 13 }, "remove node 2, add it again under a new id"},
		{"receive limit", func(r *transportv1.HelloResponse) { r.ReceiveLimitBytes = MinLimit - 1 }, "below the minimum"},
	} {
		r := &transportv1.HelloResponse{Protocol: 1, ClusterId: 77, Node: 2, Incarnation: 12, ReceiveLimitBytes: MinLimit}
		test.change(r)
		err := checkHelloAnswer(self, peer, r)
		if (err == nil) != (test.text == "") || err != nil && (status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), test.text)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.text)
		}
	}
}
