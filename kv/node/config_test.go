package node

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func validConfig() Config {
	c := DefaultConfig()
	c.ID = 1
	return c
}

func TestDefaultsAreValid(t *testing.T) {
	if err := validConfig().Effective().Validate(); err != nil {
		t.Fatal(err)
	}
}

// Every setting can be printed and read back, so that a run record reproduces
// the node.
func TestKnobsRoundTrip(t *testing.T) {
	c := validConfig().Effective()
	values := c.Values()
	var back Config
	for name, value := range values {
		if err := back.Set(name, value); err != nil && value != "" {
			t.Errorf("Set(%s, %q): %v", name, value, err)
		}
	}
	if back != c {
		t.Errorf("read back\n%+v\nwant\n%+v", back, c)
	}
	for _, k := range Knobs(&c) {
		if k.Usage == "" {
			t.Errorf("knob %s has no usage", k.Name)
		}
		if len(k.Values) > 0 && !slices.Contains(k.Values, k.String()) {
			t.Errorf("knob %s: default %s is not one of %v", k.Name, k, k.Values)
		}
	}
}

func TestSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"))
		if back, err := ParseSize(s.String()); err != nil || back != s {
			t.Fatalf("ParseSize(%q) = %d, %v; want %d", s.String(), back, err, s)
		}
		r := Rate(s)
		if back, err := ParseRate(r.String()); err != nil || back != r {
			t.Fatalf("ParseRate(%q) = %d, %v; want %d", r.String(), back, err, r)
		}
	})
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "512": 512, "512B": 512, "64KiB": 64 << 10, "1.5MiB": 3 << 19, "200MB": 200e6, "1 GiB": 1 << 30, "5kB": 5000,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "10XB", "-1", "-1KiB", "9EiB", "9999999999GiB", "NaN", "1e30", "MiB", "+Inf"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestEffective(t *testing.T) {
	for _, test := range []struct {
		name  string
		set   map[string]string
		knob  string
		value string
	}{
		{"peer port", map[string]string{"addr": "127.0.0.1:21001"}, "peer-addr", "127.0.0.1:22001"},
		{"peer port of any", map[string]string{"addr": "127.0.0.1:0"}, "peer-addr", "127.0.0.1:0"},
		{"peer port of IPv6", map[string]string{"addr": "[::1]:5"}, "peer-addr", "[::1]:1005"},
		{"peer port by hand", map[string]string{"peer-addr": "127.0.0.1:7"}, "peer-addr", "127.0.0.1:7"},
		{"chunk", nil, "chunk-size", "1MiB"},
		{"chunk of a small limit", map[string]string{"max-message": "1KiB"}, "chunk-size", "1KiB"},
		{"chunk that moves", map[string]string{"chunk-size": "auto"}, "chunk-size", "auto"},
		{"chunk that moves under a small limit", map[string]string{"chunk-size": "auto", "max-message": "1KiB"}, "chunk-size", "auto"},
		{"append", nil, "append-size", "16MiB"},
		{"append beside a chunk that moves", map[string]string{"chunk-size": "auto"}, "append-size", "16MiB"},
		{"append when raft splits", map[string]string{"chunking": "raft", "chunk-size": "64KiB"}, "append-size", "57088"},
		{"append when raft splits at what auto starts with", map[string]string{"chunking": "raft", "chunk-size": "auto"}, "append-size", "917248"},
		{"inflight", nil, "inflight-bytes", "64MiB"},
		{"inflight of large appends", map[string]string{"append-size": "64MiB"}, "inflight-bytes", "128MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := validConfig()
			for name, value := range test.set {
				if err := c.Set(name, value); err != nil {
					t.Fatal(err)
				}
			}
			c = c.Effective()
			if got := c.Values()[test.knob]; got != test.value {
				t.Errorf("%s = %s, want %s", test.knob, got, test.value)
			}
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What is refused, and that the message names field, value and limit.
func TestBadSettings(t *testing.T) {
	for _, test := range []struct{ set, want string }{
		{"id=0", "id 0 must be at least 1"},
		{"id=18446744073709551615", "id 18446744073709551615 is reserved by raft; the largest is 18446744073709551613"},
		{"id=18446744073709551614", "id 18446744073709551614 is reserved by raft; the largest is 18446744073709551613"},
		{"id=-1", `id "-1" is not a whole number from 0 to 18446744073709551615`},
		{"addr=localhost", `addr "localhost" is not host:port`},
		{"addr=localhost:70000", `addr "localhost:70000" has a port outside 0 to 65535`},
		{"peer-addr=:x", `peer-addr ":x" has a port outside 0 to 65535`},
		{"debug-addr=0.0.0.0:1", "debug-addr 0.0.0.0:1 must be a loopback address"},
		{"debug-addr=:1", "debug-addr :1 must be a loopback address"},
		{"heartbeat-ticks=10", "election-ticks 10 must be greater than heartbeat-ticks 10"},
		{"heartbeat-ticks=0", "heartbeat-ticks 0 must be at least 1"},
		{"link-delay=-1ms", "link-delay -1ms must not be negative"},
		{"link-delay=soon", `link-delay "soon" is not a duration such as 5ms or 1s`},
		{"link-delay=2m", "link-delay 2m0s exceeds the maximum 1m0s"},
		{"link-jitter=1ms", "link-jitter 1ms exceeds the delay of 0s"},
		{"link-jitter=-1ms", "link-jitter -1ms must not be negative"},
		{"link-drop=5%", `link-drop "5%" is not a probability from 0 to 1, such as 0.05`},
		{"link-drop=1.01", `link-drop "1.01" is not a probability from 0 to 1, such as 0.05`},
		{"link-duplicate=-0.1", `link-duplicate "-0.1" is not a probability from 0 to 1, such as 0.05`},
		{"link-reorder=NaN", `link-reorder "NaN" is not a probability from 0 to 1, such as 0.05`},
		{"link-seed=-1", `link-seed "-1" is not a whole number from 0 to 18446744073709551615`},
		{"link-rate=fast", `link-rate "fast" is not a rate such as 200MB/s or 1GiB/s`},
		{"batch-count=0", "batch-count 0 must be at least 1"},
		{"batch-size=0", "batch-size 0 must be at least 1"},
		{"batching=often", `batching "often" is not one of none, greedy, linger, nagle`},
		{"linger=-1ms", `linger "-1ms" is not auto, nor a duration such as 500us or 1ms`},
		{"linger=soon", `linger "soon" is not auto, nor a duration such as 500us or 1ms`},
		{"snapshot-window=0", "snapshot-window 0 must be at least 1"},
		{"snapshot-limit=0", "snapshot-limit 0 must be at least 1"},
		{"snapshot-rate=1000", "snapshot-rate 1KB/s is below the minimum 1KiB/s (0: unlimited)"},
		{"snapshot-timeout=99ms", "snapshot-timeout 99ms is below the minimum 100ms"},
		{"snapshot-keep=-1s", "snapshot-keep -1s must not be negative"},
		{"chunking=zip", `chunking "zip" is not one of none, raft, count, reactive, bounded, fragment`},
		{"stages=some", `stages "some" is not one of on, off`},
		{"codec=json", `codec "json" is not one of proto, append, scatter`},
		{"compression=lzma", `compression "lzma" is not one of none, gzip, zstd, snappy, s2`},
		{"chunk-size=8MiB", "chunk-size 8MiB exceeds max-message 4MiB"},
		{"chunk-size=511", "chunk-size 511 is below the minimum 512"},
		{"chunk-size=10XB", `chunk-size "10XB" is not auto or a size such as 512, 64KiB or 4MiB`},
		{"chunk-size=-1", `chunk-size "-1" is not auto or a size such as 512, 64KiB or 4MiB`},
		{"chunk-size=Auto", `chunk-size "Auto" is not auto or a size such as 512, 64KiB or 4MiB`},
		{"max-message=511", "max-message 511 is below the minimum 512"},
		{"max-message=2GiB", "max-message 2GiB exceeds the maximum 2147483647"},
		{"max-request=0", "max-request 0 is below the minimum 512"},
		{"inflight-bytes=1MiB", "inflight-bytes 1MiB is less than append-size 16MiB"},
		{"tick=1us", "tick 1µs is below the minimum 1ms"},
		{"grpc-window=1KiB", "grpc-window 1KiB is below the minimum 64KiB"},
		{"stream-workers=1000000", "stream-workers 1000000 exceeds the maximum 65536"},
		{"grpc-write-buffer=1KiB", "grpc-write-buffer 1KiB is below the minimum 4KiB"},
		{"grpc-write-buffer=1GiB", "grpc-write-buffer 1GiB exceeds the maximum 64MiB"},
		{"gomemlimit=1MiB", "gomemlimit 1MiB is below the minimum 32MiB"},
		{"gomaxprocs=-1", "gomaxprocs -1 must not be negative"},
		{"gomaxprocs=2000", "gomaxprocs 2000 exceeds the maximum 1024"},
		{"gogc=x", `gogc "x" is not a whole number`},
		{"scan-pins=0", "scan-pins 0 must be at least 1"},
		{"colour=red", "colour red is not a setting of a node"},
	} {
		t.Run(test.set, func(t *testing.T) {
			c := validConfig()
			name, value, _ := strings.Cut(test.set, "=")
			err := c.Set(name, value)
			if err == nil {
				err = c.Effective().Validate()
			}
			if _, ok := errors.AsType[*FieldError](err); !ok {
				t.Fatalf("got %v, want a FieldError", err)
			}
			if err.Error() != test.want {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
		})
	}
}

// A strategy that does not read chunk-size for messages is not checked against
// it.
func TestChunkSizeBeyondMaxMessage(t *testing.T) {
	for chunking, allowed := range map[string]bool{"none": true, "reactive": true, "raft": false, "count": false, "bounded": false, "fragment": false} {
		c := validConfig()
		c.Chunking, c.ChunkSize = chunking, 8<<20
		if err := c.Effective().Validate(); (err == nil) != allowed {
			t.Errorf("%s: %v", chunking, err)
		}
	}
}

func TestLingerRoundTrip(t *testing.T) {
	for text, want := range map[string]Linger{
		"auto": {Auto: true}, "0s": {}, "50µs": {Wait: 50 * time.Microsecond}, "1.5ms": {Wait: 1500 * time.Microsecond},
	} {
		if got, err := ParseLinger(text); err != nil || got != want || got.String() != text {
			t.Errorf("ParseLinger(%q) = %v, %v", text, got, err)
		}
	}
}

// Only batching linger reads linger, so only then it can be too long.
func TestLingerBeyondElectionTimeout(t *testing.T) {
	for batching, want := range map[string]string{
		"greedy": "", "linger": "linger 1s must be less than an election timeout, tick 100ms times election-ticks 10",
	} {
		c := validConfig()
		c.Batching, c.Linger = batching, Linger{Wait: time.Second}
		got := ""
		if err := c.Effective().Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", batching, got, want)
		}
	}
}

func TestChunkSizeAuto(t *testing.T) {
	for _, chunking := range []string{"none", "raft", "count", "reactive", "bounded", "fragment"} {
		c := validConfig()
		c.Chunking, c.ChunkSize = chunking, AutoChunk
		if err := c.Effective().Validate(); err != nil {
			t.Errorf("%s: %v", chunking, err)
		}
	}
	c := validConfig()
	c.ChunkSize = -2
	if err := c.Effective().Validate(); err == nil || err.Error() != "chunk-size -2 must not be negative" {
		t.Errorf("got %v", err)
	}
}

// Commands share an entry up to what one append and one frame carry.
func TestPackSize(t *testing.T) {
	for _, test := range []struct {
		set   string // knob=value, separated by spaces
		local bool
		want  Size
	}{
		{"", false, 1<<20 - packFraming},
		{"", true, 8 << 20},
		{"batch-size=1MiB", true, 1 << 20},
		{"append-size=4KiB", true, 4 << 10},
		{"chunk-size=64KiB", false, 64<<10 - packFraming},
		{"chunk-size=64KiB", true, 8 << 20},
		{"chunk-size=auto", false, 1<<20 - packFraming},
		{"chunk-size=auto max-message=1KiB", false, 1<<10 - packFraming},
		{"chunking=none", false, 4<<20 - packFraming},
		{"chunking=none chunk-size=64KiB", false, 4<<20 - packFraming},
		{"chunking=reactive chunk-size=64KiB", false, 4<<20 - packFraming},
		{"chunking=reactive max-message=64MiB", false, 8 << 20},
		{"chunking=bounded chunk-size=64KiB append-size=4KiB", false, 4 << 10},
		{"chunking=raft chunk-size=64KiB", false, 57088}, // as append-size
		{"max-message=512", false, packFraming},
	} {
		c := validConfig()
		for field := range strings.FieldsSeq(test.set) {
			name, value, _ := strings.Cut(field, "=")
			if err := c.Set(name, value); err != nil {
				t.Fatal(err)
			}
		}
		if got := packSize(c.Effective(), test.local); got != int(test.want) {
			t.Errorf("%q, local %v: %d, want %d", test.set, test.local, got, test.want)
		}
	}
}

func TestKnobTypes(t *testing.T) {
	c := Config{LinkDelay: time.Second}
	want := map[string]string{"id": "N", "addr": "HOST:PORT", "data-dir": "DIR", "max-message": "SIZE", "chunk-size": "SIZE|auto", "link-rate": "SIZE/s", "link-delay": "DUR", "linger": "DUR|auto", "link-drop": "P", "lanes": "shared|split"}
	for _, k := range Knobs(&c) {
		if want[k.Name] != "" && k.Type() != want[k.Name] {
			t.Errorf("%s has type %s, want %s", k.Name, k.Type(), want[k.Name])
		}
	}
	var program struct {
		Path string `knob:"server-bin" usage:"a program"`
	}
	if got := KnobsOf(&program)[0].Type(); got != "FILE" {
		t.Errorf("a program has type %s, want FILE", got)
	}
}
