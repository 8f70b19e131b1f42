package bench

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"raftlab/bench/stats"
)

// realPairs are the throughputs of two trials of one block, of one and the same
// variant, as `make aa` measured them.
func realPairs(t *testing.T) [][2]float64 {
	t.Helper()
	f, err := os.Open("testdata/aa-trials.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	var pairs [][2]float64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var p [2]float64
		if line := lines.Text(); line[0] != '#' {
			if _, err := fmt.Sscan(line, &p[0], &p[1]); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			pairs = append(pairs, p)
		}
	}
	if len(pairs) < 100 {
		t.Fatalf("%d pairs", len(pairs))
	}
	return pairs
}

// TestAASynthetic: a thousand runs are put together from real trials of one variant,
// block by block, with an A/A arm. Whatever looks like a difference between the two
// is none: the raw 95 % interval excludes 1 in 3 to 7 % of them, and at most 5 % are
// called better or worse, or a regression. So it is with the 4 and 6 blocks that
// experiments have, as with many. Unpaired, of trials drawn one by one, it is 2 to 7 %:
// these figures lean far to one side, which makes Welch's interval of few a little too
// wide.
func TestAASynthetic(t *testing.T) {
	const runs = 1000
	pairs := realPairs(t)
	for _, blocks := range []int{4, 6, 10, 20} {
		random := rand.New(rand.NewPCG(15, uint64(blocks)))
		pair := func() (float64, float64) {
			p := pairs[random.IntN(len(pairs))]
			i := random.IntN(2) // which one was first tells nothing
			return p[i], p[1-i]
		}
		excludes := func(e Estimate) bool { return e.Lo > 1 || e.Hi < 1 }
		excluded, unpaired, verdicts, regressions := 0, 0, 0, 0
		for range runs {
			figures := map[string][]float64{}
			var one, other []float64
			for range blocks {
				a, b := pair()
				c, d := pair()
				figures["v01"], figures["v02"], figures["v03"] = append(figures["v01"], a), append(figures["v02"], b), append(figures["v03"], a*d/c)
				x, _ := pair()
				y, _ := pair()
				one, other = append(one, x), append(other, y)
			}
			variants := []Variant{
				variant("v01", "server-bin=a", RoleMeasured, "", ""), variant("v02", "server-bin=b", RoleMeasured, "v01", ""),
				variant("v03", "server-bin=a/arm=aa", RoleAA, "v01", ""),
			}
			run := synthetic(nil, variants, figures)
			s := Summarize(run).Variants[1]
			if excludes(s.Ratio) {
				excluded++
			}
			if s.Verdict == string(stats.Better) || s.Verdict == string(stats.Worse) {
				verdicts++
			}
			c, err := CompareAxis(run, CompareOptions{MaxRegression: 0})
			if err != nil {
				t.Fatal(err)
			}
			if c.Gate == GateRegression {
				regressions++
			}
			if excludes(Estimate(stats.UnpairedRatio(one, other, confidence))) {
				unpaired++
			}
		}
		t.Logf("%d blocks: %d of %d intervals exclude 1, %d unpaired; %d are called better or worse; compare finds %d regressions",
			blocks, excluded, runs, unpaired, verdicts, regressions)
		if excluded < 3*runs/100 || excluded > 7*runs/100 {
			t.Errorf("%d blocks: %d of %d intervals exclude 1", blocks, excluded, runs)
		}
		if unpaired < 2*runs/100 || unpaired > 7*runs/100 {
			t.Errorf("%d blocks, unpaired: %d of %d intervals exclude 1", blocks, unpaired, runs)
		}
		if verdicts > 5*runs/100 || regressions > 5*runs/100 {
			t.Errorf("%d blocks: %d of %d are called better or worse, %d regressions", blocks, verdicts, runs, regressions)
		}
	}
}
