package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"go/format"
	"reflect"
	"strconv"
	"strings"
	"text/template"
	"time"

	"raftlab/kv/node"
	"raftlab/transport"
)

// goCode is the settings of a variant as a Go file: what of it raft, gRPC and the
// runtime know, and as comments what a service has to do itself.
type goCode struct {
	Title string
	// Raft are the fields of the raft.Config literal, Tick the time between ticks.
	Raft []goSetting
	Tick *goSetting
	// Process are calls of runtime and runtime/debug.
	Process []goSetting
	Runtime bool // runtime is among them
	// Peer and Client are the two ports; nil where the variant has none.
	Peer, Client *goPort
	Conns        string
	Own          []goSetting // strategies and targets without a counterpart
	Gzip         bool        // its compressor has to be imported
}

// goPort are the options of the two ends of connections.
type goPort struct{ Server, Dial []goSetting }

// goSetting is a name, its value as a Go expression, and what stands behind it.
type goSetting struct{ Name, Value, Comment string }

// GoCode writes a variant's settings as a Go file to copy from. It is formatted
// and compiles against raft and gRPC alone. A variant whose cluster
// runs already has none that are known: it returns "".
func GoCode(v *Variant) (string, error) {
	s := DefaultSettings()
	known := s.Map()
	for key, value := range v.Config {
		if _, ok := known[key]; !ok {
			continue // of another build
		}
		if key == "value-size" || key == "key-size" {
			continue // of the load only, and its file may be gone
		}
		if err := s.Set(key, value); err != nil {
			return "", fmt.Errorf("settings of %s: %w", v.ID, err)
		}
	}
	s = s.effective()
	if s.Load.Topology == TopologyExternal {
		return "", nil
	}
	c := newGoCode(strings.Join(strings.Fields(v.ID+", "+v.Name), " "), &s) // one line, wherever the run is from
	var b bytes.Buffer
	if err := goTemplate.Execute(&b, c); err != nil {
		return "", err
	}
	code, err := format.Source(b.Bytes())
	return string(code), err
}

func newGoCode(title string, s *Settings) *goCode {
	c := &goCode{Title: title}
	if s.reads("max-message") {
		c.Peer = &goPort{}
	}
	if s.reads("max-request") {
		c.Client = &goPort{}
		c.Conns = strconv.Itoa(s.Load.Conns)
	}
	fields := map[string]string{} // of raft.Config, by the knob that each comes from
	for _, k := range node.Knobs(&s.Node) {
		for source := range strings.SplitSeq(k.Source, ", ") {
			if field, ok := strings.CutPrefix(source, "raft.Config."); ok {
				fields[field] = k.Name
			} else if source != "" {
				c.option(&k, source)
			}
		}
		if k.Strategy && s.reads(k.Name) {
			usage, _, _ := strings.Cut(k.Usage, ";")
			c.Own = append(c.Own, goSetting{k.Name, k.String(), usage})
		}
	}
	for _, k := range node.KnobsOf(&s.Load) {
		switch k.Name {
		case "target":
			c.Own = append(c.Own, goSetting{k.Name, k.String(), targetMeans[k.String()]})
		case "ops-per-message", "read":
			if s.reads(k.Name) {
				c.Own = append(c.Own, goSetting{k.Name, k.String(), k.Usage})
			}
		}
	}
	c.raft(reflect.ValueOf(s.Node.Raft()), fields)
	return c
}

// targetMeans says what a service would have for clients.
var targetMeans = map[string]string{
	TargetUnary:    "one RPC an operation",
	TargetPipeline: "a stream of messages with many operations each, as kv/client's Pipeline",
	TargetCoalesce: "calls of one operation, gathered into messages of a stream, as kv/client's Coalescer",
	TargetDirect:   "calls within the leader's process",
	TargetBare:     "raft in a loop of the caller's",
}

// raftChoices say of fields that no knob moves what they ask of a service.
var raftChoices = map[string]string{
	"AsyncStorageWrites":        "log and state machine answer messages of their own; false with a loop of Ready and Advance",
	"CheckQuorum":               "a leader that hears no majority steps down",
	"PreVote":                   "a node that was cut off disturbs no election",
	"DisableProposalForwarding": "clients are sent to the leader instead",
}

// raft lists the fields of a raft.Config that are set.
func (c *goCode) raft(config reflect.Value, knobs map[string]string) {
	for i := range config.NumField() {
		name, value := config.Type().Field(i).Name, config.Field(i)
		if name == "ID" || value.IsZero() && knobs[name] == "" {
			continue
		}
		setting := goSetting{Name: name, Comment: cmp.Or(knobs[name], raftChoices[name])}
		setting.Value = fmt.Sprint(value.Interface())
		if value.Kind() == reflect.Uint64 {
			setting.Value = goSize(value.Uint())
		}
		c.Raft = append(c.Raft, setting)
	}
}

// option puts a knob where its source says, which is a name and, for a port of
// gRPC, which one.
func (c *goCode) option(k *node.Knob, source string) {
	name, port, _ := strings.Cut(strings.TrimPrefix(source, "grpc."), " ")
	value := k.String()
	if n, err := node.ParseSize(value); err == nil {
		value = goSize(uint64(n))
	}
	ports := []*goPort{c.Peer, c.Client}
	switch port {
	case "(peer port)":
		ports = ports[:1]
	case "(client port)":
		ports = ports[1:]
	}
	for _, p := range ports {
		if p == nil {
			continue
		}
		server := goSetting{"grpc." + name, value, k.Name}
		switch name {
		case "MaxRecvMsgSize":
			p.Server = append(p.Server, server)
			// What one end takes the other may send.
			p.Dial = append(p.Dial, goSetting{"grpc.WithDefaultCallOptions", "grpc.MaxCallSendMsgSize(" + value + ")", k.Name})
		case "StaticStreamWindowSize", "StaticConnWindowSize":
			if value == "0" {
				continue // as gRPC estimates it
			}
			p.Server = append(p.Server, server)
			p.Dial = append(p.Dial, goSetting{"grpc.With" + name, value, k.Name})
		case "WriteBufferSize":
			if value != "0" {
				p.Server = append(p.Server, server)
				p.Dial = append(p.Dial, goSetting{"grpc.With" + name, value, k.Name})
			}
		case "NumStreamWorkers":
			if value != "0" {
				p.Server = append(p.Server, server)
			}
		case "UseCompressor":
			c.compressor(p, value, k.Name)
		}
	}
	switch source {
	case "raft.RawNode.Tick":
		if d, err := time.ParseDuration(k.String()); err == nil {
			c.Tick = &goSetting{Name: source, Value: goDuration(d), Comment: k.Name}
		}
	case "debug.SetGCPercent", "debug.SetMemoryLimit", "runtime.GOMAXPROCS":
		if value != "0" { // as the environment says
			c.Process = append(c.Process, goSetting{Name: source, Value: value, Comment: k.Name})
			c.Runtime = c.Runtime || strings.HasPrefix(source, "runtime.")
		}
	}
}

func (c *goCode) compressor(p *goPort, name, knob string) {
	switch name {
	case transport.CompressionNone:
		return
	case "gzip":
		c.Gzip = true
	default:
		knob += "; gRPC has no " + name + ": register one with encoding.RegisterCompressor"
	}
	p.Dial = append(p.Dial, goSetting{"grpc.WithDefaultCallOptions", "grpc.UseCompressor(" + strconv.Quote(name) + ")", knob})
}

// goSize writes bytes as people do: 4 << 20.
func goSize(n uint64) string {
	for _, shift := range []uint{30, 20, 10} {
		if n >= 1<<shift && n%(1<<shift) == 0 {
			return fmt.Sprintf("%d << %d", n>>shift, shift)
		}
	}
	return strconv.FormatUint(n, 10)
}

// goDuration writes a duration in its largest whole unit.
func goDuration(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Second, "Second"}, {time.Millisecond, "Millisecond"}, {time.Microsecond, "Microsecond"}} {
		if d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d * time.%s", d/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%d * time.Nanosecond", d)
}

var goTemplate = template.Must(template.New("").Parse(`// Package settings has those of {{.Title}}.
// A comment beside a value names the knob that it comes from.
{{- if .Own}}
//
// These have no counterpart in a library; they are what the service does itself:
//
{{- range .Own}}
//   - {{.Name}} {{.Value}}: {{.Comment}}
{{- end}}
{{- end}}
package settings

import (
	{{- if .Runtime}}
	"runtime"
	{{- end}}
	{{- if .Process}}
	"runtime/debug"
	{{- end}}
	{{- if .Tick}}
	"time"
	{{- end}}

	"go.etcd.io/raft/v3"
	{{- if or .Peer .Client}}
	"google.golang.org/grpc"
	{{- end}}
	{{- if .Gzip}}
	_ "google.golang.org/grpc/encoding/gzip" // registers the compressor
	{{- end}}
)

// RaftConfig configures the raft of one node.
func RaftConfig(id uint64, storage raft.Storage) *raft.Config {
	return &raft.Config{
		ID: id,
		Storage: storage,
		{{- range .Raft}}
		{{.Name}}: {{.Value}},{{with .Comment}} // {{.}}{{end}}
		{{- end}}
	}
}
{{with .Tick}}
// Tick is the time from one call of raft's Tick to the next.
const Tick = {{.Value}} // {{.Comment}}
{{end}}
{{- with .Process}}
// Process sets what is of the whole process.
func Process() {
	{{- range .}}
	{{.Name}}({{.Value}}) // {{.Comment}}
	{{- end}}
}
{{end}}
{{- with .Peer}}
// PeerServer are the options of the server that takes in raft's messages.
func PeerServer() []grpc.ServerOption {
	return []grpc.ServerOption{
		{{- range .Server}}
		{{.Name}}({{.Value}}), // {{.Comment}}
		{{- end}}
	}
}

// PeerDial are the options of the connections that raft's messages go by.
func PeerDial() []grpc.DialOption {
	return []grpc.DialOption{
		{{- range .Dial}}
		{{.Name}}({{.Value}}), // {{.Comment}}
		{{- end}}
	}
}
{{end}}
{{- with .Client}}
// ClientServer are the options of the server that clients talk to.
func ClientServer() []grpc.ServerOption {
	return []grpc.ServerOption{
		{{- range .Server}}
		{{.Name}}({{.Value}}), // {{.Comment}}
		{{- end}}
	}
}

// ClientDial are the options of clients' connections, of which the clients of one
// process share {{$.Conns}} to each node (conns).
func ClientDial() []grpc.DialOption {
	return []grpc.DialOption{
		{{- range .Dial}}
		{{.Name}}({{.Value}}), // {{.Comment}}
		{{- end}}
	}
}
{{end}}`))
