package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"raftlab/kv/node"
	labv1 "raftlab/proto/raftlab/lab/v1"
)

// UsagePoint is what processes used at one moment of a window.
type UsagePoint struct {
	OffsetS float64 `json:"offset_s"` // from the start of the window
	// Processes that could be asked then, by name.
	Processes map[string]ProcessPoint `json:"processes"`
}

// ProcessPoint is one process at that moment.
type ProcessPoint struct {
	// CPUs is CPU time a second since the point before: 1 is one core's.
	CPUs       float64 `json:"cpus"`
	RSSBytes   uint64  `json:"rss_bytes"`
	Goroutines uint64  `json:"goroutines"` // 0 where not known
}

// usageInterval is the least time between two points. A node that is asked works
// for it for up to 1 ms, which is then 0.4 % of a core: oftener would show in
// what is measured.
const usageInterval = 250 * time.Millisecond

// reading is what one process has used by a time.
type reading struct {
	at    time.Time
	usage *labv1.UsageResponse
}

// readUsage asks all processes at once; those that cannot be asked are missing.
func (p *probe) readUsage(ctx context.Context) map[string]reading {
	readings := map[string]reading{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, conn := range p.conns {
		wg.Go(func() {
			u, err := labv1.NewLabClient(conn).Usage(ctx, &labv1.UsageRequest{})
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			readings[name] = reading{time.Now(), u}
		})
	}
	own := reading{time.Now(), node.Usage(false)}
	wg.Wait()
	readings[p.self] = own
	for name, pid := range p.pids {
		if u, err := processUsage(pid); err == nil {
			readings[name] = reading{time.Now(), u}
		}
	}
	return readings
}

// follow reads at each interval until ctx ends, and returns all readings. A process
// that does not answer within an interval, as one that is paused, is missing, and
// holds up nobody else's.
func (p *probe) follow(ctx context.Context, interval time.Duration) []map[string]reading {
	interval = max(interval, usageInterval)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	read := func() map[string]reading {
		ctx, cancel := context.WithTimeout(ctx, interval)
		defer cancel()
		return p.readUsage(ctx)
	}
	all := []map[string]reading{read()}
	for {
		select {
		case <-ticker.C:
			all = append(all, read())
		case <-ctx.Done():
			return all
		}
	}
}

// usagePoints makes points of the readings after the first. A process has a point
// where it had a reading before too, unless it is another one by now: one that
// was started again has used less than before.
func usagePoints(begin time.Time, readings []map[string]reading) []UsagePoint {
	var points []UsagePoint
	last := map[string]reading{}
	for _, now := range readings {
		p := UsagePoint{Processes: map[string]ProcessPoint{}}
		for name, r := range now {
			before, ok := last[name]
			used := float64(cpuNanos(r.usage)) - float64(cpuNanos(before.usage))
			passed := r.at.Sub(before.at)
			if !ok || used < 0 || passed <= 0 {
				continue
			}
			p.OffsetS = max(p.OffsetS, r.at.Sub(begin).Seconds())
			p.Processes[name] = ProcessPoint{
				CPUs: used / float64(passed), RSSBytes: r.usage.GetRssBytes(), Goroutines: r.usage.GetGoroutines(),
			}
		}
		maps.Copy(last, now)
		if len(p.Processes) > 0 {
			points = append(points, p)
		}
	}
	return points
}

func cpuNanos(u *labv1.UsageResponse) uint64 { return u.GetCpuUserNanos() + u.GetCpuSystemNanos() }

// usageLine is a line of trials.jsonl that tells what processes used.
type usageLine struct {
	Variant string `json:"variant"`
	Block   int    `json:"block"`
	Kind    string `json:"kind"`
	UsagePoint
}

// TrialUsage is what the processes of one trial used over time.
type TrialUsage struct {
	Variant string
	Block   int
	Kind    string
	Points  []UsagePoint
}

// ReadUsage reads what processes used from a trials.jsonl, in the order of the
// trials.
func ReadUsage(r io.Reader) ([]TrialUsage, error) {
	var trials []TrialUsage
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var l usageLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return trials, fmt.Errorf("line %d: %w", n, err)
		}
		if len(l.Processes) == 0 {
			continue // of the load
		}
		if end := len(trials) - 1; end < 0 || trials[end].Variant != l.Variant || trials[end].Block != l.Block || trials[end].Kind != l.Kind {
			trials = append(trials, TrialUsage{Variant: l.Variant, Block: l.Block, Kind: l.Kind})
		}
		t := &trials[len(trials)-1]
		t.Points = append(t.Points, l.UsagePoint)
	}
	return trials, lines.Err()
}
