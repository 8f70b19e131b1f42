package load

import (
	"context"
	"time"
)

// series takes the intervals of a run out of the recorder.
type series struct {
	g          *generator
	rec        *Recording
	interval   *counts // emptied each time
	onInterval func(Interval)
	at         time.Duration // end of the last interval
}

// measure follows the clients through warm-up, window and drain, until done is
// closed. cancel ends the operations under way.
func (g *generator) measure(ctx context.Context, done <-chan struct{}, cancel func(), total *counts, onInterval func(Interval)) (*Recording, error) {
	s := &series{
		g: g, interval: newCounts(total.delay != nil), onInterval: onInterval,
		rec: &Recording{Config: g.cfg, Start: g.base.Add(g.from), counts: total},
	}
	var alarm alarm
	defer alarm.stop()

	for s.at < g.to {
		// The window's start and end are ends of intervals too.
		next := min(s.at+g.cfg.Interval, g.to)
		if s.at < g.from {
			next = min(next, g.from)
		}
		if !alarm.wait(ctx, g.base, next) {
			break
		}
		if next == g.to && !g.cfg.open() {
			// The last of a closed loop's interval may still be on its way to the
			// recorder: taken below, once all clients are done.
			break
		}
		if err := s.take(next); err != nil {
			cancel()
			<-done
			return nil, err
		}
	}
	err := s.drain(ctx, done, cancel)
	if err != nil {
		return nil, err
	}
	s.rec.finish(g.rec)
	if g.pacer != nil {
		finished := s.rec.counts.messages
		due := g.pacer.due(g.from, g.from+s.rec.Window())
		s.rec.Unfinished = (due - min(due, finished)) * uint64(g.cfg.OpsPerMessage)
	} else {
		s.rec.Unfinished = uint64(max(0, g.unfinished.Load()))
	}
	return s.rec, ctx.Err()
}

// drain waits for the clients, for as long as the config allows, and takes what
// is left in the recorder.
func (s *series) drain(ctx context.Context, done <-chan struct{}, cancel func()) error {
	g := s.g
	end := g.to
	if ctx.Err() != nil {
		g.stopped.Store(true)
		end = min(g.now(), g.to)
	}
	s.rec.End = g.base.Add(max(end, g.from))

	deadline := time.NewTimer(time.Until(g.base.Add(end + g.cfg.Drain)))
	defer deadline.Stop()
	tick := time.NewTicker(g.cfg.Interval)
	defer tick.Stop()
wait:
	for {
		select {
		case <-done:
			break wait
		case <-deadline.C:
			g.stopped.Store(true)
			cancel()
		case <-ctx.Done(): // the clients' own context ends with it
			g.stopped.Store(true)
			<-done
			break wait
		case <-tick.C:
			if !g.cfg.open() || s.at < g.to {
				continue
			}
			if err := s.take(g.now()); err != nil {
				cancel()
				<-done
				return err
			}
		}
	}
	s.rec.Complete = ctx.Err() == nil
	s.rec.Drained = max(0, time.Duration(g.last.Load())-max(end, g.from))
	if s.at < end {
		return s.take(end)
	}
	return s.take(max(g.now(), s.at))
}

// take ends an interval at an offset from the base.
func (s *series) take(end time.Duration) error {
	g, c := s.g, s.interval
	start, window := s.at, s.at-g.from
	s.at = end
	g.rec.swap(c)
	if end <= g.from {
		s.tell(Interval{Offset: window, Length: end - start, Warmup: true, Operations: c.warm, Errors: c.warmErrors})
		// The clock and this goroutine do not agree to the microsecond: what counts
		// already is left in c for the first interval of the window.
		s.rec.counts.warm += c.warm
		c.warm, c.warmErrors = 0, 0
		return nil
	}
	iv := Interval{Offset: window, Length: end - start, Drain: start >= g.to, Operations: c.total(), Errors: c.failed()}
	if iv.Operations > 0 {
		all := merged(func(k Kind) *Histogram { return c.response[k] })
		iv.P50 = time.Duration(all.ValueAtPercentile(50))
		iv.P99 = time.Duration(all.ValueAtPercentile(99))
		iv.Max = time.Duration(all.Max())
	}
	if !iv.Drain || iv.Operations+iv.Errors > 0 {
		s.rec.Intervals = append(s.rec.Intervals, iv)
		s.tell(iv)
	}
	for _, k := range Kinds() {
		var err error
		from, to := g.base.Add(start), g.base.Add(end)
		if s.rec.lines, err = appendLine(s.rec.lines, c.response[k], k.String(), from, to); err != nil {
			return err
		}
		if c.service[k] == nil {
			continue
		}
		if s.rec.lines, err = appendLine(s.rec.lines, c.service[k], k.String()+TagService, from, to); err != nil {
			return err
		}
	}
	s.rec.counts.add(c)
	c.reset()
	return nil
}

func (s *series) tell(iv Interval) {
	if s.onInterval != nil {
		s.onInterval(iv)
	}
}
