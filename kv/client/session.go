package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var (
	// It writes no key, and a session that nobody knows of ends by its time.
	methodOpenSession  = method{kvv1.KV_OpenSession_FullMethodName, "OpenSession", read}
	methodKeepSession  = method{kvv1.KV_KeepSession_FullMethodName, "KeepSession", once}
	methodCloseSession = method{kvv1.KV_CloseSession_FullMethodName, "CloseSession", once}

	methodPutOnce    = method{kvv1.KV_Put_FullMethodName, "Put", once}
	methodDeleteOnce = method{kvv1.KV_Delete_FullMethodName, "Delete", once}
	methodSwapOnce   = method{kvv1.KV_CompareAndSwap_FullMethodName, "CompareAndSwap", once}
	methodBatchOnce  = method{kvv1.KV_Batch_FullMethodName, "Batch", once}
)

// Session applies writes exactly once: where a write by Client fails with an
// unknown outcome, one by a Session is sent again until it is answered, and the
// cluster applies it once however often it comes. Only when ctx, or
// Config.RetryTime, runs out, or when the session has ended, is the outcome
// unknown; the write then was applied once or not at all. All methods may be
// called from any goroutine. The 1,024th write after one that has no answer yet waits
// for that.
type Session struct {
	client *Client
	id     uint64
	ttl    time.Duration
	stop   context.CancelFunc

	mu    sync.Mutex
	room  sync.Cond           // first has moved on
	next  uint64              // sequence to give out
	first uint64              // of those whose answer is still wanted; next if none is
	open  map[uint64]struct{} // sequences without an answer yet
}

// sessionRoom is how many sequences there may be from the first whose answer is still
// wanted. The cluster keeps the answers to all after it, and refuses more
// (kv.MaxSessionAnswers); all would then be tried in vain, that one too.
const sessionRoom = 1024

// OpenSession begins a session that the cluster remembers for ttl after its last
// command, in whole milliseconds; 0 leaves it to the node. The client keeps it
// until it is closed. When an answer is lost another one is opened, and a failure
// leaves at most sessions that end by their time.
func (c *Client) OpenSession(ctx context.Context, ttl time.Duration) (*Session, error) {
	if ttl < 0 {
		return nil, notSent(methodOpenSession.name, codes.InvalidArgument, "ttl %v is negative", ttl)
	}
	resp := &kvv1.OpenSessionResponse{}
	req := &kvv1.OpenSessionRequest{TtlMillis: uint64(ttl.Milliseconds())}
	if err := c.call(ctx, methodOpenSession, req, resp); err != nil {
		return nil, err
	}
	s := &Session{
		client: c, id: resp.GetSessionId(), ttl: time.Duration(resp.GetTtlMillis()) * time.Millisecond,
		next: 1, first: 1, open: map[uint64]struct{}{},
	}
	s.room.L = &s.mu
	var life context.Context
	life, s.stop = context.WithCancel(c.ctx)
	if !c.run(func() { s.keep(life) }) {
		s.stop()
		return nil, notSent(methodOpenSession.name, codes.Canceled, "the client is closed")
	}
	return s, nil
}

// ID is the session's id.
func (s *Session) ID() uint64 { return s.id }

// keep tells the cluster from time to time that the session is in use.
func (s *Session) keep(ctx context.Context) {
	ticker := time.NewTicker(s.ttl / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		attempt, cancel := context.WithTimeout(ctx, s.ttl/3)
		s.mu.Lock()
		acknowledged := s.first
		s.mu.Unlock()
		err := s.client.call(attempt, methodKeepSession,
			&kvv1.KeepSessionRequest{SessionId: s.id, Acknowledged: acknowledged}, &kvv1.KeepSessionResponse{})
		cancel()
		var e *Error
		if errors.As(err, &e) && e.SessionEnded {
			return // the next write hears of it
		}
	}
}

// Close ends the session.
func (s *Session) Close(ctx context.Context) error {
	s.stop()
	return s.client.call(ctx, methodCloseSession,
		&kvv1.CloseSessionRequest{SessionId: s.id}, &kvv1.CloseSessionResponse{})
}

// call makes the call of a write that has this command in its request.
func (s *Session) call(ctx context.Context, m method, command *kvv1.SessionCommand, req, resp proto.Message) error {
	if err := s.begin(ctx, m, command); err != nil {
		return err
	}
	defer s.end(command)
	return s.client.call(ctx, m, req, resp)
}

// begin numbers the next command, once there is room.
func (s *Session) begin(ctx context.Context, m method, command *kvv1.SessionCommand) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next-s.first >= sessionRoom {
		defer context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.room.Broadcast()
		})()
	}
	for s.next-s.first >= sessionRoom {
		if ctx.Err() != nil {
			return s.client.newError(m.name, m.kind, ctx.Err(), false)
		}
		s.room.Wait()
	}
	command.SessionId, command.Sequence, command.Acknowledged = s.id, s.next, s.first
	s.open[s.next] = struct{}{}
	s.next++
	return nil
}

// end says that the answer to a command is not wanted any more.
func (s *Session) end(command *kvv1.SessionCommand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, command.GetSequence())
	if command.GetSequence() != s.first {
		return
	}
	for ; s.first < s.next; s.first++ {
		if _, open := s.open[s.first]; open {
			break
		}
	}
	s.room.Broadcast()
}

// Put writes a key.
func (s *Session) Put(ctx context.Context, key, value []byte) (*kvv1.WriteResponse, error) {
	command := &kvv1.SessionCommand{}
	resp := &kvv1.WriteResponse{}
	if err := s.call(ctx, methodPutOnce, command, &kvv1.PutRequest{Key: key, Value: value, Session: command}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Delete removes a key; a missing one is an answer, with Deleted false.
func (s *Session) Delete(ctx context.Context, key []byte) (*kvv1.DeleteResponse, error) {
	command := &kvv1.SessionCommand{}
	resp := &kvv1.DeleteResponse{}
	if err := s.call(ctx, methodDeleteOnce, command, &kvv1.DeleteRequest{Key: key, Session: command}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// CompareAndSwap writes a key if it holds what req expects, whose Session is put
// in here. A mismatch is an answer, with Succeeded false and the present value.
func (s *Session) CompareAndSwap(ctx context.Context, req *kvv1.CompareAndSwapRequest) (*kvv1.CompareAndSwapResponse, error) {
	command := &kvv1.SessionCommand{}
	resp := &kvv1.CompareAndSwapResponse{}
	err := s.call(ctx, methodSwapOnce, command, &kvv1.CompareAndSwapRequest{
		Key: req.GetKey(), Value: req.GetValue(), Expect: req.GetExpect(), ExpectAbsent: req.GetExpectAbsent(), Session: command,
	}, resp)
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Batch applies operations in order, atomically. A compare-and-swap that
// mismatches aborts it: an answer, with Succeeded false.
func (s *Session) Batch(ctx context.Context, operations []*kvv1.Operation) (*kvv1.BatchResponse, error) {
	command := &kvv1.SessionCommand{}
	resp := &kvv1.BatchResponse{}
	if err := s.call(ctx, methodBatchOnce, command, &kvv1.BatchRequest{Operations: operations, Session: command}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}
