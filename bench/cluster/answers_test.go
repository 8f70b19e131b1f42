package cluster_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	"raftlab/kv/node"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// A pipeline asks again for what was left out of an answer that would have been
// larger than max-request, so that its callers need not know of it.
func TestPipelineReadsMoreThanAnAnswerHolds(t *testing.T) {
	cfg := node.DefaultConfig()
	cfg.MaxRequest = 1 << 20
	c := start(t, cluster.Config{Topology: cluster.InProcessGRPC, Nodes: 1, Node: cfg})
	cl, err := client.New(client.Config{Endpoints: c.Endpoints(), MaxRequest: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	ctx := within(t, time.Minute)
	value := bytes.Repeat([]byte("v"), 400<<10)
	var gets []*kvv1.Operation
	for i := range 10 {
		key := fmt.Append(nil, "k", i)
		if _, err := cl.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
		gets = append(gets, &kvv1.Operation{Id: uint64(i) + 1, Kind: kvv1.OperationKind_OPERATION_KIND_GET, Key: key})
	}
	p, err := cl.NewPipeline(ctx)
	if err != nil {
		t.Fatal(err)
	}
	results, err := p.Do(ctx, gets)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if err := client.ResultError(r); err != nil || !bytes.Equal(r.GetValue(), value) {
			t.Errorf("get %d: %d bytes, %v", i, len(r.GetValue()), err)
		}
	}
}
