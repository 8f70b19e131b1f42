package node

import (
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	"raftlab/kv"
	"raftlab/kv/replica"
	"raftlab/kv/storage"
)

// recover opens the data folder, if this node has one, puts the last snapshot
// into the store, and returns the log that follows it.
func (n *Node) recover(fs storage.FS) (*storage.Memory, error) {
	if n.cfg.Storage != StorageWAL {
		return storage.NewMemory(), nil
	}
	var err error
	n.disk, err = storage.Open(storage.Options{
		Dir: n.cfg.DataDir, FS: fs, Sync: n.cfg.Sync, Node: n.cfg.ID, Logger: n.log,
	})
	if err != nil {
		return nil, fmt.Errorf("data-dir: %w", err)
	}
	meta, data, err := n.disk.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("data-dir: %w", err)
	}
	if meta != nil {
		if err := n.restore(meta, data); err != nil {
			return nil, fmt.Errorf("data-dir %s: snapshot at index %d: %w", n.cfg.DataDir, meta.GetIndex(), err)
		}
	}
	log := n.disk.Log()
	first, _ := log.FirstIndex()
	last, _ := log.LastIndex()
	n.log.Info("recovered", "data_dir", n.cfg.DataDir, "snapshot_index", meta.GetIndex(),
		"first_index", first, "last_index", last, "log_bytes", log.Bytes())
	return log, nil
}

// restore fills the store from a saved snapshot.
func (n *Node) restore(meta *raftpb.SnapshotMetadata, data io.ReadCloser) error {
	defer data.Close() //nolint:errcheck // only read
	decoder := kv.NewSnapshotDecoder()
	if _, err := io.Copy(decoder, data); err != nil {
		return err
	}
	view, err := decoder.Finish()
	if err != nil {
		return err
	}
	if s := view.State(); s.Index != meta.GetIndex() || s.Term != meta.GetTerm() {
		return fmt.Errorf("it holds the state at index %d term %d", s.Index, s.Term)
	}
	if id := view.Membership().GetClusterId(); n.disk.ClusterID() != 0 && id != n.disk.ClusterID() {
		return fmt.Errorf("it is of cluster %016x, the folder of cluster %016x", id, n.disk.ClusterID())
	}
	n.store.Restore(view)
	return nil
}

// journal is what the replica writes to; nil without a durable log.
func (n *Node) journal() replica.Journal {
	if n.disk == nil {
		return nil
	}
	return journal{n.disk}
}

// journal shows a data folder as the replica wants it.
type journal struct{ *storage.Disk }

// SaveSnapshot implements replica.Journal.
func (j journal) SaveSnapshot(meta *raftpb.SnapshotMetadata, write func(io.Writer) error) error {
	file, err := j.NewSnapshot(meta)
	if err != nil {
		return err
	}
	if err := write(file); err != nil {
		return errors.Join(err, file.Abort())
	}
	return file.Commit()
}

// closeDisk gives the data folder back.
func (n *Node) closeDisk() error {
	if n.disk == nil {
		return nil
	}
	return n.disk.Close()
}
