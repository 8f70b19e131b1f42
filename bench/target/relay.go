package target

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"raftlab/kv/node"
)

const (
	relayMethod = "/raftlab.bench.Relay/Append"
	// relayFrame is how many bytes of waiting puts make one message to a
	// follower; a larger put is a message by itself.
	relayFrame = 1 << 20
	// relayLag is how many bytes the slowest follower may lag before puts wait
	// for it. A majority goes on without it for a while, but what never reaches
	// it is no replication.
	relayLag = 64 << 20
	// relayCopy is the size from which a value is handed to gRPC as it is;
	// a smaller one is copied, which is cheaper than a buffer of its own.
	relayCopy = 4 << 10
	// relayStart is how long a leader waits for its followers.
	relayStart = 10 * time.Second
	// relaySlack is what a frame adds to the largest request.
	relaySlack = 1 << 20
	// relaySequence is the size of a sequence number: all of an acknowledgement,
	// and the head of each frame.
	relaySequence = 8
)

// entry is one put on its way to the followers.
type entry struct{ key, value []byte }

func (e *entry) size() int { return len(e.key) + len(e.value) }

// relay is the leader's half: puts are numbered in the order in which they come,
// and each follower has a stream that carries them in that order. All methods
// but close may be called concurrently.
type relay struct {
	need  int // followers that make a majority together with the leader
	peers []*relayPeer
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu   sync.Mutex
	room sync.Cond // log has shrunk, or err is set
	// log holds what some follower has not been sent: the puts base+1, base+2...
	log     []entry
	base    uint64
	bytes   int
	waiting []waiter // by sequence
	commit  uint64
	err     error // why nothing works any more
}

// waiter is a call that waits for its last put to be on a majority.
type waiter struct {
	sequence uint64
	done     chan error // with room for one
}

// relayPeer is one follower. Its fields beside stream and wake belong to the
// relay's lock.
type relayPeer struct {
	stream grpc.ClientStream
	wake   chan struct{}
	sent   uint64
	acked  uint64
}

// waiterChannels saves a channel a put.
var waiterChannels = sync.Pool{New: func() any { return make(chan error, 1) }}

// newRelay connects to the followers. ctx bounds that only.
func newRelay(ctx context.Context, cfg node.Config, followers []string, dialer func(context.Context, string) (net.Conn, error)) (*relay, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	r := &relay{need: (len(followers) + 1) / 2, end: end}
	r.room.L = &r.mu
	defer context.AfterFunc(ctx, end)()
	o := Options{GRPCWindow: int(cfg.GRPCWindow), GRPCWriteBuffer: int(cfg.GRPCWriteBuffer), Dialer: dialer}
	for _, addr := range followers {
		conn, err := grpc.NewClient("passthrough:///"+addr, append(o.dialOptions(),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())...)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("follower %s: %w", addr, err)
		}
		r.wg.Go(func() {
			<-life.Done()
			_ = conn.Close() // the end of a connection that is over
		})
		stream, err := conn.NewStream(life, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, relayMethod,
			grpc.ForceCodecV2(frameCodec{}), grpc.WaitForReady(true), grpc.StaticMethod(),
			grpc.MaxCallSendMsgSize(int(cfg.MaxRequest)+relaySlack))
		if err != nil {
			r.close()
			return nil, fmt.Errorf("follower %s: %w", addr, err)
		}
		r.peers = append(r.peers, &relayPeer{stream: stream, wake: make(chan struct{}, 1)})
	}
	for _, p := range r.peers {
		r.wg.Go(func() {
			if err := r.sendTo(life, p); !errors.Is(err, io.EOF) {
				r.fail(err)
			}
		})
		r.wg.Go(func() { r.fail(r.receiveFrom(p)) })
	}
	return r, nil
}

// close ends the streams and waits for their goroutines.
func (r *relay) close() {
	r.end()
	r.wg.Wait()
}

// fail ends all that waits. A relay is as good as its worst follower: what
// measures it has no use for one that limps.
func (r *relay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = status.Errorf(codes.Unavailable, "relay: %v", err)
	}
	for _, w := range r.waiting {
		w.done <- r.err
	}
	r.waiting = nil
	r.room.Broadcast()
}

// replicate returns when a majority has the entries. It keeps references to
// their bytes, which must not change.
func (r *relay) replicate(ctx context.Context, entries []entry) error {
	if len(r.peers) == 0 || len(entries) == 0 {
		return nil
	}
	done := waiterChannels.Get().(chan error)
	if err := r.queue(entries, done); err != nil {
		waiterChannels.Put(done)
		return err
	}
	for _, p := range r.peers {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	select {
	case err := <-done:
		waiterChannels.Put(done)
		return err
	case <-ctx.Done():
		return ctx.Err() // done is still the relay's to write to
	}
}

// queue appends the entries to the log, and done to what waits for the last.
func (r *relay) queue(entries []entry, done chan error) error {
	size := 0
	for i := range entries {
		size += entries[i].size()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil && r.bytes > 0 && r.bytes+size > relayLag {
		r.room.Wait()
	}
	if r.err != nil {
		return r.err
	}
	r.log = append(r.log, entries...)
	r.bytes += size
	r.waiting = append(r.waiting, waiter{r.base + uint64(len(r.log)), done})
	return nil
}

// sendTo sends all puts to a follower, as many as are waiting in one message.
func (r *relay) sendTo(life context.Context, p *relayPeer) error {
	for {
		entries, last := r.unsent(p)
		if len(entries) == 0 {
			select {
			case <-p.wake:
				continue
			case <-life.Done():
				return life.Err()
			}
		}
		f := frame{data: encodeFrame(entries, last)}
		r.passed(p, last)
		if err := p.stream.SendMsg(&f); err != nil {
			return err // io.EOF for a broken stream, of which receiveFrom knows why
		}
	}
}

// unsent returns the next entries for a follower and the last one's sequence.
// They stay as they are until passed.
func (r *relay) unsent(p *relayPeer) (entries []entry, last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := r.log[p.sent-r.base:]
	n, size := 0, 0
	for n < len(rest) && (n == 0 || size+rest[n].size() <= relayFrame) {
		size += rest[n].size()
		n++
	}
	return rest[:n], p.sent + uint64(n)
}

// passed notes what a follower needs no more from the log, and cuts off what
// none does.
func (r *relay) passed(p *relayPeer, last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.sent = last
	least := last
	for _, other := range r.peers {
		least = min(least, other.sent)
	}
	gone := r.log[:least-r.base]
	if len(gone) == 0 {
		return
	}
	for i := range gone {
		r.bytes -= gone[i].size()
	}
	clear(gone) // large values are not kept for a slot in an array
	r.log, r.base = r.log[len(gone):], least
	r.room.Broadcast()
}

// receiveFrom reads a follower's acknowledgements, each of all up to a sequence.
func (r *relay) receiveFrom(p *relayPeer) error {
	var f frame
	for {
		if err := p.stream.RecvMsg(&f); err != nil {
			return err
		}
		r.acknowledge(p, f.sequence)
	}
}

func (r *relay) acknowledge(p *relayPeer, sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.acked = sequence
	acked := make([]uint64, 0, 8)
	for _, other := range r.peers {
		acked = append(acked, other.acked)
	}
	slices.Sort(acked)
	r.commit = max(r.commit, acked[len(acked)-r.need])
	n := 0
	for n < len(r.waiting) && r.waiting[n].sequence <= r.commit {
		r.waiting[n].done <- nil
		n++
	}
	r.waiting = slices.Delete(r.waiting, 0, n)
}

// frame is a message between leader and follower. What is sent are the buffers;
// of what is received only the sequence is looked at.
type frame struct {
	data     mem.BufferSlice
	sequence uint64
}

// frameCodec passes bytes through.
type frameCodec struct{}

// Name implements encoding.CodecV2.
func (frameCodec) Name() string { return "raftlab-relay" }

// Marshal implements encoding.CodecV2. The buffers are gRPC's from then on.
func (frameCodec) Marshal(v any) (mem.BufferSlice, error) { return v.(*frame).data, nil }

// Unmarshal implements encoding.CodecV2. A follower that kept the value would
// keep these buffers: no copy is made.
func (frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	var head [relaySequence]byte
	if data.CopyTo(head[:]) < len(head) {
		return errors.New("relay: frame is cut short")
	}
	v.(*frame).sequence = binary.BigEndian.Uint64(head[:])
	return nil
}

// encodeFrame writes the last sequence, and of each entry the lengths of key and
// value and their bytes.
func encodeFrame(entries []entry, last uint64) mem.BufferSlice {
	size := relaySequence
	for i := range entries {
		size += 2*binary.MaxVarintLen32 + len(entries[i].key)
		if len(entries[i].value) < relayCopy {
			size += len(entries[i].value)
		}
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	head := binary.BigEndian.AppendUint64((*buffer)[:0], last)
	var frame mem.BufferSlice
	for i := range entries {
		e := &entries[i]
		head = binary.AppendUvarint(head, uint64(len(e.key)))
		head = binary.AppendUvarint(head, uint64(len(e.value)))
		head = append(head, e.key...)
		if len(e.value) < relayCopy {
			head = append(head, e.value...)
			continue
		}
		if len(frame) == 0 {
			*buffer = head
			frame = append(frame, mem.NewBuffer(buffer, pool))
		} else {
			frame = append(frame, mem.SliceBuffer(head))
		}
		frame = append(frame, mem.SliceBuffer(e.value))
		head = nil
	}
	switch {
	case len(frame) == 0:
		*buffer = head
		frame = append(frame, mem.NewBuffer(buffer, pool))
	case len(head) > 0:
		frame = append(frame, mem.SliceBuffer(head))
	}
	return frame
}

// ServeRelay serves puts on lis until ctx ends: each is answered when a majority
// of this process and the followers has it. It closes lis. Gets are answered as
// ServeWire does.
func ServeRelay(ctx context.Context, lis net.Listener, cfg node.Config, valueSize int, followers []string, dialer func(context.Context, string) (net.Conn, error)) error {
	start, cancel := context.WithTimeout(ctx, relayStart)
	r, err := newRelay(start, cfg, followers, dialer)
	cancel()
	if err != nil {
		return errors.Join(fmt.Errorf("relay server: %w", err), lis.Close())
	}
	echo := NewEchoServer(valueSize)
	echo.relay = r
	defer r.close()
	return serveEcho(ctx, lis, cfg, echo)
}

// ServeFollower acknowledges on lis, until ctx ends, what relays send. It closes
// lis.
func ServeFollower(ctx context.Context, lis net.Listener, cfg node.Config) error {
	server := grpc.NewServer(append(node.ClientServerOptions(cfg),
		grpc.ForceServerCodecV2(frameCodec{}), grpc.MaxRecvMsgSize(int(cfg.MaxRequest)+relaySlack))...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "raftlab.bench.Relay", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Append", ClientStreams: true, ServerStreams: true, Handler: follow}},
	}, nil)
	return serve(ctx, lis, server, "relay follower")
}

func follow(_ any, stream grpc.ServerStream) error {
	var in frame
	pool := mem.DefaultBufferPool()
	for {
		if err := stream.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		buffer := pool.Get(relaySequence)
		binary.BigEndian.PutUint64(*buffer, in.sequence)
		if err := stream.SendMsg(&frame{data: mem.BufferSlice{mem.NewBuffer(buffer, pool)}}); err != nil {
			return err
		}
	}
}
