package transport

import "testing"

// A lane that goes on sending stays known while the node's other connections,
// one for each snapshot, say Hello over and over.
func TestSessionInUseIsNotForgotten(t *testing.T) {
	s := sessions{byNode: make(map[uint64]caller)}
	hello := func(epoch uint64) {
		t.Helper()
		if restarted, err := s.add(7, 1, epoch); restarted || err != nil {
			t.Fatalf("restarted %v, %v", restarted, err)
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
	if restarted, err := s.add(7, 2, 100); !restarted || err != nil || s.has(7, 1) {
		t.Errorf("another life: restarted %v, %v", restarted, err)
	}
}
