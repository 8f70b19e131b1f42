// Package storage keeps what raft must not forget: the log and the hard state.
//
// [Memory] is the log as raft reads it. Alone, it lives as long as the process: a
// node that ends takes its log with it and may come back only as another node.
// It satisfies Log of package kv/replica, which is raft.Storage and the few calls
// that change it. The replica's raft goroutine is the only caller.
//
//	log := storage.NewMemory()
//	err := log.Append(ready.Entries, ready.HardState)
//	...
//	err = log.Compact(applied - keep)
//
// [Disk] is a data folder that makes it durable: a journal of what raft appended,
// snapshots of the state machine, and who the node is. Raft goes on to read from
// the Memory; the journal is read by Open only, so it needs no index.
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
//
// # Reading the code
//
// Disk (disk.go) says in which order things are written and what a crash between
// any two leaves; everything else follows from that. format.go is the journal on
// disk; journal.go writes it, over files it has released if it can; replay.go reads
// it and tells what follows its end from damage, which is refused; recover.go makes
// of it, and of the snapshots, a folder to go on with. snapshotfile.go and
// identity.go have the other two kinds of files. FS (fs.go) is all that is asked of a
// file system.
//
// # Errors
//
// After a failed write or fsync of the journal the Disk answers nothing but that
// error: what is on disk is found out by the next Open. Those that a caller tells
// apart are ErrLocked, ErrNoSpace, ErrCorrupt and ErrClosed; the text names the
// path, the reason and what to do.
//
// # Tests
//
// Package storagetest is a disk that loses power, kills the process and fails at
// an operation of the test's choice, in scripts that go on from what is left
// (powerloss_test.go). recover_test.go is a table of kinds of damage and what Open
// makes of each.
package storage
