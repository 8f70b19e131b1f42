// Package replica replicates the state machine of package kv through raft.
//
// [Core] is a machine without goroutine, clock or I/O: events go in ([Core.Step],
// [Core.Tick], [Core.Propose], [Core.Read], [Core.Appended], [Core.Applied]) and
// [Core.Advance] says what is to be done ([Effects]). [Replica] runs one, with
// these goroutines:
//
//	raft       loop.go     owns the core, performs its effects, puts into the Log
//	                       what is durable
//	apply      loop.go     applies to the store, calls the waiters, makes views
//	journal    durable.go  with a Journal: writes appends that have queued up
//	(a while)  durable.go  saves a snapshot to disk from a view
//
// Everyone else reaches the raft goroutine through the inbox (inbox.go), whose
// contents are one batch.
//
// # A write
//
// Begin with [Replica.Propose], which counts it in (admission), and follow a
// [Proposal] through Core.propose, which packs it into an entry (batch.go and
// autolinger.go say with which others), and Core.apply, which finds its [Waiter]
// by the entry's header when it is committed.
//
// Messages to peers leave before the entry is durable here. The append itself
// goes to the appender: without a Journal it is done at once, with one when the
// journal goroutine has written it. Only then raft hears of it (Core.Appended),
// this node's answer to its leader leaves, and the entry may be applied.
//
// # A read
//
// read.go has linearizable reads: one ReadIndex round at a time, shared by all
// that waited when it began. lease.go has reads of the leader without a round,
// and says why they are linearizable and what they trust; other goroutines check
// the lease by a few atomic loads (sharedLease in replica.go).
//
// # The rest
//
// membership.go has changes of members and transfers of leadership; snapshot.go
// how a store gets to a follower that the log no longer serves; compact.go what
// the log keeps, and for whom; seams.go the interfaces and errors that the
// package above deals with; status.go and histograms.go what is counted and
// measured.
//
// A comment that mentions a trap with a number means a place where raft breaks,
// or goes silently wrong, unless its user does what the code there does.
//
// # Tests
//
// Three kinds drive cores: transcripts in testdata compare every message
// (interaction_test.go), a random walk checks what must always hold
// (random_test.go), and replica_test.go runs whole replicas.
package replica
