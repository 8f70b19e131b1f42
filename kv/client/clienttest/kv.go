package clienttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

const pageSize = 100

// apply does one operation on the store, which must be locked.
func (c *Cluster) apply(op *kvv1.Operation) *kvv1.Result {
	key := string(op.GetKey())
	item := c.items[key]
	r := &kvv1.Result{Id: op.GetId(), Kind: op.GetKind(), Succeeded: true, Found: item != nil}
	switch op.GetKind() {
	case kvv1.OperationKind_OPERATION_KIND_PUT:
		item = c.put(key, op.GetValue())
	case kvv1.OperationKind_OPERATION_KIND_DELETE:
		c.index++
		c.applied[key]++
		if item != nil {
			c.revision++
			delete(c.items, key)
			item = nil
		}
	case kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP:
		matches := item != nil && bytes.Equal(item.GetValue(), op.GetExpect())
		if op.GetExpectAbsent() {
			matches = item == nil
		}
		if matches {
			item = c.put(key, op.GetValue())
		} else {
			c.index++
			r.Succeeded, r.Value = false, item.GetValue()
		}
	default:
		r.Value = item.GetValue()
	}
	r.Revision, r.AppliedIndex = c.revision, c.index
	r.Version, r.CreateRevision, r.ModRevision = item.GetVersion(), item.GetCreateRevision(), item.GetModRevision()
	return r
}

func (c *Cluster) put(key string, value []byte) *kvv1.KeyValue {
	c.index++
	c.revision++
	c.applied[key]++
	item := &kvv1.KeyValue{Key: []byte(key), Value: value, Version: 1, CreateRevision: c.revision, ModRevision: c.revision}
	if old := c.items[key]; old != nil {
		item.Version, item.CreateRevision = old.GetVersion()+1, old.GetCreateRevision()
	}
	c.items[key] = item
	return item
}

func (c *Cluster) one(op *kvv1.Operation) *kvv1.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apply(op)
}

// Put implements KV.
func (n *Node) Put(ctx context.Context, req *kvv1.PutRequest) (*kvv1.WriteResponse, error) {
	return serve(ctx, n, Put, true, once(n.cluster, req.GetSession(), func() (*kvv1.WriteResponse, error) {
		r := n.cluster.one(&kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: req.GetKey(), Value: req.GetValue()})
		return &kvv1.WriteResponse{
			Revision: r.GetRevision(), AppliedIndex: r.GetAppliedIndex(),
			Version: r.GetVersion(), CreateRevision: r.GetCreateRevision(), ModRevision: r.GetModRevision(),
		}, nil
	}))
}

// leased tells that only the leader answers a read.
func leased(c kvv1.Consistency) bool { return c == kvv1.Consistency_CONSISTENCY_LEASE }

// Get implements KV.
func (n *Node) Get(ctx context.Context, req *kvv1.GetRequest) (*kvv1.GetResponse, error) {
	return serve(ctx, n, Get, leased(req.GetConsistency()), func() (*kvv1.GetResponse, error) {
		r := n.cluster.one(&kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_GET, Key: req.GetKey()})
		return &kvv1.GetResponse{
			Revision: r.GetRevision(), AppliedIndex: r.GetAppliedIndex(), Found: r.GetFound(), Value: r.GetValue(),
			Version: r.GetVersion(), CreateRevision: r.GetCreateRevision(), ModRevision: r.GetModRevision(),
		}, nil
	})
}

// Delete implements KV.
func (n *Node) Delete(ctx context.Context, req *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	return serve(ctx, n, Delete, true, once(n.cluster, req.GetSession(), func() (*kvv1.DeleteResponse, error) {
		r := n.cluster.one(&kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_DELETE, Key: req.GetKey()})
		return &kvv1.DeleteResponse{Revision: r.GetRevision(), AppliedIndex: r.GetAppliedIndex(), Deleted: r.GetFound()}, nil
	}))
}

// CompareAndSwap implements KV.
func (n *Node) CompareAndSwap(ctx context.Context, req *kvv1.CompareAndSwapRequest) (*kvv1.CompareAndSwapResponse, error) {
	return serve(ctx, n, CompareAndSwap, true, once(n.cluster, req.GetSession(), func() (*kvv1.CompareAndSwapResponse, error) {
		r := n.cluster.one(&kvv1.Operation{
			Kind: kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP, Key: req.GetKey(), Value: req.GetValue(),
			Expect: req.GetExpect(), ExpectAbsent: req.GetExpectAbsent(),
		})
		return &kvv1.CompareAndSwapResponse{
			Revision: r.GetRevision(), AppliedIndex: r.GetAppliedIndex(), Succeeded: r.GetSucceeded(),
			Version: r.GetVersion(), CreateRevision: r.GetCreateRevision(), ModRevision: r.GetModRevision(),
			Found: !r.GetSucceeded() && r.GetFound(), Value: r.GetValue(),
		}, nil
	}))
}

// Batch implements KV.
func (n *Node) Batch(ctx context.Context, req *kvv1.BatchRequest) (*kvv1.BatchResponse, error) {
	return serve(ctx, n, Batch, true, once(n.cluster, req.GetSession(), func() (*kvv1.BatchResponse, error) {
		c := n.cluster
		c.mu.Lock()
		defer c.mu.Unlock()
		items, applied, revision := maps.Clone(c.items), maps.Clone(c.applied), c.revision
		resp := &kvv1.BatchResponse{Succeeded: true}
		for _, op := range req.GetOperations() {
			r := c.apply(op)
			resp.Results = append(resp.Results, r)
			if !r.GetSucceeded() {
				c.items, c.applied, c.revision = items, applied, revision
				resp.Succeeded = false
				break
			}
		}
		resp.Revision, resp.AppliedIndex = c.revision, c.index
		return resp, nil
	}))
}

// Scan implements KV. A page token names the node and the next key; the
// snapshot behind it is the present state.
func (n *Node) Scan(ctx context.Context, req *kvv1.ScanRequest) (*kvv1.ScanResponse, error) {
	return serve(ctx, n, Scan, leased(req.GetConsistency()), func() (*kvv1.ScanResponse, error) {
		from := ""
		if token := string(req.GetPageToken()); token != "" {
			node, key, _ := strings.Cut(token, "/")
			if node != strconv.FormatUint(n.ID, 10) {
				return nil, Refusal(codes.FailedPrecondition, "page token is of another node")
			}
			from = key
		}
		limit := min(int(req.GetLimit()), pageSize)
		if limit == 0 {
			limit = pageSize
		}
		c := n.cluster
		c.mu.Lock()
		defer c.mu.Unlock()
		resp := &kvv1.ScanResponse{Revision: c.revision, AppliedIndex: c.index}
		for _, key := range slices.Sorted(maps.Keys(c.items)) {
			switch {
			case key < from, !strings.HasPrefix(key, string(req.GetPrefix())), key < string(req.GetStart()):
				continue
			case len(req.GetEnd()) > 0 && key >= string(req.GetEnd()):
				continue
			}
			if len(resp.GetItems()) == limit {
				resp.NextPageToken = []byte(strconv.FormatUint(n.ID, 10) + "/" + key)
				break
			}
			resp.Items = append(resp.Items, c.items[key])
		}
		return resp, nil
	})
}

// Stream implements KV.
func (n *Node) Stream(s grpc.BidiStreamingServer[kvv1.StreamRequest, kvv1.StreamResponse]) error {
	step := n.next(Stream)
	if step.Before != nil {
		step.Before()
	}
	if step.Err != nil {
		return step.Err
	}
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n.OnMessage != nil {
			err = n.OnMessage(req, n.Answer, s.Send)
		} else {
			err = s.Send(n.Answer(req))
		}
		if err != nil {
			return err
		}
	}
}

// Answer applies the operations of a message as the node of the moment may:
// writes and lease reads of one that does not lead are refused.
func (n *Node) Answer(req *kvv1.StreamRequest) *kvv1.StreamResponse {
	detail, refusal := n.notLeader()
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := &kvv1.StreamResponse{Results: make([]*kvv1.Result, 0, len(req.GetOperations()))}
	for _, op := range req.GetOperations() {
		if refusal != nil && (op.GetKind() != kvv1.OperationKind_OPERATION_KIND_GET || leased(op.GetConsistency())) {
			resp.Results = append(resp.Results, &kvv1.Result{Id: op.GetId(), Kind: op.GetKind(), Error: &kvv1.OperationError{
				Code: uint32(codes.FailedPrecondition), Message: "not the leader",
				Applied: kvv1.Applied_APPLIED_NO, NotLeader: detail,
			}})
			continue
		}
		resp.Results = append(resp.Results, c.apply(op))
	}
	return resp
}
