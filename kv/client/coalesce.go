package client

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc/codes"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// Coalescer makes calls of many goroutines share messages of a Stream, since an
// RPC costs far more than the operation that it carries. Callers see calls of one
// operation, as those of Client. It never waits for company: while few messages
// are under way a call goes at once, by itself if it is alone; while many are,
// calls gather, and the next message takes all of them. So messages grow with the
// load by themselves.
//
// Calls of different goroutines are independent and in no order. Outcomes are
// told, and calls repeated, as those of Client are. All methods may be called
// from any goroutine.
type Coalescer struct {
	client *Client
	how    Read
	writes *gathering
	reads  *gathering // nil: gets go with the writes
	calls  sync.Pool  // *gathered
}

const (
	// Messages of one gathering that are under way at most. Fewer leave a node idle
	// for a round trip, more make messages smaller. Of a node that answers at once,
	// two carried a tenth more than four, which hide more of a delay on the way.
	gatherMessages = 4
	// A message takes no more than these; a larger call goes by itself.
	gatherOperations = 1024
	gatherBytes      = 1 << 20
	// About what an operation has beside its bytes.
	gatherOverhead = 32
)

// NewCoalescer opens a coalescer whose gets are as how says; ctx bounds the
// opening only. It ends with Close or with the client.
func (c *Client) NewCoalescer(ctx context.Context, how Read) (*Coalescer, error) {
	g := &Coalescer{client: c, how: how}
	g.calls.New = func() any { return &gathered{done: make(chan struct{}, 1)} }
	p, err := c.NewPipeline(ctx)
	if err != nil {
		return nil, err
	}
	if g.writes, err = c.gather([]*Pipeline{p}); err != nil || !how.Spread() {
		return g, err
	}
	// Each goes to another node.
	var all []*Pipeline
	for range gatherMessages {
		if p, err = c.NewReadPipeline(ctx, how); err != nil {
			break
		}
		all = append(all, p)
	}
	if err == nil {
		g.reads, err = c.gather(all)
	}
	if err != nil {
		for _, p := range all {
			_ = p.Close()
		}
		_ = g.Close()
		return nil, err
	}
	return g, nil
}

// Close ends the coalescer. Calls under way fail; the outcome of writes among
// them that were sent is unknown. Close is an io.Closer and always returns nil.
func (g *Coalescer) Close() error {
	g.writes.close()
	if g.reads != nil {
		g.reads.close()
	}
	return nil
}

// Put writes a key.
func (g *Coalescer) Put(ctx context.Context, key, value []byte) (*kvv1.Result, error) {
	return g.Do(ctx, &kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: value})
}

// Get reads a key; a missing one is an answer, with Found false.
func (g *Coalescer) Get(ctx context.Context, key []byte) (*kvv1.Result, error) {
	return g.Do(ctx, &kvv1.Operation{Kind: kvv1.OperationKind_OPERATION_KIND_GET, Key: key})
}

// Do does one operation, whose id and consistency are not looked at. It and its
// bytes may be used again once Do returns. The result has no error of its own: it
// is Do's, an *Error.
func (g *Coalescer) Do(ctx context.Context, op *kvv1.Operation) (*kvv1.Result, error) {
	to := g.writes
	if g.reads != nil && !isWrite(op) {
		to = g.reads
	}
	var wait patience
	for {
		r, e := g.once(ctx, to, op)
		if e == nil {
			return r, nil
		}
		// The message may have held another's write that was applied, after which
		// the pipeline repeats none. To this caller that one means nothing.
		if !e.retryable() || to.ended() || !wait.wait(ctx, g.client, e.NotLeader && e.LeaderAddress != "") {
			return nil, e
		}
	}
}

// once sends an operation once and waits for its answer.
func (g *Coalescer) once(ctx context.Context, to *gathering, op *kvv1.Operation) (*kvv1.Result, *Error) {
	x := g.calls.Get().(*gathered)
	x.fill(op, g.how.Consistency())
	if !to.add(x) {
		return nil, notSent("Stream", codes.Canceled, "the coalescer is closed")
	}
	select {
	case <-x.done:
	case <-ctx.Done():
		if !to.leave(x) {
			k := write
			if !isWrite(op) {
				k = read
			}
			return nil, g.client.newError("Stream", k, ctx.Err(), x.taken)
		}
		<-x.done
	}
	r, e := x.result, x.err
	x.result, x.err = nil, nil
	g.calls.Put(x)
	return r, e
}

// gathered is one call. The gathering's mutex guards taken and left.
type gathered struct {
	op    kvv1.Operation
	bytes []byte // of op's fields: the caller's are its own again when ctx ends
	taken bool   // a message has it
	left  bool   // nobody waits any more

	result *kvv1.Result
	err    *Error
	done   chan struct{} // capacity 1
}

func (x *gathered) fill(op *kvv1.Operation, how kvv1.Consistency) {
	x.bytes = append(append(append(x.bytes[:0], op.GetKey()...), op.GetValue()...), op.GetExpect()...)
	key, value := len(op.GetKey()), len(op.GetKey())+len(op.GetValue())
	x.op.Kind, x.op.ExpectAbsent, x.op.Consistency = op.GetKind(), op.GetExpectAbsent(), how
	x.op.Key, x.op.Value, x.op.Expect = x.bytes[:key:key], x.bytes[key:value:value], x.bytes[value:]
	x.taken, x.left = false, false
}

// gathering is where calls wait for the next message, and the goroutines that
// send those.
type gathering struct {
	pipelines []*Pipeline
	life      context.Context // of the first pipeline

	mu      sync.Mutex
	more    sync.Cond
	waiting []*gathered
	closed  bool
}

// gather starts a gathering that sends by these pipelines, in turn.
func (c *Client) gather(pipelines []*Pipeline) (*gathering, error) {
	g := &gathering{pipelines: pipelines, life: pipelines[0].life}
	g.more.L = &g.mu
	for i := range gatherMessages {
		if !c.run(func() { g.send(pipelines[i%len(pipelines)]) }) {
			g.close()
			return nil, notSent("Stream", codes.Canceled, "%v", errClosed)
		}
	}
	context.AfterFunc(g.life, g.close)
	return g, nil
}

func (g *gathering) ended() bool { return g.life.Err() != nil }

// close ends the pipelines and refuses what waits.
func (g *gathering) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pipelines {
		_ = p.Close()
	}
	g.closed = true
	for _, x := range g.waiting {
		x.err = notSent("Stream", codes.Canceled, "the coalescer is closed")
		x.done <- struct{}{}
	}
	g.waiting = nil
	g.more.Broadcast()
}

// add queues a call; false when the gathering has ended.
func (g *gathering) add(x *gathered) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.waiting = append(g.waiting, x)
	g.more.Signal()
	return true
}

// leave ends the waiting of a caller; true when it has been answered after all.
func (g *gathering) leave(x *gathered) (answered bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if x.result != nil || x.err != nil {
		return true
	}
	x.left = true
	if !x.taken {
		for i, other := range g.waiting {
			if other == x {
				g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
				break
			}
		}
	}
	return false
}

// take waits for calls and takes as many as fit a message; none when the gathering
// has ended.
func (g *gathering) take(calls []*gathered) []*gathered {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) == 0 && !g.closed {
		g.more.Wait()
	}
	size := 0
	for _, x := range g.waiting {
		size += len(x.bytes) + gatherOverhead
		if len(calls) > 0 && (len(calls) == gatherOperations || size > gatherBytes) {
			break
		}
		x.taken = true
		calls = append(calls, x)
	}
	rest := copy(g.waiting, g.waiting[len(calls):])
	clear(g.waiting[rest:])
	if g.waiting = g.waiting[:rest]; rest > 0 {
		g.more.Signal()
	}
	return calls
}

// send sends messages, one at a time.
func (g *gathering) send(p *Pipeline) {
	var calls []*gathered
	var message []*kvv1.Operation
	for {
		if calls = g.take(calls[:0]); len(calls) == 0 {
			return
		}
		message = message[:0]
		for _, x := range calls {
			message = append(message, &x.op)
		}
		results, err := p.Do(p.life, message)
		g.answer(calls, results, err)
		clear(calls)
	}
}

// answer hands out what became of a message.
func (g *gathering) answer(calls []*gathered, results []*kvv1.Result, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all *Error
	errors.As(err, &all)
	for i, x := range calls {
		e := all
		if e == nil && results[i].GetError() != nil {
			e = operationError(x.op.GetKind(), results[i].GetError())
		}
		switch {
		case x.left:
			continue
		case e == nil:
			x.result = results[i]
		case isWrite(&x.op):
			x.err = e
		default:
			of := *e
			of.Applied = no
			x.err = &of
		}
		x.done <- struct{}{}
	}
}
