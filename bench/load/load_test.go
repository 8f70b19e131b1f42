package load

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is a valid closed loop that tests vary.
func config() Config {
	return Config{
		Clients: 4, OpsPerMessage: 1, Keys: 1000, KeySize: FixedSize(16), KeyPrefix: "k/", KeyDistribution: Uniform,
		ValueSize: FixedSize(32), Seed: 1, Duration: time.Second,
	}
}

func TestValidate(t *testing.T) {
	if err := config().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Clients = 0 }, "clients 0 must be at least 1"},
		{func(c *Config) { c.Rate = -1 }, "rate -1 must be 0 or more"},
		{func(c *Config) { c.Arrivals = "bursts" }, `arrivals "bursts" is not one of constant, poisson`},
		{func(c *Config) { c.ThinkTime = -1 }, "think-time -1ns must not be negative"},
		{func(c *Config) { c.ThinkTime, c.Rate = 1, 1 }, "think-time 1ns has no meaning with a rate"},
		{func(c *Config) { c.OpsPerMessage = 0 }, "ops-per-message 0 must be at least 1"},
		{func(c *Config) { c.ReadRatio = 1.5 }, "read-ratio 1.5 is not from 0 to 1"},
		{func(c *Config) { c.Keys = 0 }, "keys 0 is not from 1 to 2147483647"},
		{func(c *Config) { c.KeySize = FixedSize(4) }, `key-size 4 has no room for the prefix "k/" and 3 digits`},
		{func(c *Config) { c.KeyDistribution = "gauss" }, `key-distribution "gauss" is not one of uniform, zipf, sequential, hotspot, latest`},
		{func(c *Config) { c.ValueSize = FixedSize(-1) }, "value-size -1 must not be negative"},
		{func(c *Config) { c.Warmup = -1 }, "warmup -1ns must not be negative"},
		{func(c *Config) { c.Duration = 0 }, "duration 0s must be more than 0"},
		{func(c *Config) { c.Interval = -1 }, "interval -1ns must not be negative"},
		{func(c *Config) { c.Drain = -1 }, "drain -1ns must not be negative"},
	} {
		c := config()
		tt.change(&c)
		err := c.Validate()
		if err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
		if _, err := Run(t.Context(), c, nil, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Run: %v, want %s", err, tt.want)
		}
	}
}

func TestAppendKey(t *testing.T) {
	c := Config{Keys: 1000, KeySize: FixedSize(8), KeyPrefix: "a/"}
	if got := string(c.AppendKey([]byte("x"), 42)); got != "xa/000042" {
		t.Errorf("got %q", got)
	}
	if c.KeySize = FixedSize(5); string(c.AppendKey(nil, 999)) != "a/999" {
		t.Errorf("got %q", c.AppendKey(nil, 999))
	}
}
