package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"raftlab/bench/cluster"
	"raftlab/kv/client"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// writers write to a cluster until they are stopped, each its own key, with
// rising values.
type writers struct {
	cluster *cluster.Cluster
	stop    context.CancelFunc
	running sync.WaitGroup

	acknowledged, attempted [4]atomic.Int64 // values
	total                   atomic.Int64
}

func startWriters(ctx context.Context, t *testing.T, c *cluster.Cluster) *writers {
	t.Helper()
	load, stop := context.WithCancel(ctx)
	w := &writers{cluster: c, stop: stop}
	cl := newClient(t, c)
	for i := range w.acknowledged {
		w.running.Go(func() {
			for value := int64(1); load.Err() == nil; value++ {
				w.attempted[i].Store(value)
				if _, err := cl.Put(load, fmt.Append(nil, "writer", i), fmt.Append(nil, value)); err == nil {
					w.acknowledged[i].Store(value)
					w.total.Add(1)
				} else {
					_ = sleep(load, 5*time.Millisecond) // nobody leads
				}
			}
		})
	}
	t.Cleanup(func() { stop(); w.running.Wait() })
	w.more(t)
	return w
}

// more waits until the cluster has served for a while from now on.
func (w *writers) more(t *testing.T) {
	t.Helper()
	want := w.total.Load() + 100
	waitFor(t, "100 more writes", func() bool { return w.total.Load() >= want })
}

// check stops writing. Each key has the last value acknowledged, or one that was
// attempted later, and all nodes have the same.
func (w *writers) check(ctx context.Context, t *testing.T) {
	t.Helper()
	w.stop()
	w.running.Wait()
	cl := newClient(t, w.cluster)
	for i := range w.acknowledged {
		got, err := cl.Get(ctx, fmt.Append(nil, "writer", i), client.ReadLinearizable)
		value, _ := strconv.ParseInt(string(got.GetValue()), 10, 64)
		if least, most := w.acknowledged[i].Load(), w.attempted[i].Load(); err != nil || value < least || value > most {
			t.Errorf("writer %d: %q is there, %d was acknowledged, %d attempted, %v", i, got.GetValue(), least, most, err)
		}
	}
	sameState(ctx, t, w.cluster)
}

func refused(t *testing.T, what string, err error, text string) {
	t.Helper()
	if st := status.Convert(err); st.Code() != codes.FailedPrecondition || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want FailedPrecondition: %s", what, err, text)
	}
	if got := client.Applied(err); got != kvv1.Applied_APPLIED_NO {
		t.Errorf("%s: applied is %v", what, got)
	}
}

// The whole life of a membership under write load: a learner joins and is
// promoted, voters are exchanged three for three in one joint change, a voter
// becomes a learner, the leader itself is removed. Writers write on through all
// of it, and nothing acknowledged is lost.
func TestMembershipUnderLoad(t *testing.T) {
	for _, name := range []string{"in-process-grpc", "processes"} {
		t.Run(name, func(t *testing.T) {
			c := start(t, quick(shapes()[name]))
			ctx := within(t, 5*time.Minute)
			cl := newClient(t, c)
			w := startWriters(ctx, t, c)
			change := func(retain bool, voters ...uint64) *kvv1.Membership {
				t.Helper()
				m, err := cl.ChangeMembership(ctx, voters, retain)
				if err != nil {
					t.Fatalf("voters %v: %v", voters, err)
				}
				if got := slices.Sorted(slices.Values(m.GetVoters())); !slices.Equal(got, voters) || len(m.GetVotersOutgoing()) > 0 {
					t.Fatalf("voters %v wanted, %v are, %v go", voters, got, m.GetVotersOutgoing())
				}
				w.more(t)
				return m
			}
			for range 3 {
				if _, err := c.AddLearner(ctx); err != nil {
					t.Fatal(err)
				}
			}
			w.more(t)
			change(false, 1, 2, 3, 4)
			change(true, 1, 2, 4)
			// None of the new voters was one before: the old ones, and the leader
			// with them, go in the same change.
			m := change(true, 3, 5, 6)
			if got := slices.Sorted(slices.Values(m.GetLearners())); !slices.Equal(got, []uint64{1, 2, 4}) {
				t.Errorf("learners are %v, want those that voted before", got)
			}
			leader := leaderBut(ctx, t, c, 0)
			if !slices.Contains(m.GetVoters(), leader.ID) {
				t.Errorf("node %d leads and has no vote", leader.ID)
			}
			removeLeader(ctx, t, c, cl, w)
			w.check(ctx, t)
		})
	}
}

// removeLeader removes the node that leads: it steps down once that is
// committed, another one leads, and the id is gone for good.
func removeLeader(ctx context.Context, t *testing.T, c *cluster.Cluster, cl *client.Client, w *writers) {
	t.Helper()
	old := leaderBut(ctx, t, c, 0)
	if _, err := cl.RemoveNode(ctx, old.ID); err != nil {
		t.Fatalf("removing node %d, which leads: %v", old.ID, err)
	}
	next := leaderBut(ctx, t, c, old.ID)
	waitFor(t, "a leader that steps down", func() bool {
		st, err := c.Status(ctx, old)
		return err == nil && st.GetRole().String() != "ROLE_LEADER"
	})
	w.more(t)
	st, err := c.Status(ctx, next)
	if err != nil {
		t.Fatal(err)
	}
	if m := st.GetMembership(); slices.Contains(m.GetVoters(), old.ID) || !slices.Contains(m.GetRemovedIds(), old.ID) {
		t.Errorf("node %d was removed and the membership is %v", old.ID, m)
	}
	_, err = cl.AddLearner(ctx, old.ID, old.Addr)
	refused(t, "its id again", err, fmt.Sprintf("node %d was removed: an id is not used twice", old.ID))
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
}

// What must be refused is refused while writers write, and changes nothing.
func TestMembershipRefusedUnderLoad(t *testing.T) {
	for _, name := range []string{"in-process-grpc", "processes"} {
		t.Run(name, func(t *testing.T) {
			c := start(t, calm(shapes()[name]))
			ctx := within(t, 5*time.Minute)
			cl := newClient(t, c)
			w := startWriters(ctx, t, c)
			learner, err := c.AddLearner(ctx)
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, "a learner that has the log", func() bool {
				st, err := c.Status(ctx, learner)
				return err == nil && st.GetAppliedIndex() > 0
			})
			// A learner that is cut off and lacks what was written since does not
			// become a voter before it has it, and nothing else is changed meanwhile.
			if err := c.Isolate(ctx, learner); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "a learner that lacks more than a voter may", func() bool {
				st, err := c.Status(ctx, leaderBut(ctx, t, c, 0))
				if err != nil {
					return false
				}
				for _, p := range st.GetProgress() {
					if p.GetId() == learner.ID {
						return p.GetMatchIndex()+1000 < st.GetLogLastIndex()
					}
				}
				return false
			})
			// Two want it to be one, among different others: whichever comes second is
			// refused at once.
			promoted := make(chan error, 2)
			for _, voters := range [][]uint64{{1, 2, 3, 4}, {1, 2, 4}} {
				asks := newClient(t, c)
				go func() {
					_, err := asks.ChangeMembership(ctx, voters, false)
					promoted <- err
				}()
			}
			refused(t, "the second change", <-promoted, "another membership change is under way")
			w.more(t) // a change that need not wait would be over by now
			_, err = cl.RemoveNode(ctx, 2)
			refused(t, "removal during a change", err, "another membership change is under way")
			select {
			case err := <-promoted:
				t.Fatalf("the learner that is cut off became a voter: %v", err)
			default:
			}
			if err := c.Heal(ctx); err != nil {
				t.Fatal(err)
			}
			if err := <-promoted; err != nil {
				t.Fatalf("the learner that has the log: %v", err)
			}
			w.more(t)
			leader := leaderBut(ctx, t, c, 0)
			if _, err := cl.ChangeMembership(ctx, []uint64{leader.ID}, false); err != nil {
				t.Fatal(err)
			}
			_, err = cl.RemoveNode(ctx, leader.ID)
			refused(t, "removal of the last voter", err, fmt.Sprintf("node %d is the last voter", leader.ID))
			w.more(t)
			for _, n := range c.Nodes() {
				if n.ID != leader.ID {
					if err := n.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.check(ctx, t)
		})
	}
}
