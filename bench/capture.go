package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/pprof/profile"
	"github.com/prometheus/procfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"raftlab/bench/cluster"
	clusterv1 "raftlab/proto/raftlab/cluster/v1"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// Names of the processes in a trial beside node1, node2, ...
const (
	processGenerator = "generator"
	// processShared is this process when it runs nodes too.
	processShared = "process"
)

// sample is what processes and nodes have counted so far.
type sample struct {
	usage    map[string]*labv1.UsageResponse
	counters map[*cluster.Node]map[string]uint64 // a node that was restarted is another
	largest  uint64                              // frame sent, bytes
	stages   map[uint64]*nodeStages
}

// probe reads the counters of what takes part in a trial.
type probe struct {
	self    string // name of this process
	cluster *cluster.Cluster
	conns   map[string]*grpc.ClientConn // debug ports by process name
	pids    map[string]int              // processes without one
}

// newProbe connects to the debug ports, given by process name.
func newProbe(self string, c *cluster.Cluster, debug map[string]string) (*probe, error) {
	p := &probe{self: self, cluster: c, conns: map[string]*grpc.ClientConn{}}
	for name, addr := range debug {
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.conns[name] = conn
	}
	return p, nil
}

func (p *probe) close() error {
	var errs []error
	for _, c := range p.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// take reads everything at once; what cannot be read is missing.
func (p *probe) take(ctx context.Context) sample {
	s := sample{usage: map[string]*labv1.UsageResponse{}, counters: map[*cluster.Node]map[string]uint64{}, stages: map[uint64]*nodeStages{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	if p.cluster != nil {
		for _, n := range p.cluster.Nodes() {
			wg.Go(func() {
				if st, err := p.cluster.Status(ctx, n); err == nil {
					stages := p.readStages(ctx, n)
					mu.Lock()
					defer mu.Unlock()
					s.add(n, st)
					if stages != nil {
						s.stages[n.ID] = stages.is(st)
					}
				}
			})
		}
	}
	for name, r := range p.readUsage(ctx) {
		s.usage[name] = r.usage
	}
	wg.Wait()
	return s
}

// processUsage is what the system knows of another process.
func processUsage(pid int) (*labv1.UsageResponse, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return nil, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return nil, err
	}
	return &labv1.UsageResponse{
		CpuUserNanos: uint64(stat.CPUTime() * 1e9), RssBytes: uint64(max(0, stat.ResidentMemory())),
	}, nil
}

// add counts in one node's counters.
func (s *sample) add(of *cluster.Node, st *clusterv1.StatusResponse) {
	counters := map[string]uint64{}
	s.counters[of] = counters
	for name, n := range st.GetCounters() {
		counters[name] += n
	}
	for _, t := range st.GetTransport() {
		for name, n := range map[string]uint64{
			"dials": t.GetDials(), "messages_sent": t.GetMessagesSent(), "messages_dropped": t.GetMessagesDropped(),
			"messages_split": t.GetMessagesSplit(), "frames_sent": t.GetFramesSent(),
			"fragments_sent": t.GetFragmentsSent(), "bytes_sent": t.GetBytesSent(), wireBytes: t.GetWireBytesSent(), "refusals": t.GetRefusals(),
			"snapshots_sent": t.GetSnapshotsSent(),
		} {
			counters[name] += n
		}
		s.largest = max(s.largest, t.GetLargestFrameSentBytes())
	}
}

// since is what was used and counted from an earlier sample to this one. A node of
// the earlier one that ended, began anew or does not answer took what it used and
// counted with it: its process is unavailable, and there are no counters, as the
// sums of the others would be too small.
func (s sample) since(before sample) (map[string]Process, map[string]uint64) {
	processes := map[string]Process{}
	for name, after := range s.usage {
		b, ok := before.usage[name]
		if !ok {
			processes[name] = Process{Unavailable: true}
			continue
		}
		processes[name] = Process{
			CPUS:     float64(cpuNanos(after)-cpuNanos(b)) / 1e9,
			RSSBytes: after.GetRssBytes(), HeapBytes: after.GetHeapLiveBytes(),
			AllocBytes: after.GetAllocatedBytes() - b.GetAllocatedBytes(),
			AllocCount: after.GetAllocatedObjects() - b.GetAllocatedObjects(),
			GCCycles:   after.GetGcCycles() - b.GetGcCycles(), Goroutines: after.GetGoroutines(),
		}
	}
	for name := range before.usage {
		if s.usage[name] == nil {
			processes[name] = Process{Unavailable: true}
		}
	}
	whole := true
	for of := range before.counters {
		if s.counters[of] != nil {
			continue
		}
		whole = false
		if name := nodeName(of.ID); before.usage[name] != nil {
			processes[name] = Process{Unavailable: true} // by that name there may be another one
		}
	}
	if !whole {
		return processes, nil
	}
	counters := map[string]uint64{}
	for of, now := range s.counters {
		for name, n := range now {
			counters[name] += n - before.counters[of][name]
		}
	}
	if s.largest > 0 {
		counters["largest_frame_sent_bytes"] = s.largest
	}
	return processes, counters
}

// Kinds of profiles that are states rather than sums: they are kept as they are
// at the end of a window, of the others what the window added.
var stateProfiles = []string{"heap", "goroutine"}

var sumProfiles = []string{"allocs", "mutex", "block"}

// Rates at which the mutex profile (one contention in so many) and the block
// profile (a sample per so many nanoseconds blocked) are collected in a profile
// trial.
var rates = map[string]int{"mutex": 100, "block": 10_000}

// keepRate leaves the rate of a profile as it is.
const keepRate = -1

// source is a process whose profiles can be had.
type source interface {
	// cpu profiles the CPU for the given time, which is whole seconds.
	cpu(ctx context.Context, d time.Duration) ([]byte, error)
	// lookup returns a profile of the given kind as it is now. A rate of 0 or more
	// is what the kind is collected at from then on.
	lookup(ctx context.Context, kind string, rate int) ([]byte, error)
}

// remote is a process with a debug port.
type remote struct{ addr string }

func (r remote) cpu(ctx context.Context, d time.Duration) ([]byte, error) {
	return r.get(ctx, "profile?seconds="+strconv.Itoa(int(d/time.Second)))
}

func (r remote) lookup(ctx context.Context, kind string, rate int) ([]byte, error) {
	if rate >= 0 {
		kind += "?rate=" + strconv.Itoa(rate)
	}
	return r.get(ctx, kind)
}

func (r remote) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.addr+"/debug/pprof/"+path, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("profile %s of %s: %s", path, r.addr, bytes.TrimSpace(body))
	}
	return body, nil
}

// local is this process.
type local struct{}

func (local) cpu(ctx context.Context, d time.Duration) ([]byte, error) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	pprof.StopCPUProfile()
	return b.Bytes(), ctx.Err()
}

func (local) lookup(_ context.Context, kind string, rate int) ([]byte, error) {
	switch {
	case rate >= 0 && kind == "mutex":
		runtime.SetMutexProfileFraction(rate)
	case rate >= 0 && kind == "block":
		runtime.SetBlockProfileRate(rate)
	}
	var b bytes.Buffer
	err := pprof.Lookup(kind).WriteTo(&b, 0)
	return b.Bytes(), err
}

// capture takes the profiles of one trial into the run folder. Between begin and
// end lies the measured window.
type capture struct {
	folder  *Folder
	prefix  string // pprof/v01
	sources map[string]source
	window  time.Duration

	before map[string]map[string][]byte // process, kind
	cpu    map[string][]byte
	errs   []error
	mu     sync.Mutex
	wg     sync.WaitGroup
}

func newCapture(folder *Folder, variant, self string, debug map[string]string, window time.Duration) *capture {
	c := &capture{
		folder: folder, prefix: "pprof/" + variant, window: window,
		sources: map[string]source{self: local{}},
		before:  map[string]map[string][]byte{}, cpu: map[string][]byte{},
	}
	for name, addr := range debug {
		c.sources[name] = remote{addr}
	}
	return c
}

// begin starts the CPU profiles, which end by themselves.
func (c *capture) begin(ctx context.Context) {
	for name, src := range c.sources {
		c.wg.Go(func() {
			sums := c.lookup(ctx, name, src, sumProfiles, func(kind string) int { return rates[kind] })
			cpu, err := src.cpu(ctx, c.window)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.before[name], c.cpu[name] = sums, cpu
			if err != nil {
				c.errs = append(c.errs, fmt.Errorf("cpu profile of %s: %w", name, err))
			}
		})
	}
}

// lookup takes the profiles of these kinds, and sets their rates where they have
// one.
func (c *capture) lookup(ctx context.Context, name string, src source, kinds []string, rate func(kind string) int) map[string][]byte {
	found := map[string][]byte{}
	for _, kind := range kinds {
		set := keepRate
		if _, rated := rates[kind]; rated {
			set = rate(kind)
		}
		p, err := src.lookup(ctx, kind, set)
		if err != nil {
			c.mu.Lock()
			c.errs = append(c.errs, fmt.Errorf("%s profile of %s: %w", kind, name, err))
			c.mu.Unlock()
			continue
		}
		found[kind] = p
	}
	return found
}

// end waits for the CPU profiles, takes the others, writes all of them, and
// returns their names in the run folder.
func (c *capture) end(ctx context.Context) ([]string, error) {
	c.wg.Wait()
	off := func(string) int { return 0 }
	var files []string
	write := func(process, kind string, data []byte) {
		if len(data) == 0 {
			return
		}
		name := c.prefix + "/" + process + "/" + kind + ".pb.gz"
		err := c.folder.Create(name, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
		if err != nil {
			c.errs = append(c.errs, err)
			return
		}
		files = append(files, name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.sources)) {
		src := c.sources[name]
		write(name, "cpu", c.cpu[name])
		for kind, data := range c.lookup(ctx, name, src, stateProfiles, off) {
			write(name, kind, data)
		}
		for kind, after := range c.lookup(ctx, name, src, sumProfiles, off) {
			data, err := difference(c.before[name][kind], after)
			if err != nil {
				c.errs = append(c.errs, fmt.Errorf("%s profile of %s: %w", kind, name, err))
				continue
			}
			write(name, kind, data)
		}
	}
	slices.Sort(files)
	return files, errors.Join(c.errs...)
}

// difference is what a profile that only grows gained.
func difference(before, after []byte) ([]byte, error) {
	a, err := profile.ParseData(after)
	if err != nil {
		return nil, err
	}
	b, err := profile.ParseData(before)
	if err != nil {
		return nil, err
	}
	b.Scale(-1)
	d, err := profile.Merge([]*profile.Profile{b, a})
	if err != nil {
		return nil, err
	}
	d.TimeNanos, d.DurationNanos = a.TimeNanos, a.TimeNanos-b.TimeNanos
	var buf bytes.Buffer
	if err := d.Write(&buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
