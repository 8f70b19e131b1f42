// Package storage keeps what raft must not forget: the log and the hard state.
//
// Memory is the log as raft reads it. Alone, it lives as long as the process: a
// node that ends takes its log with it and may come back only as another node.
// It satisfies Log of package kv/replica, which is raft.Storage and the few calls
// that change it. The replica's raft goroutine is the only caller.
//
//	log := storage.NewMemory()
//	err := log.Append(ready.Entries, ready.HardState)
//	...
//	err = log.Compact(applied - keep)
//
// Disk is a data folder that makes it durable: a journal of what raft appended,
// snapshots of the state machine, and who the node is.
//
//	disk, err := storage.Open(storage.Options{Dir: dir, Node: 1, Sync: storage.SyncBatched})
//	log := disk.Log()                    // as it was
//	meta, state, err := disk.Snapshot()  // what the log goes on from
//	...
//	err = disk.Write(messages)           // of type MsgStorageAppend; answer them after it
//	...
//	file, err := disk.NewSnapshot(meta)  // then write the state to it
//	err = file.Commit()
//	err = disk.Release(meta.GetIndex())
package storage
