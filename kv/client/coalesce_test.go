package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func coalescer(tb testing.TB, c *client.Client, how client.Read) *client.Coalescer {
	tb.Helper()
	g, err := c.NewCoalescer(within(tb, time.Minute), how)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := g.Close(); err != nil {
			tb.Error(err)
		}
	})
	return g
}

// Each caller gets the answers of its own calls, in its own order, though all
// share messages.
func TestCoalescerConcurrently(t *testing.T) {
	for _, how := range []client.Read{client.ReadLinearizable, client.ReadFollower} {
		cluster := clienttest.Start(t, 3)
		g := coalescer(t, open(t, cluster), how)
		ctx := within(t, time.Minute)
		var callers sync.WaitGroup
		for caller := range 32 {
			callers.Go(func() {
				key, buffer := fmt.Appendf(nil, "k%d", caller), []byte{}
				for round := range 20 {
					buffer = fmt.Appendf(buffer[:0], "%d/%d", caller, round)
					w, err := g.Put(ctx, key, buffer)
					if err != nil || w.GetVersion() != uint64(round)+1 {
						t.Errorf("put %s: %v, version %d", buffer, err, w.GetVersion())
						return
					}
					r, err := g.Get(ctx, key)
					if err != nil || string(r.GetValue()) != string(buffer) || r.GetModRevision() != w.GetModRevision() {
						t.Errorf("get %s: %v, %q", buffer, err, r.GetValue())
						return
					}
				}
				if r, err := g.Get(ctx, []byte("nothing")); err != nil || r.GetFound() {
					t.Errorf("a missing key: %v, %v", err, r)
				}
				swapped, err := g.Do(ctx, &kvv1.Operation{
					Kind: kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP, Key: key, Value: []byte("x"), Expect: []byte("other"),
				})
				if err != nil || swapped.GetSucceeded() || string(swapped.GetValue()) != string(buffer) {
					t.Errorf("a failed swap: %v, %v", err, swapped)
				}
			})
		}
		callers.Wait()
		if n := cluster.Node(1).Calls(clienttest.Put); n != 0 {
			t.Errorf("%d calls were RPCs of their own", n)
		}
	}
}

// While messages are held up, calls gather: a few messages hold them all.
func TestCoalescerGathers(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	release := make(chan struct{})
	var mu sync.Mutex
	var sizes []int
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		mu.Lock()
		sizes = append(sizes, len(req.GetOperations()))
		mu.Unlock()
		<-release
		return send(answer(req))
	}
	g := coalescer(t, open(t, cluster), client.ReadLinearizable)
	ctx := within(t, time.Minute)
	const calls = 500
	var callers sync.WaitGroup
	var begun sync.WaitGroup
	begun.Add(calls)
	for i := range calls {
		callers.Go(func() {
			begun.Done()
			if _, err := g.Put(ctx, fmt.Appendf(nil, "k%d", i), []byte("v")); err != nil {
				t.Error(err)
			}
		})
	}
	begun.Wait()
	time.Sleep(50 * time.Millisecond) // most of them wait by now; the test holds if they don't
	close(release)
	callers.Wait()
	total := 0
	for _, n := range sizes {
		total += n
	}
	if total != calls || len(sizes) > calls/2 {
		t.Errorf("%d operations in %d messages: %v", total, len(sizes), sizes)
	}
}

// A caller whose time is up leaves alone: its company is answered, and what it
// hears says whether its write was sent.
func TestCoalescerLeaving(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	received, release := make(chan struct{}, 100), make(chan struct{})
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		received <- struct{}{}
		<-release
		return send(answer(req))
	}
	g := coalescer(t, open(t, cluster), client.ReadLinearizable)
	put := func(ctx context.Context, key string) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := g.Put(ctx, []byte(key), []byte("v"))
			done <- err
		}()
		return done
	}
	leaving, leave := context.WithCancel(within(t, time.Minute))
	sent := put(leaving, "sent")
	<-received // one message is held at the node, others are in its buffers or under way
	stays := put(within(t, time.Minute), "stays")
	leave()
	err := <-sent
	if !errors.Is(err, context.Canceled) || client.Applied(err) != kvv1.Applied_APPLIED_UNKNOWN {
		t.Errorf("one that was sent: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := g.Get(ended, []byte("k")); !errors.Is(err, context.Canceled) || client.Applied(err) != kvv1.Applied_APPLIED_NO {
		t.Errorf("a get whose time is up: %v", err)
	}
	close(release)
	if err := <-stays; err != nil {
		t.Errorf("its company: %v", err)
	}
}

// A refusal of one's own is sent again also when others in the message were
// applied, and each write is applied once.
func TestCoalescerRepeats(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	refused := map[string]bool{}
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		kept := &kvv1.StreamRequest{}
		resp := &kvv1.StreamResponse{}
		for _, op := range req.GetOperations() {
			if key := string(op.GetKey()); key[0] == 'x' && !refused[key] {
				refused[key] = true
				resp.Results = append(resp.Results, &kvv1.Result{Id: op.GetId(), Kind: op.GetKind(), Error: &kvv1.OperationError{
					Code: uint32(codes.ResourceExhausted), Message: "full", Applied: kvv1.Applied_APPLIED_NO,
				}})
				continue
			}
			kept.Operations = append(kept.Operations, op)
		}
		resp.Results = append(resp.Results, answer(kept).GetResults()...)
		return send(resp)
	}
	g := coalescer(t, open(t, cluster), client.ReadLinearizable)
	ctx := within(t, time.Minute)
	var callers sync.WaitGroup
	for i := range 40 {
		callers.Go(func() {
			w, err := g.Put(ctx, fmt.Appendf(nil, "%c%d", "xy"[i%2], i), []byte("v"))
			if err != nil || w.GetVersion() != 1 {
				t.Errorf("%d: %v, version %d", i, err, w.GetVersion())
			}
		})
	}
	callers.Wait()
	if len(refused) != 20 {
		t.Errorf("%d were refused", len(refused))
	}
}

// A leader that is silent is left, as by a pipeline, and each caller hears of its own
// write only.
func TestCoalescerLeavesASilentNode(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	silence(t, cluster)
	c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), RefreshInterval: -1, AttemptTimeout: soon})
	g := coalescer(t, c, client.ReadLinearizable)
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			key := fmt.Sprint(i)
			_, err := g.Put(t.Context(), []byte(key), nil)
			if n := cluster.Applied(key); err == nil && n != 1 || err != nil && (client.Applied(err) != unknown || n > 1) {
				t.Errorf("write %d: %v, and was applied %d times", i, err, n)
			}
			if _, err := g.Get(t.Context(), []byte(key)); err != nil {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	callers.Wait()
	if _, err := g.Put(t.Context(), []byte("after"), nil); err != nil {
		t.Error(err)
	}
}

func TestCoalescerClosed(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c := open(t, cluster)
	g := coalescer(t, c, client.ReadStale)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := g.Put(t.Context(), []byte("k"), nil)
		if client.Applied(err) != kvv1.Applied_APPLIED_NO {
			t.Errorf("after Close: %v", err)
		}
	}
	// The client's end is its own.
	g = coalescer(t, c, client.ReadLinearizable)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Get(t.Context(), []byte("k")); err == nil {
		t.Error("a closed client answers")
	}
	if _, err := c.NewCoalescer(t.Context(), client.ReadLinearizable); err == nil {
		t.Error("a closed client opens a coalescer")
	}
}
