package node

import "testing"

// What a node may hold beside its store grows with its peers, as the entries of
// each may be coming in.
func TestMemoryCapsCountReassembly(t *testing.T) {
	cfg := DefaultConfig()
	for peers, want := range map[int]uint64{0: 0, 2: 512 << 20, 4: 1 << 30, 8: 1 << 30} {
		if got := cfg.memoryCaps(peers)["reassembly"]; got != want {
			t.Errorf("%d peers: %d bytes, want %d", peers, got, want)
		}
	}
}
