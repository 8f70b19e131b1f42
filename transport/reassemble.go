package transport

import (
	"math"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/kv/metric"
)

// Bounds of a Reassembler. A sender that behaves has one message open, since a
// lane sends one after the other.
const (
	// maxReassembled is the largest entry that is put together, and what one
	// peer's open messages may declare in all.
	maxReassembled = 256 << 20
	// maxReassembledTotal is the same over all peers.
	maxReassembledTotal = 1 << 30
	// maxOpenMessages bounds the open messages of a peer, however small.
	maxOpenMessages = 16
	// maxFragmentAge is how long a message may stay without a new piece.
	maxFragmentAge = 30 * time.Second
	// allocateAhead times its first piece is what is allocated for an entry: what
	// a mere declaration costs stays in proportion to what was sent for it.
	allocateAhead = 32
	// allocateAtOnce is what may be allocated without regard to what was sent, for
	// all open messages together: one entry of up to that size, which is the
	// ordinary case, has its pieces go straight to where they stay.
	allocateAtOnce = 2 << 20
)

// ReassemblyLimit is how many bytes the unfinished entries of so many peers take
// at most.
func ReassemblyLimit(peers int) uint64 {
	return min(uint64(max(0, peers))*maxReassembled, maxReassembledTotal)
}

// Reassembler puts entries together that travelled as fragments. It is bounded
// in bytes per peer and in total, in open messages, and by age; it has no clock
// and no goroutine. All methods may be called concurrently.
//
// Errors are gRPC statuses: InvalidArgument for pieces that contradict each
// other, DataLoss for a wrong checksum, ResourceExhausted for a cap. After one,
// what the peer had open is dropped.
type Reassembler struct {
	mu    sync.Mutex
	peers map[uint64]*assembly
	total int // bytes declared by all open messages
	took  *metric.Histogram
}

// assembly is what one peer has open.
type assembly struct {
	epoch    uint64
	last     uint64 // the newest message completed or dropped in this epoch
	declared int
	open     map[uint64]*opening
}

type opening struct {
	header  *pb.Message
	total   int
	data    []byte
	begun   time.Time
	touched time.Time
}

// NewReassembler returns an empty one.
func NewReassembler() *Reassembler {
	return &Reassembler{peers: make(map[uint64]*assembly), took: new(metric.Histogram)}
}

// Add takes in a frame that carries a fragment, and copies what it keeps. It
// returns the whole message, with its one entry, once the last piece is there;
// nil before. The sender and its epoch must have been checked.
func (r *Reassembler) Add(f *Frame, now time.Time) (*pb.Message, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.peers[f.From]
	if a == nil {
		a = &assembly{open: make(map[uint64]*opening)}
		r.peers[f.From] = a
	}
	switch {
	case f.Epoch < a.epoch:
		return nil, status.Errorf(codes.InvalidArgument, "fragment of epoch %d, now is %d", f.Epoch, a.epoch)
	case f.Epoch > a.epoch:
		r.dropAll(a)
		a.epoch, a.last = f.Epoch, 0
	}
	err := checkFragment(&f.Fragment)
	var m *pb.Message
	if err == nil {
		m, err = r.add(a, f, now)
	}
	if err != nil {
		r.dropAll(a)
	}
	return m, err
}

// checkFragment checks what can be said about a piece by itself.
func checkFragment(p *Fragment) error {
	switch {
	case p.Total == 0 || p.Total >= 1<<31:
		return status.Errorf(codes.InvalidArgument, "fragment of a total of %d bytes, outside 1 to %d", p.Total, math.MaxInt32)
	case p.Len() == 0:
		return status.Error(codes.InvalidArgument, "fragment without data")
	case p.Offset >= p.Total || uint64(p.Len()) > p.Total-p.Offset:
		return status.Errorf(codes.InvalidArgument, "fragment of %d bytes at offset %d passes the total of %d", p.Len(), p.Offset, p.Total)
	}
	if crc := p.checksum(); crc != p.CRC {
		return status.Errorf(codes.DataLoss, "fragment at offset %d has checksum %08x, declares %08x", p.Offset, crc, p.CRC)
	}
	return nil
}

func (r *Reassembler) add(a *assembly, f *Frame, now time.Time) (*pb.Message, error) {
	p := &f.Fragment
	o := a.open[p.Message]
	if o == nil {
		if p.Message <= a.last {
			return nil, nil //nolint:nilnil // a late copy of a piece of a message that is done with
		}
		var err error
		if o, err = r.begin(a, f); err != nil {
			return nil, err
		}
		o.begun = now
	}
	if err := o.write(p); err != nil {
		return nil, err
	}
	o.touched = now
	if len(o.data) < o.total {
		return nil, nil //nolint:nilnil // not whole yet
	}
	a.last = max(a.last, p.Message)
	r.drop(a, p.Message)
	s := new(entrySlab)
	if err := decodeEntry(o.data, s); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "reassembled entry: %v", err)
	}
	r.took.Record(int64(now.Sub(o.begun)))
	m := o.header
	m.Entries = []*pb.Entry{&s.entry}
	return m, nil
}

// begin opens a message, if the caps allow what it declares.
func (r *Reassembler) begin(a *assembly, f *Frame) (*opening, error) {
	p := &f.Fragment
	total := int(p.Total)
	switch {
	case p.Offset != 0 || f.Message == nil:
		return nil, status.Errorf(codes.InvalidArgument, "fragment at offset %d of a message whose first piece never came", p.Offset)
	case f.Message.GetType() != pb.MsgApp:
		return nil, status.Errorf(codes.InvalidArgument, "fragment of a %s", f.Message.GetType())
	case a.declared+total > maxReassembled:
		return nil, status.Errorf(codes.ResourceExhausted, "fragmented entries of %d bytes exceed the limit of %d a peer", a.declared+total, maxReassembled)
	case r.total+total > maxReassembledTotal:
		return nil, status.Errorf(codes.ResourceExhausted, "fragmented entries of %d bytes exceed the limit of %d in all", r.total+total, maxReassembledTotal)
	case len(a.open) >= maxOpenMessages:
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d fragmented messages open", maxOpenMessages)
	}
	if f.Message.Context != nil { // would lie in a buffer that is given back
		return nil, status.Error(codes.InvalidArgument, "fragment of a MsgApp with a context")
	}
	o := &opening{header: f.Message, total: total}
	a.open[p.Message] = o
	a.declared += total
	r.total += total
	if r.total <= allocateAtOnce {
		o.data = make([]byte, 0, total)
	}
	return o, nil
}

// write appends a piece; one that is there already must be the same.
func (o *opening) write(p *Fragment) error {
	have := len(o.data)
	offset, end := int(p.Offset), int(p.Offset)+p.Len()
	switch {
	case int(p.Total) != o.total:
		return status.Errorf(codes.InvalidArgument, "fragment declares a total of %d bytes, the first one %d", p.Total, o.total)
	case offset > have:
		return status.Errorf(codes.InvalidArgument, "fragment at offset %d after %d bytes: one is missing", offset, have)
	case end <= have:
		if crc := checksum(o.data[offset:end]); crc != p.CRC {
			return status.Errorf(codes.InvalidArgument, "fragment at offset %d came again with other bytes", offset)
		}
		return nil
	case offset < have:
		return status.Errorf(codes.InvalidArgument, "fragment at offset %d overlaps the %d bytes that came before", offset, have)
	}
	if end > cap(o.data) {
		grown := make([]byte, have, min(o.total, max(2*cap(o.data), end, allocateAhead*p.Len())))
		copy(grown, o.data)
		o.data = grown
	}
	o.data = append(append(o.data, p.head...), p.body...)
	for _, b := range p.more {
		o.data = append(o.data, b...)
	}
	return nil
}

// End drops what a peer's epoch has open: its connection is gone.
func (r *Reassembler) End(from, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.peers[from]; a != nil && a.epoch == epoch {
		r.dropAll(a)
	}
}

// Forget drops all that is known of a peer.
func (r *Reassembler) Forget(from uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.peers[from]; a != nil {
		r.dropAll(a)
		delete(r.peers, from)
	}
}

// Expire drops the messages that had no new piece for maxFragmentAge.
func (r *Reassembler) Expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.peers {
		for id, o := range a.open {
			if now.Sub(o.touched) > maxFragmentAge {
				a.last = max(a.last, id)
				r.drop(a, id)
			}
		}
	}
}

// Held returns how many messages are open and how many bytes they declared.
func (r *Reassembler) Held() (messages, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.peers {
		messages += len(a.open)
	}
	return messages, r.total
}

func (r *Reassembler) dropAll(a *assembly) {
	for id := range a.open {
		a.last = max(a.last, id)
		r.drop(a, id)
	}
}

func (r *Reassembler) drop(a *assembly, id uint64) {
	o := a.open[id]
	delete(a.open, id)
	a.declared -= o.total
	r.total -= o.total
}
