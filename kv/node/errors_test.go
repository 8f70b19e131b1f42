package node

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var testTranslator = translator{leader: func() *kvv1.NotLeader {
	return &kvv1.NotLeader{LeaderId: 2, LeaderAddress: "127.0.0.1:2"}
}}

// outcome reads the details of an error; fields are zero where it has none.
func outcome(err error) (code codes.Code, applied kvv1.Applied, leader *kvv1.NotLeader) {
	st := status.Convert(err)
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *kvv1.Outcome:
			applied = d.GetApplied()
		case *kvv1.NotLeader:
			leader = d
		}
	}
	return st.Code(), applied, leader
}

func TestErrorTranslation(t *testing.T) {
	const no, unknown = kvv1.Applied_APPLIED_NO, kvv1.Applied_APPLIED_UNKNOWN
	for _, test := range []struct {
		err     error
		code    codes.Code
		applied kvv1.Applied
		text    string
	}{
		{replica.ErrNotLeader, codes.FailedPrecondition, no, "not the leader"},
		{replica.ErrOverloaded, codes.ResourceExhausted, no, "overloaded"},
		{&replica.TooLargeError{Size: 2000, Limit: 1000}, codes.InvalidArgument, no, "entry of 2000 bytes exceeds the limit of 1000 bytes"},
		{replica.ErrUnknownOutcome, codes.Unavailable, unknown, "leadership was lost, or the node stopped, before the write was committed"},
		{replica.ErrStopped, codes.Unavailable, no, "node is stopping"},
		{replica.ErrNoLeader, codes.Unavailable, no, "no leader"},
		{replica.ErrBehind, codes.Unavailable, no, "this node does not keep up"},
		{fmt.Errorf("%w: node 9 is not a member", replica.ErrRefused), codes.FailedPrecondition, no, "refused: node 9 is not a member"},
		{fmt.Errorf("%w: may still finish: %w", replica.ErrUnknownOutcome, context.DeadlineExceeded), codes.DeadlineExceeded, unknown, "outcome unknown: may still finish: context deadline exceeded"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, no, "context deadline exceeded"},
		{context.Canceled, codes.Canceled, no, "context canceled"},
		{&interruptedError{context.DeadlineExceeded, noteWrite}, codes.DeadlineExceeded, unknown, "context deadline exceeded: the write was proposed and may still be applied"},
		{&interruptedError{context.Canceled, noteWrite}, codes.Canceled, unknown, "context canceled: the write was proposed and may still be applied"},
		{errPageExpired, codes.FailedPrecondition, no, "page token expired"},
		{errPageForeign, codes.FailedPrecondition, no, "page token belongs to another node"},
		{errPageDamaged, codes.InvalidArgument, no, "page_token is not one that Scan gave out"},
		{errPageMismatch, codes.InvalidArgument, no, "page_token was given out for another range"},
		{invalidf("key is empty"), codes.InvalidArgument, no, "key is empty"},
		// What nobody thought of may have been applied.
		{errors.New("surprise"), codes.Internal, unknown, "surprise"},
	} {
		t.Run(test.text, func(t *testing.T) {
			got := testTranslator.status(test.err)
			code, applied, leader := outcome(got)
			if code != test.code || applied != test.applied || status.Convert(got).Message() != test.text {
				t.Errorf("status is %v, %v, %q", code, applied, status.Convert(got).Message())
			}
			wantLeader := errors.Is(test.err, replica.ErrNotLeader)
			if (leader != nil) != wantLeader || wantLeader && leader.GetLeaderAddress() != "127.0.0.1:2" {
				t.Errorf("leader detail is %v", leader)
			}
			op := testTranslator.operation(test.err)
			if codes.Code(op.GetCode()) != test.code || op.GetApplied() != test.applied || op.GetMessage() != test.text || !proto.Equal(op.GetNotLeader(), leader) {
				t.Errorf("operation error is %v", op)
			}
		})
	}
	if testTranslator.status(nil) != nil {
		t.Error("nil does not stay nil")
	}
}
