package transport

import (
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// protoCodec is what one gets without a codec of one's own: the generated
// message, each entry marshalled on its own and then again with the frame. It is
// there to be compared with.
type protoCodec struct{}

// Name implements Codec.
func (protoCodec) Name() string { return CodecProto }

// Encode implements Codec.
func (protoCodec) Encode(f *Frame) (mem.BufferSlice, error) {
	g, err := protoFrame(f)
	if err != nil {
		return nil, err
	}
	return stockCodec.Marshal(g)
}

// protoFrame is a frame as the generated message. Only the header is written by
// hand: proto.Marshal can't pad numbers.
func protoFrame(f *Frame) (*transportv1.Frame, error) {
	g := &transportv1.Frame{Sequence: f.Sequence, Epoch: f.Epoch, From: f.From, To: f.To}
	if f.Message != nil {
		padded := f.padded()
		g.Header = appendHeader(make([]byte, 0, headerSize(f.Message, padded)), f.Message, padded)
	}
	if len(f.Entries) > 0 {
		g.Entries = make([][]byte, len(f.Entries))
	}
	for i, e := range f.Entries {
		b, err := proto.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("encode entry %d: %w", e.GetIndex(), err)
		}
		g.Entries[i] = b
	}
	if p := &f.Fragment; p.Total > 0 {
		data := append(make([]byte, 0, p.Len()), p.head...)
		data = append(data, p.body...)
		for _, b := range p.more {
			data = append(data, b...)
		}
		g.Fragment = &transportv1.Fragment{
			Message: p.Message, Offset: p.Offset, Total: p.Total, Data: data, Crc32C: p.checksum(),
		}
	}
	return g, nil
}

// fromProto turns what the stock codec read into a frame of the size that f has,
// which shares nothing that the next message to be read into g could change.
func fromProto(g *transportv1.Frame, f *Frame) error {
	*f = Frame{Sequence: g.GetSequence(), Epoch: g.GetEpoch(), From: g.GetFrom(), To: g.GetTo(), size: f.size}
	if g.Header != nil {
		m := new(pb.Message)
		if err := proto.Unmarshal(g.GetHeader(), m); err != nil {
			return fmt.Errorf("%w: header: %w", ErrMalformed, err)
		}
		if m.Snapshot != nil || len(m.Entries) > 0 || len(m.Responses) > 0 {
			return fmt.Errorf("%w: header with entries, a snapshot or responses", ErrMalformed)
		}
		f.Message = m
	}
	if p := g.GetFragment(); p != nil {
		switch {
		case p.GetTotal() == 0:
			return errNoTotal
		case len(g.GetEntries()) > 0:
			return fmt.Errorf("%w: both entries and a fragment", ErrMalformed)
		}
		f.Fragment = Fragment{Message: p.GetMessage(), Offset: p.GetOffset(), Total: p.GetTotal(), CRC: p.GetCrc32C(), body: p.GetData()}
	}
	for _, b := range g.GetEntries() {
		e := new(pb.Entry)
		if err := proto.Unmarshal(b, e); err != nil {
			return fmt.Errorf("%w: entry: %w", ErrMalformed, err)
		}
		f.Entries = append(f.Entries, e)
	}
	return nil
}
