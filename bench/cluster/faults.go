package cluster

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"raftlab/kv/node"
	labv1 "raftlab/proto/raftlab/lab/v1"
	"raftlab/transport"
)

// SetFaults changes, at once, what the ways from a node to some peers do to raft
// messages or, without peers, the ways to all, those that come later included.
// The zero faults heal. A node in this process is told directly, a process by
// its debug port; one that has neither gives ErrUnsupported.
func (c *Cluster) SetFaults(ctx context.Context, n *Node, peers []uint64, f transport.Faults) error {
	if err := n.setFaults(ctx, peers, f); err != nil {
		return fmt.Errorf("faults of node %d: %w", n.ID, err)
	}
	return nil
}

// Links tells what the ways from a node to its peers do, and did. Where
// SetFaults is not possible it is ErrUnsupported.
func (c *Cluster) Links(ctx context.Context, n *Node) (*labv1.LinksResponse, error) {
	if local := n.Local(); local != nil {
		return local.Links(), nil
	}
	var links *labv1.LinksResponse
	err := n.lab(func(lab labv1.LabClient) (err error) {
		links, err = lab.GetFaults(ctx, &labv1.GetFaultsRequest{})
		return err
	})
	return links, err
}

// SetFaultsAround is SetFaults for all ways from and to a node, as far as the
// nodes at their ends have not ended.
func (c *Cluster) SetFaultsAround(ctx context.Context, n *Node, f transport.Faults) error {
	var errs []error
	for _, other := range c.Nodes() {
		switch other.ID {
		case n.ID:
			errs = append(errs, c.SetFaults(ctx, other, nil, f))
		default:
			errs = append(errs, c.SetFaults(ctx, other, []uint64{n.ID}, f))
		}
	}
	return errors.Join(errs...)
}

// Isolate cuts a node off from all others, both ways. Clients still reach it.
// Heal ends it.
func (c *Cluster) Isolate(ctx context.Context, n *Node) error {
	return c.SetFaultsAround(ctx, n, transport.Faults{Partition: true})
}

// Heal ends the faults of all nodes that have not ended, those they were started
// with included.
func (c *Cluster) Heal(ctx context.Context) error {
	var errs []error
	for _, n := range c.Nodes() {
		errs = append(errs, c.SetFaults(ctx, n, nil, transport.Faults{}))
	}
	return errors.Join(errs...)
}

func (n *Node) setFaults(ctx context.Context, peers []uint64, f transport.Faults) error {
	if local := n.Local(); local != nil {
		return local.SetFaults(peers, f)
	}
	return n.lab(func(lab labv1.LabClient) error {
		_, err := lab.SetFaults(ctx, &labv1.SetFaultsRequest{PeerIds: peers, Faults: node.FaultsMessage(f)})
		return err
	})
}

// lab asks the Lab service of a node in another process.
func (n *Node) lab(ask func(labv1.LabClient) error) error {
	if n.DebugAddr == "" {
		return ErrUnsupported
	}
	conn, err := grpc.NewClient("passthrough:///"+n.DebugAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	return errors.Join(ask(labv1.NewLabClient(conn)), conn.Close())
}
