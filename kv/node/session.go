package node

import (
	"context"
	"time"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Bounds of a session's time without a command.
const (
	defaultSessionTTL = time.Minute
	minSessionTTL     = time.Second
	maxSessionTTL     = 24 * time.Hour
)

// refusedError is a command of a session that the store did not apply.
type refusedError struct{ why kv.Refusal }

func (e *refusedError) Error() string {
	switch e.why {
	case kv.RefusedExpired:
		return "the session has ended"
	case kv.RefusedAcknowledged:
		return "the answer was acknowledged"
	case kv.RefusedTooMany:
	}
	return "too many sessions, or too many or too large answers that are not acknowledged"
}

func (e *refusedError) detail() *kvv1.SessionRefused {
	reason := kvv1.SessionRefused_REASON_TOO_MANY
	switch e.why {
	case kv.RefusedExpired:
		reason = kvv1.SessionRefused_REASON_ENDED
	case kv.RefusedAcknowledged:
		reason = kvv1.SessionRefused_REASON_ACKNOWLEDGED
	case kv.RefusedTooMany:
	}
	return &kvv1.SessionRefused{Reason: reason}
}

// write has a command applied, once if it belongs to a session.
func (s *kvService) write(ctx context.Context, cmd kv.Command, in *kvv1.SessionCommand) (kv.Result, error) {
	if in == nil {
		return propose(ctx, s.replica, cmd)
	}
	switch {
	case in.GetSessionId() == 0:
		return kv.Result{}, invalidf("session.session_id is 0, which is no session")
	case in.GetSequence() == 0:
		return kv.Result{}, invalidf("session.sequence is 0; it counts from 1")
	case in.GetAcknowledged() > in.GetSequence():
		return kv.Result{}, invalidf("session.acknowledged %d is beyond sequence %d", in.GetAcknowledged(), in.GetSequence())
	}
	cmd.SessionID, cmd.SessionSequence, cmd.SessionAcknowledged = in.GetSessionId(), in.GetSequence(), in.GetAcknowledged()
	return s.session(ctx, cmd)
}

func (s *kvService) session(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	r, err := propose(ctx, s.replica, cmd)
	if err == nil && r.Refusal != 0 {
		err = &refusedError{r.Refusal}
	}
	return r, err
}

// OpenSession implements KV.
func (s *kvService) OpenSession(ctx context.Context, req *kvv1.OpenSessionRequest) (*kvv1.OpenSessionResponse, error) {
	ttl := defaultSessionTTL
	if millis := req.GetTtlMillis(); millis != 0 {
		ttl = time.Duration(min(millis, uint64(2*maxSessionTTL/time.Millisecond))) * time.Millisecond
		if ttl < minSessionTTL || ttl > maxSessionTTL {
			return nil, s.errors.status(invalidf("ttl_millis %d is outside %d to %d",
				millis, minSessionTTL.Milliseconds(), maxSessionTTL.Milliseconds()))
		}
	}
	r, err := s.session(ctx, kv.Command{Kind: kv.KindOpenSession, SessionTTL: int64(ttl)})
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &kvv1.OpenSessionResponse{SessionId: r.SessionID, TtlMillis: uint64(ttl.Milliseconds())}, nil
}

// KeepSession implements KV.
func (s *kvService) KeepSession(ctx context.Context, req *kvv1.KeepSessionRequest) (*kvv1.KeepSessionResponse, error) {
	if req.GetSessionId() == 0 {
		return nil, s.errors.status(errNoSession)
	}
	_, err := s.session(ctx, kv.Command{
		Kind: kv.KindKeepSession, SessionID: req.GetSessionId(), SessionAcknowledged: req.GetAcknowledged(),
	})
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &kvv1.KeepSessionResponse{}, nil
}

// CloseSession implements KV.
func (s *kvService) CloseSession(ctx context.Context, req *kvv1.CloseSessionRequest) (*kvv1.CloseSessionResponse, error) {
	if req.GetSessionId() == 0 {
		return nil, s.errors.status(errNoSession)
	}
	_, err := s.session(ctx, kv.Command{Kind: kv.KindCloseSession, SessionID: req.GetSessionId()})
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &kvv1.CloseSessionResponse{}, nil
}

var errNoSession = invalidf("session_id is 0, which is no session")
