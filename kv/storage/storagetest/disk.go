// Package storagetest is a file system in memory that fails as disks do: power
// goes, processes die, fsyncs fail and space ends, at an operation of the test's
// choice and with the leftovers of its seed.
package storagetest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"

	"raftlab/kv/storage"
)

// sector is what a disk writes as a whole.
const sector = 512

// Op is one operation of the file system that changes something, or makes it
// durable.
type Op struct {
	Kind   string // mkdir, create, write, truncate, sync, rename, remove, syncdir or lock
	Name   string
	Offset int64
	Bytes  int
}

func (o Op) String() string {
	if o.Kind == "write" {
		return fmt.Sprintf("write %s [%d, %d)", o.Name, o.Offset, o.Offset+int64(o.Bytes))
	}
	return o.Kind + " " + o.Name
}

// Disk is a storage.FS whose durable content is apart from what its users see.
// It is harsher than file systems are: nothing is durable before a sync, names
// neither; sectors and names survive in any combination, and where a file grew
// but a sector was lost there are zeros.
type Disk struct {
	// Before, if set, is called before each operation, in the goroutine that asks
	// for it. An error makes the operation fail: half of a write is done, and a
	// sync makes nothing durable but takes what was to be synced for clean, as
	// kernels do. It may call Crash, but no operation.
	Before func(Op) error

	mu    sync.Mutex
	root  *node
	locks map[string]bool
	life  int // grows by Kill: older files are of a dead process
}

// A node is a folder or a file, each as it is seen and as it is durable.
type node struct {
	dir      bool
	children map[string]*node
	durable  map[string]*node

	data  []byte
	safe  []byte
	dirty map[int64]bool // sectors of data that the next sync writes
}

// New returns an empty file system. Its root is there and durable.
func New() *Disk { return &Disk{root: newDir(), locks: map[string]bool{}} }

func newDir() *node {
	return &node{dir: true, children: map[string]*node{}, durable: map[string]*node{}}
}

// Kill ends the process: its files and locks are gone, what it wrote is still
// there, not durable if it was not.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
	d.locks = map[string]bool{}
}

// Crash returns what is found after a power cut at this moment: all that is
// durable, and of the rest each part with a probability of percent. The disk goes
// on as if nothing had happened.
func (d *Disk) Crash(percent int, rng *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	keep := func() bool { return percent >= 100 || percent > 0 && rng.IntN(100) < percent }
	length := func(safe, now int) int {
		if safe == now || percent <= 0 {
			return safe
		}
		if percent >= 100 {
			return now
		}
		return []int{safe, now, min(safe, now) + rng.IntN(max(safe, now)-min(safe, now)+1)}[rng.IntN(3)]
	}
	c := New()
	c.root = d.root.crash(keep, length)
	return c
}

func (n *node) crash(keep func() bool, length func(safe, now int) int) *node {
	if !n.dir {
		data := make([]byte, length(len(n.safe), len(n.data)))
		copy(data, n.safe)
		for _, at := range slices.Sorted(maps.Keys(n.dirty)) {
			if keep() && at < int64(min(len(data), len(n.data))) {
				copy(data[at:min(at+sector, int64(len(data)))], n.data[at:])
			}
		}
		return &node{data: data, safe: slices.Clone(data), dirty: map[int64]bool{}}
	}
	c := newDir()
	names := maps.Clone(n.durable)
	maps.Copy(names, n.children)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		child := n.durable[name]
		if now := n.children[name]; now != child && keep() {
			child = now
		}
		if child != nil {
			c.children[name] = child.crash(keep, length)
		}
	}
	c.durable = maps.Clone(c.children)
	return c
}

// Change replaces the content of a file by what f makes of it, durably: bit rot,
// or an editor's hand.
func (d *Disk) Change(name string, f func([]byte) []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file(name)
	if err != nil {
		return err
	}
	n.data = f(slices.Clone(n.data))
	n.safe, n.dirty = slices.Clone(n.data), map[int64]bool{}
	return nil
}

// Put creates a file, durably.
func (d *Disk) Put(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.folder(filepath.Dir(name))
	if err != nil {
		return err
	}
	n := &node{data: data, safe: slices.Clone(data), dirty: map[int64]bool{}}
	dir.children[filepath.Base(name)], dir.durable[filepath.Base(name)] = n, n
	return nil
}

func (d *Disk) before(o Op) error {
	if d.Before == nil {
		return nil
	}
	return d.Before(o)
}

func (d *Disk) folder(name string) (*node, error) {
	n := d.root
	name = filepath.Clean(name)
	if name == "/" || name == "." {
		return n, nil
	}
	parent, err := d.folder(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	n = parent.children[filepath.Base(name)]
	if n == nil || !n.dir {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

func (d *Disk) file(name string) (*node, error) {
	dir, err := d.folder(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	n := dir.children[filepath.Base(name)]
	if n == nil || n.dir {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

// change does an operation on the folder of name.
func (d *Disk) change(kind, name string, f func(dir *node, base string) error) error {
	if err := d.before(Op{Kind: kind, Name: name}); err != nil {
		return &fs.PathError{Op: kind, Path: name, Err: err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.folder(filepath.Dir(name))
	if err != nil {
		return err
	}
	if err := f(dir, filepath.Base(name)); err != nil {
		return &fs.PathError{Op: kind, Path: name, Err: err}
	}
	return nil
}

// Mkdir implements storage.FS.
func (d *Disk) Mkdir(name string) error {
	return d.change("mkdir", name, func(dir *node, base string) error {
		if dir.children[base] != nil {
			return fs.ErrExist
		}
		dir.children[base] = newDir()
		return nil
	})
}

// List implements storage.FS.
func (d *Disk) List(name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.folder(name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(dir.children)), nil
}

// Create implements storage.FS.
func (d *Disk) Create(name string) (storage.File, error) {
	f := &file{d: d, name: name, n: &node{dirty: map[int64]bool{}}}
	err := d.change("create", name, func(dir *node, base string) error {
		if dir.children[base] != nil {
			return fs.ErrExist
		}
		dir.children[base] = f.n
		f.life = d.life
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Open implements storage.FS.
func (d *Disk) Open(name string) (storage.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file(name)
	if err != nil {
		return nil, err
	}
	return &file{d: d, name: name, n: n, life: d.life}, nil
}

// Rename implements storage.FS, within one folder.
func (d *Disk) Rename(from, to string) error {
	return d.change("rename", from, func(dir *node, base string) error {
		if filepath.Dir(to) != filepath.Dir(from) {
			return errors.New("not within a folder")
		}
		if dir.children[base] == nil {
			return fs.ErrNotExist
		}
		dir.children[filepath.Base(to)] = dir.children[base]
		delete(dir.children, base)
		return nil
	})
}

// Remove implements storage.FS.
func (d *Disk) Remove(name string) error {
	return d.change("remove", name, func(dir *node, base string) error {
		if dir.children[base] == nil {
			return fs.ErrNotExist
		}
		delete(dir.children, base)
		return nil
	})
}

// SyncDir implements storage.FS.
func (d *Disk) SyncDir(name string) error {
	if err := d.before(Op{Kind: "syncdir", Name: name}); err != nil {
		return &fs.PathError{Op: "syncdir", Path: name, Err: err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.folder(name)
	if err != nil {
		return err
	}
	dir.durable = maps.Clone(dir.children)
	return nil
}

// Lock implements storage.FS.
func (d *Disk) Lock(name string) (io.Closer, error) {
	l := &lock{d: d, name: name}
	err := d.change("lock", name, func(dir *node, base string) error {
		if d.locks[name] {
			return storage.ErrLocked
		}
		if dir.children[base] == nil {
			dir.children[base] = &node{dirty: map[int64]bool{}}
		}
		d.locks[name] = true
		l.life = d.life
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

type lock struct {
	d    *Disk
	name string
	life int
}

func (l *lock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.life == l.d.life {
		delete(l.d.locks, l.name)
	}
	return nil
}

// file is an open file.
type file struct {
	d      *Disk
	n      *node
	name   string
	life   int
	closed bool
}

// use locks the disk for an operation on a file that is open.
func (f *file) use(op string) error {
	f.d.mu.Lock()
	if f.closed || f.life != f.d.life {
		f.d.mu.Unlock()
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

func (f *file) Size() (int64, error) {
	if err := f.use("stat"); err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *file) ReadAt(p []byte, at int64) (int, error) {
	if err := f.use("read"); err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	if at >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	fault := f.d.before(Op{Kind: "write", Name: f.name, Offset: at, Bytes: len(p)})
	if err := f.use("write"); err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	if fault != nil {
		p = p[:len(p)/2]
	}
	f.n.resize(max(int64(len(f.n.data)), at+int64(len(p))))
	copy(f.n.data[at:], p)
	f.n.touch(at, at+int64(len(p)))
	if fault != nil {
		return len(p), &fs.PathError{Op: "write", Path: f.name, Err: fault}
	}
	return len(p), nil
}

func (n *node) touch(from, to int64) {
	for at := from / sector * sector; at < to; at += sector {
		n.dirty[at] = true
	}
}

// resize changes the length. What it grows by is zeros.
func (n *node) resize(size int64) {
	if old := int64(len(n.data)); size > old {
		n.data = append(n.data, make([]byte, size-old)...)
		n.touch(old, size)
	}
	n.data = n.data[:size]
}

func (f *file) Truncate(size int64) error {
	if err := f.d.before(Op{Kind: "truncate", Name: f.name}); err != nil {
		return &fs.PathError{Op: "truncate", Path: f.name, Err: err}
	}
	if err := f.use("truncate"); err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	f.n.resize(size)
	return nil
}

func (f *file) Sync() error {
	fault := f.d.before(Op{Kind: "sync", Name: f.name})
	if err := f.use("sync"); err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	n := f.n
	if fault == nil {
		size := int64(len(n.data))
		n.safe = append(n.safe, make([]byte, max(0, size-int64(len(n.safe))))...)[:size]
		for at := range n.dirty {
			if at < size {
				copy(n.safe[at:min(at+sector, size)], n.data[at:])
			}
		}
	}
	n.dirty = map[int64]bool{}
	if fault != nil {
		return &fs.PathError{Op: "sync", Path: f.name, Err: fault}
	}
	return nil
}

func (f *file) Close() error {
	if err := f.use("close"); err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	f.closed = true
	return nil
}
