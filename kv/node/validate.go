package node

import (
	"raftlab/kv"
	kvv1 "raftlab/proto/raftlab/kv/v1"
)

// maxKeyBytes bounds a key, which is held in memory and in every tree node. A
// value is bounded by what an entry may be.
const maxKeyBytes = 64 << 10

// maxOperations bounds a Batch and a message of a Stream: a decoded operation
// takes many times the bytes that it travels in.
const maxOperations = 1 << 16

// maxVoters bounds the ids of a ChangeMembership, and maxVotersBytes the request, in
// which each takes up to eleven bytes, or becomes eight times what it takes.
const (
	maxVoters      = 1024
	maxVotersBytes = 16 << 10
)

// checkItem refuses what the store would not take, or could not put in a
// snapshot.
func checkItem(key, value []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if n := len(key) + len(value); n > kv.MaxItemSize {
		return invalidf("key and value of %d bytes exceed the limit of %d bytes", n, kv.MaxItemSize)
	}
	return nil
}

func checkOperations(n int) error {
	if n > maxOperations {
		// How many are not counted: more are not even decoded.
		return invalidf("operations has more elements than the limit of %d", maxOperations)
	}
	return nil
}

// checkKey refuses keys that the store would not take.
func checkKey(key []byte) error {
	switch {
	case len(key) == 0:
		return invalidf("key is empty; it needs at least 1 byte")
	case len(key) > maxKeyBytes:
		return invalidf("key of %d bytes exceeds the limit of %d bytes", len(key), maxKeyBytes)
	}
	return nil
}

func checkConsistency(c kvv1.Consistency) error {
	if _, known := kvv1.Consistency_name[int32(c)]; !known {
		return invalidf("consistency %d is not one of linearizable (1), stale (2), lease (3)", c)
	}
	return nil
}

// checkScan refuses ranges that contradict themselves.
func checkScan(req *kvv1.ScanRequest) error {
	if len(req.GetPrefix()) > 0 && (len(req.GetStart()) > 0 || len(req.GetEnd()) > 0) {
		return invalidf("prefix %q cannot be combined with start or end", req.GetPrefix())
	}
	for _, bound := range []struct {
		name string
		key  []byte
	}{{"prefix", req.GetPrefix()}, {"start", req.GetStart()}, {"end", req.GetEnd()}} {
		if len(bound.key) > maxKeyBytes {
			return invalidf("%s of %d bytes exceeds the limit of %d bytes", bound.name, len(bound.key), maxKeyBytes)
		}
	}
	return checkConsistency(req.GetConsistency())
}

// commandKind is the kind of command an operation becomes; 0 for none.
func commandKind(k kvv1.OperationKind) kv.Kind {
	switch k {
	case kvv1.OperationKind_OPERATION_KIND_PUT:
		return kv.KindPut
	case kvv1.OperationKind_OPERATION_KIND_GET:
		return kv.KindGet
	case kvv1.OperationKind_OPERATION_KIND_DELETE:
		return kv.KindDelete
	case kvv1.OperationKind_OPERATION_KIND_COMPARE_AND_SWAP:
		return kv.KindCompareAndSwap
	case kvv1.OperationKind_OPERATION_KIND_UNSPECIFIED:
	}
	return 0
}

// command turns an operation into a command that shares its bytes.
func command(op *kvv1.Operation) (kv.Command, error) {
	kind := commandKind(op.GetKind())
	if kind == 0 {
		return kv.Command{}, invalidf("kind %d is not one of put (1), get (2), delete (3), compare-and-swap (4)", op.GetKind())
	}
	if err := checkItem(op.GetKey(), op.GetValue()); err != nil {
		return kv.Command{}, err
	}
	if err := checkConsistency(op.GetConsistency()); err != nil {
		return kv.Command{}, err
	}
	return kv.Command{
		Kind: kind, Key: op.GetKey(), Value: op.GetValue(), Expect: op.GetExpect(), ExpectAbsent: op.GetExpectAbsent(),
	}, nil
}

// batchCommand turns the operations of a Batch into one command.
func batchCommand(ops []*kvv1.Operation) (kv.Command, error) {
	if len(ops) == 0 {
		return kv.Command{}, invalidf("operations is empty; a batch needs at least 1")
	}
	if err := checkOperations(len(ops)); err != nil {
		return kv.Command{}, err
	}
	steps := make([]kv.Command, len(ops))
	for i, op := range ops {
		step, err := command(op)
		if err != nil {
			return kv.Command{}, invalidf("operations[%d]: %v", i, err)
		}
		steps[i] = step
	}
	return kv.Command{Kind: kv.KindBatch, Steps: steps}, nil
}

// checkVoters refuses ids that no voters have.
func checkVoters(ids []uint64) error {
	if len(ids) > maxVoters {
		return invalidf("voters has more elements than the limit of %d", maxVoters)
	}
	for _, id := range ids {
		if err := checkNodeID("voters", id); err != nil {
			return err
		}
	}
	return nil
}

// checkNodeID refuses ids that raft keeps for itself.
func checkNodeID(field string, id uint64) error {
	if id == 0 || id > maxNodeID {
		return invalidf("%s %d is outside 1 to %d", field, id, uint64(maxNodeID))
	}
	return nil
}
