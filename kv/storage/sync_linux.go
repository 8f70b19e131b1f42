package storage

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Sync implements File by fdatasync, which leaves out the times of the file but
// not its length.
func (f osFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
