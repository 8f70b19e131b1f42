// Package kv is the replicated state machine: what a client's command is, how
// commands travel in a raft entry, the ordered copy-on-write store that applies
// them, and the snapshot records that carry the store to another node. It is
// pure: no goroutines, no clock, no I/O of its own.
package kv
