// Package check tells whether what clients saw of a key can have happened one
// operation after another, each at some moment between its call and its return:
// linearizability, which porcupine decides. Keys are independent, so a store of
// keys is linearizable if each of them is.
//
// load.Run records histories of sampled keys (load.Config.Sample); Histories checks
// them; Save and Picture keep one that is wrong.
//
// An answer tells the mod revision of its key, and a value's hash. That says more
// than values alone would: revisions of a key only grow, so that a write that is
// acknowledged twice, or applied again, shows though nobody read in between.
//
// What is unknown helps nobody to a violation: a write without an answer may
// happen at any time after its call or, as nothing comes after the last moment, never; a
// get without one says nothing; and what was there before the first operation is
// whatever fits.
package check
