package node

import (
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	labv1 "raftlab/proto/raftlab/lab/v1"
	"raftlab/transport"
)

// Faults are those of the way to every peer, as the settings have them.
func (c Config) Faults() transport.Faults {
	return transport.Faults{
		Delay: c.LinkDelay, Jitter: c.LinkJitter, Rate: int64(c.LinkRate),
		Drop: float64(c.LinkDrop), Duplicate: float64(c.LinkDuplicate), Reorder: float64(c.LinkReorder),
		Seed: c.LinkSeed,
	}
}

// SetFaults changes what the ways from this node to some peers do or, without
// peers, to all, those that come later included: see transport.Transport.
func (n *Node) SetFaults(peers []uint64, f transport.Faults) error {
	if err := n.transport.SetFaults(peers, f); err != nil {
		return err
	}
	n.log.Info("faults set", "peers", peers, "faults", f)
	return nil
}

// SetFaults implements Lab.
func (s labService) SetFaults(_ context.Context, req *labv1.SetFaultsRequest) (*labv1.LinksResponse, error) {
	f, err := FaultsOf(req.GetFaults())
	if err == nil {
		err = s.n.SetFaults(req.GetPeerIds(), f)
	}
	if err != nil {
		return nil, faultsStatus(err)
	}
	return s.n.Links(), nil
}

// GetFaults implements Lab.
func (s labService) GetFaults(context.Context, *labv1.GetFaultsRequest) (*labv1.LinksResponse, error) {
	return s.n.Links(), nil
}

// Links tells what the ways from this node to its peers do, and did.
func (n *Node) Links() *labv1.LinksResponse {
	others, links := n.transport.Faults()
	resp := &labv1.LinksResponse{NodeId: n.ID(), Others: FaultsMessage(others)}
	for _, l := range links {
		resp.Links = append(resp.Links, &labv1.Link{
			PeerId: l.ID, Faults: FaultsMessage(l.Faults), MessagesLost: l.MessagesLost,
			MessagesDuplicated: l.MessagesDuplicated, MessagesReordered: l.MessagesReordered,
		})
	}
	return resp
}

func faultsStatus(err error) error {
	code := codes.InvalidArgument
	if errors.As(err, new(*transport.UnknownPeerError)) {
		code = codes.NotFound
	}
	return status.Error(code, err.Error())
}

// FaultsMessage returns faults as the Lab service takes them.
func FaultsMessage(f transport.Faults) *labv1.Faults {
	return &labv1.Faults{
		DelayNanos: uint64(f.Delay), JitterNanos: uint64(f.Jitter), RateBytesPerSecond: uint64(f.Rate),
		Drop: f.Drop, Duplicate: f.Duplicate, Reorder: f.Reorder, Partition: f.Partition, Seed: f.Seed,
	}
}

// FaultsOf is the inverse of FaultsMessage. It refuses numbers that no
// transport.Faults can hold, and leaves the rest to its Check.
func FaultsOf(m *labv1.Faults) (transport.Faults, error) {
	for _, n := range []struct {
		field string
		value uint64
	}{{"delay", m.GetDelayNanos()}, {"jitter", m.GetJitterNanos()}, {"rate", m.GetRateBytesPerSecond()}} {
		if n.value > math.MaxInt64 {
			return transport.Faults{}, &transport.FaultsError{
				Field: n.field, Value: strconv.FormatUint(n.value, 10), Problem: "exceeds the maximum 9223372036854775807",
			}
		}
	}
	return transport.Faults{
		Delay: time.Duration(m.GetDelayNanos()), Jitter: time.Duration(m.GetJitterNanos()), Rate: int64(m.GetRateBytesPerSecond()),
		Drop: m.GetDrop(), Duplicate: m.GetDuplicate(), Reorder: m.GetReorder(), Partition: m.GetPartition(), Seed: m.GetSeed(),
	}, nil
}
