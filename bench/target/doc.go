// Package target holds what the load generator can drive. A target says how one
// message of operations reaches whatever answers it:
//
//   - unary: kv/client, one RPC an operation.
//   - pipeline: kv/client's Pipeline, the Stream RPC, many operations a message.
//   - direct: the leader in this process, no client RPC: its replica and store.
//   - wire: a bare gRPC client against an echo server (echo.go) that decodes
//     what it gets and answers with constants of the same shape, with the node's own
//     server settings. It does no replication, so it is the ceiling of this API
//     on this machine; one operation a message by unary RPCs, or the Stream RPC.
//
// Each session has one message under way; concurrency is the number of clients.
// unary, pipeline and direct send to the leader and follow it.
package target
