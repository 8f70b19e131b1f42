package node

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "ab": "ac", "a\xff": "b", "\xff": "", "\xff\xff": "", "a\xff\xff": "b", "\x00": "\x01"} {
		if got := prefixEnd([]byte(prefix)); string(got) != want || (got == nil) != (want == "") {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(t, "prefix")
		key := rapid.SliceOfN(rapid.Byte(), 1, 6).Draw(t, "key")
		end := prefixEnd(prefix)
		inside := bytes.Compare(key, prefix) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
		if inside != bytes.HasPrefix(key, prefix) {
			t.Fatalf("key %q in [%q, %q): %v", key, prefix, end, inside)
		}
	})
}

// scanAll follows page tokens to the end; between pages it calls disturb.
func scanAll(t interface{ Fatal(...any) }, req *kvv1.ScanRequest, call func(*kvv1.ScanRequest) (*kvv1.ScanResponse, error), disturb func()) (keys []string, revisions []uint64) {
	for {
		resp, err := call(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range resp.GetItems() {
			keys = append(keys, string(item.GetKey()))
		}
		revisions = append(revisions, resp.GetRevision())
		if len(resp.GetNextPageToken()) == 0 {
			return keys, revisions
		}
		if len(resp.GetItems()) == 0 {
			t.Fatal("a page without an item has a next one")
		}
		req.PageToken = resp.GetNextPageToken()
		disturb()
	}
}

// However many pages, a scan is what one look at the store would have been, with
// writes between the pages.
func TestPagesAreOneSnapshot(t *testing.T) {
	s, _ := newTestService(t)
	ctx := t.Context()
	all := make([]string, 0, 60)
	for i := range 60 {
		all = append(all, fmt.Sprintf("%c%02d", 'a'+i%3, i))
	}
	slices.Sort(all)
	for _, k := range all {
		put(t, s, k, "old")
	}
	// Every round sees the keys that were there at its first page; what is
	// written between pages is deleted again at the end.
	rapid.Check(t, func(rt *rapid.T) {
		req := &kvv1.ScanRequest{Limit: rapid.Uint32Range(0, 15).Draw(rt, "limit")}
		if rapid.Bool().Draw(rt, "by prefix") {
			req.Prefix = []byte(rapid.SampledFrom([]string{"a", "b", "a0", "z"}).Draw(rt, "prefix"))
		} else {
			req.Start = []byte(rapid.SampledFrom([]string{"", "a10", "b"}).Draw(rt, "start"))
			req.End = []byte(rapid.SampledFrom([]string{"", "b30", "c"}).Draw(rt, "end"))
		}
		want := make([]string, 0, len(all))
		for _, k := range all {
			in := k >= string(req.GetStart()) && (len(req.GetEnd()) == 0 || k < string(req.GetEnd()))
			if in && bytes.HasPrefix([]byte(k), req.GetPrefix()) {
				want = append(want, k)
			}
		}
		written := 0
		keys, revisions := scanAll(rt, req, func(req *kvv1.ScanRequest) (*kvv1.ScanResponse, error) { return s.Scan(ctx, req) }, func() {
			written++
			put(t, s, fmt.Sprintf("a%02d-new", written), "new")
		})
		if !slices.Equal(keys, want) {
			rt.Fatalf("scan gave %q, want %q", keys, want)
		}
		if slices.Min(revisions) != slices.Max(revisions) {
			rt.Fatalf("pages of revisions %v", revisions)
		}
		limit := s.page
		if req.GetLimit() > 0 {
			limit = min(limit, int(req.GetLimit()))
		}
		if pages := max(1, (len(want)+limit-1)/limit); len(revisions) != pages {
			rt.Fatalf("%d pages, want %d", len(revisions), pages)
		}
		for i := range written {
			if _, err := s.Delete(ctx, &kvv1.DeleteRequest{Key: fmt.Appendf(nil, "a%02d-new", i+1)}); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func TestPagesEndByBytes(t *testing.T) {
	s, _ := newTestService(t)
	big := string(make([]byte, pageBytes/2))
	for i := range 5 {
		put(t, s, fmt.Sprint(i), big)
	}
	put(t, s, "5", string(make([]byte, 3*pageBytes)))
	var sizes []int
	req := &kvv1.ScanRequest{}
	for {
		resp, err := s.Scan(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(resp.GetItems()))
		if req.PageToken = resp.GetNextPageToken(); len(req.PageToken) == 0 {
			break
		}
	}
	if !slices.Equal(sizes, []int{2, 2, 2}) {
		t.Errorf("pages of %v items, want 2, 2, 2", sizes)
	}
}

func wantReason(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if st := status.Convert(err); st.Code() != code || st.Message() != text {
		t.Errorf("got %v %q, want %v %q", st.Code(), st.Message(), code, text)
	}
}

func TestPageTokens(t *testing.T) {
	// A channel that is made within synctest's bubble can't be used outside.
	defer func(outside *sync.Pool) { calls = outside }(calls)
	calls = newCallPool()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newTestService(t)
		defer s.pins.close()
		for i := range 30 {
			put(t, s, fmt.Sprintf("k%02d", i), "v")
		}
		first := func() []byte {
			resp, err := s.Scan(t.Context(), &kvv1.ScanRequest{Prefix: []byte("k"), Limit: 5})
			if err != nil {
				t.Fatal(err)
			}
			return resp.GetNextPageToken()
		}
		next := func(token []byte) error {
			_, err := s.Scan(t.Context(), &kvv1.ScanRequest{Prefix: []byte("k"), Limit: 5, PageToken: token})
			return err
		}
		token := first()
		// A page may be asked for again, as a client does that lost the answer.
		for range 2 {
			if err := next(token); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.Scan(t.Context(), &kvv1.ScanRequest{Prefix: []byte("j"), PageToken: token})
		wantReason(t, err, codes.InvalidArgument, "page_token was given out for another range")
		wantReason(t, next(append(token[:tokenHeader:tokenHeader], "zzz"...)), codes.InvalidArgument, "page_token is not one that Scan gave out")
		wantReason(t, next(token[:5]), codes.InvalidArgument, "page_token is not one that Scan gave out")
		other := newPins(8, 4, time.Minute)
		wantReason(t, next(other.token(1, []byte("k05"))), codes.FailedPrecondition, "page token belongs to another node")

		// Each page renews the pin.
		for range 3 {
			time.Sleep(s.pins.hold - time.Second)
			if err := next(token); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(s.pins.hold)
		synctest.Wait()
		wantReason(t, next(token), codes.FailedPrecondition, "page token expired")
		if n := s.pins.count(); n != 0 {
			t.Errorf("%d views are still pinned", n)
		}

		// Above the cap, the one not used for longest goes.
		tokens := make([][]byte, 0, s.pins.max+1)
		for range s.pins.max {
			tokens = append(tokens, first())
			time.Sleep(time.Second)
		}
		if err := next(tokens[0]); err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, first())
		if n := s.pins.count(); n != s.pins.max {
			t.Errorf("%d views are pinned, want %d", n, s.pins.max)
		}
		for i, token := range tokens {
			if err := next(token); (err != nil) != (i == 1) {
				t.Errorf("token %d: %v", i, err)
			}
		}
		s.pins.close()
		wantReason(t, next(tokens[0]), codes.FailedPrecondition, "page token expired")
		wantReason(t, next(first()), codes.FailedPrecondition, "page token expired")
	})
}

func FuzzPageToken(f *testing.F) {
	p := newPins(7, 4, time.Hour)
	f.Cleanup(p.close)
	id := p.pin(kv.NewStore().View(), keyRange{start: []byte("a"), end: []byte("b")})
	f.Add(p.token(id, []byte("aa")))
	f.Add(p.token(id, []byte("c")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, token []byte) {
		_, next, v, err := p.resume(token, keyRange{start: []byte("a"), end: []byte("b")})
		if err == nil && (v == nil || bytes.Compare(next, []byte("a")) < 0 || bytes.Compare(next, []byte("b")) >= 0) {
			t.Fatalf("token %x goes on at %q", token, next)
		}
	})
}
