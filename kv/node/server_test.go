package node

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// A connection carries as many RPCs as the limit says; the next waits.
func TestStreamsAreLimited(t *testing.T) {
	m := start(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range maxStreams {
		stream, err := m.kv.Stream(ctx)
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		if i == maxStreams-1 { // the last is served like the first
			if err := stream.Send(&kvv1.StreamRequest{}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := m.kv.Get(within(t, 100*time.Millisecond), &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_STALE})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one more RPC: %v", err)
	}
	cancel()
	if _, err := m.kv.Get(within(t, 3*time.Minute), &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_STALE}); err != nil {
		t.Errorf("once the others are gone: %v", err)
	}
}

func TestHeadersAreLimited(t *testing.T) {
	m := start(t, 1, nil)
	ctx := metadata.AppendToOutgoingContext(within(t, 3*time.Minute), "long", strings.Repeat("x", maxHeaderBytes))
	_, err := m.kv.Get(ctx, &kvv1.GetRequest{Key: []byte("k"), Consistency: kvv1.Consistency_CONSISTENCY_STALE})
	if err == nil || !strings.Contains(err.Error(), "16384") {
		t.Errorf("headers over the limit: %v", err)
	}
}

// A client that floods a port with pings is sent away, on each of the ports.
func TestPingFlood(t *testing.T) {
	m := start(t, 1, nil)
	for _, addr := range []string{m.Addr(), m.PeerAddr()} {
		framer := dialHTTP2(t, addr)
		if code := pingUntilAway(t, framer); code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("%s: sent away with %v", addr, code)
		}
	}
}

// pingUntilAway sends pings, each after the answer to the one before, until the
// server has had enough.
func pingUntilAway(t *testing.T, framer *http2.Framer) http2.ErrCode {
	t.Helper()
	for i := range byte(10) {
		if err := framer.WritePing(false, [8]byte{i}); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatalf("the connection ended with %v, without GOAWAY", err)
			}
			switch f := frame.(type) {
			case *http2.GoAwayFrame:
				return f.ErrCode
			case *http2.PingFrame:
				answered = f.IsAck()
			}
		}
	}
	t.Fatal("ten pings at once are tolerated")
	return 0
}

// A connection that never speaks HTTP/2 is dropped.
func TestSilentConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the connection timeout of 5 s")
	}
	t.Parallel()
	m := start(t, 1, nil)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	if err := conn.SetReadDeadline(time.Now().Add(4 * connectionTimeout)); err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, conn)
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the connection is still open")
	}
}

func dialHTTP2(t *testing.T, addr string) *http2.Framer {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return framer
}
