package transport

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// TestPlanTranscripts shows what each strategy makes of messages, frame by
// frame. Rewrite with -rewrite, and read the difference.
//
//	message after=INDEX [sizes=(N,...)] [terms=(T,...)] [type=heartbeat]
//	        a MsgApp with entries of N bytes of data, after that index; or another type
//	limits  [chunk=N] [receive=N] [learned=N] [count=N]
//	        what holds from here on; what is left out stays
//	plan    chunking=NAME
//	        the frames, and whether they come out as what went in
//	lose    chunking=NAME frame=K
//	        the same without frame K
//	entry   receive=N
//	        the largest entry of each strategy
func TestPlanTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		env := &planTranscript{limits: Limits{Count: 2}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			env.out.Reset()
			env.handle(t, d)
			return env.out.String()
		})
	})
}

type planTranscript struct {
	message *pb.Message
	limits  Limits
	out     strings.Builder
}

func (env *planTranscript) printf(format string, args ...any) { fmt.Fprintf(&env.out, format, args...) }

func (env *planTranscript) handle(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	switch d.Cmd {
	case "message":
		env.compose(t, d)
		m := env.message
		env.printf("%s, %d bytes in one frame\n", describe(m, m.Entries), messageSize(m))
	case "limits":
		l := &env.limits
		for name, v := range map[string]*int{"chunk": &l.Chunk, "receive": &l.Receive, "learned": &l.Learned, "count": &l.Count} {
			d.MaybeScanArgs(t, name, v)
		}
		env.printf("chunk %d, receive %d, learned %d, count %d\n", l.Chunk, l.Receive, l.Learned, l.Count)
	case "plan", "lose":
		env.plan(t, d)
	case "entry":
		var limit int
		d.ScanArgs(t, "receive", &limit)
		for _, name := range strategies {
			env.printf("%-8s %d\n", name, MaxEntryBytes(name, limit))
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
}

func (env *planTranscript) compose(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	var after uint64
	var sizes []int
	var terms []uint64
	kind := ""
	d.ScanArgs(t, "after", &after)
	d.MaybeScanArgs(t, "sizes", &sizes)
	d.MaybeScanArgs(t, "terms", &terms)
	d.MaybeScanArgs(t, "type", &kind)
	env.message = appendMessage(after, sizes...)
	for i, term := range terms {
		env.message.Entries[i].Term = new(term)
	}
	if kind == "heartbeat" {
		env.message = heartbeat(1, 2)
	}
}

func (env *planTranscript) plan(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	var name string
	lost := 0
	d.ScanArgs(t, "chunking", &name)
	d.MaybeScanArgs(t, "frame", &lost)
	frames, err := chunker(t, name).Plan(nil, env.message, env.limits)
	stamp(frames)
	entry := uint64(0)
	for i := range frames {
		f := &frames[i]
		env.printf("frame %d  %5d bytes  ", i+1, f.Size())
		p := &f.Fragment
		switch {
		case p.Total == 0:
			env.printf("%s", describe(f.Message, f.Entries))
		case p.Offset == 0:
			entry = f.Message.GetIndex() + 1
			env.printf("%s ", describe(f.Message, nil))
			fallthrough
		default:
			env.printf("fragment of entry %d: bytes %d-%d of %d", entry, p.Offset, int(p.Offset)+p.Len(), p.Total)
		}
		if i+1 == lost {
			env.printf("  LOST")
		}
		env.printf("\n")
	}
	if cannot, ok := errors.AsType[*CannotFollowError](err); ok {
		env.printf("peer %s\n", cannot)
	}
	env.arrive(t, frames, lost)
}

// arrive prints what the receiver makes of the frames.
func (env *planTranscript) arrive(t *testing.T, frames []Frame, lost int) {
	t.Helper()
	if len(frames) == 0 {
		return
	}
	r := NewReassembler()
	var arrived []*pb.Message
	for i := range frames {
		if i+1 == lost {
			continue
		}
		var f Frame
		if err := Decode([][]byte{appendFrame(nil, &frames[i])}, &f); err != nil {
			t.Fatal(err)
		}
		m := f.Message
		if f.Fragment.Total == 0 {
			m.Entries = f.Entries
		} else {
			var err error
			if m, err = r.Add(&f, time.Unix(0, 0)); err != nil {
				env.printf("refused: %v\n", err)
				break
			}
		}
		if m != nil {
			arrived = append(arrived, m)
		}
	}
	if lost > 0 {
		for _, m := range arrived {
			env.printf("arrives: %s\n", describe(m, m.Entries))
		}
	} else if whole := joined(t, env.message, arrived); proto.Equal(whole, env.message) {
		env.printf("arrives whole; messages: %d\n", len(arrived))
	} else {
		env.printf("arrives: %s\n", describe(whole, whole.Entries))
	}
	if open, bytes := r.Held(); open > 0 {
		env.printf("held: %d message, %d bytes declared\n", open, bytes)
	}
}

// describe is a message's line, with entries as index/term(bytes of data).
func describe(m *pb.Message, entries []*pb.Entry) string {
	if m.GetType() != pb.MsgApp {
		return m.GetType().String()
	}
	var s strings.Builder
	fmt.Fprintf(&s, "MsgApp after %d/%d", m.GetIndex(), m.GetLogTerm())
	if len(entries) > 0 {
		s.WriteString(":")
	}
	for _, e := range entries {
		fmt.Fprintf(&s, " %d/%d(%d)", e.GetIndex(), e.GetTerm(), len(e.GetData()))
	}
	return s.String()
}
