package cluster

import "syscall"

// childAttributes gives a child a process group of its own. The parent's death
// is also signalled, in case the child does not watch its standard input.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
