package target

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"raftlab/bench/load"
	"raftlab/kv/client"
)

// etcdTarget drives an etcd v3 cluster by etcd's own client, which sends each
// call to the next endpoint; a follower passes puts on to the leader by itself.
type etcdTarget struct {
	clients []*etcd.Client // one connection to each endpoint every one of them
	next    atomic.Uint64
	stale   bool
}

// EtcdReads are the reads that etcd has.
func EtcdReads() []string {
	return []string{client.ReadLinearizable.String(), client.ReadStale.String()}
}

func newEtcd(o Options) (*etcdTarget, error) {
	if o.read != client.ReadLinearizable && o.read != client.ReadStale {
		return nil, fmt.Errorf("target etcd has reads %s, not %s", strings.Join(EtcdReads(), " and "), o.read)
	}
	t := &etcdTarget{stale: o.read == client.ReadStale}
	for range o.Conns {
		c, err := newEtcdClient(o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("target etcd: %w", err), t.Close())
		}
		t.clients = append(t.clients, c)
	}
	return t, nil
}

func newEtcdClient(o Options) (*etcd.Client, error) {
	return etcd.New(etcd.Config{
		Endpoints: o.Endpoints, MaxCallSendMsgSize: o.MaxRequest, DialOptions: o.dialOptions(),
		// It would write to standard error whatever it tries again.
		Logger: zap.NewNop(),
	})
}

// etcdPatience is how long an endpoint may take to say that it is an etcd.
const etcdPatience = 2 * time.Second

// EtcdVersion returns the version of the first endpoint at which an etcd answers.
func EtcdVersion(ctx context.Context, endpoints []string) (version string, err error) {
	c, err := newEtcdClient(Options{Endpoints: endpoints})
	if err != nil {
		return "", fmt.Errorf("target etcd: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	var last error
	for _, endpoint := range endpoints {
		attempt, cancel := context.WithTimeout(ctx, etcdPatience)
		answer, err := c.Status(attempt, endpoint)
		cancel()
		if err == nil {
			return answer.Version, nil
		}
		last = err
	}
	return "", fmt.Errorf("no etcd answers at %s: %w", strings.Join(endpoints, ", "), last)
}

// Open implements load.Target.
func (t *etcdTarget) Open(context.Context, int) (load.Session, error) {
	s := &etcdSession{kv: t.clients[(t.next.Add(1)-1)%uint64(len(t.clients))].KV}
	if t.stale {
		s.read = append(s.read, etcd.WithSerializable())
	}
	return s, nil
}

// Close implements Target.
func (t *etcdTarget) Close() error {
	var errs []error
	for _, c := range t.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// etcdSession makes one RPC an operation. Several puts, as a preload sends them,
// are one transaction; their keys have to be distinct.
type etcdSession struct {
	kv   etcd.KV
	read []etcd.OpOption
	txn  []etcd.Op
}

// Do implements load.Session.
func (s *etcdSession) Do(ctx context.Context, ops []load.Op, results []load.Result) error {
	if len(ops) > 1 {
		return s.putAll(ctx, ops, results)
	}
	results[0] = s.one(ctx, &ops[0])
	return nil
}

func (s *etcdSession) one(ctx context.Context, op *load.Op) load.Result {
	if op.Kind == load.Get {
		resp, err := s.kv.Get(ctx, string(op.Key), s.read...)
		if err != nil {
			return load.Result{Err: etcdError(err)}
		}
		if len(resp.Kvs) == 0 {
			return load.Result{}
		}
		return load.Result{ModRevision: uint64(resp.Kvs[0].GetModRevision()), Found: true, Value: resp.Kvs[0].GetValue()}
	}
	resp, err := s.kv.Put(ctx, string(op.Key), string(op.Value))
	if err != nil {
		return load.Result{Err: etcdError(err)}
	}
	// The store's revision after a put is the key's own.
	return load.Result{ModRevision: uint64(resp.Header.GetRevision())}
}

func (s *etcdSession) putAll(ctx context.Context, ops []load.Op, results []load.Result) error {
	s.txn = s.txn[:0]
	for i := range ops {
		if ops[i].Kind != load.Put {
			return errors.New("target etcd sends several operations as one only to preload")
		}
		s.txn = append(s.txn, etcd.OpPut(string(ops[i].Key), string(ops[i].Value)))
	}
	resp, err := s.kv.Txn(ctx).Then(s.txn...).Commit()
	if err != nil {
		return etcdError(err)
	}
	for i := range ops {
		results[i].ModRevision = uint64(resp.Header.GetRevision())
	}
	return nil
}

// Close implements load.Session.
func (s *etcdSession) Close() error { return nil }

// etcdError gives an error of etcd's client back the gRPC code it came with.
func etcdError(err error) error {
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return status.Error(e.Code(), e.Error())
	}
	return err
}
