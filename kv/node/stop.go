package node

import (
	"context"
	"time"
)

// A node that fails by itself gets this long to take its parts down.
const failureGrace = 5 * time.Second

// Stop takes the node down so that no acknowledgement fails: health says
// NOT_SERVING, leadership is handed over, what is under way is answered, and
// only then the ports close. When ctx ends first, the rest is cut short. It
// returns what the node failed with, if it did. It may be called again, and
// then waits for the same end.
func (n *Node) Stop(ctx context.Context) error {
	n.stopOnce.Do(func() {
		if n.started.CompareAndSwap(false, true) {
			n.shutdown(ctx, false)
			close(n.done)
			return
		}
		n.stopping <- ctx
	})
	<-n.done
	return n.err
}

// Done is closed when the node has ended, by Stop or by a fatal error.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err returns the fatal error that ended the node; nil after a mere Stop, and
// before Done.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// fail ends the node for a reason that it cannot go on with. The first counts.
func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// watch runs from Start until the node has ended.
func (n *Node) watch() {
	defer close(n.done)
	select {
	case ctx := <-n.stopping:
		n.shutdown(ctx, true)
		return
	case err := <-n.failed:
		n.err = err
	case <-n.replica.Done():
		n.err = n.replica.Err()
	}
	n.log.Error("ending", "error", n.err)
	ctx, cancel := context.WithTimeout(context.Background(), failureGrace)
	defer cancel()
	n.shutdown(ctx, true)
}

// shutdown takes the parts down, from the outside inwards and back.
func (n *Node) shutdown(ctx context.Context, running bool) {
	n.log.Info("stopping")
	n.health.Shutdown()
	if running {
		// Hands leadership over, answers what was proposed, refuses the rest.
		if err := n.replica.Stop(ctx); err != nil {
			n.log.Warn("replica stopped early", "error", err)
		}
	}
	n.endLife()
	n.pins.close()

	drained := make(chan struct{})
	go func() {
		n.clientServer.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		n.clientServer.Stop()
		<-drained
	}
	if err := n.transport.Close(); err != nil {
		n.log.Warn("transport", "error", err)
	}
	if n.peerServer != nil {
		n.peerServer.Stop()
	}
	if n.debugServer != nil {
		if err := n.debugServer.Close(); err != nil {
			n.log.Warn("debug port", "error", err)
		}
	}
	n.closeListeners()
	n.serving.Wait()
	if err := n.closeDisk(); err != nil {
		n.log.Error("data folder", "error", err)
	}
	n.log.Info("stopped")
}
