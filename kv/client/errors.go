package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

const (
	no      = kvv1.Applied_APPLIED_NO
	unknown = kvv1.Applied_APPLIED_UNKNOWN
)

// Error is what every failed call returns. It wraps the gRPC status.
type Error struct {
	// Method is the RPC's name, such as Put.
	Method string
	Code   codes.Code
	// Applied is APPLIED_NO when the call changed nothing and never will, so that
	// it may be repeated; APPLIED_UNKNOWN otherwise. A read is always APPLIED_NO.
	Applied kvv1.Applied
	// NotLeader is set when the node that answered does not lead; the leader is
	// then in LeaderID and LeaderAddress, as far as that node knows.
	NotLeader     bool
	LeaderID      uint64
	LeaderAddress string
	// SessionEnded is set when the write's session has ended: whether it was
	// applied by an attempt before can't be told any more.
	SessionEnded bool

	status *status.Status
	// The node itself gave the outcome; a status made by gRPC has none.
	outcomeTold bool
	unconnected bool // there was no connection to send it on
	overdue     bool // Config.AttemptTimeout ended the attempt
	// Why there was another attempt, which the deadline ended; nil if there was one only.
	before *Error
}

// Error says which call failed, why, and whether it may have been applied.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: %s", e.Method, e.Code, e.why())
	if e.before != nil {
		fmt.Fprintf(&b, "; before that: %s", e.before.why())
	}
	if e.Applied == unknown {
		b.WriteString(" (outcome unknown: it may have been applied)")
	}
	return b.String()
}

// why is what the node said, and who leads if it does not.
func (e *Error) why() string {
	message := plain(e.status.Message())
	switch {
	case e.NotLeader && e.LeaderAddress != "":
		return fmt.Sprintf("%s (leader is node %d at %s)", message, e.LeaderID, e.LeaderAddress)
	case e.NotLeader && e.LeaderID == 0:
		return message + " (no leader is known)"
	}
	return message
}

// plain takes gRPC's wrapping off what says why there is no connection.
func plain(message string) string {
	const before, after = `connection error: desc = "transport: Error while dialing: `, `"`
	if inner, ok := strings.CutPrefix(message, before); ok {
		return strings.TrimSuffix(inner, after)
	}
	return message
}

// Unwrap returns the gRPC status as an error.
func (e *Error) Unwrap() error { return e.status.Err() }

// GRPCStatus makes status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is matches the context's errors by their codes, whether the client or the
// server noticed the deadline.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled
	}
	return false
}

// Applied tells whether a write that failed with err may have taken effect:
// APPLIED_NO or APPLIED_UNKNOWN; APPLIED_UNSPECIFIED for a nil error. An error
// that says nothing about its outcome counts as unknown.
func Applied(err error) kvv1.Applied {
	if err == nil {
		return kvv1.Applied_APPLIED_UNSPECIFIED
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Applied
	}
	e = &Error{status: status.Convert(err)}
	if e.readDetails(); e.outcomeTold {
		return e.Applied
	}
	return unknown
}

// ResultError returns what went wrong with one operation of a Pipeline as an
// *Error, nil if nothing did.
func ResultError(r *kvv1.Result) error {
	if r.GetError() == nil {
		return nil
	}
	return operationError(r.GetKind(), r.GetError())
}

func operationError(k kvv1.OperationKind, oe *kvv1.OperationError) *Error {
	code := codes.Code(oe.GetCode())
	e := &Error{Method: "Stream", Code: code, Applied: unknown, status: status.New(code, oe.GetMessage())}
	if a := oe.GetApplied(); a != kvv1.Applied_APPLIED_UNSPECIFIED {
		e.Applied, e.outcomeTold = a, true
	}
	if k == kvv1.OperationKind_OPERATION_KIND_GET {
		e.Applied = no
	}
	if n := oe.GetNotLeader(); n != nil {
		e.NotLeader, e.LeaderID, e.LeaderAddress = true, n.GetLeaderId(), n.GetLeaderAddress()
	}
	return e
}

// result is e as the answer to one operation.
func (e *Error) result(op *kvv1.Operation) *kvv1.Result {
	oe := &kvv1.OperationError{Code: uint32(e.Code), Message: e.status.Message(), Applied: e.Applied}
	if e.NotLeader {
		oe.NotLeader = &kvv1.NotLeader{LeaderId: e.LeaderID, LeaderAddress: e.LeaderAddress}
	}
	return &kvv1.Result{Id: op.GetId(), Kind: op.GetKind(), Error: oe}
}

// newError classifies the failure of one attempt. sent is false only when
// nothing of the request can have left this process.
func (c *Client) newError(method string, k kind, err error, sent bool) *Error {
	st := status.Convert(err)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		st = status.FromContextError(err)
	}
	e := &Error{Method: method, Code: st.Code(), status: st}
	e.readDetails()
	switch {
	case k == read:
		e.Applied = no
	case e.outcomeTold:
	case !sent, c.neverDecoded(st):
		e.Applied = no
	default:
		e.Applied = unknown
	}
	return e
}

func (e *Error) readDetails() {
	for _, d := range e.status.Details() {
		switch d := d.(type) {
		case *kvv1.Outcome:
			if d.GetApplied() != kvv1.Applied_APPLIED_UNSPECIFIED {
				e.Applied, e.outcomeTold = d.GetApplied(), true
			}
		case *kvv1.SessionRefused:
			e.SessionEnded = d.GetReason() == kvv1.SessionRefused_REASON_ENDED
		case *kvv1.NotLeader:
			e.NotLeader, e.LeaderID, e.LeaderAddress = true, d.GetLeaderId(), d.GetLeaderAddress()
		}
	}
}

// neverDecoded recognises what the server's gRPC library answers by itself,
// before the node sees the request, and which thus has no outcome detail: the
// service is not there, or the request is over the receive limit. The client's
// library words an answer over its own limit the same way; the limit in the
// text tells the two apart.
func (c *Client) neverDecoded(st *status.Status) bool {
	if st.Code() == codes.Unimplemented {
		return true
	}
	m := st.Message()
	return st.Code() == codes.ResourceExhausted &&
		strings.Contains(m, "received message") && strings.Contains(m, "larger than max") &&
		!strings.Contains(m, fmt.Sprintf("vs. %d)", c.cfg.answerLimit()))
}

// retryable tells whether the same request may be sent again, and whether
// that can help. It trusts details only, never the code alone.
func (e *Error) retryable() bool {
	if e.Applied != no {
		return false
	}
	switch {
	case e.NotLeader, e.silent():
		return true
	case e.Code == codes.ResourceExhausted:
		// Admission caps; gRPC's own size limits have no outcome detail and stay.
		return e.outcomeTold
	}
	return false
}

// silent tells that the node did not answer.
func (e *Error) silent() bool { return e.Code == codes.Unavailable || e.overdue }

// notSent is an error made here, before anything was sent.
func notSent(method string, code codes.Code, format string, args ...any) *Error {
	return &Error{Method: method, Code: code, Applied: no, status: status.Newf(code, format, args...)}
}
