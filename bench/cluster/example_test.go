package cluster_test

import (
	"context"
	"fmt"
	"log"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
)

// Three nodes in this process, for a functional test of your own.
func Example() {
	ctx := context.Background()
	c, err := cluster.Start(ctx, cluster.Config{Nodes: 3})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // an example
	cl, err := c.Client()
	if err != nil {
		log.Fatal(err)
	}
	defer cl.Close() //nolint:errcheck // an example

	if _, err := cl.Put(ctx, []byte("greeting"), []byte("hello")); err != nil {
		log.Fatal(err)
	}
	got, err := cl.Get(ctx, []byte("greeting"), client.ReadLinearizable)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", got.GetValue())
	// Output: hello
}
