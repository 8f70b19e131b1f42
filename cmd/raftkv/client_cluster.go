package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"raftlab/kv/client"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func clusterCommand(opts *globalOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make, change and look at a cluster",
		Long: `Make, change and look at a cluster. All commands are idempotent: asking again for
what is already so succeeds.`,
	}
	cmd.AddCommand(
		initCommand(opts), addLearnerCommand(opts), changeMembershipCommand(opts), removeNodeCommand(opts),
		transferCommand(opts), snapshotCommand(opts), attemptFlag(statusCommand(opts), opts),
	)
	return cmd
}

func initCommand(opts *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the node at the first endpoint a cluster of one",
		Args:  cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			r, err := s.Init(ctx, "")
			if err != nil {
				return err
			}
			did := "created"
			if !r.GetCreated() {
				did = "was there already; nothing changed"
			}
			return s.answer(r, "node %d: cluster %016x %s", r.GetNodeId(), r.GetClusterId(), did)
		}),
	}
}

func addLearnerCommand(opts *globalOptions) *cobra.Command {
	var id uint64
	var address string
	cmd := &cobra.Command{
		Use:   "add-learner --id N --addr HOST:PORT",
		Short: "Add a node that receives the log but has no vote; returns once applied",
		Args:  cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			if err := checkNodeID("id", id); err != nil {
				return err
			}
			if err := checkAddress("addr", address); err != nil {
				return err
			}
			m, err := s.AddLearner(ctx, id, address)
			if err != nil {
				return err
			}
			return s.answer(&clusterv1.AddLearnerResponse{Membership: m}, "node %d added: %s", id, membership(m))
		}),
	}
	cmd.Flags().Uint64Var(&id, "id", 0, "`ID` of the node, as its serve command has it")
	cmd.Flags().StringVar(&address, "addr", "", "client address `HOST:PORT` of the node, which is asked for the rest")
	return required(cmd, "id", "addr")
}

func changeMembershipCommand(opts *globalOptions) *cobra.Command {
	var list []string
	var retain bool
	cmd := &cobra.Command{
		Use:   "change-membership --voters ID,ID,...",
		Short: "Set the voters, by joint consensus",
		Long: `Set the voters, by joint consensus. Waits for learners to catch up and returns
when the joint configuration is left. When the timeout comes first the change may
still finish (exit 5): ask again, or look at cluster status.`,
		Args: cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			voters, err := parseIDs("voters", list)
			if err == nil && len(voters) == 0 {
				err = usageErrorf("voters must not be empty")
			}
			if err != nil {
				return err
			}
			m, err := s.ChangeMembership(ctx, voters, retain)
			if err != nil {
				if client.Applied(err) == kvv1.Applied_APPLIED_UNKNOWN {
					err = fmt.Errorf("the change may still finish, see cluster status: %w", err)
				}
				return err
			}
			return s.answer(&clusterv1.ChangeMembershipResponse{Membership: m}, "%s", membership(m))
		}),
	}
	cmd.Flags().StringSliceVar(&list, "voters", nil, "`IDS` of all voters, comma-separated")
	cmd.Flags().BoolVar(&retain, "retain", false, "keep removed voters as learners")
	return required(cmd, "voters")
}

func parseIDs(what string, list []string) ([]uint64, error) {
	var ids []uint64
	for _, s := range list {
		id, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
		if err != nil || id == 0 {
			return nil, usageErrorf("%s %q: an id is a whole number of at least 1", what, s)
		}
		if slices.Contains(ids, id) {
			return nil, usageErrorf("%s: id %d is there twice", what, id)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func removeNodeCommand(opts *globalOptions) *cobra.Command {
	var id uint64
	cmd := &cobra.Command{
		Use:   "remove-node --id N",
		Short: "Remove a voter or learner for good: its id is not used again",
		Args:  cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			if err := checkNodeID("id", id); err != nil {
				return err
			}
			m, err := s.RemoveNode(ctx, id)
			if err != nil {
				return err
			}
			return s.answer(&clusterv1.RemoveNodeResponse{Membership: m}, "node %d removed: %s", id, membership(m))
		}),
	}
	cmd.Flags().Uint64Var(&id, "id", 0, "`ID` of the node")
	return required(cmd, "id")
}

func transferCommand(opts *globalOptions) *cobra.Command {
	var to uint64
	cmd := &cobra.Command{
		Use:   "transfer-leadership --to N",
		Short: "Hand leadership to a voter; returns when it leads",
		Args:  cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			if err := checkNodeID("to", to); err != nil {
				return err
			}
			r, err := s.TransferLeadership(ctx, to)
			if err != nil {
				return err
			}
			return s.answer(r, "node %d leads in term %d", r.GetLeaderId(), r.GetTerm())
		}),
	}
	cmd.Flags().Uint64Var(&to, "to", 0, "`ID` of the voter")
	return required(cmd, "to")
}

func snapshotCommand(opts *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot",
		Short: "Make the node at the first endpoint take a snapshot of its store and compact its log",
		Args:  cobra.NoArgs,
		RunE: withClient(opts, func(ctx context.Context, s *invocation, _ []string) error {
			r, err := s.Snapshot(ctx, "")
			if err != nil {
				return err
			}
			return s.answer(r, "snapshot at index %d, term %d, %d keys", r.GetIndex(), r.GetTerm(), r.GetKeys())
		}),
	}
}

// required marks flags that a command can't do without.
func required(cmd *cobra.Command, flags ...string) *cobra.Command {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag that was not declared
		}
	}
	return cmd
}

// membership says who votes and who learns, in one line.
func membership(m *kvv1.Membership) string {
	text := "voters " + ids(m.GetVoters()) + "; learners " + ids(m.GetLearners())
	if len(m.GetVotersOutgoing()) > 0 {
		text += "; changing from voters " + ids(m.GetVotersOutgoing())
	}
	return text
}

func ids(list []uint64) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, 0, len(list))
	for _, id := range list {
		words = append(words, strconv.FormatUint(id, 10))
	}
	return strings.Join(words, ",")
}
