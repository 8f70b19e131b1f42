package main

import (
	"slices"

	"raftlab/bench"
)

// checkStages wants a trial to tell the stages of its writes, in every topology that
// has nodes of raftlab's, and its slices to be of both kinds.
func checkStages(errorf errorf, name string, trial *bench.Trial, v bench.Variant) {
	s := trial.Stages
	target := v.Config["target"]
	external := v.Config["topology"] == bench.TopologyExternal // its debug ports are not known
	if v.Role == bench.RoleCeiling || target == bench.TargetBare || target == bench.TargetEtcd || external {
		if s != nil {
			errorf("%s has stages: %+v", name, s)
		}
		return
	}
	if s == nil || s.Void == "" && (s.Leader == 0 || s.Leader > 4 || len(s.OnLeader) == 0) {
		errorf("%s: stages %+v", name, s)
		return
	}
	const enough = 100 // one write in eight is measured, and with slices half of the time only
	if writes := trial.Response["put"].Count; s.Void == "" && writes >= enough {
		if s.Writes == nil || s.Writes.Count == 0 || !slices.Equal(s.Writes.Stages, []string{"queue", "commit", "apply", "answer"}) ||
			s.Writes.Mean[1] <= 0 || len(s.Writes.P50) != 4 || len(s.Writes.P99) != 4 || s.OnLeader["entry_commands"].Count == 0 {
			errorf("%s: of %d writes %+v", name, writes, s.Writes)
		}
		if s.Received == nil || s.OnFollowers["stage_durable_nanos"].Count == 0 {
			errorf("%s: followers tell %+v, %+v", name, s.Received, s.OnFollowers)
		}
	}
	switch {
	case v.Config["stages-slice"] == "0s" || trial.Kind == bench.TrialProfile:
		if len(trial.Slices) != 0 {
			errorf("%s: slices %+v", name, trial.Slices)
		}
	case len(trial.Slices) != 4 || trial.Slices[0].Stages == trial.Slices[1].Stages || trial.Slices[2].Stages == trial.Slices[3].Stages:
		errorf("%s: slices %+v", name, trial.Slices)
	}
}
