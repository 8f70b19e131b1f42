package storage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
)

const (
	lockName     = "LOCK"
	identityName = "IDENTITY"
	tempSuffix   = ".tmp"

	// format is the version of the folder: of its names, and of the frames in its
	// files, which repeat it.
	format = 1
	// maxIdentity is more than an identity can be long.
	maxIdentity = 4 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// giveUp is what to do with a folder that is lost. A copy made earlier is no way
// out: it has forgotten votes and entries that others count on.
const giveUp = "remove the node, and add it again under a new id with an empty folder"

// identity is the file that says whose folder it is. It comes last when a folder
// is created: without it the rest was not used yet.
type identity struct {
	Format      int    `json:"format"`
	Node        uint64 `json:"node"`
	Cluster     uint64 `json:"cluster"` // 0: not known yet
	Incarnation uint64 `json:"incarnation"`
	CRC32C      uint32 `json:"crc32c"` // of the four above, 8 bytes each, little endian
}

func (i identity) checksum() uint32 {
	var b []byte
	for _, v := range []uint64{uint64(i.Format), i.Node, i.Cluster, i.Incarnation} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return crc32.Checksum(b, castagnoli)
}

// loadIdentity returns fs.ErrNotExist if there is none.
func loadIdentity(fsys FS, dir string, node uint64) (identity, error) {
	var i identity
	path := filepath.Join(dir, identityName)
	data, err := readFile(fsys, path, maxIdentity)
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(data, &i); err != nil {
		return i, fmt.Errorf("%s is %w: %w: %s", path, ErrCorrupt, err, giveUp)
	}
	switch {
	case i.Format > format:
		return i, fmt.Errorf("%s has format %d, this program knows up to %d: use a newer program", path, i.Format, format)
	case i.CRC32C != i.checksum():
		return i, fmt.Errorf("%s is %w: checksum mismatch: %s", path, ErrCorrupt, giveUp)
	case i.Format != format:
		return i, fmt.Errorf("%s has format %d, this program knows only %d: %s", path, i.Format, format, giveUp)
	case i.Node != node:
		return i, fmt.Errorf("%s belongs to node %d, started as node %d: start it as node %d, or choose another folder", dir, i.Node, node, i.Node)
	}
	return i, nil
}

// save replaces the file as a whole.
func (i identity) save(fsys FS, dir string) error {
	i.CRC32C = i.checksum()
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, identityName)
	f, err := fsys.Create(path + tempSuffix)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(data, '\n'), 0)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", path+tempSuffix, err)
	}
	if err := fsys.Rename(path+tempSuffix, path); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// SetClusterID says which cluster the folder belongs to, durably. It can be said
// once; saying the same again does nothing.
func (d *Disk) SetClusterID(id uint64) error {
	d.write.Lock()
	defer d.write.Unlock()
	if err := d.failed(); err != nil {
		return err
	}
	i := d.identity
	switch {
	case id == 0:
		return errors.New("cluster id 0")
	case i.Cluster == id:
		return nil
	case i.Cluster != 0:
		return fmt.Errorf("%s belongs to cluster %d, not %d: choose another folder", d.o.Dir, i.Cluster, id)
	}
	i.Cluster = id
	if err := i.save(d.o.FS, d.o.Dir); err != nil {
		return d.fail(fmt.Errorf("cluster id: %w", err))
	}
	d.mu.Lock()
	d.identity.Cluster = id
	d.mu.Unlock()
	return nil
}

// readFile reads a small file.
func readFile(fsys FS, path string, limit int64) (data []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s is %w: %d bytes, at most %d expected", path, ErrCorrupt, size, limit)
	}
	data = make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
