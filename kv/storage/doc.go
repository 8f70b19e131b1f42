// Package storage keeps what raft must not forget: the log and the hard state.
// Memory keeps it in memory, for as long as the process lives; a node that ends
// takes its log with it and may come back only as another node.
//
// It satisfies Log of package kv/replica, which is raft.Storage and the few
// calls that change it. The replica's raft goroutine is the only caller.
//
//	log := storage.NewMemory()
//	err := log.Append(ready.Entries, ready.HardState)
//	...
//	err = log.Compact(applied - keep)
package storage
