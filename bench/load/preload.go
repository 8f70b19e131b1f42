package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Preload writes every key of a config's once, with random values, by
// cfg.Clients clients as fast as the target takes them. It stops at the first
// error. Times, rate, read ratio and distribution of the config are ignored.
func Preload(ctx context.Context, cfg Config, target Target) error {
	cfg.ReadRatio, cfg.KeyDistribution, cfg.Rate = 0, Sequential, 0
	if err := cfg.Validate(); err != nil {
		return err
	}
	// Other values than the run's.
	cfg.Seed = ^cfg.Seed
	cfg.Clients = min(cfg.Clients, (cfg.Keys+cfg.OpsPerMessage-1)/cfg.OpsPerMessage)
	work := newWorkload(cfg)
	sessions, err := open(ctx, target, cfg.Clients)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var clients sync.WaitGroup
	for i, s := range sessions {
		clients.Go(func() {
			first, end := i*cfg.Keys/cfg.Clients, (i+1)*cfg.Keys/cfg.Clients
			if err := preload(ctx, s, work.stream(i), first, end); err != nil {
				cancel(fmt.Errorf("preload: %w", err))
			}
		})
	}
	clients.Wait()
	return errors.Join(context.Cause(ctx), closeAll(sessions))
}

// preload writes the keys from first to before end.
func preload(ctx context.Context, session Session, stream *stream, first, end int) error {
	results := make([]Result, len(stream.ops))
	for key := first; key < end; {
		n := min(len(stream.ops), end-key)
		for i := range n {
			stream.set(i, Put, key+i)
			results[i] = Result{}
		}
		if err := session.Do(ctx, stream.ops[:n], results[:n]); err != nil {
			return err
		}
		for i := range n {
			if results[i].Err != nil {
				return results[i].Err
			}
		}
		key += n
	}
	return nil
}
