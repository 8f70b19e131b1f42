package report

import (
	"embed"
	"html/template"
	"io"
)

//go:embed *.gohtml *.css *.js
var assets embed.FS

// asset returns an embedded file; it is ours, so it may stand in a template as it is.
func asset(name string) string {
	b, err := assets.ReadFile(name)
	if err != nil {
		panic("report: " + name + " is not embedded") // the go:embed line above names it
	}
	return string(b)
}

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"style":  func() template.CSS { return template.CSS(asset("style.css") + asset("explain.css")) }, //nolint:gosec // a constant of this package
	"script": func() template.JS { return template.JS(asset("page.js") + asset("flame.js")) },        //nolint:gosec // a constant of this package
}).ParseFS(assets, "*.gohtml"))

// HTML writes the report as one file that loads nothing: style, script and
// charts are inside, and it reads without script too.
func (d *Data) HTML(w io.Writer) error {
	return pages.ExecuteTemplate(w, "page.gohtml", newPage(d))
}
