// Package target holds what the load generator can drive. A target says how one
// message of operations reaches whatever answers it:
//
//   - unary: kv/client, one RPC an operation.
//   - pipeline: kv/client's Pipeline, the Stream RPC, many operations a message.
//   - coalesce: kv/client's Coalescer, calls of one operation that it gathers into
//     messages of the Stream RPC by itself.
//   - direct: the leader in this process, no client RPC: its replica and store.
//   - bare: the raft library in a loop with a node's packing, log and store, all
//     nodes in one goroutine, no transport: what raft itself costs.
//   - wire: a bare gRPC client against an echo server (echo.go) that decodes
//     what it gets and answers with constants of the same shape, with the node's own
//     server settings. It does no replication, so it is the ceiling of this API
//     on this machine; one operation a message by unary RPCs, or the Stream RPC.
//   - relay: the same client against a leader that hands each put to followers
//     and answers when a majority has acknowledged it (relay.go): what gRPC
//     carries of a replicated put when nothing but carrying is done.
//   - etcd: an etcd v3 cluster that runs already, by etcd's own client.
//
// relay is meant as a bound that replication by gRPC can approach and not pass, so
// it may do what such a system may: what waits for a follower travels as one
// message of up to 1 MiB, acknowledgements are cumulative, values are not copied
// where gRPC can be handed the bytes. It may not do what none could: a put is in
// one message whole after the client's has been received whole, each follower
// gets every byte, the slowest lags by 64 MiB at most, and every put waits for a
// majority. There is one gRPC stream to each follower. Followers keep nothing.
//
// Each session has one message under way; concurrency is the number of clients.
// unary, pipeline, coalesce and direct send to the leader and follow it.
package target
