package bench

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"raftlab/bench/cluster"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// What a node that ended or began anew used and counted is not known, rather than
// left out of sums.
func TestSampleSince(t *testing.T) {
	node1, node2, again := &cluster.Node{ID: 1}, &cluster.Node{ID: 2}, &cluster.Node{ID: 2}
	used := func(bytes uint64) *labv1.UsageResponse { return &labv1.UsageResponse{AllocatedBytes: bytes} }
	count := func(n uint64) map[string]uint64 { return map[string]uint64{"journal_fsyncs": n} }
	before := sample{
		usage:    map[string]*labv1.UsageResponse{"node1": used(10), "node2": used(20), processGenerator: used(30)},
		counters: map[*cluster.Node]map[string]uint64{node1: count(1), node2: count(2)},
	}
	for _, c := range []struct {
		name     string
		after    sample
		node2    Process
		counters map[string]uint64
	}{
		{"both lasted", sample{
			usage:    map[string]*labv1.UsageResponse{"node1": used(15), "node2": used(26), processGenerator: used(37)},
			counters: map[*cluster.Node]map[string]uint64{node1: count(4), node2: count(6)},
		}, Process{AllocBytes: 6}, count(7)},
		{"one ended", sample{
			usage:    map[string]*labv1.UsageResponse{"node1": used(15), processGenerator: used(37)},
			counters: map[*cluster.Node]map[string]uint64{node1: count(4)},
		}, Process{Unavailable: true}, nil},
		{"one began anew", sample{
			usage:    map[string]*labv1.UsageResponse{"node1": used(15), "node2": used(5), processGenerator: used(37)},
			counters: map[*cluster.Node]map[string]uint64{node1: count(4), again: count(1)},
		}, Process{Unavailable: true}, nil},
	} {
		processes, counters := c.after.since(before)
		want := map[string]Process{"node1": {AllocBytes: 5}, "node2": c.node2, processGenerator: {AllocBytes: 7}}
		if diff := cmp.Diff(want, processes); diff != "" {
			t.Errorf("%s: processes (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.counters, counters); diff != "" {
			t.Errorf("%s: counters (-want +got):\n%s", c.name, diff)
		}
	}
}
