package kv_test

import (
	"fmt"
	"log"

	"raftlab/kv"
)

// One entry carries two commands to a store; its snapshot makes another.
func Example() {
	data := kv.AppendHeader(nil, kv.EntryHeader{Node: 1, Sequence: 1})
	data = kv.AppendCommand(data, &kv.Command{Kind: kv.KindPut, Key: []byte("colour"), Value: []byte("red")})
	data = kv.AppendCommand(data, &kv.Command{
		Kind: kv.KindCompareAndSwap, Key: []byte("colour"), Expect: []byte("red"), Value: []byte("blue"),
	})

	store := kv.NewStore()
	results, err := store.Apply(1, 1, data, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println("revision", r.Revision, "version", r.Version, "succeeded", r.Succeeded)
	}

	decoder := kv.NewSnapshotDecoder()
	if err := kv.WriteSnapshot(decoder, store.View()); err != nil {
		log.Fatal(err)
	}
	view, err := decoder.Finish()
	if err != nil {
		log.Fatal(err)
	}
	other := kv.NewStore()
	other.Restore(view)
	item, state, _ := other.Get([]byte("colour"))
	fmt.Printf("%s = %s at revision %d, index %d\n", item.Key, item.Value, state.Revision, state.Index)
	// Output:
	// revision 2 version 1 succeeded true
	// revision 3 version 2 succeeded true
	// colour = blue at revision 3, index 1
}
