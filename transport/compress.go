package transport

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
	// Registers gzip, as any gRPC program knows it.
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/stats"

	transportv1 "raftlab/proto/raftlab/transport/v1"
)

// Block and window sizes. They bound what a decoder allocates before it has
// seen the data for it, whatever a stream declares.
const (
	snappyBlock = 64 << 10 // the format's
	s2Block     = 256 << 10
	zstdWindow  = 512 << 10
)

// A registry of gRPC's, so it is the same for all servers of a process: every
// peer port reads every compression, whatever its own knob says, and a client
// may use them as well. What a message inflates to counts against the receive
// limit of its port, and gRPC stops reading one byte above it.
func init() {
	encoding.RegisterCompressor(&compressor{
		name: CompressionZstd,
		newWriter: func() (resettableWriter, error) {
			return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
		},
		newReader: func() (resettableReader, error) {
			return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(zstdWindow))
		},
	})
	encoding.RegisterCompressor(&compressor{
		name: CompressionSnappy,
		newWriter: func() (resettableWriter, error) {
			return s2.NewWriter(nil, s2.WriterConcurrency(1), s2.WriterSnappyCompat(), s2.WriterBlockSize(snappyBlock)), nil
		},
		newReader: func() (resettableReader, error) {
			return s2Reader{s2.NewReader(nil, s2.ReaderMaxBlockSize(snappyBlock))}, nil
		},
	})
	encoding.RegisterCompressor(&compressor{
		name: CompressionS2,
		newWriter: func() (resettableWriter, error) {
			return s2.NewWriter(nil, s2.WriterConcurrency(1), s2.WriterBlockSize(s2Block)), nil
		},
		newReader: func() (resettableReader, error) {
			return s2Reader{s2.NewReader(nil, s2.ReaderMaxBlockSize(s2Block))}, nil
		},
	})
}

// Writers and readers hold tables and windows, so they are used again. None
// starts a goroutine.
type resettableWriter interface {
	io.WriteCloser
	Reset(to io.Writer)
}

type resettableReader interface {
	io.Reader
	Reset(from io.Reader) error
}

type s2Reader struct{ *s2.Reader }

// Reset implements resettableReader.
func (r s2Reader) Reset(from io.Reader) error {
	r.Reader.Reset(from)
	return nil
}

// compressor is an encoding.Compressor.
type compressor struct {
	name      string
	newWriter func() (resettableWriter, error)
	newReader func() (resettableReader, error)

	writers, readers sync.Pool
}

// Name implements encoding.Compressor.
func (c *compressor) Name() string { return c.name }

// Compress implements encoding.Compressor.
func (c *compressor) Compress(to io.Writer) (io.WriteCloser, error) {
	w, ok := c.writers.Get().(*pooledWriter)
	if !ok {
		made, err := c.newWriter()
		if err != nil {
			return nil, err
		}
		w = &pooledWriter{resettableWriter: made, pool: &c.writers}
	}
	w.Reset(to)
	return w, nil
}

// Decompress implements encoding.Compressor.
func (c *compressor) Decompress(from io.Reader) (io.Reader, error) {
	r, ok := c.readers.Get().(*pooledReader)
	if !ok {
		made, err := c.newReader()
		if err != nil {
			return nil, err
		}
		r = &pooledReader{resettableReader: made, pool: &c.readers}
	}
	if err := r.Reset(from); err != nil {
		return nil, err
	}
	return r, nil
}

type pooledWriter struct {
	resettableWriter
	pool *sync.Pool
}

// Close ends the compressed message. gRPC lets go of the writer then.
func (w *pooledWriter) Close() error {
	err := w.resettableWriter.Close()
	w.pool.Put(w)
	return err
}

type pooledReader struct {
	resettableReader
	pool *sync.Pool
}

// Close is called by gRPC once it has what it wants.
func (r *pooledReader) Close() error {
	r.pool.Put(r)
	return nil
}

var compressions = []string{CompressionNone, CompressionGzip, CompressionZstd, CompressionSnappy, CompressionS2}

func checkCompression(name string) error {
	if !slices.Contains(compressions, name) {
		return fmt.Errorf("compression %q is not one of none, gzip, zstd, snappy, s2", name)
	}
	return nil
}

// FrameLimit is the largest encoded frame, in bytes, that surely passes a gRPC
// receive limit. gRPC applies the limit twice, to a message as it travels and to
// what it inflates to. Bytes that don't compress get a little longer instead:
// stored blocks with their headers, never more than what is left free here.
func FrameLimit(compression string, receiveLimit int) int {
	if compression == CompressionNone || compression == "" || receiveLimit <= 0 {
		return receiveLimit
	}
	return receiveLimit - compressionMargin - receiveLimit/compressionShare
}

const (
	compressionMargin = 64   // headers and trailers of a whole message
	compressionShare  = 2048 // at worst gzip's: 5 bytes for each 16 KiB
)

// grpcHeader is what gRPC puts in front of each message.
const grpcHeader = 5

// onWire is about how many bytes a message of that size becomes. A link has to
// charge for it before it is compressed, so this is what compression made of the
// messages before it.
func (p *peer) onWire(bytes int) int {
	from := p.count.uncompressed.Load()
	if from == 0 {
		return bytes
	}
	return int(float64(bytes) * float64(p.count.compressed.Load()) / float64(from))
}

// wireCounter is a stats.Handler that counts the bytes of what is sent as they
// travel. It is used with compression only, since gRPC allocates for it.
type wireCounter struct{ count *counters }

// TagRPC implements stats.Handler.
func (wireCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (wireCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (wireCounter) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC implements stats.Handler.
func (w wireCounter) HandleRPC(_ context.Context, s stats.RPCStats) {
	out, ok := s.(*stats.OutPayload)
	if !ok {
		return
	}
	w.count.compressed.Add(uint64(out.WireLength))
	w.count.uncompressed.Add(uint64(out.Length))
	switch out.Payload.(type) {
	case *outgoing, *transportv1.Frame:
		w.count.wireBytesSent.Add(uint64(out.WireLength))
	}
}
