package replica

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"raftlab/kv"
)

func TestBatchers(t *testing.T) {
	sizes := []int{10, 20, 30, 1000, 5}
	view := func(n int) QueueView {
		return QueueView{Count: n, Size: func(i int) int { return sizes[i] }}
	}
	for _, c := range []struct {
		name               string
		maxCount, maxBytes int
		queue, want        int
	}{
		{BatchNone, 100, 100, 5, 1},
		{BatchNone, 100, 100, 0, 0},
		{BatchGreedy, 100, 10000, 5, 5},
		{BatchGreedy, 2, 10000, 5, 2},
		{BatchGreedy, 100, 60, 5, 3},
		{BatchGreedy, 100, 59, 5, 2},
		{BatchGreedy, 100, 1, 5, 1}, // a single command may exceed the cap
		{BatchGreedy, 100, 100, 0, 0},
	} {
		b, err := NewBatcher(c.name, c.maxCount, c.maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := b.Next(view(c.queue), time.Time{}); got != c.want {
			t.Errorf("%s count %d bytes %d takes %d of %d, want %d", c.name, c.maxCount, c.maxBytes, got, c.queue, c.want)
		}
	}
	if _, err := NewBatcher("nagle", 1, 1); err == nil {
		t.Error("an unknown strategy is accepted")
	}
}

func TestPackerFillsEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Packer{Packed: rapid.Bool().Draw(t, "packed"), Size: rapid.IntRange(100, 1000).Draw(t, "size")}
		var queue []Proposal
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 400), 1, 50).Draw(t, "sizes") {
			queue = append(queue, Proposal{size: n})
		}
		count, size := p.next(queue)
		switch {
		case count < 1 || count > len(queue):
			t.Fatalf("takes %d of %d", count, len(queue))
		case !p.Packed && count != 1:
			t.Fatalf("unpacked takes %d", count)
		case count > 1 && size > p.Size:
			t.Fatalf("%d commands make %d bytes, more than %d", count, size, p.Size)
		case p.Packed && count < len(queue) && size+queue[count].size <= p.Size:
			t.Fatalf("stops at %d commands although the next fits", count)
		case size != kv.HeaderSize+totalSize(queue[:count]):
			t.Fatal("size is not the header and the commands")
		}
	})
}

func totalSize(ps []Proposal) (n int) {
	for _, p := range ps {
		n += p.size
	}
	return n
}

func TestEntrySizeIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := make([]byte, rapid.IntRange(1, 20000).Draw(t, "data"))
		term, index := rapid.Uint64Min(1).Draw(t, "term"), rapid.Uint64Min(1).Draw(t, "index")
		e := &raftpb.Entry{Term: &term, Index: &index, Data: data}
		if got, want := EntrySize(len(data), term, index), uint64(proto.Size(e)); got != want {
			t.Fatalf("EntrySize is %d, encoded are %d bytes", got, want)
		}
	})
}
