package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"raftlab/kv/node"
)

// ErrNoServer says that there is no raftkv to start.
var ErrNoServer = errors.New("raftkv not found beside this program nor on PATH; build it or name it with --server-bin")

// FindServer returns the raftkv to start: the one named, else the one beside
// this program's own executable, else the one on PATH.
func FindServer(named string) (string, error) {
	if named != "" {
		info, err := os.Stat(named)
		switch {
		case err != nil:
			return "", fmt.Errorf("server-bin: %w", err)
		case info.IsDir() || info.Mode().Perm()&0o111 == 0:
			return "", fmt.Errorf("server-bin %s is not an executable file", named)
		}
		return filepath.Abs(named)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "raftkv")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	if found, err := exec.LookPath("raftkv"); err == nil {
		return filepath.Abs(found)
	}
	return "", ErrNoServer
}

// processes starts nodes as child processes.
type processes struct {
	bin string
	env []string
}

func newProcesses(cfg Config) (*processes, error) {
	bin, err := FindServer(cfg.ServerBin)
	if err != nil {
		return nil, err
	}
	return &processes{bin: bin, env: cfg.ServerEnv}, nil
}

// ServerFlags are the flags of a server for what differs from the defaults; who
// a node is, is left out.
func ServerFlags(cfg node.Config) []string {
	defaults := node.DefaultConfig()
	standard := map[string]string{}
	for _, k := range node.Knobs(&defaults) {
		standard[k.Name] = k.String()
	}
	var flags []string
	for _, k := range node.Knobs(&cfg) {
		if !k.Identity && k.String() != standard[k.Name] {
			flags = append(flags, "--"+k.Name+"="+k.String())
		}
	}
	return flags
}

// freePort asks for any that is free.
const freePort = "127.0.0.1:0"

func (p *processes) start(ctx context.Context, id uint64, at place, cfg node.Config) (*Node, error) {
	args := append([]string{
		"serve", "--exit-with-stdin", "--id", strconv.FormatUint(id, 10), "--debug-addr", freePort,
		"--addr", cmp.Or(at.addr, freePort), "--peer-addr", cmp.Or(at.peerAddr, freePort),
	}, ServerFlags(cfg)...)
	if at.dataDir != "" {
		args = append(args, "--data-dir", at.dataDir)
	}
	child, err := StartProcess(ctx, p.env, p.bin, args...)
	if err != nil {
		return nil, fmt.Errorf("node %d: %w", id, err)
	}
	return &Node{
		ID: id, Addr: child.Ready.Addr, PeerAddr: child.Ready.PeerAddr,
		DebugAddr: child.Ready.DebugAddr, PID: child.PID, life: childLife{child},
	}, nil
}

func (p *processes) dialer() Dialer { return nil }
func (p *processes) close() error   { return nil }

type childLife struct{ p *Process }

func (l childLife) kill() error                    { return l.p.Kill() }
func (l childLife) stop(ctx context.Context) error { return l.p.Stop(ctx) }
func (l childLife) done() <-chan struct{}          { return l.p.Done() }
func (l childLife) local() *node.Node              { return nil }

func (l childLife) signal(s faultSignal) error {
	if s == signalPause {
		return l.p.Signal(syscall.SIGSTOP)
	}
	return l.p.Signal(syscall.SIGCONT)
}
