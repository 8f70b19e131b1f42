package node

import (
	"context"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"

	labv1 "raftlab/proto/raftlab/lab/v1"
)

// maxLabRequest is far more than a request of Lab has.
const maxLabRequest = 64 << 10

// newDebugServer makes the server of the debug port: pprof and metrics by
// HTTP/1.1, and the Lab service by gRPC, told apart by content type. Its caller has made sure that
// the port is a loopback one.
func newDebugServer(n *Node) *http.Server {
	lab := grpc.NewServer(serverOptions(n.cfg, maxLabRequest)...)
	labv1.RegisterLabServer(lab, labService{n: n})

	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/mutex", rated("mutex", func(n int) { runtime.SetMutexProfileFraction(n) }))
	mux.HandleFunc("/debug/pprof/block", rated("block", runtime.SetBlockProfileRate))
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/metrics", promhttp.HandlerFor(newRegistry(n), promhttp.HandlerOpts{}))

	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols:         &protocols,
		ReadHeaderTimeout: connectionTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				lab.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
	}
}

// rated serves a profile that the runtime collects only once a rate is set: the
// query "rate" sets it, so that a first request starts the collecting and a later
// one, with rate=0, ends it.
func rated(profile string, setRate func(int)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if text := r.FormValue("rate"); text != "" {
			rate, err := strconv.Atoi(text)
			if err != nil || rate < 0 {
				http.Error(w, "rate "+strconv.Quote(text)+" is not a whole number of 0 or more", http.StatusBadRequest)
				return
			}
			setRate(rate)
		}
		pprof.Handler(profile).ServeHTTP(w, r)
	}
}

// labService serves raftlab.lab.v1.Lab.
type labService struct {
	labv1.UnimplementedLabServer

	n *Node
}

// Usage implements Lab.
func (labService) Usage(_ context.Context, req *labv1.UsageRequest) (*labv1.UsageResponse, error) {
	return Usage(req.GetCollectGarbage()), nil
}
