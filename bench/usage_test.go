package bench

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"

	labv1 "raftlab/proto/raftlab/lab/v1"
)

func TestUsagePoints(t *testing.T) {
	begin := time.Unix(1000, 0)
	read := func(ms int, cpuMs, rss, goroutines uint64) reading {
		return reading{begin.Add(time.Duration(ms) * time.Millisecond), &labv1.UsageResponse{
			CpuUserNanos: cpuMs * 600_000, CpuSystemNanos: cpuMs * 400_000, RssBytes: rss, Goroutines: goroutines,
		}}
	}
	got := usagePoints(begin, []map[string]reading{
		{"node1": read(1, 500, 10, 5), "node2": read(1, 100, 20, 6)},
		{"node1": read(101, 550, 11, 7)}, // node2 does not answer
		{"node1": read(201, 750, 12, 7), "node2": read(201, 120, 21, 6)},
		{"node1": read(301, 20, 3, 4), "node2": read(301, 130, 22, 6)}, // node1 is another process
		{"node1": read(401, 30, 4, 4), "node2": read(401, 140, 23, 6)},
	})
	want := []UsagePoint{
		{0.101, map[string]ProcessPoint{"node1": {0.5, 11, 7}}},
		{0.201, map[string]ProcessPoint{"node1": {2, 12, 7}, "node2": {0.1, 21, 6}}},
		{0.301, map[string]ProcessPoint{"node2": {0.1, 22, 6}}},
		{0.401, map[string]ProcessPoint{"node1": {0.1, 4, 4}, "node2": {0.1, 23, 6}}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("points differ (-want +got):\n%s", diff)
	}
}

// lab is a node that answers, or holds its answers back.
type lab struct {
	labv1.UnimplementedLabServer
	asked  chan struct{}
	paused bool
}

func (l *lab) Usage(ctx context.Context, _ *labv1.UsageRequest) (*labv1.UsageResponse, error) {
	if l.paused {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case l.asked <- struct{}{}:
	default:
	}
	return &labv1.UsageResponse{}, nil
}

// A node that does not answer keeps nobody else from having a series. An interval in
// which this process gets no CPU has nobody's answer.
func TestFollowPastAPausedNode(t *testing.T) {
	asked := make(chan struct{}, 10)
	debug := map[string]string{}
	for name, l := range map[string]*lab{"node1": {asked: asked}, "node2": {paused: true}} {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		labv1.RegisterLabServer(s, l)
		go func() { _ = s.Serve(listener) }()
		defer s.Stop()
		debug[name] = listener.Addr().String()
	}
	p, err := newProbe(processGenerator, nil, debug)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.close() }()
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	go func() {
		for range 10 {
			select {
			case <-asked:
			case <-ctx.Done():
			}
		}
		end()
	}()
	answers := map[string]int{}
	all := p.follow(ctx, usageInterval)
	for _, readings := range all {
		for name := range readings {
			answers[name]++
		}
	}
	if !errors.Is(ctx.Err(), context.Canceled) || answers["node1"] < 2 || answers["node2"] > 0 {
		t.Errorf("answers %v in %d readings: %v", answers, len(all), ctx.Err())
	}
}

// What is written beside the time series of the load is read back, and that alone.
func TestUsageLines(t *testing.T) {
	f, err := CreateFolder(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	point := UsagePoint{0.1, map[string]ProcessPoint{"node1": {0.25, 1 << 20, 12}}}
	for block := range 2 {
		trial := Trial{
			Variant: "v01", Block: block + 1, Kind: TrialMeasured,
			Series: []Point{{Operations: 4}, {OffsetS: 0.05, Operations: 5}}, Usage: []UsagePoint{point, point},
		}
		if err := f.AppendSeries(&trial); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(f.Dir, SeriesFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	got, err := ReadUsage(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []TrialUsage{{"v01", 1, TrialMeasured, []UsagePoint{point, point}}, {"v01", 2, TrialMeasured, []UsagePoint{point, point}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}
