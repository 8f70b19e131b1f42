package target

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/bench/load"
	"raftlab/bench/target/etcdtest"
)

// A whole load, put and get by both reads, over a real etcd of three members.
func TestEtcd(t *testing.T) {
	endpoints := etcdtest.Start(t, 3)
	if version, err := EtcdVersion(t.Context(), endpoints); err != nil || !strings.HasPrefix(version, "3.") {
		t.Errorf("version %q, %v", version, err)
	}
	// The first may be away.
	if version, err := EtcdVersion(t.Context(), append([]string{nobody(t)}, endpoints...)); err != nil || !strings.HasPrefix(version, "3.") {
		t.Errorf("version %q, %v", version, err)
	}
	for _, read := range EtcdReads() {
		t.Run(read, func(t *testing.T) {
			target, err := New(Etcd, Options{Endpoints: endpoints, Conns: 2, Read: read})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := target.Close(); err != nil {
					t.Error(err)
				}
			}()
			cfg := load.Config{
				Clients: 4, OpsPerMessage: 1, ReadRatio: 0.5, Keys: 100, KeySize: load.FixedSize(16), KeyPrefix: read[:5], KeyDistribution: load.Uniform,
				ValueSize: load.FixedSize(200), Seed: 3, Warmup: 50 * time.Millisecond, Duration: 300 * time.Millisecond,
			}
			filled := cfg
			filled.OpsPerMessage = 64
			if err := load.Preload(t.Context(), filled, target); err != nil {
				t.Fatal(err)
			}
			// A busy machine may do nothing for a whole short window.
			var puts, gets int64
			for _, cfg.Duration = range []time.Duration{300 * time.Millisecond, 5 * time.Second} {
				rec, err := load.Run(t.Context(), cfg, target, nil)
				if err != nil {
					t.Fatal(err)
				}
				if rec.Errors != 0 || rec.Missing != 0 {
					t.Errorf("%d operations, %d errors %v, %d missing", rec.Operations, rec.Errors, rec.ErrorsByCode, rec.Missing)
				}
				if puts, gets = rec.Response(load.Put).TotalCount(), rec.Response(load.Get).TotalCount(); puts > 0 && gets > 0 {
					break
				}
			}
			if puts == 0 || gets == 0 {
				t.Errorf("%d puts and %d gets", puts, gets)
			}
		})
	}
	t.Run("revisions", func(t *testing.T) { etcdRevisions(t, endpoints) })
}

// Revisions are etcd's: a put's is the key's own, and each put's is higher.
func etcdRevisions(t *testing.T, endpoints []string) {
	target, err := New(Etcd, Options{Endpoints: endpoints, Read: "linearizable"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	session, err := target.Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	one := func(op load.Op) load.Result {
		var r [1]load.Result
		if err := session.Do(t.Context(), []load.Op{op}, r[:]); err != nil {
			t.Fatal(err)
		}
		return r[0]
	}
	key, other := []byte("revision/a"), []byte("revision/b")
	if r := one(load.Op{Kind: load.Get, Key: key}); r.Found || r.ModRevision != 0 || r.Err != nil {
		t.Errorf("before it was written: %+v", r)
	}
	first := one(load.Op{Kind: load.Put, Key: key, Value: []byte("1")})
	second := one(load.Op{Kind: load.Put, Key: key, Value: []byte("2")})
	third := one(load.Op{Kind: load.Put, Key: other, Value: []byte("3")})
	if first.ModRevision == 0 || second.ModRevision != first.ModRevision+1 || third.ModRevision != second.ModRevision+1 {
		t.Errorf("puts have revisions %d, %d and %d", first.ModRevision, second.ModRevision, third.ModRevision)
	}
	if r := one(load.Op{Kind: load.Get, Key: key}); !r.Found || r.ModRevision != second.ModRevision {
		t.Errorf("%+v, written at %d", r, second.ModRevision)
	}
	// Above its limit of 1.5 MiB.
	r := one(load.Op{Kind: load.Put, Key: key, Value: make([]byte, 1_700_000)})
	if code := status.Code(r.Err); code != codes.InvalidArgument {
		t.Errorf("too large a value: %v, code %v", r.Err, code)
	}
	mixed := []load.Op{{Kind: load.Put, Key: key}, {Kind: load.Get, Key: key}}
	if err := session.Do(t.Context(), mixed, make([]load.Result, 2)); err == nil {
		t.Error("puts and gets were sent as one")
	}
}

// nobody is an address that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

func TestEtcdIsAway(t *testing.T) {
	_, err := EtcdVersion(t.Context(), []string{nobody(t)})
	if err == nil || !strings.Contains(err.Error(), "no etcd answers at 127.0.0.1:") {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := EtcdVersion(ctx, []string{nobody(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("when asked to stop: %v", err)
	}
	for _, read := range []string{"lease", "follower"} {
		if _, err := New(Etcd, Options{Endpoints: []string{nobody(t)}, Read: read}); err == nil || !strings.Contains(err.Error(), "not "+read) {
			t.Errorf("read %s: %v", read, err)
		}
	}
}
