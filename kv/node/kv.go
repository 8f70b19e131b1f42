package node

import (
	"context"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// kvService serves raftlab.kv.v1.KV. Its methods run on gRPC's goroutines.
type kvService struct {
	kvv1.UnimplementedKVServer

	store   *kv.Store
	replica consensus
	errors  translator
	pins    *pins
	page    int             // most keys in a page of Scan
	answer  int             // most bytes of values in an answer of several operations
	streams holding         // by requests
	life    context.Context // ends when open streams have to
}

// Put implements KV.
func (s *kvService) Put(ctx context.Context, req *kvv1.PutRequest) (*kvv1.WriteResponse, error) {
	if err := checkItem(req.GetKey(), req.GetValue()); err != nil {
		return nil, s.errors.status(err)
	}
	r, err := s.write(ctx, kv.Command{Kind: kv.KindPut, Key: req.GetKey(), Value: req.GetValue()}, req.GetSession())
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &kvv1.WriteResponse{
		Revision: r.Revision, AppliedIndex: r.Index,
		Version: r.Version, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision,
	}, nil
}

// Get implements KV.
func (s *kvService) Get(ctx context.Context, req *kvv1.GetRequest) (*kvv1.GetResponse, error) {
	if err := s.readable(ctx, req); err != nil {
		return nil, s.errors.status(err)
	}
	item, state, found := s.store.Get(req.GetKey())
	resp := &kvv1.GetResponse{Revision: state.Revision, AppliedIndex: state.Index, Found: found}
	if found {
		resp.Version, resp.CreateRevision, resp.ModRevision = item.Version, item.CreateRevision, item.ModRevision
		resp.Value = item.Value
	}
	return resp, nil
}

func (s *kvService) readable(ctx context.Context, req *kvv1.GetRequest) error {
	if err := checkKey(req.GetKey()); err != nil {
		return err
	}
	if err := checkConsistency(req.GetConsistency()); err != nil {
		return err
	}
	return s.await(ctx, req.GetConsistency())
}

// await returns once a read of that consistency may look at the store.
func (s *kvService) await(ctx context.Context, c kvv1.Consistency) error {
	if c == kvv1.Consistency_CONSISTENCY_STALE {
		return ctx.Err()
	}
	return barrier(ctx, s.replica, c == kvv1.Consistency_CONSISTENCY_LEASE)
}

// Delete implements KV.
func (s *kvService) Delete(ctx context.Context, req *kvv1.DeleteRequest) (*kvv1.DeleteResponse, error) {
	if err := checkKey(req.GetKey()); err != nil {
		return nil, s.errors.status(err)
	}
	r, err := s.write(ctx, kv.Command{Kind: kv.KindDelete, Key: req.GetKey()}, req.GetSession())
	if err != nil {
		return nil, s.errors.status(err)
	}
	return &kvv1.DeleteResponse{Revision: r.Revision, AppliedIndex: r.Index, Deleted: r.Found}, nil
}

// CompareAndSwap implements KV.
func (s *kvService) CompareAndSwap(ctx context.Context, req *kvv1.CompareAndSwapRequest) (*kvv1.CompareAndSwapResponse, error) {
	if err := checkItem(req.GetKey(), req.GetValue()); err != nil {
		return nil, s.errors.status(err)
	}
	r, err := s.write(ctx, kv.Command{
		Kind: kv.KindCompareAndSwap, Key: req.GetKey(), Value: req.GetValue(),
		Expect: req.GetExpect(), ExpectAbsent: req.GetExpectAbsent(),
	}, req.GetSession())
	if err != nil {
		return nil, s.errors.status(err)
	}
	resp := &kvv1.CompareAndSwapResponse{
		Revision: r.Revision, AppliedIndex: r.Index, Succeeded: r.Succeeded,
		Version: r.Version, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision,
	}
	if !r.Succeeded {
		resp.Found, resp.Value, resp.ValueOmitted = r.Found, r.Value, r.ValueOmitted
	}
	return resp, nil
}

// Batch implements KV.
func (s *kvService) Batch(ctx context.Context, req *kvv1.BatchRequest) (*kvv1.BatchResponse, error) {
	cmd, err := batchCommand(req.GetOperations())
	if err != nil {
		return nil, s.errors.status(err)
	}
	r, err := s.write(ctx, cmd, req.GetSession())
	if err != nil {
		return nil, s.errors.status(err)
	}
	resp := &kvv1.BatchResponse{Revision: r.Revision, AppliedIndex: r.Index, Succeeded: r.Succeeded}
	slab := make([]kvv1.Result, len(r.Steps))
	resp.Results = make([]*kvv1.Result, len(r.Steps))
	for i := range r.Steps {
		op := req.GetOperations()[i]
		slab[i].Id, slab[i].Kind = op.GetId(), op.GetKind()
		fillResult(&slab[i], &r.Steps[i])
		resp.Results[i] = &slab[i]
	}
	s.errors.limitValues(resp.Results, s.answer)
	return resp, nil
}

// limitValues takes the values beyond a limit out of an answer, which many reads
// of one large value could make larger than memory: values lie in the store until
// the answer is encoded. What a client asked for in requests of max-request bytes it
// accepts in answers of as much, and asks again for the rest. One value always
// passes. A get is refused; a swap that found another value keeps its answer, but
// for the value.
func (t translator) limitValues(results []*kvv1.Result, limit int) {
	bytes := 0
	for _, r := range results {
		n := len(r.GetValue())
		if n == 0 {
			continue
		}
		if bytes == 0 || bytes+n <= limit {
			bytes += n
			continue
		}
		r.Value = nil
		if r.GetKind() != kvv1.OperationKind_OPERATION_KIND_GET {
			r.ValueOmitted = true
			continue
		}
		r.Succeeded, r.Error = false, t.operation(&tooMuchError{limit})
	}
}

// fillResult puts what the store answered into a Result, whose value then
// aliases the store.
func fillResult(dst *kvv1.Result, r *kv.Result) {
	dst.Revision, dst.AppliedIndex = r.Revision, r.Index
	dst.Version, dst.CreateRevision, dst.ModRevision = r.Version, r.CreateRevision, r.ModRevision
	dst.Found, dst.Succeeded, dst.Value, dst.ValueOmitted = r.Found, r.Succeeded, r.Value, r.ValueOmitted
}
