package load

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says what an operation does.
type Kind uint8

// Kinds of operations.
const (
	Put Kind = iota
	Get
	kinds
)

// Kinds lists all kinds of operations.
func Kinds() []Kind { return []Kind{Put, Get} }

// String is the kind's name in reports and the tag of its lines in a .hlog.
func (k Kind) String() string {
	switch k {
	case Put:
		return "put"
	case Get:
		return "get"
	case kinds:
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// Op is one operation. Its slices belong to the client that made it and are
// overwritten once Session.Do has returned.
type Op struct {
	Kind  Kind
	Key   []byte
	Value []byte // of a put
}

// Result is what became of an operation.
type Result struct {
	// ModRevision is the store's revision that last changed the key; 0 when
	// there is no such key or the target has no revisions.
	ModRevision uint64
	// Found tells whether a get found its key, and Value is what it found: the
	// session's, and good until its next Do.
	Found bool
	Value []byte
	Err   error
}

// Session is one client of a target. It is used by one goroutine at a time.
type Session interface {
	// Do does one message of operations, Config.OpsPerMessage of them or fewer,
	// and returns when all are answered or ctx ends. It sets results[i], zero so
	// far, for each ops[i]; an error means that every operation of the message
	// failed with it. The session mends by itself, at the next Do, what broke.
	// It must not keep ops, their slices or results.
	Do(ctx context.Context, ops []Op, results []Result) error
	// Close ends the session.
	Close() error
}

// Target is what can be driven. Open may be called from many goroutines.
type Target interface {
	// Open makes the session of the given client, counted from 0.
	Open(ctx context.Context, client int) (Session, error)
}

// Key distributions.
const (
	Uniform    = "uniform"
	Zipf       = "zipf"
	Sequential = "sequential"
	Hotspot    = "hotspot"
	Latest     = "latest"
)

// Distributions lists all key distributions.
func Distributions() []string { return []string{Uniform, Zipf, Sequential, Hotspot, Latest} }

// Arrivals, the gaps between the messages of an open loop.
const (
	Constant = "constant"
	Poisson  = "poisson" // exponential gaps
)

// Arrivals lists all kinds of arrivals.
func Arrivals() []string { return []string{Constant, Poisson} }

// Config says what load to make.
type Config struct {
	// Clients is how many messages are under way at most.
	Clients int
	// Rate is the operations a second of an open loop; 0 is a closed loop.
	Rate float64
	// Arrivals are the gaps between messages at that rate; empty means Constant.
	Arrivals string
	// ThinkTime is what a client of a closed loop waits before its next message.
	ThinkTime     time.Duration
	OpsPerMessage int

	// ReadRatio is the share of gets, 0 to 1.
	ReadRatio float64
	// Keys are KeyPrefix and a decimal number with leading zeros, KeySize bytes
	// together; each key has one size, whatever the seed.
	Keys            int
	KeySize         Sizes
	KeyPrefix       string
	KeyDistribution string
	// ValueSize is drawn anew for each put.
	ValueSize Sizes
	// Seed decides the operations of every client, and when they arrive.
	Seed uint64

	Warmup   time.Duration
	Duration time.Duration // of the measured window
	// Interval is the resolution of the time series; 0 means a second.
	Interval time.Duration
	// Completions is how many messages Recording.Completions has at most, 24 bytes
	// each; 0 for none.
	Completions int
	// Sample is how many keys Recording.Histories has at most, 56 KB each; 0 for none.
	Sample int
	// Drain is how long operations under way are waited for after the window;
	// 0 means ten seconds.
	Drain time.Duration
}

const (
	defaultInterval = time.Second
	defaultDrain    = 10 * time.Second
)

// Validate says what of a config makes no sense.
func (c Config) Validate() error {
	fail := func(field string, value any, problem string, args ...any) error {
		return fmt.Errorf("%s %v %s", field, value, fmt.Sprintf(problem, args...))
	}
	switch {
	case c.Clients < 1:
		return fail("clients", c.Clients, "must be at least 1")
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return fail("rate", c.Rate, "must be 0 or more")
	case c.ThinkTime < 0:
		return fail("think-time", c.ThinkTime, "must not be negative")
	case c.ThinkTime > 0 && c.Rate > 0:
		return fail("think-time", c.ThinkTime, "has no meaning with a rate")
	case c.OpsPerMessage < 1:
		return fail("ops-per-message", c.OpsPerMessage, "must be at least 1")
	case !(c.ReadRatio >= 0 && c.ReadRatio <= 1):
		return fail("read-ratio", c.ReadRatio, "is not from 0 to 1")
	case c.Keys < 1 || c.Keys > math.MaxInt32:
		return fail("keys", c.Keys, "is not from 1 to %d", math.MaxInt32)
	case c.KeySize.least < len(c.KeyPrefix)+digits(c.Keys):
		return fail("key-size", c.KeySize, "has no room for the prefix %q and %d digits", c.KeyPrefix, digits(c.Keys))
	case c.ValueSize.least < 0:
		return fail("value-size", c.ValueSize, "must not be negative")
	case c.KeySize.least > c.KeySize.most || c.ValueSize.least > c.ValueSize.most:
		return fmt.Errorf("key-size %v or value-size %v is no range", c.KeySize, c.ValueSize)
	case c.Warmup < 0:
		return fail("warmup", c.Warmup, "must not be negative")
	case c.Duration <= 0:
		return fail("duration", c.Duration, "must be more than 0")
	case c.Interval < 0:
		return fail("interval", c.Interval, "must not be negative")
	case c.Completions < 0:
		return fail("completions", c.Completions, "must not be negative")
	case c.Sample < 0:
		return fail("sample", c.Sample, "must not be negative")
	case c.Drain < 0:
		return fail("drain", c.Drain, "must not be negative")
	}
	if c.Arrivals != "" && !slices.Contains(Arrivals(), c.Arrivals) {
		return fail("arrivals", strconv.Quote(c.Arrivals), "is not one of %s", strings.Join(Arrivals(), ", "))
	}
	if !slices.Contains(Distributions(), c.KeyDistribution) {
		return fail("key-distribution", strconv.Quote(c.KeyDistribution), "is not one of %s", strings.Join(Distributions(), ", "))
	}
	return nil
}

// effective puts in what was left unset.
func (c Config) effective() Config {
	if c.Interval == 0 {
		c.Interval = defaultInterval
	}
	if c.Drain == 0 {
		c.Drain = defaultDrain
	}
	if c.Arrivals == "" {
		c.Arrivals = Constant
	}
	return c
}

// open tells an open loop.
func (c *Config) open() bool { return c.Rate > 0 }

// digits is how many the highest key index has.
func digits(keys int) int { return len(strconv.Itoa(keys - 1)) }

// AppendKey appends the key of the given index, as the clients write it.
func (c Config) AppendKey(dst []byte, index int) []byte {
	dst = append(dst, c.KeyPrefix...)
	at := len(dst)
	for range c.keyBytes(index) - len(c.KeyPrefix) {
		dst = append(dst, '0')
	}
	putDecimal(dst[at:], index)
	return dst
}

// keyBytes is the size of a key, which depends on its index alone.
func (c *Config) keyBytes(index int) int {
	r := newRandom(uint64(index), 0)
	return c.KeySize.draw(&r)
}

// putDecimal fills p with n and leading zeros.
func putDecimal(p []byte, n int) {
	for i := len(p) - 1; i >= 0; i-- {
		p[i] = '0' + byte(n%10)
		n /= 10
	}
}
