// Package replica replicates the state machine of package kv through raft.
//
// [Core] is a machine without goroutine, clock or I/O: events go in ([Core.Step],
// [Core.Tick], [Core.Propose], [Core.Read], [Core.Appended], [Core.Applied]) and
// [Core.Advance] says what is to be done ([Effects]). [Replica] runs one: the raft
// goroutine (loop.go) owns the core, performs its effects and appends to the
// [Log]; the apply goroutine applies to the store and calls the waiters. Everyone
// else reaches the raft goroutine through the inbox, whose contents are one batch.
//
// A reader may begin with [Replica.Propose], follow a [Proposal] through
// Core.propose, which packs it into an entry (batch.go says with which others),
// and Core.apply, which finds its [Waiter] by the entry's header when it is
// committed. read.go has linearizable reads, membership.go changes of members and
// transfers of leadership, snapshot.go how a store gets to a follower that the log
// no longer serves.
//
// Three tests drive cores: transcripts in testdata compare every message
// (interaction_test.go), a random walk checks what must always hold
// (random_test.go), and replica_test.go runs whole replicas.
package replica
