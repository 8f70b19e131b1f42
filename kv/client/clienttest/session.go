package clienttest

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// sessions keep the answers to their writes for good, and never expire.
type sessions struct {
	mu      sync.Mutex
	last    uint64
	answers map[uint64]map[uint64]any // by session and sequence
}

// Sessions tells how many sessions are open.
func (c *Cluster) Sessions() int {
	c.sessions.mu.Lock()
	defer c.sessions.mu.Unlock()
	return len(c.sessions.answers)
}

// once applies a write of a session, or repeats the answer that it had.
func once[T any](c *Cluster, command *kvv1.SessionCommand, apply func() (T, error)) func() (T, error) {
	if command == nil {
		return apply
	}
	return func() (T, error) {
		c.sessions.mu.Lock()
		defer c.sessions.mu.Unlock()
		answers, open := c.sessions.answers[command.GetSessionId()]
		if !open {
			var none T
			return none, sessionEnded()
		}
		if known, ok := answers[command.GetSequence()]; ok {
			return known.(T), nil
		}
		answer, err := apply()
		if err == nil {
			answers[command.GetSequence()] = answer
		}
		return answer, err
	}
}

func sessionEnded() error {
	st, err := status.New(codes.FailedPrecondition, "the session has ended").WithDetails(
		&kvv1.Outcome{Applied: kvv1.Applied_APPLIED_UNKNOWN}, &kvv1.SessionRefused{Reason: kvv1.SessionRefused_REASON_ENDED})
	if err != nil {
		panic(err) // a well-known message always marshals
	}
	return st.Err()
}

// OpenSession implements KV.
func (n *Node) OpenSession(ctx context.Context, req *kvv1.OpenSessionRequest) (*kvv1.OpenSessionResponse, error) {
	return serve(ctx, n, OpenSession, true, func() (*kvv1.OpenSessionResponse, error) {
		s := &n.cluster.sessions
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last++
		s.answers[s.last] = map[uint64]any{}
		ttl := req.GetTtlMillis()
		if ttl == 0 {
			ttl = 60000
		}
		return &kvv1.OpenSessionResponse{SessionId: s.last, TtlMillis: ttl}, nil
	})
}

// KeepSession implements KV.
func (n *Node) KeepSession(ctx context.Context, req *kvv1.KeepSessionRequest) (*kvv1.KeepSessionResponse, error) {
	return serve(ctx, n, KeepSession, true, func() (*kvv1.KeepSessionResponse, error) {
		s := &n.cluster.sessions
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, open := s.answers[req.GetSessionId()]; !open {
			return nil, sessionEnded()
		}
		return &kvv1.KeepSessionResponse{}, nil
	})
}

// CloseSession implements KV.
func (n *Node) CloseSession(ctx context.Context, req *kvv1.CloseSessionRequest) (*kvv1.CloseSessionResponse, error) {
	return serve(ctx, n, CloseSession, true, func() (*kvv1.CloseSessionResponse, error) {
		s := &n.cluster.sessions
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.answers, req.GetSessionId())
		return &kvv1.CloseSessionResponse{}, nil
	})
}
