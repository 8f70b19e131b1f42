package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child that prints one JSON line, {"event":"ready", ...}, on its
// standard output when it is ready to serve, and ends when its standard input
// does. It has a process group of its own, so that a Ctrl-C meant for the parent
// does not reach it; the pipe, which the kernel closes however the parent ends,
// is what keeps it from outliving the parent.
type Process struct {
	Ready Ready
	PID   int

	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *tail
	ended  chan struct{}
	err    error // after ended
}

// Ready is the line that a child prints when it serves.
type Ready struct {
	Event     string `json:"event"` // ready
	ID        uint64 `json:"id"`
	Addr      string `json:"addr"`
	PeerAddr  string `json:"peer_addr"`
	DebugAddr string `json:"debug_addr"`
	PID       int    `json:"pid"`
	Version   string `json:"version"`
}

// How long a child may take to be ready, whatever its starter's patience.
const readyTimeout = 15 * time.Second

// StartProcess starts a child and waits for its ready line. ctx bounds the start
// only.
func StartProcess(ctx context.Context, env []string, bin string, args ...string) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin, args...) //nolint:gosec // the server that the user named
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = childAttributes()
	p := &Process{cmd: cmd, stderr: &tail{}, ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := usualSlice(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(bin), err)
	}
	p.PID = cmd.Process.Pid

	ready := make(chan Ready, 1)
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var r Ready
			if json.Unmarshal(lines.Bytes(), &r) == nil && r.Event == "ready" {
				select {
				case ready <- r:
				default:
				}
			}
		}
		// The pipe has to be read to its end before Wait.
		p.err = cmd.Wait()
	}()
	select {
	case p.Ready = <-ready:
		return p, nil
	case <-p.ended:
		select {
		case p.Ready = <-ready: // it was, before it ended
			return p, nil
		default:
		}
		return nil, fmt.Errorf("%s %s ended before it was ready: %w", filepath.Base(bin), strings.Join(args, " "), p.failure())
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("%s was not ready in time: %w", filepath.Base(bin), ctx.Err()), p.Kill())
	}
}

// failure is why the process ended, with the last it had to say.
func (p *Process) failure() error {
	<-p.ended
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	if said := p.stderr.last(); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// Kill ends the process, and all of its group, with SIGKILL and waits for it.
func (p *Process) Kill() error {
	// An ended process is what is wanted.
	if err := syscall.Kill(-p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	<-p.ended
	_ = p.stdin.Close()
	return nil
}

// Stop asks the process to end in good order, by closing its standard input, and
// waits for that; when ctx ends first it is killed.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("process %d did not stop: %w", p.PID, ctx.Err()), p.Kill())
	}
	if p.err != nil {
		return fmt.Errorf("process %d: %w", p.PID, p.failure())
	}
	return nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.ended }

// ExitCode is the process's exit code once it has ended, -1 for one that a
// signal ended.
func (p *Process) ExitCode() int {
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// Stderr returns the end of what the process logged.
func (p *Process) Stderr() string { return p.stderr.String() }

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if extra := len(t.buf) - tailBytes; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(b), nil
}

// String returns all that is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// last returns the last line.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return lines[len(lines)-1]
}
