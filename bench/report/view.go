package report

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"raftlab/bench"
)

// View is a handler that shows the runs in a folder: a list of them, a page with
// the files of each, and the files. What it serves may come from elsewhere, so
// pages load nothing and nothing outside of the folder can be reached. A host
// name other than this machine's own is refused, lest a page of the web reads
// runs by a name that it lets lead here.
//
//	/                       all runs, the newest first
//	/runs/NAME/             one run's files
//	/runs/NAME/FILE         a file of it; report.html is rendered where it is missing
func View(root string) http.Handler {
	v := &viewer{root: root}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", v.list)
	mux.HandleFunc("GET /runs/{run}/{$}", v.run)
	mux.HandleFunc("GET /runs/{run}/{file...}", v.file)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(r.Host) {
			http.Error(w, "only for loopback addresses", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store") // runs come, grow and go
		mux.ServeHTTP(w, r)
	})
}

// loopback tells whether a host, with or without port, is this machine's own.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

type viewer struct{ root string }

// viewedRun is a run in the list; of one that cannot be read there are Name, Size
// and Problem only.
type viewedRun struct {
	Name, Experiment, Question, Started, Commit, Size, Trials, Incomplete, Problem string

	Answers []answer
}

// runPage is the page of one run.
type runPage struct {
	viewedRun

	Files []viewedFile
}

type viewedFile struct{ Name, Size string }

func (v *viewer) list(w http.ResponseWriter, _ *http.Request) {
	folders, err := bench.RunFolders(v.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fail(w, err)
		return
	}
	runs := []viewedRun{}
	for _, f := range slices.Backward(folders) {
		runs = append(runs, describeRun(&f))
	}
	show(w, "view.gohtml", struct {
		Root string
		Runs []viewedRun
	}{v.root, runs})
}

func describeRun(f *bench.RunFolder) viewedRun {
	r := viewedRun{Name: f.Name(), Size: bench.Unavailable}
	if size, err := bench.FolderSize(f.Dir); err == nil {
		r.Size = memory(float64(size))
	}
	if f.Run == nil {
		r.Problem = f.Err.Error()
		return r
	}
	d := &Data{Dir: f.Dir, Run: f.Run, Summary: bench.Summarize(f.Run)}
	r.Experiment, r.Question, r.Answers, r.Incomplete = f.Run.Experiment.Name, f.Run.Experiment.Question, d.answers(), d.incomplete()
	r.Started = f.Run.Started.UTC().Format("2006-01-02 15:04 UTC")
	r.Trials = fmt.Sprintf("%d of %d", f.Run.TrialsCompleted, f.Run.TrialsPlanned)
	r.Commit = shortCommit(f.Run.Environment)
	return r
}

// find returns a run folder of that name, and opens it; nil when there is none.
func (v *viewer) find(name string) (*bench.RunFolder, *os.Root, error) {
	folders, err := bench.RunFolders(v.root)
	if err != nil {
		return nil, nil, err
	}
	for i := range folders {
		if f := &folders[i]; f.Name() == name {
			root, err := os.OpenRoot(f.Dir)
			return f, root, err
		}
	}
	return nil, nil, fs.ErrNotExist
}

func (v *viewer) run(w http.ResponseWriter, r *http.Request) {
	f, root, err := v.find(r.PathValue("run"))
	if err != nil {
		fail(w, err)
		return
	}
	defer func() { _ = root.Close() }()
	p := runPage{viewedRun: describeRun(f)}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		p.Files = append(p.Files, viewedFile{name, memory(float64(info.Size()))})
		return nil
	})
	if err != nil {
		fail(w, err)
		return
	}
	show(w, "viewrun.gohtml", p)
}

// Types of what a browser shall show rather than save, whatever the system says
// of them.
var viewedTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".json": "application/json",
	".md": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8",
	".jsonl": "text/plain; charset=utf-8", ".hlog": "text/plain; charset=utf-8",
}

func (v *viewer) file(w http.ResponseWriter, r *http.Request) {
	f, root, err := v.find(r.PathValue("run"))
	if err != nil {
		fail(w, err)
		return
	}
	defer func() { _ = root.Close() }()
	name := r.PathValue("file")
	// The root refuses what leads out of it, links too.
	file, err := root.Open(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) && name == HTMLFile && f.Run != nil {
		renderReport(w, f.Dir)
		return
	}
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	kind := viewedTypes[path.Ext(name)]
	if kind == "" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, "", info.ModTime(), file)
}

// renderReport shows a run that left no report, as one that was killed.
func renderReport(w http.ResponseWriter, dir string) {
	d, err := Load(dir)
	if err != nil {
		fail(w, err)
		return
	}
	show(w, "page.gohtml", newPage(d))
}

// show writes a page. What fails in it then shows as a page cut short.
func show(w http.ResponseWriter, name string, data any) {
	w.Header().Set("Content-Type", viewedTypes[".html"])
	_ = pages.ExecuteTemplate(w, name, data)
}

// fail answers that something is not there, or cannot be read.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if errors.Is(err, fs.ErrNotExist) {
		code = http.StatusNotFound
	}
	http.Error(w, http.StatusText(code), code)
}
