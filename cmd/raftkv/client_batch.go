package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

const batchHelp = `Apply the operations of FILE in order, atomically: all of them or, when a cas
mismatches, none (exit 3). FILE - reads standard input. One operation a line:

  put KEY VALUE
  get KEY
  del KEY
  cas KEY OLD NEW        write NEW if KEY holds OLD
  create KEY VALUE       write VALUE if KEY does not exist
  {"kind": "OPERATION_KIND_PUT", "key": "YQ==", "value": "MQ=="}

Words are separated by spaces or tabs; a word with spaces or other bytes is
quoted as in Go: put greeting "hello, world\n". The last form is the protobuf
JSON of an Operation, with keys and values in base64. Empty lines and lines that
begin with # are skipped.`

func batchCommand(opts *globalOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "batch FILE",
		Short: "Apply the operations of a file atomically",
		Long:  batchHelp,
		Args:  cobra.ExactArgs(1),
		RunE: withClient(opts, func(ctx context.Context, s *invocation, args []string) error {
			text, err := readFile(s.cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			operations, lines, err := parseBatch(text)
			if err != nil {
				return usageErrorf("%s: %w", args[0], err)
			}
			to, err := s.writer(ctx)
			if err != nil {
				return err
			}
			r, err := to.Batch(ctx, operations)
			if err != nil {
				return err
			}
			if s.opts.json() {
				err = s.json(r)
			} else {
				err = printBatch(s.cmd.OutOrStdout(), operations, r)
			}
			if err != nil || r.GetSucceeded() {
				return err
			}
			return &exitError{code: exitMismatch, err: batchMismatch(args[0], operations, lines, r)}
		}),
	}
}

func batchMismatch(file string, operations []*kvv1.Operation, lines []int, r *kvv1.BatchResponse) error {
	at := len(r.GetResults()) - 1
	if at < 0 || at >= len(operations) {
		return fmt.Errorf("%s: mismatch; nothing was changed", file)
	}
	result := r.GetResults()[at]
	err := mismatch(string(operations[at].GetKey()), result.GetFound(), result.GetVersion())
	return fmt.Errorf("%s: line %d: %w; nothing was changed", file, lines[at], err)
}

func readFile(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name) //nolint:gosec // the file the user names
}

// printBatch prints a line an operation.
func printBatch(w io.Writer, operations []*kvv1.Operation, resp *kvv1.BatchResponse) error {
	for i, r := range resp.GetResults() {
		if i >= len(operations) {
			break
		}
		op := operations[i]
		outcome := fmt.Sprintf("version %d", r.GetVersion())
		switch op.GetKind() {
		case kvv1.OperationKind_OPERATION_KIND_GET:
			outcome = "no such key"
			if r.GetFound() {
				outcome = printable(r.GetValue())
			}
		case kvv1.OperationKind_OPERATION_KIND_DELETE:
			outcome = "was not there"
			if r.GetFound() {
				outcome = "deleted"
			}
		case kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP:
			if !r.GetSucceeded() {
				outcome = "mismatch: no such key"
				if r.GetFound() {
					outcome = "mismatch: " + printable(r.GetValue())
				}
			}
		case kvv1.OperationKind_OPERATION_KIND_PUT, kvv1.OperationKind_OPERATION_KIND_UNSPECIFIED:
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", batchVerb(op), printable(op.GetKey()), outcome); err != nil {
			return err
		}
	}
	return nil
}

func batchVerb(op *kvv1.Operation) string {
	switch op.GetKind() {
	case kvv1.OperationKind_OPERATION_KIND_GET:
		return "get"
	case kvv1.OperationKind_OPERATION_KIND_DELETE:
		return "del"
	case kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP:
		if op.GetExpectAbsent() {
			return "create"
		}
		return "cas"
	case kvv1.OperationKind_OPERATION_KIND_PUT, kvv1.OperationKind_OPERATION_KIND_UNSPECIFIED:
	}
	return "put"
}

// parseBatch reads the operations of a batch file, and the line of each.
func parseBatch(text []byte) (operations []*kvv1.Operation, lines []int, err error) {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		op, err := parseOperation(line)
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", n, err)
		}
		operations, lines = append(operations, op), append(lines, n)
	}
	if len(operations) == 0 {
		return nil, nil, errors.New("no operations")
	}
	return operations, lines, nil
}

func parseOperation(line string) (*kvv1.Operation, error) {
	if line[0] == '{' {
		op := &kvv1.Operation{}
		if err := protojson.Unmarshal([]byte(line), op); err != nil {
			return nil, err
		}
		if op.GetKind() == kvv1.OperationKind_OPERATION_KIND_UNSPECIFIED {
			return nil, errors.New("an operation without a kind")
		}
		return op, nil
	}
	words, err := splitWords(line)
	if err != nil {
		return nil, err
	}
	verb, args := string(words[0]), words[1:]
	op := &kvv1.Operation{}
	want := 2
	switch verb {
	case "put":
		op.Kind = kvv1.OperationKind_OPERATION_KIND_PUT
	case "get":
		op.Kind, want = kvv1.OperationKind_OPERATION_KIND_GET, 1
	case "del":
		op.Kind, want = kvv1.OperationKind_OPERATION_KIND_DELETE, 1
	case "cas":
		op.Kind, want = kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP, 3
	case "create":
		op.Kind, op.ExpectAbsent = kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP, true
	default:
		return nil, fmt.Errorf("%q is not one of put, get, del, cas, create", verb)
	}
	if len(args) != want {
		return nil, fmt.Errorf("%s takes %d words, not %d", verb, want, len(args))
	}
	op.Key = args[0]
	if want > 1 {
		op.Value = args[want-1]
	}
	if want > 2 {
		op.Expect = args[1]
	}
	return op, nil
}

// splitWords splits at spaces and tabs; a word in double quotes is a Go string.
func splitWords(line string) ([][]byte, error) {
	var words [][]byte
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" {
			return words, nil
		}
		if line[0] != '"' {
			end := strings.IndexAny(line, " \t")
			if end < 0 {
				end = len(line)
			}
			words, line = append(words, []byte(line[:end])), line[end:]
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, fmt.Errorf("a quoted word does not end: %s", line)
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("quoted word %s: %w", quoted, err)
		}
		line = line[len(quoted):]
		if line != "" && line[0] != ' ' && line[0] != '\t' {
			return nil, fmt.Errorf("no space after %s", quoted)
		}
		words = append(words, []byte(word))
	}
}
