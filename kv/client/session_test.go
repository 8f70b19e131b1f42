package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
)

func openSession(t *testing.T, c *client.Client) *client.Session {
	t.Helper()
	s, err := c.OpenSession(within(t, time.Minute), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever becomes of an answer, each write is applied once.
func TestSessionRepeats(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	s := openSession(t, open(t, cluster))
	for i, step := range []clienttest.Step{
		{Err: status.Error(codes.Unavailable, "gone"), Apply: true},
		{Err: status.Error(codes.Unavailable, "gone")},
		{Err: clienttest.Unknown(codes.Unavailable, "leadership lost"), Apply: true},
		{Err: clienttest.Refusal(codes.Unavailable, "stopping")},
	} {
		cluster.Node(1).Script(clienttest.Put, step, step)
		w, err := s.Put(within(t, time.Minute), []byte("k"), nil)
		if err != nil || w.GetVersion() != uint64(i)+1 || cluster.Applied("k") != i+1 {
			t.Errorf("put %d: %v, version %d, applied %d times", i, err, w.GetVersion(), cluster.Applied("k"))
		}
	}
}

// A session that may have been opened is opened again: what nobody knows of does no
// harm, and nothing was written.
func TestSessionIsOpenedAgain(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c := open(t, cluster)
	cluster.Node(1).Script(clienttest.OpenSession, clienttest.Step{Err: clienttest.Unknown(codes.Unavailable, "leadership lost"), Apply: true})
	if s := openSession(t, c); s.ID() != 2 {
		t.Errorf("session %d, want the second", s.ID())
	}
	cluster.Node(1).Script(clienttest.OpenSession, clienttest.Step{Delay: time.Minute})
	if _, err := c.OpenSession(within(t, soon), 0); !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != no {
		t.Errorf("%v, applied %v", err, client.Applied(err))
	}
}

// The cluster keeps the answers to all writes after the first that has none, and not
// endlessly many: the one too many waits here instead of being refused there.
func TestSessionWaitsForTheFirstAnswer(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	s := openSession(t, open(t, cluster))
	ctx := within(t, time.Minute)
	begun, release, answered := make(chan struct{}), make(chan struct{}), make(chan error)
	cluster.Node(1).Script(clienttest.Put, clienttest.Step{Before: func() {
		close(begun)
		<-release
	}})
	go func() {
		_, err := s.Put(ctx, []byte("first"), nil)
		answered <- err
	}()
	<-begun
	const room = 1024
	for i := range room - 1 {
		if _, err := s.Put(ctx, fmt.Append(nil, i), nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Put(within(t, soon), []byte("early"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != no || cluster.Node(1).Calls(clienttest.Put) != room {
		t.Errorf("one too many: %v, and %d were sent", err, cluster.Node(1).Calls(clienttest.Put))
	}
	go func() {
		_, err := s.Put(ctx, []byte("waits"), nil)
		answered <- err
	}()
	close(release)
	for range 2 {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}
