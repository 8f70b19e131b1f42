package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/profile"
	"github.com/spf13/cobra"

	"raftlab/bench"
	"raftlab/bench/report"
)

// runFlags are the flags of run.
type runFlags struct {
	set, vary  []string
	duration   time.Duration
	blocks     int
	seed       uint64
	out        string
	endpoints  []string
	target     string
	serverBin  string
	strict     bool
	noProfiles bool
	verify     bool
	ceilings   []string
	profile    string
	objective  string
	search     *bench.Objective // of objective; nil without
	output     string
}

func runCommand() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run [NAME|FILE]",
		Short: "Run an experiment; without a name, quick",
		Long: `Run an experiment: an embedded one (raftbench list) or a YAML file.

It says how many trials there are and how long they take before it starts, and
leaves a run folder with the report, which docs/runs.md describes.`,
		Args: cobra.MaximumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.set, "set", nil, "fix a field everywhere, as `FIELD=VALUE`; raftbench show --fields lists them")
	flags.StringArrayVar(&f.vary, "vary", nil, "make a field an axis, as `FIELD=A,B,...`; replaces its values where arms use it")
	flags.DurationVar(&f.duration, "duration", 0, "measured window of a trial (default: the experiment's)")
	flags.IntVar(&f.blocks, "blocks", 0, "repetitions of all variants (default: the experiment's)")
	flags.Uint64Var(&f.seed, "seed", 0, "seed of operations and order (default: random)")
	flags.StringVar(&f.out, "out", "", "the run folder (default: "+runsRoot+"/<date>-<experiment>-<id>)")
	flags.StringSliceVar(&f.endpoints, "endpoints", nil, "drive the cluster that runs at these client addresses")
	flags.StringVar(&f.target, "target", "", "what is driven, as --set target=`NAME`; etcd drives an etcd at --endpoints by its own client, and leaves its keys there")
	flags.StringVar(&f.serverBin, "server-bin", "", "the raftkv to start for topology processes (default: beside raftbench, then PATH); --vary server-bin=A,B compares two")
	flags.StringSliceVar(&f.ceilings, "ceiling", nil, "what to measure as bounds beside: "+strings.Join(bench.CeilingTargets, ", ")+", or none (default: the experiment's)")
	flags.BoolVar(&f.strict, "strict", false, "exit 5 when a trial is invalid")
	flags.BoolVar(&f.verify, "verify", false, "record what clients saw of some keys, and check that it is linearizable; exit 1 when it is not")
	flags.BoolVar(&f.noProfiles, "no-profiles", false, "leave out the block of trials that profiles are taken in")
	flags.StringVar(&f.profile, "profile", "", "profile raftbench itself for the whole run: "+strings.Join(profileNames(), ", ")+"; needs --no-profiles")
	flags.StringVar(&f.objective, "objective", "", "look for the highest rate at which each variant meets `LIMIT`, such as p99<10ms; --blocks is then the most trials of a variant")
	outputFlag(cmd, &f.output)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := "quick"
		if len(args) > 0 {
			name = args[0]
		}
		return runExperiment(cmd, f, name)
	}
	return cmd
}

// plan applies the flags to an experiment and expands it.
func (f *runFlags) plan(cmd *cobra.Command, name string) (*bench.Experiment, *bench.Matrix, error) {
	if f.objective != "" {
		if f.strict {
			return nil, nil, usageErrorf("--strict is for measured trials; a search (--objective) leaves invalid ones out by itself")
		}
		var err error
		if f.search, err = bench.ParseObjective(f.objective); err != nil {
			return nil, nil, err
		}
	}
	e, err := bench.LoadExperiment(name)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range f.set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, nil, usageErrorf("--set %q is not FIELD=VALUE", s)
		}
		if err := e.Set(key, value); err != nil {
			return nil, nil, err
		}
	}
	for _, s := range f.vary {
		key, values, ok := strings.Cut(s, "=")
		if !ok || values == "" {
			return nil, nil, usageErrorf("--vary %q is not FIELD=A,B", s)
		}
		if err := e.SetVary(key, strings.Split(values, ",")); err != nil {
			return nil, nil, err
		}
	}
	if f.target != "" {
		if err := e.Set("target", f.target); err != nil {
			return nil, nil, err
		}
	}
	if len(f.ceilings) > 0 {
		if err := e.SetCeilings(f.ceilings); err != nil {
			return nil, nil, err
		}
	}
	if len(f.endpoints) > 0 {
		if err := checkEndpoints(f.endpoints); err != nil {
			return nil, nil, err
		}
		if err := e.SetExternal(); err != nil {
			return nil, nil, err
		}
	}
	changed := cmd.Flags().Changed
	switch {
	case changed("duration") && (f.duration < bench.MinDuration || f.duration > time.Hour):
		return nil, nil, usageErrorf("duration %v is not from %v to 1h", f.duration, bench.MinDuration)
	case changed("blocks") && (f.blocks < 1 || f.blocks > 1000):
		return nil, nil, usageErrorf("blocks %d is not from 1 to 1000", f.blocks)
	}
	if changed("duration") {
		e.Measure.Duration = f.duration
	}
	if changed("blocks") {
		e.Measure.Blocks = f.blocks
	}
	if f.objective != "" {
		if err := f.search.Prepare(e, changed("duration"), changed("blocks")); err != nil {
			return nil, nil, err
		}
	}
	m, err := bench.Expand(e)
	if err == nil && len(f.endpoints) == 0 && drives(m, func(l *bench.Load) bool { return l.Topology == bench.TopologyExternal }) {
		err = usageErrorf("topology external needs --endpoints")
	}
	return e, m, err
}

// drives tells whether there is a variant with such a load.
func drives(m *bench.Matrix, such func(*bench.Load) bool) bool {
	return slices.ContainsFunc(m.Variants, func(v bench.Planned) bool { return such(&v.Settings.Load) })
}

// checkEndpoints refuses addresses that can't be dialled.
func checkEndpoints(list []string) error {
	for _, e := range list {
		_, port, err := net.SplitHostPort(e)
		if err != nil {
			return usageErrorf("endpoint %q is not host:port", e)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return usageErrorf("endpoint %q has a port outside 1 to 65535", e)
		}
	}
	return nil
}

// profiles of the whole process, by what --profile calls them.
var profiles = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "mem": profile.MemProfile, "mutex": profile.MutexProfile,
	"block": profile.BlockProfile, "trace": profile.TraceProfile,
}

func profileNames() []string { return slices.Sorted(maps.Keys(profiles)) }

// checkProfile refuses a profile of the whole run while windowed capture has the
// process's one CPU profile to itself.
func (f *runFlags) checkProfile() error {
	if f.profile == "" {
		return nil
	}
	if profiles[f.profile] == nil {
		return usageErrorf("profile %q is not one of %s", f.profile, strings.Join(profileNames(), ", "))
	}
	if !f.noProfiles {
		return usageErrorf("--profile %s cannot be combined with the profile block, which captures windows of its own; add --no-profiles", f.profile)
	}
	return nil
}

func runExperiment(cmd *cobra.Command, f *runFlags, name string) error {
	if err := f.checkProfile(); err != nil {
		return err
	}
	e, m, err := f.plan(cmd, name)
	if err != nil {
		return err
	}
	o := bench.Options{
		Experiment: e, Matrix: m, Seed: f.seed, Command: append([]string{"raftbench"}, os.Args[1:]...),
		Build: bench.Stamped(commit, dirty), Endpoints: f.endpoints, NoProfiles: f.noProfiles, Verify: f.verify, Objective: f.search,
	}
	if o.SelfBin, err = selfBin(); err != nil {
		return err
	}
	if err := f.findServers(cmd.Context(), &o); err != nil {
		return err
	}
	if err := f.identify(cmd, &o); err != nil {
		return err
	}
	dir := f.out
	if dir == "" {
		dir = filepath.Join(runsRoot, time.Now().Format("20060102-150405")+"-"+e.Name+"-"+o.ID)
	}
	if o.Folder, err = bench.CreateFolder(dir); err != nil {
		return err
	}
	trials, estimate := bench.Budget(m, e.Measure, !f.noProfiles)
	if f.search != nil {
		trials, estimate = bench.SearchBudget(m, e.Measure, f.search)
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "looking for the highest rate with %s; at most:\n", f.search)
	}
	stderr := cmd.ErrOrStderr()
	_, _ = fmt.Fprintf(stderr, "%s: %s\n%d variants, %d trials, about %v; seed %d; run folder %s\n",
		e.Name, e.Question, len(m.Variants), trials, estimate, o.Seed, dir)
	for _, s := range m.Skipped {
		_, _ = fmt.Fprintf(stderr, "skipped %s: %s\n", describe(s.Params), s.Reason)
	}
	live := bench.NewLive(stderr)
	o.Progress = live.Show
	if f.profile != "" {
		defer profile.Start(profiles[f.profile], profile.ProfilePath(dir), profile.NoShutdownHook, profile.Quiet).Stop()
	}
	run, err := bench.Execute(cmd.Context(), o)
	live.Clear()
	return errors.Join(f.finish(cmd, &o, run, err), o.Folder.Close())
}

// identify gives the run its seed and id.
func (f *runFlags) identify(cmd *cobra.Command, o *bench.Options) error {
	var random [10]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	o.ID = hex.EncodeToString(random[:2])
	if !cmd.Flags().Changed("seed") {
		o.Seed = uint64(binary.BigEndian.Uint32(random[2:])) // short enough to be typed again
	}
	return nil
}

// finish writes the reports and tells how the run went. err is why it ended
// early, if it did.
func (f *runFlags) finish(cmd *cobra.Command, o *bench.Options, run *bench.Run, err error) error {
	dir := o.Folder.Dir
	if run.TrialsCompleted > 0 {
		if reportErr := f.report(cmd, dir); reportErr != nil {
			err = errors.Join(err, reportErr)
		}
	}
	if violated := violated(run); violated != nil {
		return errors.Join(violated, err) // whether or not it was completed
	}
	if err != nil {
		return err
	}
	return f.judge(run)
}

// violated is the failure of a run in which any trial, also one that is left out of
// the figures, shows that what clients were told does not hold.
func violated(run *bench.Run) error {
	violations := run.Violations()
	if len(violations) == 0 {
		return nil
	}
	return &exitError{exitFailed, fmt.Errorf("%d violations: what clients were told does not hold; the first: %s", len(violations), violations[0])}
}

// judge tells whether a run that was completed is worth something.
func (f *runFlags) judge(run *bench.Run) error {
	operations, viable, problem := uint64(0), 0, ""
	for i := range run.Trials {
		t := &run.Trials[i]
		if t.Kind != bench.TrialMeasured {
			continue
		}
		operations += t.Operations
		if t.Viable {
			viable++
		}
		if problem == "" {
			problem = t.Problem
		}
	}
	searched, invalid := run.SearchError(), run.Invalid()
	switch {
	case errors.Is(searched, bench.ErrFailed):
		return searched
	case errors.Is(searched, bench.ErrMissed):
		return &exitError{exitMissed, searched}
	case searched != nil:
		return &exitError{exitInconclusive, searched}
	case run.Objective != nil:
		return nil
	case operations == 0:
		return fmt.Errorf("no operation was acknowledged in any trial: %s", problem)
	case viable == 0:
		return fmt.Errorf("no trial could do the work: %s", problem)
	case f.strict && len(invalid) > 0:
		return &exitError{exitInvalid, fmt.Errorf("%d trials are invalid; the first, %s: %s", len(invalid), invalid[0].Name(), invalid[0].Problem)}
	}
	return nil
}

// report saves the reports in the run folder and prints the table, or JSON.
func (f *runFlags) report(cmd *cobra.Command, dir string) error {
	data, err := report.Load(dir)
	if err != nil {
		return err
	}
	if err := data.Save(); err != nil {
		return err
	}
	size, err := bench.FolderSize(dir)
	if err != nil {
		return err
	}
	stdout := cmd.OutOrStdout()
	if f.output == "json" {
		return json.NewEncoder(stdout).Encode(struct {
			Dir     string        `json:"dir"`
			Bytes   int64         `json:"bytes"`
			Run     *bench.Run    `json:"run"`
			Summary bench.Summary `json:"summary"`
		}{dir, size, data.Run, data.Summary})
	}
	if err := data.Text(stdout); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "Report:     %s (the run folder has %s)\n", filepath.Join(dir, report.HTMLFile), megabytes(size))
	return err
}

func describe(params map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(params)) {
		parts = append(parts, k+"="+params[k])
	}
	return strings.Join(parts, " ")
}
