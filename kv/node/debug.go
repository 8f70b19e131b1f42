package node

import (
	"context"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"google.golang.org/grpc"

	labv1 "raftlab/proto/raftlab/lab/v1"
)

// newDebugServer makes the server of the debug port: pprof by HTTP/1.1, and the
// Lab service by gRPC, told apart by content type. Its caller has made sure that
// the port is a loopback one.
func newDebugServer(cfg Config) *http.Server {
	lab := grpc.NewServer(serverOptions(cfg, cfg.MaxRequest)...)
	labv1.RegisterLabServer(lab, labService{})

	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)

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

// labService serves raftlab.lab.v1.Lab.
type labService struct {
	labv1.UnimplementedLabServer
}

// Usage implements Lab.
func (labService) Usage(_ context.Context, req *labv1.UsageRequest) (*labv1.UsageResponse, error) {
	return Usage(req.GetCollectGarbage()), nil
}
