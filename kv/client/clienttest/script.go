package clienttest

import (
	"context"
	"time"

	"google.golang.org/grpc/status"
)

// Method names for Script and Calls.
const (
	Put                = "Put"
	Get                = "Get"
	Delete             = "Delete"
	CompareAndSwap     = "CompareAndSwap"
	Scan               = "Scan"
	Batch              = "Batch"
	Stream             = "Stream"
	OpenSession        = "OpenSession"
	KeepSession        = "KeepSession"
	CloseSession       = "CloseSession"
	Init               = "Init"
	AddLearner         = "AddLearner"
	ChangeMembership   = "ChangeMembership"
	RemoveNode         = "RemoveNode"
	TransferLeadership = "TransferLeadership"
	Snapshot           = "Snapshot"
	Status             = "Status"
)

// Step is what befalls one call.
type Step struct {
	// Err is the answer; nil serves the call.
	Err error
	// Apply serves the call first and then answers Err all the same.
	Apply bool
	// Delay holds the call back, or until its deadline.
	Delay time.Duration
	// Before runs first.
	Before func()
}

// Script lines up what befalls the next calls of a method; those after are
// served.
func (n *Node) Script(method string, steps ...Step) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.scripts[method] = append(n.scripts[method], steps...)
}

func (n *Node) next(method string) Step {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls[method]++
	steps := n.scripts[method]
	if len(steps) == 0 {
		return Step{}
	}
	n.scripts[method] = steps[1:]
	return steps[0]
}

// serve runs one call through the script; leader says that only the leader
// answers it.
func serve[T any](ctx context.Context, n *Node, method string, leader bool, apply func() (T, error)) (T, error) {
	var none T
	step := n.next(method)
	if step.Before != nil {
		step.Before()
	}
	if step.Delay > 0 {
		timer := time.NewTimer(step.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return none, status.FromContextError(ctx.Err()).Err()
		}
	}
	if step.Err != nil && !step.Apply {
		return none, step.Err
	}
	if leader {
		if _, err := n.notLeader(); err != nil {
			return none, err
		}
	}
	answer, err := apply()
	if step.Err != nil {
		return none, step.Err
	}
	return answer, err
}
