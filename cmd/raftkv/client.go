package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// clientCommands are the commands that talk to a running cluster.
func clientCommands(opts *globalOptions) []*cobra.Command {
	return []*cobra.Command{
		writeFlags(putCommand(opts), opts), attemptFlag(getCommand(opts), opts), writeFlags(delCommand(opts), opts),
		writeFlags(casCommand(opts), opts), attemptFlag(scanCommand(opts), opts), writeFlags(batchCommand(opts), opts),
		clusterCommand(opts),
	}
}

// invocation is one run of a client command.
type invocation struct {
	*client.Client
	once *client.Session // opened by writer, with --exactly-once
	cmd  *cobra.Command
	opts *globalOptions
}

// attemptFlag adds --attempt-timeout to a command that any node may answer.
func attemptFlag(cmd *cobra.Command, opts *globalOptions) *cobra.Command {
	cmd.Flags().DurationVar(&opts.attemptTimeout, "attempt-timeout", 0,
		"how long a node may take to answer before another is asked, a `DUR` (0: as long as the command may)")
	return cmd
}

// writeFlags adds the flags of a command that writes.
func writeFlags(cmd *cobra.Command, opts *globalOptions) *cobra.Command {
	cmd.Flags().BoolVar(&opts.exactlyOnce, "exactly-once", false,
		"write in a session: an unknown outcome does not end the command, but the write is sent again until --timeout, and applied once however often that is")
	return attemptFlag(cmd, opts)
}

// writer is what a command writes through.
type writer interface {
	Put(ctx context.Context, key, value []byte) (*kvv1.WriteResponse, error)
	Delete(ctx context.Context, key []byte) (*kvv1.DeleteResponse, error)
	CompareAndSwap(ctx context.Context, req *kvv1.CompareAndSwapRequest) (*kvv1.CompareAndSwapResponse, error)
	Batch(ctx context.Context, operations []*kvv1.Operation) (*kvv1.BatchResponse, error)
}

// writer is the client, or with --exactly-once a session that lasts for longer than
// the command may, also when no node can be told that it is in use.
func (s *invocation) writer(ctx context.Context) (writer, error) {
	if !s.opts.exactlyOnce {
		return s.Client, nil
	}
	var err error
	s.once, err = s.OpenSession(ctx, min(s.opts.timeout, 23*time.Hour)+time.Minute)
	return s.once, err
}

// close ends the session, if there is one. A failure does no harm: it ends by its
// time as well.
func (s *invocation) close(ctx context.Context) {
	if s.once == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = s.once.Close(ctx)
}

// unreachableTime is how long a command waits for any node to come up: as long as
// a node that is being restarted takes, and not its whole timeout, unless that is
// what it was asked for.
const unreachableTime = time.Second

// withClient makes a command's RunE of what it does with a cluster: it checks
// the endpoints, bounds the whole by --timeout and gives errors their exit code.
func withClient(opts *globalOptions, do func(ctx context.Context, s *invocation, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		endpoints, err := parseEndpoints(opts.endpoints)
		if err != nil {
			return err
		}
		// One command is over before the members could have changed.
		cfg := client.Config{Endpoints: endpoints, RefreshInterval: -1, AttemptTimeout: opts.attemptTimeout}
		if !opts.exactlyOnce {
			cfg.UnreachableTime = unreachableTime
		}
		c, err := client.New(cfg)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
		defer cancel()
		s := &invocation{Client: c, cmd: cmd, opts: opts}
		defer s.close(ctx)
		return opts.explain(do(ctx, s, args))
	}
}

func parseEndpoints(list []string) ([]string, error) {
	endpoints := make([]string, 0, len(list))
	for _, e := range list {
		e = strings.TrimSpace(e)
		if err := checkAddress("endpoint", e); err != nil {
			return nil, err
		}
		endpoints = append(endpoints, e)
	}
	if len(endpoints) == 0 {
		return nil, usageErrorf("no endpoints: give --endpoints or RAFTKV_ENDPOINTS")
	}
	return endpoints, nil
}

// checkAddress refuses what can't be dialled, before a timeout's worth of trying.
func checkAddress(what, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return usageErrorf("%s %q is not host:port", what, address)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return usageErrorf("%s %q has a port outside 1 to 65535", what, address)
	}
	return nil
}

// checkNodeID refuses ids that no node can have.
func checkNodeID(what string, id uint64) error {
	switch {
	case id == 0:
		return usageErrorf("%s 0 must be at least 1", what)
	case id > maxNodeID:
		return usageErrorf("%s %d is reserved by raft; the largest is %d", what, id, uint64(maxNodeID))
	}
	return nil
}

// maxNodeID leaves out the two ids that raft keeps for itself.
const maxNodeID = math.MaxUint64 - 2

// explain tells a write of unknown outcome from one that failed, and hints at
// what to do where nobody listens.
func (o *globalOptions) explain(err error) error {
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Applied == kvv1.Applied_APPLIED_UNKNOWN:
		return &exitError{code: exitUnknown, err: err}
	case e.Code == codes.Unavailable && strings.Contains(err.Error(), "connection refused"):
		return fmt.Errorf("%w (raftkv serve starts a node)", err)
	}
	return err
}

// answer prints the text, or with -o json the message.
func (s *invocation) answer(m proto.Message, format string, args ...any) error {
	if s.opts.json() {
		return s.json(m)
	}
	_, err := fmt.Fprintf(s.cmd.OutOrStdout(), format+"\n", args...)
	return err
}

// raw prints a value as it is, or with -o json the message.
func (s *invocation) raw(m proto.Message, value []byte) error {
	if s.opts.json() {
		return s.json(m)
	}
	_, err := s.cmd.OutOrStdout().Write(value)
	return err
}

// json prints one line: the protobuf JSON form, as grpcurl prints it, with
// 64-bit numbers as strings and bytes in base64.
func (s *invocation) json(m proto.Message) error { return printJSON(s.cmd.OutOrStdout(), m) }

func printJSON(w io.Writer, m proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its spacing on purpose.
	var line bytes.Buffer
	if err := json.Compact(&line, data); err != nil {
		return err
	}
	line.WriteByte('\n')
	_, err = line.WriteTo(w)
	return err
}

// value is a VALUE argument: itself, or standard input for "-".
func (s *invocation) value(arg string) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	data, err := io.ReadAll(s.cmd.InOrStdin())
	if err != nil {
		return nil, fmt.Errorf("reading the value from standard input: %w", err)
	}
	return data, nil
}
