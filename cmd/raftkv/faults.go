package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"raftlab/kv/node"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// faultsOptions are the flags of faults.
type faultsOptions struct {
	address   string
	peers     []string
	config    node.Config // its link-... settings
	partition bool
	heal      bool
	chosen    []string // names of the flags that are a fault
}

func faultsCommand(opts *globalOptions) *cobra.Command {
	fo := &faultsOptions{}
	cmd := &cobra.Command{
		Use:   "faults --debug-addr HOST:PORT [--peer ID,...] [--delay DUR] [--drop P] [--partition] ... | --heal",
		Short: "Show or change what the ways from one node to its peers do to messages",
		Long: `Show or change what the ways from one node to its peers do to raft messages, at
once and in that direction only. Faults that are not named are off. Without
--peer they hold for all peers, those that come later included. To cut a node off
both ways, set --partition on it, and on each other node with --peer.

The node has to be started with --debug-addr. Snapshots are under delay, rate and
partition too, and with probability --drop not begun. Clients are never held up.`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&fo.address, "debug-addr", "", "debug address `HOST:PORT` of the node")
	flags.StringSliceVar(&fo.peers, "peer", nil, "`IDS` of the peers, comma-separated (default: all)")
	for _, k := range node.Knobs(&fo.config) {
		if name, ok := strings.CutPrefix(k.Name, "link-"); ok {
			usage := strings.ReplaceAll(k.Usage, "link-", "")
			k.Name = name
			flags.Var(k, name, usage)
			fo.chosen = append(fo.chosen, name)
		}
	}
	flags.BoolVar(&fo.partition, "partition", false, "keep everything from the peers; what they send still comes")
	flags.BoolVar(&fo.heal, "heal", false, "end all faults")
	fo.chosen = append(fo.chosen, "partition", "heal")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req, err := fo.request(cmd)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
		defer cancel()
		resp, err := fo.ask(ctx, req)
		if err != nil {
			return err
		}
		if opts.json() {
			return printJSON(cmd.OutOrStdout(), resp)
		}
		return printLinks(cmd.OutOrStdout(), resp)
	}
	return required(cmd, "debug-addr")
}

// request is what the flags ask to be set; nil when they only ask to be shown.
func (fo *faultsOptions) request(cmd *cobra.Command) (*labv1.SetFaultsRequest, error) {
	if err := checkAddress("debug-addr", fo.address); err != nil {
		return nil, err
	}
	ids, err := parseIDs("peer", fo.peers)
	if err != nil {
		return nil, err
	}
	given := slices.DeleteFunc(slices.Clone(fo.chosen), func(name string) bool { return !cmd.Flags().Changed(name) })
	switch {
	case len(given) == 0 && len(ids) > 0:
		return nil, usageErrorf("peer %s without a fault: name one, or --heal", strings.Join(fo.peers, ","))
	case len(given) == 0:
		return nil, nil
	case fo.heal && len(given) > 1:
		return nil, usageErrorf("heal cannot be combined with %s", given[0])
	}
	f := fo.config.Faults()
	f.Partition = fo.partition
	if err := f.Check(); err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return &labv1.SetFaultsRequest{PeerIds: ids, Faults: node.FaultsMessage(f)}, nil
}

// ask sends the request, or asks for what there is when there is none.
func (fo *faultsOptions) ask(ctx context.Context, req *labv1.SetFaultsRequest) (*labv1.LinksResponse, error) {
	conn, err := grpc.NewClient("passthrough:///"+fo.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	lab := labv1.NewLabClient(conn)
	var resp *labv1.LinksResponse
	if req != nil {
		resp, err = lab.SetFaults(ctx, req)
	} else {
		resp, err = lab.GetFaults(ctx, &labv1.GetFaultsRequest{})
	}
	switch status.Code(err) {
	case codes.OK:
		return resp, nil
	case codes.InvalidArgument, codes.NotFound:
		return nil, errors.New(status.Convert(err).Message())
	case codes.Unavailable:
		return nil, fmt.Errorf("no debug port at %s (raftkv serve --debug-addr opens one): %w", fo.address, err)
	default:
		return nil, fmt.Errorf("debug port %s: %w", fo.address, err)
	}
}

func printLinks(w io.Writer, r *labv1.LinksResponse) error {
	t := table{tab: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(fmt.Sprintf("FROM NODE %d", r.GetNodeId()), "DELAY", "JITTER", "RATE", "DROP", "DUPLICATE", "REORDER", "PARTITION", "SEED",
		"LOST", "DUPLICATED", "REORDERED")
	row := func(to string, f *labv1.Faults, totals ...any) {
		t.row(append([]any{
			to, time.Duration(f.GetDelayNanos()), time.Duration(f.GetJitterNanos()), node.Rate(f.GetRateBytesPerSecond()),
			f.GetDrop(), f.GetDuplicate(), f.GetReorder(), yesNo(f.GetPartition()), f.GetSeed(),
		}, totals...)...)
	}
	for _, l := range r.GetLinks() {
		row(fmt.Sprint("to node ", l.GetPeerId()), l.GetFaults(), l.GetMessagesLost(), l.GetMessagesDuplicated(), l.GetMessagesReordered())
	}
	row("to later ones", r.GetOthers(), "-", "-", "-")
	return t.tab.Flush()
}
