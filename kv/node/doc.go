// Package node puts one raftlab node together: listeners, gRPC servers, the
// services behind them, health, the debug port, and the order in which it all
// starts and stops.
//
// Read it in this order. Config (config.go) is every setting, and Knobs
// (knob.go) the one walk over them that flags, experiments and reports share.
// New and Start (node.go) bind the ports and wire the parts: a kv.Store, a
// replica.Replica that replicates it, and a transport that carries its
// messages. With storage wal, durable.go opens the data folder first and fills
// store and log from it. Stop (stop.go) takes everything down so that no
// acknowledgement fails.
//
//	client port (server.go)   KV       kv.go: one operation an RPC
//	                                   stream.go: many operations a message
//	                                   codec.go: Put and Stream, decoded by hand
//	                                   scan.go: pages of a pinned snapshot
//	                                   session.go: writes applied exactly once
//	                          Cluster  cluster.go: membership; status.go, caps.go
//	                          health, reflection
//	peer port                 RaftTransport, of package transport; peers.go
//	                          stands between it and the replica
//	debug port (debug.go)     pprof; metrics.go for Prometheus
//	                          Lab      usage.go: CPU and memory; faults.go: of links;
//	                                   stages.go: where the time goes
//
// A Put walks: kv.go validates it (validate.go), proposes it with a pooled call
// (call.go) as its waiter, and sleeps until the replica has applied it or
// refused it. What went wrong becomes a gRPC status in one place, errors.go,
// which also says whether the write may have been applied. A Get asks call.go for
// a barrier, which a lease or a ReadIndex round lets pass, and reads the store.
//
// Every goroutine of a node carries the pprof label node=ID, so that one CPU
// profile of a process with several nodes can be split.
package node
