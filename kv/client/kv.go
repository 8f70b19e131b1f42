package client

import (
	"context"
	"iter"

	"google.golang.org/grpc/codes"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

var (
	methodPut    = method{kvv1.KV_Put_FullMethodName, "Put", write}
	methodGet    = method{kvv1.KV_Get_FullMethodName, "Get", read}
	methodDelete = method{kvv1.KV_Delete_FullMethodName, "Delete", write}
	methodSwap   = method{kvv1.KV_CompareAndSwap_FullMethodName, "CompareAndSwap", write}
	methodScan   = method{kvv1.KV_Scan_FullMethodName, "Scan", read}
	methodBatch  = method{kvv1.KV_Batch_FullMethodName, "Batch", write}
)

// Put writes a key.
func (c *Client) Put(ctx context.Context, key, value []byte) (*kvv1.WriteResponse, error) {
	resp := &kvv1.WriteResponse{}
	if err := c.call(ctx, methodPut, &kvv1.PutRequest{Key: key, Value: value}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Get reads a key; a missing one is an answer, with Found false. A linearizable
// read goes to the node believed to lead, and where that is wrong, is answered
// all the same, by way of the leader.
func (c *Client) Get(ctx context.Context, key []byte, how Read) (*kvv1.GetResponse, error) {
	resp := &kvv1.GetResponse{}
	req := &kvv1.GetRequest{Key: key, Consistency: how.Consistency()}
	if _, err := c.retry(ctx, methodGet, destination{spread: how.Spread()}, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Delete removes a key; a missing one is an answer, with Deleted false.
func (c *Client) Delete(ctx context.Context, key []byte) (*kvv1.DeleteResponse, error) {
	resp := &kvv1.DeleteResponse{}
	if err := c.call(ctx, methodDelete, &kvv1.DeleteRequest{Key: key}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// CompareAndSwap writes a key if it holds what req expects. A mismatch is an
// answer, with Succeeded false and the present value.
func (c *Client) CompareAndSwap(ctx context.Context, req *kvv1.CompareAndSwapRequest) (*kvv1.CompareAndSwapResponse, error) {
	resp := &kvv1.CompareAndSwapResponse{}
	if err := c.call(ctx, methodSwap, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Batch applies operations in order, atomically. A compare-and-swap that
// mismatches aborts it: an answer, with Succeeded false.
func (c *Client) Batch(ctx context.Context, operations []*kvv1.Operation) (*kvv1.BatchResponse, error) {
	resp := &kvv1.BatchResponse{}
	if err := c.call(ctx, methodBatch, &kvv1.BatchRequest{Operations: operations}, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// ScanPage reads one page, and returns with it the address of the node that
// answered. A page token is good only there, so the next page is asked for with
// that address; an empty address lets the client choose the node, as
// how says, whose consistency it has instead of req's. req is not changed.
func (c *Client) ScanPage(ctx context.Context, req *kvv1.ScanRequest, how Read, address string) (*kvv1.ScanResponse, string, error) {
	to := destination{spread: how.Spread()}
	if address != "" {
		n, err := c.router.at(address)
		if err != nil {
			return nil, "", notSent(methodScan.name, codes.InvalidArgument, "%v", err)
		}
		to.pinned = n
	}
	resp := &kvv1.ScanResponse{}
	n, err := c.retry(ctx, methodScan, to, &kvv1.ScanRequest{
		Prefix: req.GetPrefix(), Start: req.GetStart(), End: req.GetEnd(), Limit: req.GetLimit(),
		PageToken: req.GetPageToken(), Consistency: how.Consistency(),
	}, resp)
	if err != nil {
		return nil, "", err
	}
	return resp, n.address, nil
}

// Scan yields the keys that req selects, in order, from one consistent
// snapshot, page by page; req.Limit is the size of a page. A failure is yielded
// last, with a nil item: the keys before it are good, a new Scan sees a newer
// snapshot. req is not changed, and its consistency is not looked at: how says it.
func (c *Client) Scan(ctx context.Context, req *kvv1.ScanRequest, how Read) iter.Seq2[*kvv1.KeyValue, error] {
	return func(yield func(*kvv1.KeyValue, error) bool) {
		page := &kvv1.ScanRequest{
			Prefix: req.GetPrefix(), Start: req.GetStart(), End: req.GetEnd(), Limit: req.GetLimit(), PageToken: req.GetPageToken(),
		}
		address := ""
		for {
			resp, answered, err := c.ScanPage(ctx, page, how, address)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range resp.GetItems() {
				if !yield(item, nil) {
					return
				}
			}
			if len(resp.GetNextPageToken()) == 0 {
				return
			}
			page.PageToken, address = resp.GetNextPageToken(), answered
		}
	}
}
