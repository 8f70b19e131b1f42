package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"raftlab/kv/storage"
	"raftlab/kv/storage/storagetest"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// durable makes a node keep its log in a folder.
func durable(dir string, saveAfter Size) func(*Options) {
	return func(o *Options) {
		o.Config.Storage, o.Config.DataDir, o.Config.SaveAfter = StorageWAL, dir, saveAfter
	}
}

func TestNodeComesBack(t *testing.T) {
	for _, saveAfter := range []Size{1, 64 << 20} {
		t.Run(fmt.Sprint("save-after=", saveAfter), func(t *testing.T) {
			dir := t.TempDir()
			ctx := within(t, 3*time.Minute)
			var cluster uint64
			for run := range 3 {
				n := start(t, 1, durable(dir, saveAfter))
				got, err := n.cluster.Init(ctx, &clusterv1.InitRequest{})
				if err != nil {
					t.Fatal(err)
				}
				if got.GetCreated() != (run == 0) || run > 0 && got.GetClusterId() != cluster {
					t.Errorf("run %d: created %v, cluster %x, was %x", run, got.GetCreated(), got.GetClusterId(), cluster)
				}
				cluster = got.GetClusterId()
				for i := range 20 {
					key := fmt.Appendf(nil, "key%d", i)
					old, err := n.kv.Get(ctx, &kvv1.GetRequest{Key: key})
					if err != nil || old.GetFound() != (run > 0) || run > 0 && string(old.GetValue()) != fmt.Sprint(run-1) {
						t.Fatalf("run %d finds %v, %v", run, old, err)
					}
					r, err := n.kv.Put(ctx, &kvv1.PutRequest{Key: key, Value: fmt.Append(nil, run)})
					if err != nil || r.GetVersion() != uint64(run)+1 {
						t.Fatalf("run %d: version %d, %v", run, r.GetVersion(), err)
					}
				}
				st, err := n.cluster.Status(ctx, &clusterv1.StatusRequest{})
				if err != nil || st.GetCounters()["journal_fsyncs"] == 0 {
					t.Errorf("status counts %d fsyncs, %v", st.GetCounters()["journal_fsyncs"], err)
				}
				stopNode(t, n.Node)
			}
		})
	}
}

func TestDataFolderIsOneNodes(t *testing.T) {
	dir := t.TempDir()
	first := start(t, 2, durable(dir, 64<<20))
	for _, c := range []struct {
		id   uint64
		dir  string
		want string
	}{
		{2, dir, "locked"},
		{1, dir, "locked"},
		{2, os.DevNull + "/x", "can't be created"},
	} {
		o := Options{Config: testConfig(c.id)}
		durable(c.dir, 64<<20)(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("node %d on %s: %v, want %q", c.id, c.dir, err, c.want)
		}
	}
	stopNode(t, first.Node)
	o := Options{Config: testConfig(1)}
	durable(dir, 64<<20)(&o)
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "belongs to node 2, started as node 1") {
		t.Errorf("node 1 on the folder of node 2: %v", err)
	}
	again := start(t, 2, durable(dir, 64<<20))
	if again.self.GetIncarnation() != first.self.GetIncarnation() || again.run == first.run {
		t.Errorf("incarnation %x, was %x; run %x, was %x", again.self.GetIncarnation(), first.self.GetIncarnation(), again.run, first.run)
	}
}

func TestDurableSettings(t *testing.T) {
	for _, c := range []struct {
		set  func(*Config)
		want string
	}{
		{func(c *Config) { c.Storage = StorageWAL }, "data-dir must be set with storage wal"},
		{func(c *Config) { c.DataDir = "d" }, `data-dir "d" needs storage wal: storage memory keeps nothing there`},
		{func(c *Config) { c.Storage, c.DataDir, c.Sync = StorageWAL, "d", "often" }, "sync often is not one of always, batched, never"},
		{func(c *Config) { c.Storage, c.DataDir, c.SaveAfter = StorageWAL, "d", 0 }, "save-after 0 must be at least 1"},
	} {
		cfg := validConfig()
		c.set(&cfg)
		var f *FieldError
		if err := cfg.Effective().Validate(); !errors.As(err, &f) || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if DefaultConfig().Sync != storage.SyncBatched {
		t.Error("what is acknowledged is not synced by default")
	}
}

// A node that stops while its disk is slow gives up the snapshot being saved, leaves
// nothing of it behind, and has failed with nothing.
func TestStopDoesNotWaitForASnapshot(t *testing.T) {
	disk, begun, goOn := storagetest.New(), make(chan struct{}), make(chan struct{})
	var writes atomic.Int64
	disk.Before = func(o storagetest.Op) error {
		if o.Kind == "write" && strings.HasPrefix(filepath.Base(o.Name), "snapshot-") && writes.Add(1) == 1 {
			close(begun)
			<-goOn
		}
		return nil
	}
	release := sync.OnceFunc(func() { close(goOn) })
	n := start(t, 1, func(o *Options) {
		durable(nodeDir, 8<<20)(o)
		o.FS = disk
	})
	t.Cleanup(release)
	ctx := within(t, 3*time.Minute)
	if _, err := n.cluster.Init(ctx, &clusterv1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	for saving := false; !saving; {
		if _, err := n.kv.Put(ctx, &kvv1.PutRequest{Key: fmt.Append(nil, time.Now()), Value: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-begun:
			saving = true
		default:
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- n.Stop(ctx) }()
	eventually(t, "the replica stops", func() bool {
		_, err := n.kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k")})
		return err != nil
	})
	release()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	// 256 KiB are gathered for a write.
	if n := writes.Load(); n > 2 {
		t.Errorf("%d writes to a snapshot after all", n)
	}
	names, err := disk.List(nodeDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "snapshot-") {
			t.Errorf("%s is left behind", name)
		}
	}
}
