package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"

	"raftlab/bench"
	"raftlab/bench/cluster"
)

// findServers finds the raftkv programs that variants start, and asks each what it
// was built from. One that nobody named is refused when it was built from something
// else than this program. Of target etcd it finds out which etcd answers.
func (f *runFlags) findServers(ctx context.Context, o *bench.Options) error {
	builds := map[string]bench.Build{}
	for i := range o.Matrix.Variants {
		v := &o.Matrix.Variants[i]
		if v.Settings.Load.Target == bench.TargetEtcd && o.ServerInfo == "" {
			var err error
			if o.ServerInfo, err = bench.FindEtcd(ctx, f.endpoints); err != nil {
				return err
			}
		}
		if !v.Settings.StartsServer() {
			continue
		}
		named := v.Settings.Load.ServerBin
		build, asked := builds[named]
		if !asked {
			name := named
			if named == "" {
				name = f.serverBin
			}
			bin, err := cluster.FindServer(name)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if build, err = askBuild(ctx, bin); err != nil {
				return err
			}
			if name == "" && !build.Matches(o.Build) {
				return usageErrorf("%s was built from commit %s dirty %s, raftbench from %s dirty %s; build both again, or name it with --server-bin",
					bin, build.Commit, build.Dirty, o.Build.Commit, o.Build.Dirty)
			}
			if named == "" {
				o.ServerBin, o.ServerInfo = bin, build.String()
			}
			builds[named] = build
		}
		v.Server = build.String()
	}
	return nil
}

// askBuild asks a raftkv what it was built from.
func askBuild(ctx context.Context, bin string) (bench.Build, error) {
	var build bench.Build
	out, err := exec.CommandContext(ctx, bin, "version", "-o", "json").Output()
	if err == nil {
		err = json.Unmarshal(out, &build)
	}
	if err != nil {
		return build, &exitError{exitUsage, fmt.Errorf("%s is no raftkv: %w", bin, err)}
	}
	return build, nil
}
