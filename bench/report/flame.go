package report

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"raftlab/bench"
)

// A frame is a function in a tree of stacks, and all that it called. Figures are
// microseconds of CPU time an operation of one profile, or of two that are
// compared: the baseline's and the other's.
type frame struct {
	name  string
	layer bench.Layer // its own or, where it is its caller's, the caller's
	us    [2]float64  // with all that it called
	self  [2]float64
	n     [2]int64 // samples
	selfN [2]int64
	kids  []*frame
}

// Bounds of a graph, so that a report stays small: narrower frames are gathered in
// one, deeper ones are left out and their time is their caller's.
const (
	narrowestShare = 0.005
	deepestLevel   = 40
	gathered       = "smaller ones"
)

// sampledProfile is the CPU profile of one variant's processes.
type sampledProfile struct {
	stacks     []bench.Stack
	operations uint64
}

// perSample is what one sample stands for, in microseconds an operation: nearly
// the same in all processes.
func (p *sampledProfile) perSample() float64 {
	samples, nanos := int64(0), 0.0
	for i := range p.stacks {
		samples, nanos = samples+p.stacks[i].Samples, nanos+p.stacks[i].Nanos
	}
	return nanos / 1e3 / float64(max(samples, 1)) / float64(max(p.operations, 1))
}

// flame makes the tree of one profile: the processes, then their stacks.
func flame(p *sampledProfile) *frame {
	root := &frame{name: "all"}
	root.add(p, 0, func(process string) string {
		if process == "process" {
			return "shared"
		}
		return process
	})
	root.finish()
	return root
}

// flameDifference makes the tree of two. Leaders are not the same node in every
// trial, so nodes are taken together.
func flameDifference(baseline, other *sampledProfile) *frame {
	root := &frame{name: "all"}
	for i, p := range []*sampledProfile{baseline, other} {
		root.add(p, i, func(process string) string {
			switch {
			case strings.HasPrefix(process, "node"):
				return "nodes"
			case process == "process":
				return "shared"
			}
			return process
		})
	}
	root.finish()
	return root
}

func (f *frame) add(p *sampledProfile, side int, process func(string) string) {
	for i := range p.stacks {
		s := &p.stacks[i]
		us := s.Nanos / 1e3 / float64(max(p.operations, 1))
		at := f
		at.us[side] += us
		at.n[side] += s.Samples
		for _, name := range append([]string{process(s.Process)}, s.Functions...) {
			if name == "runtime.goexit" || name == "runtime/pprof.Do" {
				continue // where goroutines begin
			}
			at = at.kid(name)
			at.us[side] += us
			at.n[side] += s.Samples
		}
		at.self[side] += us
		at.selfN[side] += s.Samples
	}
}

func (f *frame) kid(name string) *frame {
	for _, k := range f.kids {
		if k.name == name {
			return k
		}
	}
	k := &frame{name: name, layer: cmp.Or(bench.LayerOf(name), f.layer)}
	f.kids = append(f.kids, k)
	return k
}

// width is what a frame takes in a drawing: what it called, and itself by the
// larger of the two profiles, so that what only one of them has is seen.
func (f *frame) width() float64 {
	w := max(f.self[0], f.self[1])
	for _, k := range f.kids {
		w += k.width()
	}
	return w
}

// finish bounds the tree and orders it, the widest first.
func (f *frame) finish() {
	f.bound(f.width()*narrowestShare, 0)
}

func (f *frame) bound(narrowest float64, level int) {
	var kept []*frame
	rest := &frame{name: gathered, layer: f.layer}
	for _, k := range f.kids {
		switch {
		case level == deepestLevel:
			f.swallow(k)
		case k.width() < narrowest:
			rest.swallow(k)
		default:
			k.bound(narrowest, level+1)
			kept = append(kept, k)
		}
	}
	slices.SortFunc(kept, func(a, b *frame) int {
		return cmp.Or(cmp.Compare(b.width(), a.width()), strings.Compare(a.name, b.name))
	})
	rest.us, rest.n = rest.self, rest.selfN
	if rest.width() >= narrowest {
		kept = append(kept, rest)
	} else {
		f.swallow(rest)
	}
	f.kids = kept
}

// swallow takes a frame's time, with all it called, for its own.
func (f *frame) swallow(k *frame) {
	for side := range 2 {
		f.self[side] += k.us[side]
		f.selfN[side] += k.n[side]
	}
}

// Size of a drawing, in pixels.
const (
	flameWidth  = 1200.0
	flameRow    = 18.0
	flamePerRun = 6.1 // pixels of a letter
)

// flameChart is a tree drawn: the callers above, what they called below.
type flameChart struct {
	ID, Title, Desc string
	W, H            int
	Boxes           []flameBox
	Difference      bool
}

type flameBox struct {
	Class, X, Y, W, TextX, TextY string
	Label                        string // as much of the name as fits
	Title                        string // name and figures
}

// draw lays a tree out. describe says a frame's figures, class is its colour.
func (f *frame) draw(describe, class func(*frame) string) flameChart {
	c := flameChart{W: int(flameWidth)}
	scale := flameWidth / max(f.width(), 1e-12)
	levels := 0
	var place func(k *frame, x float64, level int)
	place = func(k *frame, x float64, level int) {
		w := k.width() * scale
		y := float64(level) * flameRow
		levels = max(levels, level+1)
		box := flameBox{
			Class: class(k), X: px(x), Y: px(y), W: px(max(w-0.5, 0.3)), TextX: px(x + 3), TextY: px(y + 12.5),
			Title: shortFunction(k.name) + ": " + describe(k),
		}
		if letters := int((w - 6) / flamePerRun); letters >= 3 {
			box.Label = cut(shortFunction(k.name), letters)
		}
		c.Boxes = append(c.Boxes, box)
		for _, kid := range k.kids {
			place(kid, x, level+1)
			x += kid.width() * scale
		}
	}
	place(f, 0, 0)
	c.H = int(float64(levels) * flameRow)
	return c
}

// shortFunction leaves out where a package lies:
// google.golang.org/grpc/internal/transport.(*loopyWriter).run is
// transport.(*loopyWriter).run, and what a type parameter stands for.
func shortFunction(name string) string {
	if i := strings.IndexByte(name, '['); i > 0 {
		if j := strings.LastIndexByte(name, ']'); j > i {
			name = name[:i] + "[…]" + name[j+1:]
		}
	}
	return path.Base(name)
}

func cut(s string, letters int) string {
	r := []rune(s)
	if len(r) <= letters {
		return s
	}
	return string(r[:letters-1]) + "…"
}

// difference is how much more the second profile has than the first, and what
// sampling alone makes of none, in microseconds an operation: the half-width of
// a 95 % interval.
func difference(us [2]float64, n [2]int64, perSample [2]float64) (delta, noise float64) {
	// A count of samples has its own size as variance; of none seen one is taken.
	variance := 0.0
	for side := range 2 {
		variance += float64(max(n[side], 1)) * perSample[side] * perSample[side]
	}
	return us[1] - us[0], 1.96 * math.Sqrt(variance)
}

// differenceClass colours a frame by the share of all CPU time that it differs by;
// grey where sampling explains it.
func differenceClass(delta, noise, total float64) string {
	if math.Abs(delta) <= noise {
		return "same"
	}
	step := 1
	switch share := math.Abs(delta) / max(total, 1e-12); {
	case share >= 0.1:
		step = 3
	case share >= 0.03:
		step = 2
	}
	return fmt.Sprintf("%s%d", map[bool]string{true: "more", false: "less"}[delta > 0], step)
}
