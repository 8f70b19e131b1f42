package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"raftlab/bench"
)

// listedRun is a line of list --runs. Of one that cannot be read there are Dir,
// Bytes and Problem only.
type listedRun struct {
	Dir        string         `json:"dir"`
	Experiment string         `json:"experiment,omitempty"`
	Started    string         `json:"started,omitempty"`
	Complete   bool           `json:"complete"`
	Trials     int            `json:"trials"`
	Bytes      int64          `json:"bytes"`
	Commit     string         `json:"commit,omitempty"`
	Answers    []bench.Answer `json:"answers,omitempty"`
	Problem    string         `json:"problem,omitempty"`
}

func listRuns(cmd *cobra.Command, output string) error {
	folders, err := bench.RunFolders(runsRoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	list := []listedRun{}
	for _, f := range folders {
		r := listedRun{Dir: f.Dir}
		if r.Bytes, err = bench.FolderSize(f.Dir); err != nil {
			r.Problem = err.Error()
		}
		if f.Run == nil {
			r.Problem = f.Err.Error()
		} else {
			r.Experiment, r.Started = f.Run.Experiment.Name, f.Run.Started.Format("2006-01-02 15:04:05")
			r.Complete, r.Trials, r.Commit = f.Run.Complete, f.Run.TrialsCompleted, f.Run.Environment.Commit
			r.Answers = bench.Summarize(f.Run).Answers
		}
		list = append(list, r)
	}
	if output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, r := range list {
		if r.Problem != "" {
			_, _ = fmt.Fprintf(w, "%s\t\t\t\t%s\tbroken\t%s\n", r.Dir, megabytes(r.Bytes), r.Problem)
			continue
		}
		state := "complete"
		if !r.Complete {
			state = "incomplete"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d trials\t%s\t%s\t%s\n",
			r.Dir, r.Experiment, r.Started, r.Trials, megabytes(r.Bytes), state, r.answer())
	}
	return w.Flush()
}

// answer is the first of the run's answers, and how many more there are.
func (r *listedRun) answer() string {
	if len(r.Answers) == 0 {
		return "no answer"
	}
	s := r.Answers[0].Sentence
	if where := describe(r.Answers[0].Where); where != "" {
		s = where + ": " + s
	}
	if more := len(r.Answers) - 1; more > 0 {
		s += fmt.Sprintf(" (+%d more)", more)
	}
	return s
}
