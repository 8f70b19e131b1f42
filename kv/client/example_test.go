package client_test

import (
	"context"
	"fmt"
	"time"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func Example() {
	cluster, err := clienttest.New(3) // any running cluster's addresses will do
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cluster.Close()

	c, err := client.New(client.Config{Endpoints: cluster.Addresses()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	if _, err := c.Put(ctx, []byte("greeting"), []byte("hello")); err != nil {
		if client.Applied(err) == kvv1.Applied_APPLIED_UNKNOWN {
			fmt.Println("it may have been written:", err)
		}
		return
	}
	r, err := c.Get(ctx, []byte("greeting"), client.ReadLinearizable)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, version %d\n", r.GetValue(), r.GetVersion())

	// Many operations in one message.
	p, err := c.NewPipeline(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = p.Close() }()
	results, err := p.Do(ctx, []*kvv1.Operation{
		{Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: []byte("a"), Value: []byte("1")},
		{Kind: kvv1.OperationKind_OPERATION_KIND_GET, Key: []byte("greeting")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range results {
		fmt.Println(client.ResultError(r), r.GetRevision())
	}
	// Output:
	// hello, version 1
	// <nil> 2
	// <nil> 2
}
