package node

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv"
	"raftlab/kv/replica"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// fakeReplica applies what it is given at once. Hooks refuse it, or hold its
// answers back.
type fakeReplica struct {
	store *kv.Store

	mu       sync.Mutex
	index    uint64
	calls    int // of Propose
	proposed [][]byte

	admit func([]replica.Proposal) error // refuses a call of Propose
	fate  func(*kv.Command) error        // fails one command
	read  func(replica.ReadWaiter) error
	lease func(replica.ReadWaiter) (bool, error)
	hold  bool // answer no writes
	held  []replica.Proposal
}

// answer fails what was held, and holds no more.
func (f *fakeReplica) answer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = false
	for _, p := range f.held {
		p.Waiter.Done(p.Tag, kv.Result{}, replica.ErrUnknownOutcome)
	}
	f.held = nil
}

func (f *fakeReplica) Propose(ps []replica.Proposal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.admit != nil {
		if err := f.admit(ps); err != nil {
			return err
		}
	}
	for _, p := range ps {
		f.proposed = append(f.proposed, bytes.Clone(p.Command.Key))
		if f.hold {
			f.held = append(f.held, p)
			continue
		}
		if f.fate != nil {
			if err := f.fate(&p.Command); err != nil {
				p.Waiter.Done(p.Tag, kv.Result{}, err)
				continue
			}
		}
		f.index++
		data := kv.AppendCommand(kv.AppendHeader(nil, kv.EntryHeader{Node: 1, Incarnation: 1, Sequence: f.index}), &p.Command)
		results, err := f.store.Apply(f.index, 1, data, nil)
		if err != nil {
			panic(err)
		}
		p.Waiter.Done(p.Tag, results[0], nil)
	}
	return nil
}

func (f *fakeReplica) Read(w replica.ReadWaiter) error {
	if f.read != nil {
		return f.read(w)
	}
	w.Ready(nil)
	return nil
}

func (f *fakeReplica) ReadUnderLease(w replica.ReadWaiter) (bool, error) {
	if f.lease != nil {
		return f.lease(w)
	}
	return true, nil
}

func newTestService(t *testing.T) (*kvService, *fakeReplica) {
	t.Helper()
	life, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	f := &fakeReplica{store: kv.NewStore()}
	s := &kvService{
		store: f.store, replica: f, errors: testTranslator,
		pins: newPins(7, 4, time.Minute), page: 10, answer: 100,
		streams: holding{limit: 1 << 30}, life: life,
	}
	t.Cleanup(s.pins.close)
	return s, f
}

func put(t *testing.T, s *kvService, key, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

func TestBadRequests(t *testing.T) {
	s, f := newTestService(t)
	ctx := t.Context()
	long := make([]byte, maxKeyBytes+1)
	const longText = "key of 65537 bytes exceeds the limit of 65536 bytes"
	batch := func(ops ...*kvv1.Operation) error {
		_, err := s.Batch(ctx, &kvv1.BatchRequest{Operations: ops})
		return err
	}
	scan := func(req *kvv1.ScanRequest) error {
		_, err := s.Scan(ctx, req)
		return err
	}
	for _, test := range []struct {
		name string
		call func() error
		want string
	}{
		{"put without a key", func() error { _, err := s.Put(ctx, &kvv1.PutRequest{}); return err }, "key is empty; it needs at least 1 byte"},
		{"put of a long key", func() error { _, err := s.Put(ctx, &kvv1.PutRequest{Key: long}); return err }, longText},
		{"get without a key", func() error { _, err := s.Get(ctx, &kvv1.GetRequest{}); return err }, "key is empty; it needs at least 1 byte"},
		{"get of no known consistency", func() error {
			_, err := s.Get(ctx, &kvv1.GetRequest{Key: []byte("a"), Consistency: 9})
			return err
		}, "consistency 9 is not one of linearizable (1), stale (2), lease (3)"},
		{"delete without a key", func() error { _, err := s.Delete(ctx, &kvv1.DeleteRequest{}); return err }, "key is empty; it needs at least 1 byte"},
		{"swap of a long key", func() error {
			_, err := s.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{Key: long})
			return err
		}, longText},
		{"put of a value that no snapshot could carry", func() error {
			_, err := s.Put(ctx, &kvv1.PutRequest{Key: []byte("a"), Value: make([]byte, kv.MaxItemSize)})
			return err
		}, "key and value of 67108865 bytes exceed the limit of 67108864 bytes"},
		{"batch of too many", func() error { return batch(make([]*kvv1.Operation, maxOperations+1)...) }, "operations has more elements than the limit of 65536"},
		{"empty batch", func() error { return batch() }, "operations is empty; a batch needs at least 1"},
		{"batch of no known kind", func() error {
			return batch(&kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: []byte("a")}, &kvv1.Operation{Kind: 9, Key: []byte("a")})
		}, "operations[1]: kind 9 is not one of put (1), get (2), delete (3), compare-and-swap (4)"},
		{"batch without a key", func() error {
			return batch(&kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_GET})
		}, "operations[0]: key is empty; it needs at least 1 byte"},
		{"scan of prefix and start", func() error { return scan(&kvv1.ScanRequest{Prefix: []byte("a"), Start: []byte("b")}) }, `prefix "a" cannot be combined with start or end`},
		{"scan to a long end", func() error { return scan(&kvv1.ScanRequest{End: long}) }, "end of 65537 bytes exceeds the limit of 65536 bytes"},
		{"scan of no known consistency", func() error { return scan(&kvv1.ScanRequest{Consistency: -1}) }, "consistency -1 is not one of linearizable (1), stale (2), lease (3)"},
		{"scan with a damaged token", func() error { return scan(&kvv1.ScanRequest{PageToken: []byte("x")}) }, "page_token is not one that Scan gave out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.call()
			code, applied, _ := outcome(err)
			if code != codes.InvalidArgument || applied != kvv1.Applied_APPLIED_NO || status.Convert(err).Message() != test.want {
				t.Errorf("got %v, %v, %q", code, applied, status.Convert(err).Message())
			}
		})
	}
	if f.calls != 0 {
		t.Errorf("%d of them were proposed", f.calls)
	}
}

// A write whose deadline has passed on arrival is not proposed, and says so; one
// whose deadline passes afterwards may have been applied, and says that.
func TestDeadlines(t *testing.T) {
	// A channel that is made within synctest's bubble can't be used outside.
	defer func(outside *sync.Pool) { calls = outside }(calls)
	calls = newCallPool()
	synctest.Test(t, func(t *testing.T) {
		s, f := newTestService(t)
		f.hold = true
		f.read = func(replica.ReadWaiter) error { return nil }
		passed, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		running := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}
		key := []byte("k")
		batch := &kvv1.BatchRequest{Operations: []*kvv1.Operation{{Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: key}}}
		for _, test := range []struct {
			name  string
			write bool
			call  func(context.Context) error
		}{
			{"put", true, func(ctx context.Context) error { _, err := s.Put(ctx, &kvv1.PutRequest{Key: key}); return err }},
			{"delete", true, func(ctx context.Context) error {
				_, err := s.Delete(ctx, &kvv1.DeleteRequest{Key: key})
				return err
			}},
			{"swap", true, func(ctx context.Context) error {
				_, err := s.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{Key: key})
				return err
			}},
			{"batch", true, func(ctx context.Context) error { _, err := s.Batch(ctx, batch); return err }},
			{"get", false, func(ctx context.Context) error { _, err := s.Get(ctx, &kvv1.GetRequest{Key: key}); return err }},
			{"scan", false, func(ctx context.Context) error { _, err := s.Scan(ctx, &kvv1.ScanRequest{}); return err }},
		} {
			before := f.calls
			code, applied, _ := outcome(test.call(passed))
			if code != codes.DeadlineExceeded || applied != kvv1.Applied_APPLIED_NO || f.calls != before {
				t.Errorf("%s, passed on arrival: %v, %v, proposed %d times", test.name, code, applied, f.calls-before)
			}
			want := kvv1.Applied_APPLIED_NO
			if test.write {
				want = kvv1.Applied_APPLIED_UNKNOWN
			}
			if code, applied, _ := outcome(test.call(running())); code != codes.DeadlineExceeded || applied != want {
				t.Errorf("%s, passed while waiting: %v, %v", test.name, code, applied)
			}
		}
	})
}

func TestStaleReadAsksNobody(t *testing.T) {
	s, f := newTestService(t)
	put(t, s, "k", "v")
	f.read = func(replica.ReadWaiter) error { return errors.New("asked") }
	resp, err := s.Get(t.Context(), &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_STALE})
	if err != nil || string(resp.GetValue()) != "v" || !resp.GetFound() {
		t.Errorf("stale get: %v, %v", resp, err)
	}
	if _, err := s.Get(t.Context(), &kvv1.GetRequest{Key: []byte("k")}); err == nil {
		t.Error("the default read did not ask for a barrier")
	}
}

// A lease read goes on at once while the lease lasts, waits where it does not, and
// is refused with the leader's address where another node leads.
func TestLeaseRead(t *testing.T) {
	s, f := newTestService(t)
	put(t, s, "k", "v")
	f.read = func(replica.ReadWaiter) error { return errors.New("asked for a round") }
	held := make(chan replica.ReadWaiter, 1)
	for name, lease := range map[string]func(replica.ReadWaiter) (bool, error){
		"held":   nil,
		"waited": func(w replica.ReadWaiter) (bool, error) { held <- w; return false, nil },
	} {
		f.lease = lease
		if name == "waited" {
			go func() { (<-held).Ready(nil) }()
		}
		resp, err := s.Get(t.Context(), &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_LEASE})
		if err != nil || string(resp.GetValue()) != "v" {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	f.lease = func(replica.ReadWaiter) (bool, error) { return false, replica.ErrNotLeader }
	_, get := s.Get(t.Context(), &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_LEASE})
	_, scan := s.Scan(t.Context(), &kvv1.ScanRequest{Consistency: kvv1.Consistency_CONSISTENCY_LEASE})
	for _, err := range []error{get, scan} {
		if code, applied, leader := outcome(err); code != codes.FailedPrecondition || applied != kvv1.Applied_APPLIED_NO || leader.GetLeaderAddress() != "127.0.0.1:2" {
			t.Errorf("where another node leads: %v", err)
		}
	}
}

// A pooled call must not carry an answer over to the next operation.
func TestCallsAreReusable(t *testing.T) {
	s, f := newTestService(t)
	boom := errors.New("boom")
	f.fate = func(c *kv.Command) error {
		if string(c.Key) == "bad" {
			return boom
		}
		return nil
	}
	for range 100 {
		if _, err := s.Put(t.Context(), &kvv1.PutRequest{Key: []byte("bad")}); err == nil {
			t.Fatal("the failed put succeeded")
		}
		put(t, s, "good", "v")
	}
}
