package bench

// Summarize says what a run means.
func Summarize(_ *Run) Summary { return Summary{} }
