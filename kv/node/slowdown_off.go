//go:build !slowdown

package node

import "google.golang.org/grpc"

// slowdown is nothing in every build but the one that the lab tests itself with;
// see slowdown_on.go.
func slowdown() []grpc.ServerOption { return nil }
