package client

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var (
	methodOpenSession  = method{kvv1.KV_OpenSession_FullMethodName, "OpenSession", write}
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
// called from any goroutine; at most 1,024 writes are under way
// at a time.
type Session struct {
	client *Client
	id     uint64
	ttl    time.Duration
	stop   context.CancelFunc

	mu   sync.Mutex
	last uint64              // sequence given out
	open map[uint64]struct{} // sequences without an answer yet
}

// OpenSession begins a session that the cluster remembers for ttl after its last
// command, in whole milliseconds; 0 leaves it to the node. The client keeps it
// until it is closed.
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
		open: map[uint64]struct{}{},
	}
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
		acknowledged := s.acknowledged()
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

// acknowledged is the first sequence whose answer is still wanted. The caller
// holds mu.
func (s *Session) acknowledged() uint64 {
	first := uint64(math.MaxUint64)
	for sequence := range s.open {
		first = min(first, sequence)
	}
	return min(first, s.last+1)
}

// begin names the next command.
func (s *Session) begin() *kvv1.SessionCommand {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.open[s.last] = struct{}{}
	return &kvv1.SessionCommand{SessionId: s.id, Sequence: s.last, Acknowledged: s.acknowledged()}
}

// end says that the answer to a command is not wanted any more.
func (s *Session) end(command *kvv1.SessionCommand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, command.GetSequence())
}

// Put writes a key.
func (s *Session) Put(ctx context.Context, key, value []byte) (*kvv1.WriteResponse, error) {
	command := s.begin()
	defer s.end(command)
	resp := &kvv1.WriteResponse{}
	if err := s.client.call(ctx, methodPutOnce, &kvv1.PutRequest{Key: key, Value: value, Session: command}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Delete removes a key; a missing one is an answer, with Deleted false.
func (s *Session) Delete(ctx context.Context, key []byte) (*kvv1.DeleteResponse, error) {
	command := s.begin()
	defer s.end(command)
	resp := &kvv1.DeleteResponse{}
	if err := s.client.call(ctx, methodDeleteOnce, &kvv1.DeleteRequest{Key: key, Session: command}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// CompareAndSwap writes a key if it holds what req expects, whose Session is put
// in here. A mismatch is an answer, with Succeeded false and the present value.
func (s *Session) CompareAndSwap(ctx context.Context, req *kvv1.CompareAndSwapRequest) (*kvv1.CompareAndSwapResponse, error) {
	command := s.begin()
	defer s.end(command)
	resp := &kvv1.CompareAndSwapResponse{}
	err := s.client.call(ctx, methodSwapOnce, &kvv1.CompareAndSwapRequest{
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
	command := s.begin()
	defer s.end(command)
	resp := &kvv1.BatchResponse{}
	if err := s.client.call(ctx, methodBatchOnce, &kvv1.BatchRequest{Operations: operations, Session: command}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}
