// Package load drives a target with operations and measures how long they take.
// It knows nothing of what it drives: a Target opens one Session a client, and a
// Session does one message of operations at a time.
//
// Four questions, a file each:
//
//   - what (workload.go, sizes.go, random.go; zipf.go, hotspot.go, latest.go): each
//     client has a stream of operations that depends on the seed and the client's
//     number only, so that every target and topology gets the same operations; of
//     distribution latest alone the keys depend on how far the others have come.
//     Values are random throughout and never repeat.
//   - when (pacer.go, alarm.go): in a closed loop a client sends its next message
//     when the last was answered; in an open loop messages are due by a schedule,
//     whatever the target does: message j at t0 + j/rate, or in exponential gaps.
//   - who (generator.go): the clients, the warm-up, the measured window, the drain.
//   - how long (recorder.go, recording.go, hlog.go): HdrHistograms, sharded while
//     measuring, merged without loss afterwards.
//
// # Three latencies
//
// Response is end - intended start, service end - actual start, delay actual
// start - intended start. In an open loop a target that stalls makes a backlog,
// whose operations are due while it lasts: their response time shows it, and
// that makes the figure free of coordinated omission. In a closed loop without
// think time nothing is due before it is sent, so response and service are one
// and the delay is not recorded. All operations of one message have the latency
// of that message.
//
// The schedule lag is the generator's own fault alone: how late a client that
// was free in time sent its message. Waiting for a free client is delay, not lag.
//
// # Which operations count
//
// A closed loop counts an operation that was completed in the window, whenever
// it was started: as many are under way at the start of the window as at its end, so
// the rate is not biased. What was under way at the end is waited for. An open loop
// counts an operation that was due in the window: the backlog at the window's end is
// drained and counts too, since dropping it would hide just the operations that waited
// the longest. Either waits for Config.Drain at most, and what has no answer after that
// is Unfinished.
//
// Only acknowledged operations enter histograms: the sum of the counts of an
// .hlog under the tags of kinds (put, get), the sum over the intervals, and
// Recording.Operations are one number. The others are counted by gRPC code.
package load
