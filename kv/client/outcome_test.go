package client_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Whatever servers do, a write that was answered was applied once, one that is
// said not to be was not, and one of unknown outcome at most once.
func TestOutcomesHold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mischief := rapid.SliceOfN(rapid.SampledFrom([]fault{
			serveIt, serveIt, serveIt, serveIt, shuffle, breakBefore, breakAfter, dropOne, moveLeader, refuseAll, refuseOne, loseLeader,
		}), 1, 40).Draw(rt, "mischief")
		seed := rapid.Uint64().Draw(rt, "seed")
		limit := rapid.SampledFrom([]time.Duration{0, 20 * time.Millisecond}).Draw(rt, "attempt timeout")
		cluster, err := clienttest.New(3)
		if err != nil {
			rt.Fatal(err)
		}
		defer cluster.Close()
		var messages atomic.Int64
		for id := range uint64(3) {
			cluster.Node(id + 1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
				i := messages.Add(1) - 1
				f := serveIt
				if int(i) < len(mischief) {
					f = mischief[i]
				}
				return f.befall(cluster, rand.New(rand.NewPCG(seed, uint64(i))), req, answer, send)
			}
		}
		c, err := client.New(client.Config{Endpoints: cluster.Addresses(), RefreshInterval: -1, AttemptTimeout: limit})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		p, err := c.NewPipeline(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		var callers sync.WaitGroup
		var mu sync.Mutex
		outcomes := map[string]kvv1.Applied{} // unspecified: answered
		for caller := range 4 {
			callers.Go(func() {
				for round := range 6 {
					var operations []*kvv1.Operation
					for i := range 1 + (caller+round)%4 {
						operations = append(operations, put(fmt.Sprintf("%d/%d/%d", caller, round, i), ""), get("x"))
					}
					ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
					results, err := p.Do(ctx, operations)
					cancel()
					mu.Lock()
					for i, op := range operations {
						outcomes[string(op.GetKey())] = client.Applied(outcome(results, err, i))
					}
					mu.Unlock()
				}
			})
		}
		callers.Wait()
		for key, told := range outcomes {
			n := cluster.Applied(key)
			switch {
			case key == "x":
			case told == kvv1.Applied_APPLIED_UNSPECIFIED && n != 1, told == no && n != 0, n > 1:
				rt.Errorf("write of %s is said to be %v, and was applied %d times", key, told, n)
			}
		}
	})
}

type fault int

const (
	serveIt     fault = iota
	shuffle           // answers in another order and in two messages
	breakBefore       // the stream breaks, nothing was applied
	breakAfter        // it breaks, all was
	dropOne           // one answer never comes
	moveLeader        // another node leads from now on
	loseLeader        // nobody does, for the next message
	refuseAll         // admission refuses all writes
	refuseOne         // admission refuses the first write
)

func (f fault) befall(cluster *clienttest.Cluster, r *rand.Rand, req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
	refuse := func(op *kvv1.Operation) *kvv1.Result {
		return &kvv1.Result{Id: op.GetId(), Kind: op.GetKind(), Error: &kvv1.OperationError{
			Code: uint32(codes.ResourceExhausted), Message: "overloaded", Applied: no,
		}}
	}
	switch f {
	case serveIt:
	case shuffle:
		results := answer(req).GetResults()
		r.Shuffle(len(results), func(i, j int) { results[i], results[j] = results[j], results[i] })
		cut := r.IntN(len(results))
		if err := send(&kvv1.StreamResponse{Results: results[:cut]}); err != nil {
			return err
		}
		return send(&kvv1.StreamResponse{Results: results[cut:]})
	case breakBefore:
		return clienttest.Refusal(codes.Unavailable, "stopping")
	case breakAfter:
		answer(req)
		return status.Error(codes.Unavailable, "stopping")
	case dropOne:
		resp := answer(req)
		resp.Results = resp.GetResults()[1:]
		return send(resp)
	case moveLeader:
		cluster.SetLeader(r.Uint64N(3) + 1)
	case loseLeader:
		cluster.SetLeader(0)
		err := send(answer(req))
		cluster.SetLeader(r.Uint64N(3) + 1)
		return err
	case refuseAll:
		resp := &kvv1.StreamResponse{}
		for _, op := range req.GetOperations() {
			resp.Results = append(resp.Results, refuse(op))
		}
		return send(resp)
	case refuseOne:
		first := refuse(req.GetOperations()[0])
		resp := answer(&kvv1.StreamRequest{Operations: req.GetOperations()[1:]})
		resp.Results = append(resp.Results, first)
		return send(resp)
	}
	return send(answer(req))
}
