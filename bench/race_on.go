//go:build race

package bench

// raceEnabled: figures of a build with the race detector mean nothing.
const raceEnabled = true
