package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"raftlab/bench/load"
)

// kept is a target with the revisions that a store still has, by key.
type kept struct {
	revisions map[string]uint64
	delay     time.Duration

	mu    sync.Mutex
	asked []string
}

func (k *kept) Open(context.Context, int) (load.Session, error) { return (*keptSession)(k), nil }

type keptSession kept

func (s *keptSession) Close() error { return nil }

func (s *keptSession) Do(_ context.Context, ops []load.Op, results []load.Result) error {
	time.Sleep(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range ops {
		revision, ok := s.revisions[string(ops[i].Key)]
		results[i] = load.Result{ModRevision: revision, Found: ok, Value: []byte("v")}
		s.asked = append(s.asked, string(ops[i].Key))
	}
	return nil
}

// acknowledged makes a read-back of so many keys, each acknowledged at its number
// plus 1, but for the first, and a target that has them all.
func acknowledged(keys int) (*readBack, *kept) {
	r := &readBack{cfg: load.Config{OpsPerMessage: 4, KeySize: load.FixedSize(8), Clients: 2}, since: time.Now(), histories: map[int]*load.History{}}
	k := &kept{revisions: map[string]uint64{}}
	for i := range keys {
		r.acked = append(r.acked, 0)
		if i > 0 {
			r.acked[i] = uint64(i + 1)
			k.revisions[string(r.cfg.AppendKey(nil, i))] = uint64(i + 1)
		}
	}
	return r, k
}

// Every acknowledged key is read once, and each that shows less is told.
func TestReadBack(t *testing.T) {
	r, k := acknowledged(1000)
	k.revisions["00000100"]-- // a write was lost
	delete(k.revisions, "00000200")
	k.revisions["00000300"]++ // somebody wrote later
	if err := r.run(t.Context(), k, time.Minute); err != nil {
		t.Fatal(err)
	}
	slices.Sort(k.asked)
	if r.read != 999 || len(slices.Compact(k.asked)) != 999 {
		t.Errorf("%d keys read, %d of them once", r.read, len(slices.Compact(k.asked)))
	}
	slices.Sort(r.violations)
	want := []string{
		"key 00000100 has mod revision 100, acknowledged was 101",
		"key 00000200 has mod revision 0, acknowledged was 201",
	}
	if !slices.Equal(r.violations, want) {
		t.Errorf("told %q", r.violations)
	}
}

// When time is over the keys with a history have been read all the same, and of
// the others no less is said than is true.
func TestReadBackWithoutTime(t *testing.T) {
	r, k := acknowledged(1000)
	k.delay = time.Millisecond
	for key := 0; key < 1000; key += 100 {
		r.histories[key] = &load.History{Key: key}
	}
	if err := r.run(t.Context(), k, 0); err != nil {
		t.Fatal(err)
	}
	// The first has a history, and nothing to be found.
	if r.read < 9 || r.read > 9+verifySessions*4 || len(r.keys) != 1000 {
		t.Errorf("%d of %d keys read", r.read, len(r.keys))
	}
	for key, h := range r.histories {
		if len(h.Accesses) != 1 {
			t.Fatalf("key %d was read %d times", key, len(h.Accesses))
		}
		a := h.Accesses[0]
		if a.Kind != load.Get || a.Client < 2 || a.Return <= a.Call || a.Found != (key > 0) || a.Revision != r.acked[key] {
			t.Errorf("key %d: %+v", key, a)
		}
	}
}

type failing struct{ *kept }

func (f failing) Open(context.Context, int) (load.Session, error) { return nil, errors.New("no node") }

func TestReadBackFails(t *testing.T) {
	r, k := acknowledged(10)
	if err := r.run(t.Context(), failing{k}, time.Minute); err == nil {
		t.Error("nothing could be read, and that is no error")
	}
}

// A history that is wrong makes its trial invalid, and is kept with its picture.
func TestCheckHistories(t *testing.T) {
	folder, err := CreateFolder(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	}()
	lost := load.History{Key: 7, Cut: load.Never, Accesses: []load.Access{
		{Kind: load.Put, Call: 1, Return: 2, Revision: 5, Value: 1}, {Kind: load.Get, Call: 3, Return: 4},
	}}
	fine := load.History{Key: 8, Cut: load.Never, Accesses: lost.Accesses[:1]}
	cfg := load.Config{KeySize: load.FixedSize(8)}
	trial := Trial{Variant: "v03", Block: 2, Valid: true}
	if err := trial.checkHistories(folder, cfg, []load.History{fine, lost}, time.Minute); err != nil {
		t.Fatal(err)
	}
	files := []string{"histories/v03-b2-key7.json", "histories/v03-b2-key7.html"}
	if trial.Valid || len(trial.Violations) != 1 || !strings.Contains(trial.Problem, "key 00000007: no order of its 2 operations explains") || !slices.Equal(trial.Histories.Files, files) {
		t.Errorf("got %+v, %+v", trial, trial.Histories)
	}
	for _, name := range files {
		if info, err := os.Stat(filepath.Join(folder.Dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without time nothing is known, which is said and is no violation.
	trial = Trial{Valid: true}
	if err := trial.checkHistories(folder, cfg, []load.History{fine, lost}, 0); err != nil {
		t.Fatal(err)
	}
	if !trial.Valid || trial.Histories.Undecided != 2 || !strings.HasPrefix(trial.Warning, "2 of 2 histories could not be checked") {
		t.Errorf("got %+v, %+v", trial, trial.Histories)
	}
}
