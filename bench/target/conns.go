package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"raftlab/bench/load"
)

// Connections that BestConns tries, and for how long each.
var connsTried = []int{1, 4, 16}

const (
	connsWarmup = 100 * time.Millisecond
	connsWindow = 300 * time.Millisecond
)

// BestConns returns which of 1, 4 and 16 connections carries the load of cfg
// fastest in a closed loop, and makes a ceiling the best that it can be: call it
// before the warm-up and put the answer in Options.Conns. It takes about
// 1.2 s; more connections than clients are not tried.
func BestConns(ctx context.Context, name string, o Options, cfg load.Config) (int, error) {
	cfg.Rate, cfg.ThinkTime = 0, 0
	cfg.Warmup, cfg.Duration = connsWarmup, connsWindow
	best, bestRate := 0, 0.0
	for _, conns := range connsTried {
		if conns > max(cfg.Clients, 1) {
			break
		}
		o.Conns = conns
		rate, err := rate(ctx, name, o, cfg)
		if err != nil {
			return 0, fmt.Errorf("try %d connections: %w", conns, err)
		}
		if best == 0 || rate > bestRate {
			best, bestRate = conns, rate
		}
	}
	return best, nil
}

// rate measures operations a second, briefly.
func rate(ctx context.Context, name string, o Options, cfg load.Config) (float64, error) {
	t, err := New(name, o)
	if err != nil {
		return 0, err
	}
	rec, err := load.Run(ctx, cfg, t, nil)
	if err = errors.Join(err, t.Close()); err != nil {
		return 0, err
	}
	return rec.OpsPerSecond(), nil
}
