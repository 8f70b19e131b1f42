package cluster_test

import (
	"context"
	"fmt"
	"log"

	"raftlab/bench/cluster"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Three nodes in this process, for a functional test of your own.
func Example() {
	ctx := context.Background()
	c, err := cluster.Start(ctx, cluster.Config{Nodes: 3})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // an example
	client, err := c.Client()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // an example

	if _, err := client.Put(ctx, []byte("greeting"), []byte("hello")); err != nil {
		log.Fatal(err)
	}
	got, err := client.Get(ctx, []byte("greeting"), kvv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", got.GetValue())
	// Output: hello
}
