//go:build !linux

package storage

// Sync implements File.
func (f osFile) Sync() error { return f.File.Sync() }
