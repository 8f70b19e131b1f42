package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"raftlab/kv"
	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// The one place where errors of the node become what a client sees. The rule
// above all: nothing says that a write was not applied when it may have been.

// Errors of the services themselves; those of the replica are its own.
var (
	errPageExpired  = errors.New("page token expired")
	errPageForeign  = errors.New("page token belongs to another node")
	errPageDamaged  = errors.New("page_token is not one that Scan gave out")
	errPageMismatch = errors.New("page_token was given out for another range")
)

// invalidError refuses a request for what is in it: field, value, limit.
type invalidError struct{ text string }

func (e *invalidError) Error() string { return e.text }

func invalidf(format string, args ...any) error {
	return &invalidError{fmt.Sprintf(format, args...)}
}

// tooMuchError refuses a read whose value would make the answer it is part of too
// large.
type tooMuchError struct{ limit int }

func (e *tooMuchError) Error() string {
	return fmt.Sprintf("the values of this answer exceed max-request, %d bytes: read this key by itself", e.limit)
}

// interruptedError is a write whose caller stopped waiting after it was
// proposed.
type interruptedError struct {
	cause error  // of the context
	note  string // what may still happen
}

func (e *interruptedError) Error() string { return e.cause.Error() + ": " + e.note }
func (e *interruptedError) Unwrap() error { return e.cause }

const (
	noteWrite  = "the write was proposed and may still be applied"
	noteChange = "the change was proposed and may still finish"
)

// verdict is what a client is told about an error.
type verdict struct {
	code      codes.Code
	applied   kvv1.Applied
	notLeader bool // say who leads
}

// classify gives an error its verdict.
func classify(err error) verdict {
	const no, unknown = kvv1.Applied_APPLIED_NO, kvv1.Applied_APPLIED_UNKNOWN
	var (
		invalid     *invalidError
		interrupted *interruptedError
		refused     *refusedError
		tooMuch     *tooMuchError
	)
	switch {
	case errors.As(err, &tooMuch):
		return verdict{code: codes.ResourceExhausted, applied: no}
	case errors.As(err, &refused):
		if refused.why == kv.RefusedTooMany {
			return verdict{code: codes.ResourceExhausted, applied: no}
		}
		// It was not applied now; when it was sent before, it may have been.
		return verdict{code: codes.FailedPrecondition, applied: unknown}
	case errors.As(err, &invalid), errors.Is(err, errPageDamaged), errors.Is(err, errPageMismatch):
		return verdict{code: codes.InvalidArgument, applied: no}
	case errors.Is(err, errPageExpired), errors.Is(err, errPageForeign):
		return verdict{code: codes.FailedPrecondition, applied: no}
	case errors.As(err, &interrupted):
		return verdict{code: contextCode(interrupted.cause), applied: unknown}
	// Before the others: an error that wraps it beside a cause stays unknown.
	case errors.Is(err, replica.ErrUnknownOutcome):
		if ctx := contextCode(err); ctx != codes.OK {
			return verdict{code: ctx, applied: unknown}
		}
		return verdict{code: codes.Unavailable, applied: unknown}
	case errors.Is(err, replica.ErrNotLeader):
		return verdict{code: codes.FailedPrecondition, applied: no, notLeader: true}
	case errors.Is(err, replica.ErrOverloaded):
		return verdict{code: codes.ResourceExhausted, applied: no}
	case errors.Is(err, replica.ErrTooLarge):
		return verdict{code: codes.InvalidArgument, applied: no}
	case errors.Is(err, replica.ErrStopped), errors.Is(err, replica.ErrNoLeader), errors.Is(err, replica.ErrBehind):
		return verdict{code: codes.Unavailable, applied: no}
	case errors.Is(err, replica.ErrRefused):
		return verdict{code: codes.FailedPrecondition, applied: no}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// Nothing was proposed: what was, comes as an interruptedError.
		return verdict{code: contextCode(err), applied: no}
	}
	return verdict{code: codes.Internal, applied: unknown}
}

// contextCode is the code for the end of a context; OK for other errors.
func contextCode(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.OK
}

// text is what a client reads of an error. Of an unknown outcome the client
// tells by itself; a bare one lacks the reason.
func text(err error) string {
	if err == replica.ErrUnknownOutcome { //nolint:errorlint // what wraps it has a reason of its own
		return "leadership was lost, or the node stopped, before the write was committed"
	}
	return err.Error()
}

// translator turns errors into statuses; leader says who leads, as far as this
// node knows.
type translator struct {
	leader func() *kvv1.NotLeader
}

// status is what an RPC returns for an error: a gRPC status with an Outcome
// detail, and with a NotLeader detail where that is the reason. nil stays nil.
func (t translator) status(err error) error {
	if err == nil {
		return nil
	}
	v := classify(err)
	st := status.New(v.code, text(err))
	outcome := &kvv1.Outcome{Applied: v.applied}
	details := []protoadapt.MessageV1{outcome}
	var refused *refusedError
	switch {
	case v.notLeader:
		details = append(details, t.leader())
	case errors.As(err, &refused):
		details = append(details, refused.detail())
	}
	detailed, failed := st.WithDetails(details...)
	if failed != nil {
		return st.Err() // not for these messages, which always marshal
	}
	return detailed.Err()
}

// operation is what one operation of a Stream gets for an error.
func (t translator) operation(err error) *kvv1.OperationError {
	v := classify(err)
	e := &kvv1.OperationError{Code: uint32(v.code), Message: text(err), Applied: v.applied}
	if v.notLeader {
		e.NotLeader = t.leader()
	}
	return e
}
