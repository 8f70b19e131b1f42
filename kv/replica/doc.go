// Package replica replicates the state machine of package kv through raft.
package replica
