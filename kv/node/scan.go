package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"math"
	"sync"
	"time"

	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// pageBytes is where a page of Scan ends, whatever its limit: with the item that
// passes it, so that a large item still travels.
const pageBytes = 1 << 20

// keyRange is start (inclusive) to end (exclusive); a nil end has no bound.
type keyRange struct{ start, end []byte }

func (r keyRange) equal(o keyRange) bool {
	return bytes.Equal(r.start, o.start) && bytes.Equal(r.end, o.end)
}

func (r keyRange) clone() keyRange {
	return keyRange{start: bytes.Clone(r.start), end: bytes.Clone(r.end)}
}

// scanRange is the range a request asks for.
func scanRange(req *kvv1.ScanRequest) keyRange {
	if prefix := req.GetPrefix(); len(prefix) > 0 {
		return keyRange{start: prefix, end: prefixEnd(prefix)}
	}
	r := keyRange{start: req.GetStart()}
	if len(req.GetEnd()) > 0 {
		r.end = req.GetEnd()
	}
	return r
}

// prefixEnd is the first key after all that begin with prefix; nil when there is
// none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < math.MaxUint8 {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

// Scan implements KV. The first page takes a view of the store; when there is
// more, the view is pinned and the page token says where to go on in it.
func (s *kvService) Scan(ctx context.Context, req *kvv1.ScanRequest) (*kvv1.ScanResponse, error) {
	resp, err := s.scan(ctx, req)
	return resp, s.errors.status(err)
}

func (s *kvService) scan(ctx context.Context, req *kvv1.ScanRequest) (*kvv1.ScanResponse, error) {
	if err := checkScan(req); err != nil {
		return nil, err
	}
	keys := scanRange(req)
	limit := s.page
	if req.GetLimit() > 0 {
		limit = int(min(int64(req.GetLimit()), int64(s.page)))
	}
	if len(req.GetPageToken()) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id, next, view, err := s.pins.resume(req.GetPageToken(), keys)
		if err != nil {
			return nil, err
		}
		resp, next := page(view, keyRange{start: next, end: keys.end}, limit)
		if next != nil {
			resp.NextPageToken = s.pins.token(id, next)
		}
		return resp, nil
	}
	if err := s.await(ctx, req.GetConsistency()); err != nil {
		return nil, err
	}
	view := s.store.View()
	resp, next := page(view, keys, limit)
	if next != nil {
		resp.NextPageToken = s.pins.token(s.pins.pin(view, keys), next)
	}
	return resp, nil
}

// page reads one page and says at which key the next one begins; nil when there
// is none.
func page(v *kv.View, keys keyRange, limit int) (*kvv1.ScanResponse, []byte) {
	state := v.State()
	resp := &kvv1.ScanResponse{Revision: state.Revision, AppliedIndex: state.Index}
	var (
		next []byte
		size int
	)
	v.Scan(keys.start, keys.end, func(item kv.Item) bool {
		if len(resp.Items) == limit || size >= pageBytes {
			next = item.Key
			return false
		}
		size += len(item.Key) + len(item.Value)
		resp.Items = append(resp.Items, &kvv1.KeyValue{
			Key: item.Key, Value: item.Value,
			Version: item.Version, CreateRevision: item.CreateRevision, ModRevision: item.ModRevision,
		})
		return true
	})
	return resp, next
}

// pins holds the views that page tokens refer to: at most max of them, each for
// hold since its last page. A new scan displaces the one not used for longest,
// since scans are often left after a page. All methods may be called from any
// goroutine.
type pins struct {
	incarnation uint64
	max         int
	hold        time.Duration

	mu     sync.Mutex
	last   uint64 // id given out last
	byID   map[uint64]*pin
	sweep  *time.Timer // runs while there are pins, to let memory go unasked
	closed bool
}

type pin struct {
	id      uint64
	view    *kv.View
	keys    keyRange
	expires time.Time
}

func newPins(incarnation uint64, limit int, hold time.Duration) *pins {
	return &pins{incarnation: incarnation, max: limit, hold: hold, byID: map[uint64]*pin{}}
}

// pin keeps a view and returns its id. The range must not be changed.
func (p *pins) pin(v *kv.View, keys keyRange) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	if p.closed {
		return p.last // its token has expired
	}
	for len(p.byID) >= p.max {
		delete(p.byID, p.oldest().id)
	}
	p.byID[p.last] = &pin{id: p.last, view: v, keys: keys.clone(), expires: time.Now().Add(p.hold)}
	p.schedule()
	return p.last
}

// A page token is a format byte, the incarnation of the node, the pin's id, and
// the key to go on at.
const (
	tokenFormat = 1
	tokenHeader = 1 + 8 + 8
)

func (p *pins) token(id uint64, next []byte) []byte {
	token := make([]byte, 0, tokenHeader+len(next))
	token = append(token, tokenFormat)
	token = binary.BigEndian.AppendUint64(token, p.incarnation)
	token = binary.BigEndian.AppendUint64(token, id)
	return append(token, next...)
}

// resume finds what a token refers to, and renews it.
func (p *pins) resume(token []byte, keys keyRange) (id uint64, next []byte, v *kv.View, err error) {
	if len(token) < tokenHeader || token[0] != tokenFormat {
		return 0, nil, nil, errPageDamaged
	}
	if binary.BigEndian.Uint64(token[1:]) != p.incarnation {
		return 0, nil, nil, errPageForeign
	}
	id, next = binary.BigEndian.Uint64(token[9:]), token[tokenHeader:]
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.byID[id]
	now := time.Now()
	switch {
	case found == nil || !now.Before(found.expires):
		return 0, nil, nil, errPageExpired
	case !found.keys.equal(keys):
		return 0, nil, nil, errPageMismatch
	case bytes.Compare(next, keys.start) < 0 || keys.end != nil && bytes.Compare(next, keys.end) >= 0:
		return 0, nil, nil, errPageDamaged
	}
	found.expires = now.Add(p.hold)
	return id, next, found.view, nil
}

// close drops every pin and takes no more.
func (p *pins) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	clear(p.byID)
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
}

func (p *pins) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byID)
}

// oldest is the pin that expires first; nil without any. p.mu is held.
func (p *pins) oldest() *pin {
	var first *pin
	for _, candidate := range p.byID {
		if first == nil || before(candidate, first) {
			first = candidate
		}
	}
	return first
}

func before(a, b *pin) bool {
	return cmp.Or(a.expires.Compare(b.expires), cmp.Compare(a.id, b.id)) < 0
}

// schedule has drop called when the next pin expires. p.mu is held.
func (p *pins) schedule() {
	if p.sweep != nil || len(p.byID) == 0 {
		return
	}
	p.sweep = time.AfterFunc(time.Until(p.oldest().expires), p.drop)
}

// drop lets go of what has expired.
func (p *pins) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep = nil
	now := time.Now()
	for id, candidate := range p.byID {
		if !now.Before(candidate.expires) {
			delete(p.byID, id)
		}
	}
	p.schedule()
}
