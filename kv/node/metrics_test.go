package node

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"raftlab/kv/metric"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// scrape reads /metrics of a node's debug port.
func scrape(t *testing.T, m *member) (families map[string]*dto.MetricFamily, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, 3*time.Minute), http.MethodGet, "http://"+m.DebugAddr()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", resp.Status, body, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if families, err = parser.TextToMetricFamilies(strings.NewReader(string(body))); err != nil {
		t.Fatal(err)
	}
	return families, string(body)
}

// Every declared metric is there, with its sentence and its type, under a name
// that Prometheus's own linter has nothing against.
func TestPrometheus(t *testing.T) {
	members := startCluster(t, 3, func(o *Options) {
		o.Config.DebugAddr = "127.0.0.1:0"
		o.Config.Storage, o.Config.DataDir = StorageWAL, t.TempDir()
	})
	ctx := within(t, 3*time.Minute)
	for range 10 {
		if _, err := members[0].kv.Put(ctx, &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1000)}); err != nil {
			t.Fatal(err)
		}
	}
	families, text := scrape(t, members[0])
	types := map[metric.Kind]dto.MetricType{
		metric.Counter: dto.MetricType_COUNTER, metric.Gauge: dto.MetricType_GAUGE, metric.HistogramKind: dto.MetricType_HISTOGRAM,
	}
	left := maps.Clone(families)
	declared := map[string]bool{}
	eachDeclared(func(ofPeer bool, m metric.Metric) {
		if declared[m.Name] {
			t.Errorf("%s is declared twice", m.Name)
		}
		declared[m.Name] = true
		name := prometheusName(m)
		f := families[name]
		if f == nil {
			t.Errorf("no %s", name)
			return
		}
		delete(left, name)
		if f.GetType() != types[m.Kind] || f.GetHelp() != sentence(m.Usage) {
			t.Errorf("%s is a %s with help %q; declared as %s, %q", name, f.GetType(), f.GetHelp(), m.Kind, m.Usage)
		}
		if m.Kind == metric.Counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s", name, m.Kind)
		}
		if strings.Contains(m.Name, "bytes") && m.Unit() != "bytes" {
			t.Errorf("%s: the unit is not the last word", m.Name)
		}
		var peers []string
		for _, x := range f.GetMetric() {
			for _, l := range x.GetLabel() {
				peers = append(peers, l.GetName()+"="+l.GetValue())
			}
		}
		if want := []string{"peer=2", "peer=3"}; ofPeer && !slices.Equal(peers, want) || !ofPeer && peers != nil {
			t.Errorf("%s has labels %q", name, peers)
		}
	})
	for name := range left {
		if strings.HasPrefix(name, "raftlab_") {
			t.Errorf("%s is not declared", name)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}

	// Values are those that Status tells; times are in seconds.
	st := members[0].state(ctx, t)
	value := func(name string) float64 {
		x := families[name].GetMetric()[0]
		return x.GetCounter().GetValue() + x.GetGauge().GetValue()
	}
	if got := value("raftlab_commands_proposed_total"); got != 10 {
		t.Errorf("%g commands proposed", got)
	}
	if got, told := value("raftlab_term"), float64(st.GetTerm()); got != told {
		t.Errorf("term %g, status has %g", got, told)
	}
	fsyncs := families["raftlab_journal_fsync_duration_seconds"].GetMetric()[0].GetHistogram()
	if got := value("raftlab_journal_fsync_seconds_total"); got <= 0 || got > 60 || got != fsyncs.GetSampleSum() ||
		fsyncs.GetSampleCount() != uint64(value("raftlab_journal_fsyncs_total")) {
		t.Errorf("fsyncs took %g s; %d by the histogram, %g s together", got, fsyncs.GetSampleCount(), fsyncs.GetSampleSum())
	}
	frames := families["raftlab_frame_bytes"].GetMetric()[0].GetHistogram()
	var below uint64
	for _, b := range frames.GetBucket() {
		if b.GetUpperBound() == 512 {
			below = b.GetCumulativeCount()
		}
	}
	if n := frames.GetSampleCount(); n < 10 || below == 0 || below > n-10 {
		t.Errorf("%d frames, %d of them up to 512 bytes; 10 are longer", n, below)
	}
}

// A node that has ended tells so, rather than nothing.
func TestPrometheusWithoutReplica(t *testing.T) {
	m := start(t, 1, func(o *Options) { o.Config.DebugAddr = "127.0.0.1:0" })
	registry := newRegistry(m.Node)
	stopNode(t, m.Node)
	if _, err := registry.Gather(); err == nil {
		t.Error("metrics of a node that has ended")
	}
}
