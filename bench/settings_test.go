package bench

import (
	"slices"
	"strings"
	"testing"
)

// circumstances in which fields are read or not; each is the default with these.
var circumstances = []struct{ name, fields string }{
	{"default", ""},
	{"alone", "nodes=1,packing=entry"},
	{"packed", "nodes=1"},
	{"joined", "nodes=1,packing=entry,events=join at 1s"},
	{"local", "topology=in-process"},
	{"local-join", "topology=in-process,events=join at 1s"},
	{"direct", "target=direct,nodes=1,packing=entry"},
	{"processes", "topology=processes,target=pipeline"},
	{"restart", "storage=wal,events=kill 1 at 1s; restart killed at 2s"},
	{"kill", "events=kill 1 at 1s"},
	{"wire", "target=wire"},
	{"stream", "target=wire,wire=stream"},
	{"relay", "target=relay"},
	{"bare", "topology=in-process,target=bare"},
	{"bare-alone", "topology=in-process,target=bare,nodes=1,packing=entry"},
	{"external", "topology=external"},
	{"etcd", "topology=external,target=etcd"},
}

// Which fields are read where. A new field has to be put in one of these classes.
func TestReads(t *testing.T) {
	const (
		everywhere = "default alone packed joined local local-join direct processes restart kill wire stream relay bare bare-alone external etcd"
		own        = "default alone packed joined local local-join direct processes restart kill"
		peers      = "default joined local local-join processes restart kill"
		frames     = "default joined processes restart kill"
		framed     = "default packed joined processes restart kill"
	)
	classes := []struct{ fields, read string }{
		{"topology target clients think-time op value-size key-size keys key-distribution rate", everywhere},
		{"rate-share", own + " bare bare-alone external etcd"},
		{"listener", "default alone packed joined direct restart kill wire stream relay"},
		{"nodes", own + " relay bare bare-alone"},
		{"conns", "default alone packed joined local local-join processes restart kill wire stream relay external etcd"},
		{"events", own + " external"}, // where they are refused
		{"stages-slice stages", own},
		{"attempt-timeout", "default alone packed joined local local-join processes restart kill external"},
		{"wire", "wire stream relay"},
		{"server-bin", "processes"},
		{"ops-per-message", "direct processes stream bare bare-alone"},
		{"read-ratio read", ""}, // with other operations, below

		{"gogc gomemlimit gomaxprocs", own + " wire stream relay bare bare-alone"},
		{"batching storage tick election-ticks log-size admission-ops admission-bytes", own},
		{"packing batch-count batch-size uncommitted apply-size log-entries", own + " bare bare-alone"},
		{"max-request stream-workers", "default alone packed joined local local-join processes restart kill wire stream relay"},
		{"grpc-window grpc-write-buffer", "default alone packed joined local local-join processes restart kill wire stream relay"},
		{"transport lanes codec compression", frames},
		{"chunking max-message chunk-size", framed},
		{"append-size", "default packed joined local local-join processes restart kill bare"},
		{"inflight-messages inflight-bytes", peers + " bare"},
		{"heartbeat-ticks peer-queue link-delay link-jitter link-rate link-drop link-duplicate link-reorder", peers},
		{"snapshot-timeout snapshot-keep", "joined local-join restart"},
		{"snapshot-window snapshot-rate snapshot-limit", "joined restart"},
		{"sync save-after", "restart"},
		{"arrivals chunk-count linger link-seed", ""}, // with others of a family, below
		{"scan-page scan-pins scan-pin-time", ""},     // the load has no scans
	}
	want := map[string]string{}
	for _, c := range classes {
		for key := range strings.FieldsSeq(c.fields) {
			if _, twice := want[key]; twice {
				t.Errorf("%s has two classes", key)
			}
			want[key] = c.read
		}
	}
	for _, k := range Vocabulary() {
		read, ok := want[k.Name]
		if !ok {
			t.Errorf("%s has no class: decide in which circumstances it has an effect", k.Name)
			continue
		}
		delete(want, k.Name)
		for _, c := range circumstances {
			s := settingsOf(t, c.fields)
			if got := s.reads(k.Name); got != slices.Contains(strings.Fields(read), c.name) {
				t.Errorf("%s (%s) reads %s: %v", c.name, c.fields, k.Name, got)
			}
		}
	}
	for key := range want {
		t.Errorf("there is no field %s", key)
	}
}

func settingsOf(t *testing.T, fields string) *Settings {
	t.Helper()
	s := DefaultSettings()
	for field := range strings.SplitSeq(fields, ",") {
		if key, value, ok := strings.Cut(field, "="); ok {
			if err := s.Set(key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &s
}

// What is read with others of its family.
func TestReadsWith(t *testing.T) {
	for _, c := range []struct{ fields, of, want string }{
		{"op=mixed", "read-ratio read", "read-ratio read"},
		{"op=get", "read-ratio read", "read"},
		{"rate=500", "rate arrivals", "rate arrivals"},
		{"rate-share=0.5", "rate arrivals", "arrivals"},
		{"stages-slice=100ms", "stages", ""},
		{"storage=wal", "sync save-after", "sync save-after"},
		{"chunking=count", "chunk-size chunk-count", "chunk-size chunk-count"},
		{"chunking=count,nodes=1", "chunk-size chunk-count", "chunk-size"},
		{"chunking=raft", "chunk-size chunk-count", "chunk-size"},
		{"chunking=raft,append-size=1MiB", "chunk-size chunk-count", ""},
		{"chunking=reactive", "chunk-size chunk-count", ""},
		{"chunking=none", "chunk-size chunk-count", ""},
		{"batching=none", "batch-count batch-size linger", ""},
		{"batching=linger", "batch-count batch-size linger", "batch-count batch-size linger"},
		{"link-jitter=1ms", "link-seed", "link-seed"},
		{"link-drop=0.1", "link-seed", "link-seed"},
		{"link-duplicate=0.1", "link-seed", "link-seed"},
		{"link-reorder=0.1", "link-seed", "link-seed"},
		{"link-reorder=0.1,nodes=1", "link-seed", ""},
		{"topology=processes,events=pause 1 at 1s for 1s", "snapshot-rate", "snapshot-rate"},
		{"events=partition 1 at 1s for 1s", "snapshot-rate", "snapshot-rate"},
		{"events=slow 1 by 1ms at 1s for 1s", "snapshot-rate", "snapshot-rate"},
		{"events=transfer-leadership at 1s", "snapshot-rate", ""},
	} {
		s := settingsOf(t, c.fields)
		var got []string
		for field := range strings.FieldsSeq(c.of) {
			if s.reads(field) {
				got = append(got, field)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s reads %q, want %q", c.fields, got, c.want)
		}
	}
}

// Axes that nothing reads make no variants, and are told of.
func TestInertAxes(t *testing.T) {
	m, err := Expand(parse(t, "name: x\nceiling: none\nfixed: {nodes: 1, packing: entry}\nvary: {scan-page: [10, 1000], link-delay: [0s, 5ms], chunking: [none, fragment]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "axes scan-page link-delay chunking\nv01 default\n" +
		"skipped scan-page=10,1000: nothing that is measured here reads scan-page\n" +
		"skipped link-delay=0s,5ms: nothing that is measured here reads link-delay\n" +
		"skipped chunking=none,fragment: nothing that is measured here reads chunking\n"
	if got := matrixText(m); got != want {
		t.Errorf("got\n%s", got)
	}
}
