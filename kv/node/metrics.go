package node

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"raftlab/kv/metric"
	"raftlab/kv/replica"
	"raftlab/kv/storage"
	"raftlab/transport"
)

// How long a scrape waits for the raft goroutine.
const scrapeTimeout = 5 * time.Second

// eachMetric calls f for all that the node's parts count, given what the replica
// says. peer is 0 for what belongs to none.
func (n *Node) eachMetric(rs replica.Status, f func(peer uint64, m metric.Metric)) {
	own := func(m metric.Metric) {
		if m.Kind != metric.HistogramKind || m.Histogram != nil {
			f(0, m)
		}
	}
	metric.Each(rs, own)
	metric.Each(rs.Counters, own)
	metric.Each(n.replica.Histograms(), own)
	if n.disk != nil {
		metric.Each(n.disk.Stats(), own)
	}
	metric.Each(n.transport.Totals(), own)
	for _, p := range n.transport.Stats() {
		metric.Each(p, func(m metric.Metric) { f(p.ID, m) })
	}
}

// eachDeclared calls f for all that a node may count.
func eachDeclared(f func(ofPeer bool, m metric.Metric)) {
	for _, of := range []any{replica.Status{}, replica.Counters{}, replica.Histograms{}, storage.Counters{}, transport.Totals{}} {
		metric.Each(of, func(m metric.Metric) { f(false, m) })
	}
	metric.Each(transport.PeerStats{}, func(m metric.Metric) { f(true, m) })
}

// collector shows a node's metrics to Prometheus, as they are declared.
type collector struct {
	node         *Node
	descriptions map[string]*prometheus.Desc // by the declared name
}

func newRegistry(n *Node) *prometheus.Registry {
	c := &collector{node: n, descriptions: map[string]*prometheus.Desc{}}
	eachDeclared(func(ofPeer bool, m metric.Metric) {
		var labels []string
		if ofPeer {
			labels = []string{"peer"}
		}
		c.descriptions[m.Name] = prometheus.NewDesc(prometheusName(m), sentence(m.Usage), labels, nil)
	})
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// prometheusName is the declared name by Prometheus's conventions: times are in
// seconds, totals say so.
func prometheusName(m metric.Metric) string {
	name := "raftlab_" + m.Name
	if m.Nanos() {
		name = strings.TrimSuffix(name, "nanos") + "seconds"
	}
	if m.Kind == metric.Counter {
		name += "_total"
	}
	return name
}

// sentence makes a usage text one.
func sentence(usage string) string { return strings.ToUpper(usage[:1]) + usage[1:] + "." }

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descriptions {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.node.life, scrapeTimeout)
	defer cancel()
	rs, err := c.node.replica.Status(ctx)
	if err != nil {
		to <- prometheus.NewInvalidMetric(c.descriptions["term"], err)
		return
	}
	c.node.eachMetric(rs, func(peer uint64, m metric.Metric) {
		to <- prometheusMetric(c.descriptions[m.Name], peer, m)
	})
}

func prometheusMetric(desc *prometheus.Desc, peer uint64, m metric.Metric) prometheus.Metric {
	var labels []string
	if peer != 0 {
		labels = []string{strconv.FormatUint(peer, 10)}
	}
	scale := 1.0
	if m.Nanos() {
		scale = float64(time.Second)
	}
	switch m.Kind {
	case metric.HistogramKind:
		s := m.Histogram.Snapshot()
		first, last := bounds(m)
		buckets := make(map[float64]uint64)
		for b := first; b <= last; b++ {
			buckets[float64(uint64(1)<<b)/scale] = s.CountUpTo(1 << b)
		}
		return prometheus.MustNewConstHistogram(desc, s.Count(), float64(s.Sum)/scale, buckets, labels...)
	case metric.Gauge:
		return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(m.Value)/scale, labels...)
	default:
		return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(m.Value)/scale, labels...)
	}
}

// bounds are the powers of two that a histogram is shown with, of the sixteen
// buckets for each that it has: 1 µs to 17 s, 64 B to 64 MiB, or 1 to 65536.
func bounds(m metric.Metric) (first, last int) {
	switch m.Unit() {
	case "nanos":
		return 10, 34
	case "bytes":
		return 6, 26
	default:
		return 0, 16
	}
}
