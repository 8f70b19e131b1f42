package client_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	no      = kvv1.Applied_APPLIED_NO
	unknown = kvv1.Applied_APPLIED_UNKNOWN
	stale   = client.ReadStale
	lin     = client.ReadLinearizable
)

// open makes a client of the given nodes of a cluster, all without any.
func open(tb testing.TB, cluster *clienttest.Cluster, ids ...uint64) *client.Client {
	tb.Helper()
	cfg := client.Config{RefreshInterval: -1}
	for _, id := range ids {
		cfg.Endpoints = append(cfg.Endpoints, cluster.Node(id).Address)
	}
	if len(ids) == 0 {
		cfg.Endpoints = cluster.Addresses()
	}
	return openConfig(tb, cfg)
}

func openConfig(tb testing.TB, cfg client.Config) *client.Client {
	tb.Helper()
	c, err := client.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// soon is when a call is given up that waits for what does not come, and before
// which whatever else it does is done on any machine.
const soon = time.Second

// within gives a test that should not hang a time after which it fails.
func within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}
