package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv/client"
	"raftlab/kv/client/clienttest"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

type (
	answerFunc = func(*kvv1.StreamRequest) *kvv1.StreamResponse
	sendFunc   = func(*kvv1.StreamResponse) error
)

func openPipeline(tb testing.TB, c *client.Client) *client.Pipeline {
	tb.Helper()
	p, err := c.NewPipeline(within(tb, time.Minute))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// outcome is the error of one operation of a Do.
func outcome(results []*kvv1.Result, err error, i int) error {
	if err != nil {
		return err
	}
	return client.ResultError(results[i])
}

// answers checks that results are those of the operations, in their order.
func answers(tb testing.TB, operations []*kvv1.Operation, results []*kvv1.Result) {
	tb.Helper()
	if len(results) != len(operations) {
		tb.Fatalf("%d results of %d operations", len(results), len(operations))
	}
	for i, r := range results {
		if err := client.ResultError(r); err != nil {
			tb.Errorf("operation %d: %v", i, err)
		}
		if r.GetKind() != operations[i].GetKind() {
			tb.Errorf("operation %d is a %v, its result a %v", i, operations[i].GetKind(), r.GetKind())
		}
	}
}

func TestPipelineConcurrently(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	p := openPipeline(t, open(t, cluster))
	ctx := within(t, time.Minute)
	var callers sync.WaitGroup
	for caller := range 16 {
		callers.Go(func() {
			for round := range 20 {
				key, value := fmt.Sprintf("k%d", caller), fmt.Sprint(round)
				operations := []*kvv1.Operation{put(key, value), get(key)}
				for i := range caller {
					operations = append(operations, put(fmt.Sprintf("%s/%d", key, i), value))
				}
				results, err := p.Do(ctx, operations)
				if err != nil {
					t.Error(err)
					return
				}
				answers(t, operations, results)
				if got := string(results[1].GetValue()); got != value {
					t.Errorf("read %q of what %q was written to", got, value)
				}
				if v := results[0].GetVersion(); v != uint64(round)+1 {
					t.Errorf("version %d in round %d", v, round)
				}
			}
		})
	}
	callers.Wait()
	if n := cluster.Node(1).Calls(clienttest.Stream); n != 1 {
		t.Errorf("%d streams were opened", n)
	}
}

// Answers come in any order, in pieces, and of several messages at once.
func TestPipelineAnswersInAnyOrder(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	var held []*kvv1.Result
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		held = append(held, answer(req).GetResults()...)
		if len(held) < 12 {
			return nil
		}
		slices.Reverse(held)
		// Neighbours of different messages, too.
		for i := 0; i+6 < len(held); i += 4 {
			held[i], held[i+6] = held[i+6], held[i]
		}
		for _, size := range []int{1, 7, 4} {
			if err := send(&kvv1.StreamResponse{Results: held[:size]}); err != nil {
				return err
			}
			held = held[size:]
		}
		return nil
	}
	p := openPipeline(t, open(t, cluster))
	ctx := within(t, time.Minute)
	var callers sync.WaitGroup
	for caller := range 3 {
		callers.Go(func() {
			key := fmt.Sprint(caller)
			operations := []*kvv1.Operation{put(key, "1"), put(key, "2"), get(key), put(key, "3")}
			results, err := p.Do(ctx, operations)
			if err != nil {
				t.Error(err)
				return
			}
			answers(t, operations, results)
			for i, version := range []uint64{1, 2, 2, 3} {
				if got := results[i].GetVersion(); got != version {
					t.Errorf("result %d has version %d, want %d", i, got, version)
				}
			}
		})
	}
	callers.Wait()
}

// What was not asked, or was answered before, breaks the stream: the outcome of
// its writes is unknown, and the next message opens another.
func TestPipelineStrayAnswers(t *testing.T) {
	spoil := map[string]func(r []*kvv1.Result) []*kvv1.Result{
		"duplicate":     func(r []*kvv1.Result) []*kvv1.Result { return []*kvv1.Result{r[0], r[0]} },
		"too many":      func(r []*kvv1.Result) []*kvv1.Result { return append(r, r[0]) },
		"other message": func(r []*kvv1.Result) []*kvv1.Result { r[0].Id += 1 << 16; return r },
		"other place":   func(r []*kvv1.Result) []*kvv1.Result { r[1].Id += 5; return r },
		"no id":         func(r []*kvv1.Result) []*kvv1.Result { r[1].Id = 0; return r },
	}
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			cluster := clienttest.Start(t, 1)
			messages := 0
			cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
				resp := answer(req)
				if messages++; messages == 1 {
					resp.Results = spoil(resp.GetResults())
				}
				return send(resp)
			}
			p := openPipeline(t, open(t, cluster))
			ctx := within(t, time.Minute)
			results, err := p.Do(ctx, []*kvv1.Operation{put("a", "1"), put("b", "1")})
			if err = outcome(results, err, 1); name != "too many" && (client.Applied(err) != unknown || status.Code(err) == codes.OK) {
				t.Fatalf("%v, applied %v", err, client.Applied(err))
			}
			if _, err := p.Do(ctx, []*kvv1.Operation{put("c", "1")}); err != nil {
				t.Fatal(err)
			}
			if n := cluster.Applied("a"); n != 1 {
				t.Errorf("a was applied %d times", n)
			}
			if n := cluster.Node(1).Calls(clienttest.Stream); n != 2 {
				t.Errorf("%d streams were opened, want 2", n)
			}
		})
	}
}

// An operation without an answer costs its message only.
func TestPipelineMissingAnswer(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	messages := 0
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		resp := answer(req)
		if messages++; messages == 1 {
			resp.Results = resp.GetResults()[:1]
		}
		return send(resp)
	}
	p := openPipeline(t, open(t, cluster))
	results, err := p.Do(within(t, soon), []*kvv1.Operation{put("a", "1"), put("b", "1"), get("c")})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ResultError(results[0]); err != nil {
		t.Errorf("the answered one: %v", err)
	}
	err = client.ResultError(results[1])
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != unknown {
		t.Errorf("the write without an answer: %v, applied %v", err, client.Applied(err))
	}
	err = client.ResultError(results[2])
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != no {
		t.Errorf("the read without an answer: %v, applied %v", err, client.Applied(err))
	}
	if _, err := p.Do(within(t, time.Minute), []*kvv1.Operation{put("d", "1")}); err != nil {
		t.Fatal(err)
	}
	if n := cluster.Node(1).Calls(clienttest.Stream); n != 1 {
		t.Errorf("%d streams were opened", n)
	}
}

func TestPipelineLateAnswerIsDropped(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	release := make(chan struct{})
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		if string(req.GetOperations()[0].GetKey()) == "late" {
			<-release
		}
		return send(answer(req))
	}
	p := openPipeline(t, open(t, cluster))
	_, err := p.Do(within(t, soon), []*kvv1.Operation{put("late", "1"), put("late", "2")})
	close(release)
	if !errors.Is(err, context.DeadlineExceeded) || client.Applied(err) != unknown {
		t.Fatalf("%v, applied %v", err, client.Applied(err))
	}
	operations := []*kvv1.Operation{put("a", "1")}
	results, err := p.Do(within(t, time.Minute), operations)
	if err != nil {
		t.Fatal(err)
	}
	answers(t, operations, results)
	if n := cluster.Node(1).Calls(clienttest.Stream); n != 1 {
		t.Errorf("%d streams were opened", n)
	}
}

func TestPipelineFollowsTheLeader(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	p := openPipeline(t, open(t, cluster))
	ctx := within(t, time.Minute)
	var callers sync.WaitGroup
	var done atomic.Int64
	for caller := range 8 {
		callers.Go(func() {
			for round := range 60 {
				if done.Add(1)%80 == 0 {
					cluster.SetLeader(uint64(done.Load()/80)%3 + 1)
				}
				key := fmt.Sprintf("k%d", caller)
				operations := []*kvv1.Operation{put(key, fmt.Sprint(round)), get(key), put(key, "x")}
				results, err := p.Do(ctx, operations)
				if err != nil {
					t.Error(err)
					return
				}
				answers(t, operations, results)
			}
		})
	}
	callers.Wait()
	for caller := range 8 {
		if n := cluster.Applied(fmt.Sprintf("k%d", caller)); n != 120 {
			t.Errorf("key of caller %d was written %d times, want 120", caller, n)
		}
	}
}

// A message of which some writes took effect is not sent again in part.
func TestPipelineKeepsTheOrderOfWrites(t *testing.T) {
	refuse := func(r *kvv1.Result) {
		r.Succeeded = false
		r.Error = &kvv1.OperationError{Code: uint32(codes.ResourceExhausted), Message: "overloaded", Applied: no}
	}
	cases := map[string]struct {
		refused []int // of the first message: put a, get a, put b
		calls   int
		failed  []int
	}{
		"all refused":   {[]int{0, 1, 2}, 2, nil},
		"both writes":   {[]int{0, 2}, 2, nil},
		"first write":   {[]int{0}, 1, []int{0}},
		"second write":  {[]int{2}, 1, []int{2}},
		"only the read": {[]int{1}, 2, nil},
		"write and read": {
			[]int{0, 1}, 2, []int{0}, // the read alone goes again
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cluster := clienttest.Start(t, 1)
			var messages atomic.Int64
			cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
				resp := answer(req)
				if messages.Add(1) == 1 {
					for _, i := range tc.refused {
						refuse(resp.Results[i])
					}
				}
				return send(resp)
			}
			p := openPipeline(t, open(t, cluster))
			results, err := p.Do(within(t, time.Minute), []*kvv1.Operation{put("a", "1"), get("a"), put("b", "1")})
			if err != nil {
				t.Fatal(err)
			}
			var failed []int
			for i, r := range results {
				if client.ResultError(r) != nil {
					failed = append(failed, i)
				}
			}
			if !slices.Equal(failed, tc.failed) || int(messages.Load()) != tc.calls {
				t.Errorf("failed %v in %d messages, want %v in %d", failed, messages.Load(), tc.failed, tc.calls)
			}
		})
	}
}

func TestPipelineOperationsRefusedForGood(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	var messages atomic.Int64
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		messages.Add(1)
		resp := answer(req)
		resp.Results[0].Error = &kvv1.OperationError{Code: uint32(codes.InvalidArgument), Message: "empty key", Applied: no}
		return send(resp)
	}
	p := openPipeline(t, open(t, cluster))
	results, err := p.Do(within(t, time.Minute), []*kvv1.Operation{put("", "1"), put("b", "1")})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ResultError(results[0]); status.Code(err) != codes.InvalidArgument || client.Applied(err) != no {
		t.Errorf("%v", err)
	}
	if client.ResultError(results[1]) != nil || messages.Load() != 1 {
		t.Errorf("%v after %d messages", results[1], messages.Load())
	}
}

func TestPipelineBrokenStream(t *testing.T) {
	// The server applies the first message and breaks the stream without an
	// answer, even with a detail that claims it was not applied.
	for name, broken := range map[string]error{
		"plain":            status.Error(codes.Unavailable, "stopping"),
		"claims too much":  clienttest.Refusal(codes.Unavailable, "stopping"),
		"internal":         status.Error(codes.Internal, "broken"),
		"ended":            nil,
		"connection reset": errReset,
	} {
		t.Run(name, func(t *testing.T) {
			cluster := clienttest.Start(t, 2)
			node := cluster.Node(1)
			var messages atomic.Int64
			restarted := make(chan error, 1)
			node.OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
				resp := answer(req)
				if messages.Add(1) > 1 {
					return send(resp)
				}
				if errors.Is(broken, errReset) {
					go func() { restarted <- node.Restart() }()
					return nil
				}
				if broken == nil {
					return errEnd
				}
				return broken
			}
			p := openPipeline(t, open(t, cluster))
			ctx := within(t, time.Minute)
			results, err := p.Do(ctx, []*kvv1.Operation{get("w"), put("w", "1")})
			if err = outcome(results, err, 1); client.Applied(err) != unknown || status.Code(err) == codes.OK {
				t.Fatalf("%v, applied %v", err, client.Applied(err))
			}
			if n := cluster.Applied("w"); n != 1 {
				t.Errorf("applied %d times", n)
			}
			if errors.Is(broken, errReset) {
				if err := <-restarted; err != nil {
					t.Fatal(err)
				}
			}
			if _, err := p.Do(ctx, []*kvv1.Operation{get("w"), put("v", "1")}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

var (
	errReset = errors.New("reset")
	errEnd   = status.Error(codes.Aborted, "")
)

// Reads go again when the stream breaks, and so does what was never sent.
func TestPipelineReadsSurviveABreak(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	var messages atomic.Int64
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		if messages.Add(1) == 1 {
			return status.Error(codes.Unavailable, "stopping")
		}
		return send(answer(req))
	}
	p := openPipeline(t, open(t, cluster))
	operations := []*kvv1.Operation{get("a"), get("b")}
	results, err := p.Do(within(t, time.Minute), operations)
	if err != nil {
		t.Fatal(err)
	}
	answers(t, operations, results)
}

// A server that does not read: calls keep their deadlines, and those that were
// still queued know that they were not applied.
func TestPipelineStuckServer(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	release := make(chan struct{})
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		<-release
		return send(answer(req))
	}
	p := openPipeline(t, open(t, cluster))
	value := string(make([]byte, 512<<10))
	var callers sync.WaitGroup
	var sent, kept atomic.Int64
	for i := range 16 {
		callers.Go(func() {
			_, err := p.Do(within(t, soon), []*kvv1.Operation{put(fmt.Sprint(i), value)})
			switch client.Applied(err) {
			case unknown:
				sent.Add(1)
			case no:
				kept.Add(1)
			case kvv1.Applied_APPLIED_UNSPECIFIED:
				t.Error("answered by a stuck server")
			}
		})
	}
	callers.Wait()
	if sent.Load() == 0 || kept.Load() == 0 {
		t.Errorf("%d perhaps sent, %d surely not; want some of each", sent.Load(), kept.Load())
	}
	close(release)
	if _, err := p.Do(within(t, time.Minute), []*kvv1.Operation{put("after", "1")}); err != nil {
		t.Fatal(err)
	}
	applied := 0
	for i := range 16 {
		applied += cluster.Applied(fmt.Sprint(i))
	}
	if int64(applied) > sent.Load() {
		t.Errorf("%d applied, but only %d may have been", applied, sent.Load())
	}
}

// When the stream breaks, what was still queued goes out on the next one.
func TestPipelineQueuedWritesSurviveABreak(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	var messages atomic.Int64
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, send sendFunc) error {
		if messages.Add(1) > 1 {
			return send(answer(req))
		}
		// Time for the others to queue up. With less of it the test proves less.
		<-time.After(200 * time.Millisecond)
		return status.Error(codes.Unavailable, "stopping")
	}
	p := openPipeline(t, open(t, cluster))
	value := string(make([]byte, 512<<10))
	var lost atomic.Int64
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			key := fmt.Sprint(i)
			_, err := p.Do(within(t, time.Minute), []*kvv1.Operation{put(key, value)})
			if err != nil && client.Applied(err) == unknown {
				lost.Add(1)
				return
			}
			if err != nil || cluster.Applied(key) != 1 {
				t.Errorf("write %d: %v, applied %d times", i, err, cluster.Applied(key))
			}
		})
	}
	callers.Wait()
	// The window holds two of them, one is being read and one is being sent.
	if n := lost.Load(); n == 0 || n > 5 {
		t.Errorf("%d writes have an unknown outcome, want a few", n)
	}
}

// silence makes node 1 answer nothing: it applies one message, whereupon another node
// leads, and after a few it does not even read.
func silence(t *testing.T, cluster *clienttest.Cluster) {
	t.Helper()
	stopped := make(chan struct{})
	t.Cleanup(func() { close(stopped) })
	messages := 0
	cluster.Node(1).OnMessage = func(req *kvv1.StreamRequest, answer answerFunc, _ sendFunc) error {
		answer(req)
		cluster.SetLeader(2)
		if messages++; messages == 3 {
			<-stopped
		}
		return nil
	}
}

// The leader takes writes and answers none, though its connection holds: the stream
// is given up, and with the next one another node serves. What the leader may have
// applied is not said to be lost, nor sent again; what it can't have seen is.
func TestPipelineLeavesASilentNode(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	silence(t, cluster)
	p := openPipeline(t, openConfig(t, client.Config{Endpoints: cluster.Addresses(), RefreshInterval: -1, AttemptTimeout: soon}))
	value := string(make([]byte, 512<<10)) // two fill the window: most stay queued
	var callers sync.WaitGroup
	var answered, open atomic.Int64
	for i := range 16 {
		callers.Go(func() {
			key := fmt.Sprint(i)
			results, err := p.Do(t.Context(), []*kvv1.Operation{put(key, value), get(key)})
			if err == nil && client.ResultError(results[1]) != nil {
				t.Errorf("read %d: %v", i, client.ResultError(results[1]))
			}
			n := cluster.Applied(key)
			switch err := outcome(results, err, 0); {
			case err == nil && n == 1:
				answered.Add(1)
			case errors.Is(err, context.DeadlineExceeded) && client.Applied(err) == unknown && n <= 1:
				open.Add(1)
			default:
				t.Errorf("write %d: %v, and was applied %d times", i, err, n)
			}
		})
	}
	callers.Wait()
	if answered.Load() == 0 || open.Load() == 0 {
		t.Errorf("%d were answered, of %d the outcome is open", answered.Load(), open.Load())
	}
}

// So it is when no caller waits for as long as the attempt timeout.
func TestPipelineLeavesANodeSilentToTheImpatient(t *testing.T) {
	cluster := clienttest.Start(t, 3)
	silence(t, cluster)
	p := openPipeline(t, openConfig(t, client.Config{Endpoints: cluster.Addresses(), RefreshInterval: -1, AttemptTimeout: soon}))
	for ctx := within(t, time.Minute); ; {
		short, cancel := context.WithTimeout(ctx, soon/4)
		_, err := p.Do(short, []*kvv1.Operation{get("k")})
		cancel()
		switch {
		case err == nil:
			return
		case ctx.Err() != nil:
			t.Fatal(err)
		}
	}
}

// A stopped process still takes connections, which is as far as opening a stream gets.
func TestPipelineOpensPastASilentNode(t *testing.T) {
	var config net.ListenConfig
	stopped, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stopped.Close() })
	c := openConfig(t, client.Config{
		Endpoints:       append([]string{stopped.Addr().String()}, clienttest.Start(t, 1).Addresses()...),
		RefreshInterval: -1, AttemptTimeout: soon,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Hour})},
	})
	if _, err := openPipeline(t, c).Do(t.Context(), []*kvv1.Operation{put("k", "v")}); err != nil {
		t.Error(err)
	}
}

func TestPipelineLimits(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	c := openConfig(t, client.Config{Endpoints: cluster.Addresses(), MaxRequest: 1000, RefreshInterval: -1})
	p := openPipeline(t, c)
	ctx := within(t, time.Minute)
	if results, err := p.Do(ctx, nil); err != nil || len(results) != 0 {
		t.Errorf("no operations: %v, %v", results, err)
	}
	for name, operations := range map[string][]*kvv1.Operation{
		"bytes":      {put("a", string(make([]byte, 1000)))},
		"operations": make([]*kvv1.Operation, 1<<16+1),
	} {
		if _, err := p.Do(ctx, operations); err == nil || client.Applied(err) != no {
			t.Errorf("%s: %v, applied %v", name, err, client.Applied(err))
		}
	}
	if _, err := p.Do(ctx, []*kvv1.Operation{put("a", "1")}); err != nil {
		t.Errorf("the stream did not survive: %v", err)
	}
}

func TestPipelineClose(t *testing.T) {
	cluster := clienttest.Start(t, 1)
	arrived := make(chan struct{}, 1)
	cluster.Node(1).OnMessage = func(*kvv1.StreamRequest, answerFunc, sendFunc) error {
		arrived <- struct{}{}
		return nil
	}
	c := open(t, cluster)
	p := openPipeline(t, c)
	failed := make(chan error, 1)
	go func() {
		_, err := p.Do(t.Context(), []*kvv1.Operation{put("a", "1")})
		failed <- err
	}()
	<-arrived
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; client.Applied(err) != unknown {
		t.Errorf("a write under way: %v, applied %v", err, client.Applied(err))
	}
	if _, err := p.Do(t.Context(), []*kvv1.Operation{put("a", "1")}); client.Applied(err) != no {
		t.Errorf("a write after: %v, applied %v", err, client.Applied(err))
	}
	// The client is not closed with it.
	if _, err := c.Put(within(t, time.Minute), []byte("b"), nil); err != nil {
		t.Error(err)
	}
}
