// Package client talks to a raftlab cluster: it finds the leader and follows it,
// sends again what is safe to send again, and tells of every failed write
// whether it may have been applied.
//
//	c, err := client.New(client.Config{Endpoints: []string{"127.0.0.1:21001"}})
//	defer c.Close()
//	w, err := c.Put(ctx, []byte("greeting"), []byte("hello"))
//
// # Outcomes
//
// A failed call returns an *Error. Applied says whether a write may have taken
// effect, and only APPLIED_NO means that it did not and never will:
//
//   - the node said so in the Outcome detail of its status,
//   - or nothing of the request left this process,
//   - or the server's gRPC library refused it before the node saw it.
//
// All else is APPLIED_UNKNOWN: a deadline that passed, a connection that broke,
// a status without details, whatever its code. A missing key and a
// compare-and-swap mismatch are answers, not errors.
//
// # Sessions
//
// A [Session] settles unknown outcomes: its writes are sent again until they are
// answered, and the cluster applies each once (session.go).
//
//	s, err := c.OpenSession(ctx, 0)
//	defer s.Close(ctx)
//	w, err := s.Put(ctx, []byte("greeting"), []byte("hello"))
//
// # Retries
//
// A call is repeated, with short jittered pauses, until its context ends or
// Config.RetryTime is over, when it was not applied and another try can help:
// the node does not lead, is stopping, is overloaded, or can't be reached. With
// Config.AttemptTimeout, one that does not answer in time counts as out of reach, by
// calls and streams alike; without, a node that is stopped holds its callers until
// their contexts end or, after 15 s, the connection breaks. Reads
// are repeated whenever a node is unavailable. A write of unknown outcome is
// never repeated, unless it is one of a Session. When time runs out the last
// refusal is returned, since it says more than "deadline exceeded" would.
//
// # Finding the leader
//
// Calls go to one node, the first endpoint at the start. When it names another
// as leader they go there; when it can't be reached, or knows no leader, they
// turn to the next of the endpoints and members. Members are learned in the
// background (Config.RefreshInterval), so that a client outlives the endpoints
// it was given. Init, Status, Describe and Snapshot are about one node and go
// there.
//
// # Reads
//
// A [Read] says what a read promises and where it goes: to the leader, or to the
// nodes in turn, of which those that failed a moment ago are left out.
//
// # Pipelines
//
// A unary call costs far more than the operation it carries. A Pipeline has many
// messages of many operations under way on one stream; Do is called from as many
// goroutines as there are messages to be under way:
//
//	p, err := c.NewPipeline(ctx)
//	results, err := p.Do(ctx, operations)
//
// A [Coalescer] does so for calls of one operation each, made by many goroutines
// that know nothing of each other:
//
//	g, err := c.NewCoalescer(ctx, client.ReadLinearizable)
//	w, err := g.Put(ctx, []byte("greeting"), []byte("hello"))
//
// Read pipeline.go for what is sent again, stream.go for one stream's life.
package client
