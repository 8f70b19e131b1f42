package etcdtest

import "syscall"

// childAttributes lets a member end when the test's process does, however that
// is.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
