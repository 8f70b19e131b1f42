package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func putCommand(opts *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "put KEY VALUE",
		Short: "Write a key; VALUE - reads standard input",
		Long:  "Write a key. VALUE - reads standard input; before a VALUE that begins with a dash put --.",
		Args:  cobra.ExactArgs(2),
		RunE: withClient(opts, func(ctx context.Context, s *invocation, args []string) error {
			value, err := s.value(args[1])
			if err != nil {
				return err
			}
			to, err := s.writer(ctx)
			if err != nil {
				return err
			}
			w, err := to.Put(ctx, []byte(args[0]), value)
			if err != nil {
				return err
			}
			return s.answer(w, "version %d, revision %d, index %d", w.GetVersion(), w.GetRevision(), w.GetAppliedIndex())
		}),
	}
}

// readFlag adds the --read flag of a command.
func readFlag(cmd *cobra.Command) (parse func() (client.Read, error)) {
	name := cmd.Flags().String("read", client.ReadLinearizable.String(),
		"`HOW` to read: "+strings.Join(client.ReadNames(), ", ")+
			"; all but stale see every acknowledged write, follower and stale ask any node, lease trusts the leader's clock")
	return func() (client.Read, error) {
		how, err := client.ParseRead(*name)
		if err != nil {
			return 0, usageErrorf("%w", err)
		}
		return how, nil
	}
}

func getCommand(opts *globalOptions) *cobra.Command {
	var parseRead func() (client.Read, error)
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Write a key's value to standard output, as it is; exit 4 if there is none",
		Args:  cobra.ExactArgs(1),
		RunE: withClient(opts, func(ctx context.Context, s *invocation, args []string) error {
			how, err := parseRead()
			if err != nil {
				return err
			}
			r, err := s.Get(ctx, []byte(args[0]), how)
			if err != nil {
				return err
			}
			if err := s.raw(r, r.GetValue()); err != nil {
				return err
			}
			if !r.GetFound() {
				return noKey(args[0])
			}
			return nil
		}),
	}
	parseRead = readFlag(cmd)
	return cmd
}

func noKey(key string) error {
	return &exitError{code: exitNoKey, err: fmt.Errorf("no such key: %s", printable([]byte(key)))}
}

func delCommand(opts *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "del KEY",
		Short: "Delete a key; one that is not there is no error",
		Args:  cobra.ExactArgs(1),
		RunE: withClient(opts, func(ctx context.Context, s *invocation, args []string) error {
			to, err := s.writer(ctx)
			if err != nil {
				return err
			}
			r, err := to.Delete(ctx, []byte(args[0]))
			if err != nil {
				return err
			}
			did := "deleted"
			if !r.GetDeleted() {
				did = "was not there"
			}
			return s.answer(r, "%s, revision %d, index %d", did, r.GetRevision(), r.GetAppliedIndex())
		}),
	}
}

func casCommand(opts *globalOptions) *cobra.Command {
	var expect string
	var absent bool
	cmd := &cobra.Command{
		Use:   "cas KEY (--expect OLD|--expect-absent) VALUE",
		Short: "Write a key if it holds OLD, or is absent; else exit 3 with the present value",
		Long: `Write a key if it holds the value OLD, or with --expect-absent if it does not
exist. On a mismatch the present value goes to standard output, as it is, and the
exit code is 3. VALUE - reads standard input.`,
		Args: cobra.ExactArgs(2),
		RunE: withClient(opts, func(ctx context.Context, s *invocation, args []string) error {
			value, err := s.value(args[1])
			if err != nil {
				return err
			}
			to, err := s.writer(ctx)
			if err != nil {
				return err
			}
			r, err := to.CompareAndSwap(ctx, &kvv1.CompareAndSwapRequest{
				Key: []byte(args[0]), Expect: []byte(expect), ExpectAbsent: absent, Value: value,
			})
			if err != nil {
				return err
			}
			if r.GetSucceeded() {
				return s.answer(r, "version %d, revision %d, index %d", r.GetVersion(), r.GetRevision(), r.GetAppliedIndex())
			}
			if err := s.raw(r, r.GetValue()); err != nil {
				return err
			}
			return &exitError{code: exitMismatch, err: mismatch(args[0], r.GetFound(), r.GetVersion())}
		}),
	}
	cmd.Flags().StringVar(&expect, "expect", "", "the value `OLD` that the key must hold")
	cmd.Flags().BoolVar(&absent, "expect-absent", false, "the key must not exist")
	cmd.MarkFlagsMutuallyExclusive("expect", "expect-absent")
	cmd.MarkFlagsOneRequired("expect", "expect-absent")
	return cmd
}

func mismatch(key string, found bool, version uint64) error {
	if !found {
		return fmt.Errorf("mismatch: %s does not exist", printable([]byte(key)))
	}
	return fmt.Errorf("mismatch: %s holds another value, version %d", printable([]byte(key)), version)
}

func scanCommand(opts *globalOptions) *cobra.Command {
	var limit uint32
	var parseRead func() (client.Read, error)
	cmd := &cobra.Command{
		Use:   "scan PREFIX",
		Short: "Print the keys with a prefix, in order; PREFIX \"\" is all",
		Long: `Print the keys with a prefix and their values, in order, a line each with a tab
between them, from one consistent snapshot. A key or value with a tab, a line
break or bytes that can't be printed is quoted as in Go. With -o json, one object
a line.`,
		Args: cobra.ExactArgs(1),
		RunE: withClient(opts, func(ctx context.Context, s *invocation, args []string) error {
			how, err := parseRead()
			if err != nil {
				return err
			}
			left := limit
			req := &kvv1.ScanRequest{Prefix: []byte(args[0]), Limit: limit}
			for item, err := range s.Scan(ctx, req, how) {
				if err != nil {
					return err
				}
				if err := s.answer(item, "%s\t%s", printable(item.GetKey()), printable(item.GetValue())); err != nil {
					return err
				}
				if left--; left == 0 {
					break
				}
			}
			return nil
		}),
	}
	cmd.Flags().Uint32Var(&limit, "limit", 0, "print at most `N` keys (0: all)")
	parseRead = readFlag(cmd)
	return cmd
}

// printable is the text of key or value, quoted where it would not read as one
// word of a table.
func printable(b []byte) string {
	s := string(b)
	if !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
