// Package cluster starts raftlab clusters: for the bench, and for functional
// tests of your own. A cluster in one process, from a Go test:
//
//	c, err := cluster.Start(ctx, cluster.Config{Nodes: 3})
//	if err != nil {
//		t.Fatal(err)
//	}
//	defer c.Close()
//	client, err := c.Client()
//
// The topology says where the nodes run:
//
//   - in-process: in this process, handing raft messages over without
//     serialising them. The client port is gRPC on loopback all the same.
//   - in-process-grpc: in this process, with gRPC between them over loopback TCP
//     or, with listener bufconn, over memory.
//   - processes: children of this process, one `raftkv serve` each (process.go).
//     They live as long as a pipe that this process holds, so that nothing is
//     left behind even when it is killed.
//   - external: a cluster that runs already; it is neither started nor stopped.
//
// Start (cluster.go) goes the way an operator goes: init on the first node, add
// the others as learners, make all of them voters, and wait for the leader.
package cluster
